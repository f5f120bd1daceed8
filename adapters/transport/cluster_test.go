package transport

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/wire/nodepb"
)

const testCluster = "test.cluster"

// patience bounds every wait of these tests; no test passes by waiting it out.
const patience = 20 * time.Second

// testNode is one node: a server on loopback and its peers.
type testNode struct {
	t           *testing.T
	id          core.NodeID
	files       Files
	addr        string
	peers       *Peers
	server      *grpc.Server
	served      chan struct{}
	inbox       chan core.Message
	unreachable chan core.NodeID
	name        string        // in its certificate, where it is not nameOf its id
	removed     chan struct{} // it was told that it was removed
	log         log
}

// log keeps what a node logged.
type log struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (n *testNode) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(io.MultiWriter(n.t.Output(), &n.log), nil)).With("self", uint64(n.id))
}

// logs waits until the node has logged text.
func (n *testNode) logs(text string) {
	n.t.Helper()
	for end := time.Now().Add(patience); !strings.Contains(n.log.String(), text); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			n.t.Fatalf("%q was not logged", text)
		}
	}
}

func nameOf(id core.NodeID) string { return fmt.Sprintf("node-%d", id) }

func authority(t *testing.T, cluster string) *Authority {
	t.Helper()
	a, err := NewAuthority(cluster)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// save writes a pair and the authority that is to be trusted.
func save(t *testing.T, trusted *Authority, pair Pair, err error) Files {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	f := Files{CA: filepath.Join(dir, "ca.pem"), Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem")}
	if err := pair.Save(f.Cert, f.Key); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(f.CA, trusted.CertPEM(), 0o644); err != nil {
		t.Fatal(err)
	}
	return f
}

func nodeFiles(t *testing.T, a *Authority, name string) Files {
	t.Helper()
	pair, err := a.IssueNode(name)
	return save(t, a, pair, err)
}

func load(t *testing.T, f Files) *Certificates {
	t.Helper()
	c, err := LoadCertificates(f, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func listen(t *testing.T, addr string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// cluster starts n nodes that know each other.
func cluster(t *testing.T, n int) []*testNode {
	t.Helper()
	a := authority(t, testCluster)
	addrs, names := map[core.NodeID]string{}, map[core.NodeID]string{}
	nodes := make([]*testNode, n)
	listeners := make([]net.Listener, n)
	for i := range nodes {
		id := core.NodeID(i + 1)
		listeners[i] = listen(t, "127.0.0.1:0")
		addrs[id], names[id] = listeners[i].Addr().String(), nameOf(id)
	}
	for i := range nodes {
		id := core.NodeID(i + 1)
		nodes[i] = newTestNode(t, id, nodeFiles(t, a, nameOf(id)), addrs, names)
		nodes[i].serve(listeners[i])
	}
	return nodes
}

func newTestNode(t *testing.T, id core.NodeID, files Files, addrs, names map[core.NodeID]string) *testNode {
	t.Helper()
	n := &testNode{t: t, id: id, files: files, addr: addrs[id],
		inbox: make(chan core.Message, 100_000), unreachable: make(chan core.NodeID, 100_000)}
	var err error
	n.peers, err = NewPeers(PeersOptions{
		ClusterID: testCluster, Self: id, Addrs: addrs, Names: names, Certificates: load(t, files),
		Deliver:     func(m core.Message) { n.inbox <- m },
		Unreachable: func(id core.NodeID) { n.unreachable <- id },
		Logger:      n.logger(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		n.stop()
		if err := n.peers.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

func (n *testNode) serve(l net.Listener) {
	certificates, err := LoadCertificates(n.files, n.logger())
	if err != nil {
		n.t.Fatal(err)
	}
	n.server = grpc.NewServer(append(ServerOptions(), grpc.Creds(certificates.ServerCredentials()))...)
	n.peers.Register(n.server)
	n.served = make(chan struct{})
	server, served := n.server, n.served
	go func() {
		defer close(served)
		_ = server.Serve(l)
	}()
}

// stop ends the server and all its connections.
func (n *testNode) stop() {
	if n.server != nil {
		n.server.Stop()
		<-n.served
		n.server = nil
	}
}

func (n *testNode) ack(to core.NodeID, number uint64) core.Message {
	return core.Message{From: n.id, To: to, Ack: &core.AckReturn{Session: 1, Number: number, Conn: 7}}
}

// sendUntilReceived repeats a message, as the protocol does, until it arrives, and
// returns how long that took.
func (n *testNode) sendUntilReceived(to *testNode, number uint64) time.Duration {
	n.t.Helper()
	began := time.Now()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for time.Since(began) < patience {
		n.peers.Send([]core.Message{n.ack(to.id, number)})
		for waiting := true; waiting; {
			select {
			case m := <-to.inbox:
				if m.From == n.id && m.Ack.Number == number {
					return time.Since(began)
				}
			case <-again.C:
				waiting = false
			}
		}
	}
	n.t.Fatalf("message %d of node %d did not reach node %d", number, n.id, to.id)
	return 0
}

func receive[T any](t *testing.T, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		t.Fatal("nothing arrived")
		panic("unreachable")
	}
}

func snapMessage(from, to core.NodeID, data []byte) core.Message {
	kind := raftpb.MsgSnap
	return core.Message{From: from, To: to, Raft: &raftpb.Message{
		Type: &kind, From: new(uint64(from)), To: new(uint64(to)), Term: new(uint64(2)),
		Snapshot: &raftpb.Snapshot{Data: data, Metadata: &raftpb.SnapshotMetadata{
			Index: new(uint64(9)), Term: new(uint64(2)), ConfState: &raftpb.ConfState{Voters: []uint64{1, 2, 3}}}},
	}}
}

func appMessage(from, to core.NodeID, index uint64, data []byte) core.Message {
	kind := raftpb.MsgApp
	return core.Message{From: from, To: to, Raft: &raftpb.Message{
		Type: &kind, From: new(uint64(from)), To: new(uint64(to)), Term: new(uint64(2)), Index: &index,
		Entries: []*raftpb.Entry{{Index: new(index + 1), Term: new(uint64(2)), Data: data}},
	}}
}

// stranger opens a stream to a node with the given client settings, says hello,
// and returns how the stream ended.
func stranger(t *testing.T, addr string, creds credentials.TransportCredentials, requests ...*nodepb.ExchangeRequest) error {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(creds), grpc.WithNoProxy())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	stream, err := nodepb.NewNodeServiceClient(conn).Exchange(ctx)
	if err != nil {
		return err
	}
	for _, r := range requests {
		if stream.Send(r) != nil {
			break // CloseAndRecv has the reason
		}
	}
	_, err = stream.CloseAndRecv()
	return err
}

func hello(clusterID string, from, to uint64) *nodepb.ExchangeRequest {
	return &nodepb.ExchangeRequest{Hello: &nodepb.Hello{ClusterId: clusterID, From: from, To: to}}
}
