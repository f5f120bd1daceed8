package cluster_test

import (
	"bytes"
	"errors"
	"iter"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/omnirelay/leadership/tests/cluster/harness"
)

// TestBadDataIsRefused gives a node data that is damaged or not its own: it refuses
// to serve and says what to do, and the cluster goes on without it.
func TestBadDataIsRefused(t *testing.T) {
	c := harness.New(t, harness.Options{})
	n, other := c.Nodes[0], c.Nodes[1]
	before := c.AwaitSettled(20 * time.Second)
	n.Terminate()
	if code := n.AwaitExit(15 * time.Second); code != 0 {
		t.Fatalf("%s ended with code %d", n.ID, code)
	}
	serving := func(dir string) string { return n.Rewrite(n.DataDir, dir) }

	refusesToServe(t, "a flipped byte", serving(spoiled(t, n, flipByte)), "raft.db", "its content does not add up", "do not simply delete it", "move the whole data directory away")
	refusesToServe(t, "a file cut short", serving(spoiled(t, n, cut)), "raft.db", "cut short", "do not simply delete it")
	refusesToServe(t, "a file of text", serving(spoiled(t, n, writeText)), "raft.db")
	refusesToServe(t, "the file gone", serving(spoiled(t, n, os.Remove)), "raft.db", "the log is gone", "do not simply delete it")
	refusesToServe(t, "the data of another node", n.Rewrite("dataDir: \""+n.DataDir, "dataDir: \""+copied(t, n), "nodeId: "+n.ID, "nodeId: "+other.ID), "node")
	refusesToServe(t, "the data of another cluster", n.Rewrite(n.DataDir, copied(t, n), "clusterId: ", "clusterId: other-"), "cluster")
	refusesToServe(t, "a file for a directory", serving(spoiledPath(t, n)), "name a directory")

	if err := succeeded(c.Others(n), n.ID, before); err != nil {
		t.Errorf("the others: %v", err)
	}
	n.Start()
	c.AwaitSettled(20 * time.Second)
	verifyAudit(t, c)
}

// copied is a copy of the node's data directory, without its lock.
func copied(t *testing.T, n *harness.Node) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data")
	if err := os.CopyFS(dir, os.DirFS(n.DataDir)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// spoiled is a copy of the node's data directory whose log was spoiled.
func spoiled(t *testing.T, n *harness.Node, spoil func(path string) error) string {
	t.Helper()
	dir := copied(t, n)
	if err := spoil(filepath.Join(dir, "raft.db")); err != nil {
		t.Fatal(err)
	}
	return dir
}

func spoiledPath(t *testing.T, n *harness.Node) string {
	t.Helper()
	return filepath.Join(copied(t, n), "raft.db")
}

// flipByte changes one byte of a value that is in use and names a shard.
func flipByte(path string) error {
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		return tx.ForEach(func(_ []byte, b *bbolt.Bucket) error {
			for key, value := range all(b) {
				if at := bytes.Index(value, []byte("shard/mesh.demo/")); at >= 0 {
					flipped := bytes.Clone(value)
					flipped[at+7] ^= 1
					return b.Put(bytes.Clone(key), flipped)
				}
			}
			return nil
		})
	})
	return errors.Join(err, db.Close())
}

// all are the keys and values of a bucket.
func all(b *bbolt.Bucket) iter.Seq2[[]byte, []byte] {
	return func(yield func(key, value []byte) bool) {
		cursor := b.Cursor()
		for key, value := cursor.First(); key != nil; key, value = cursor.Next() {
			if !yield(key, value) {
				return
			}
		}
	}
}

// cut leaves the first pages: everything in use is longer.
func cut(path string) error { return os.Truncate(path, 5*4096) }

func writeText(path string) error { return os.WriteFile(path, []byte("nodes:\n- a\n"), 0o600) }
