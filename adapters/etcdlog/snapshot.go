package etcdlog

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"sync"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/omnirelay/leadership/core"
)

const (
	chunkBytes = 1 << 20
)

// pointer names the snapshot in force. Chunks are written under a name that was
// never used before, and count only once a pointer to them is there; so a snapshot is
// replaced in one transaction, however large.
type pointer struct {
	Name   string `json:"name"`
	Index  uint64 `json:"index"`
	Term   uint64 `json:"term"`
	Chain  []byte `json:"chain"`
	Bytes  int    `json:"bytes"`
	Chunks int    `json:"chunks"`
	SHA256 []byte `json:"sha256"` // of the whole
}

func decodePointer(kv *mvccpb.KeyValue) (*pointer, error) {
	p := new(pointer)
	decoder := json.NewDecoder(bytes.NewReader(kv.Value))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(p); err != nil {
		return nil, damaged(string(kv.Key), "is no pointer to a snapshot: %v", err)
	}
	if p.Name == "" || p.Bytes < 0 || p.Bytes > core.MaxSnapshotBytes || p.Chunks != chunksFor(p.Bytes) {
		return nil, damaged(string(kv.Key), "points to %d chunks of %d bytes together; at most %d bytes, in chunks of %d, are right", p.Chunks, p.Bytes, core.MaxSnapshotBytes, chunkBytes)
	}
	return p, nil
}

func chunksFor(size int) int { return (size + chunkBytes - 1) / chunkBytes }

func (p *pointer) index() uint64 {
	if p == nil {
		return 0
	}
	return p.Index
}

func (p *pointer) encode() (string, error) {
	text, err := json.Marshal(p)
	if err != nil {
		return "", fail("the pointer to a snapshot cannot be encoded: %v", err)
	}
	return string(text), nil
}

// readSnapshot reads the snapshot that was in force at the head's revision, which
// the entries from first on must follow. Its chunks are read as of that revision: if
// they are replaced meanwhile, they are still the same, or compacted.
func (s *Store) readSnapshot(ctx context.Context, h *head, first uint64) (*core.StoredSnapshot, error) {
	p := h.pointer
	if p.index()+1 < first {
		return nil, damaged(s.keys.head(nameSnapshot), "covers entries up to %d, but the oldest entry kept is %d: restore etcd from a backup", p.index(), first)
	}
	data := s.partial.take(p.Name)
	if data == nil {
		data = make([]byte, 0, p.Bytes)
	}
	for n := len(data) / chunkBytes; n < p.Chunks; n++ {
		chunk, err := s.readChunk(ctx, h, n)
		if err != nil {
			s.partial.keep(p.Name, data)
			return nil, err
		}
		data = append(data, chunk...)
	}
	if sum := sha256.Sum256(data); !bytes.Equal(sum[:], p.SHA256) {
		return nil, damaged(s.keys.chunksOf(p.Name), "has hash %x together; %x is right: restore etcd from a backup", sum, p.SHA256)
	}
	return &core.StoredSnapshot{Index: p.Index, Term: p.Term, Chain: p.Chain, Data: data}, nil
}

func (s *Store) readChunk(ctx context.Context, h *head, n int) ([]byte, error) {
	key := s.keys.chunk(h.pointer.Name, n)
	got, err := s.look(ctx, clientv3.OpGet(key, clientv3.WithRev(h.revision)))
	if err != nil {
		return nil, err
	}
	kvs := got.ranges[0].Kvs
	if len(kvs) == 0 {
		return nil, damaged(key, "is missing: restore etcd from a backup")
	}
	if size := min(chunkBytes, h.pointer.Bytes-n*chunkBytes); len(kvs[0].Value) != size {
		return nil, damaged(key, "has %d bytes; %d are right: restore etcd from a backup", len(kvs[0].Value), size)
	}
	return kvs[0].Value, nil
}

// partial is the beginning of a snapshot that took longer to read than its call had
// time: the next call goes on with it. A name stands for the same bytes for ever, and
// the whole is checked by its hash.
type partial struct {
	mu   sync.Mutex
	name string
	data []byte
}

func (p *partial) take(name string) []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	data := p.data
	p.data = nil
	if p.name != name {
		return nil
	}
	return data
}

func (p *partial) keep(name string, data []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.name, p.data = name, data
}

// writeChunks writes a snapshot under a new name, each chunk only while guard holds;
// stopped is set when it no longer did.
func (s *Store) writeChunks(ctx context.Context, snapshot *core.StoredSnapshot, guard []clientv3.Cmp) (p *pointer, stopped *answer, err error) {
	data := snapshot.Data
	if len(data) > core.MaxSnapshotBytes {
		return nil, nil, fail("a snapshot has %d bytes; %d is the limit", len(data), core.MaxSnapshotBytes)
	}
	sum := sha256.Sum256(data)
	p = &pointer{
		Name:  fmt.Sprintf("%016x-%s", snapshot.Index, rand.Text()),
		Index: snapshot.Index, Term: snapshot.Term, Chain: snapshot.Chain,
		Bytes: len(data), Chunks: chunksFor(len(data)), SHA256: sum[:],
	}
	for n := range p.Chunks {
		chunk := data[n*chunkBytes : min(len(data), (n+1)*chunkBytes)]
		got, err := s.commit(ctx, guard, clientv3.OpPut(s.keys.chunk(p.Name, n), string(chunk)))
		if err != nil {
			return nil, nil, err
		}
		if !got.took {
			return nil, got, nil
		}
	}
	return p, nil, nil
}

// whole holds as long as every chunk is there.
func (s *Store) whole(p *pointer) []clientv3.Cmp {
	var cmps []clientv3.Cmp
	for n := range p.Chunks {
		cmps = append(cmps, clientv3.Compare(clientv3.CreateRevision(s.keys.chunk(p.Name, n)), ">", 0))
	}
	return cmps
}
