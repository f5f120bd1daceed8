package transport

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/wire"
	"github.com/omnirelay/leadership/wire/nodepb"
)

func TestMain(m *testing.M) {
	if os.Getenv(clientOf) != "" {
		fmt.Fprintln(os.Stderr, "client:", beClient())
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

func TestThreeNodesExchange(t *testing.T) {
	nodes := cluster(t, 3)
	for _, from := range nodes {
		for _, to := range nodes {
			if from != to {
				from.sendUntilReceived(to, uint64(10*from.id)+uint64(to.id))
			}
		}
	}
}

func TestMessagesOfAStreamKeepTheirOrder(t *testing.T) {
	nodes := cluster(t, 2)
	nodes[0].sendUntilReceived(nodes[1], 1_000_000)
	const count = 2_000
	batch := make([]core.Message, 0, count)
	for i := range uint64(count) {
		batch = append(batch, nodes[0].ack(2, i+1))
	}
	nodes[0].peers.Send(batch)
	for want := uint64(1); want <= count; {
		m := receive(t, nodes[1].inbox)
		if m.Ack.Number == 1_000_000 {
			continue // left over from the first step, which repeats
		}
		if m.Ack.Number != want {
			t.Fatalf("have message %d, want %d", m.Ack.Number, want)
		}
		want++
	}
}

func TestReconnectsWhenThePeerIsBack(t *testing.T) {
	nodes := cluster(t, 2)
	nodes[0].sendUntilReceived(nodes[1], 1)
	nodes[1].stop()
	for id := range nodes[0].unreachable {
		if id == 2 {
			break
		}
	}
	nodes[1].serve(listen(t, nodes[1].addr))
	took := nodes[0].sendUntilReceived(nodes[1], 2)
	t.Logf("reconnected after %v", took)
	if took > core.DefaultMaxElectionWindow {
		t.Errorf("took %v; a failover waits for this", took)
	}
}

func TestASilentPeerIsReportedUnreachable(t *testing.T) {
	nodes := cluster(t, 2)
	nodes[1].stop()
	nodes[0].peers.Send([]core.Message{nodes[0].ack(2, 1)})
	if id := receive(t, nodes[0].unreachable); id != 2 {
		t.Fatalf("node %d was reported", id)
	}
}

func TestSnapshotsOfAllSizesArrive(t *testing.T) {
	nodes := cluster(t, 2)
	for _, size := range []int{0, 1, batchBytes, 3*batchBytes + 17, core.MaxSnapshotBytes} {
		want := snapMessage(1, 2, bytes.Repeat([]byte{0xa5}, size))
		nodes[0].peers.Send([]core.Message{want})
		got := receive(t, nodes[1].inbox)
		if !proto.Equal(got.Raft, want.Raft) {
			t.Fatalf("a snapshot of %d bytes arrived changed", size)
		}
	}
}

func TestLargeEntriesTravelInParts(t *testing.T) {
	nodes := cluster(t, 2)
	nodes[0].sendUntilReceived(nodes[1], 1)
	want := appMessage(1, 2, 4, bytes.Repeat([]byte{7}, 3*batchBytes))
	nodes[0].peers.Send([]core.Message{want, nodes[0].ack(2, 99)})
	for {
		m := receive(t, nodes[1].inbox)
		if m.Raft != nil {
			if !proto.Equal(m.Raft, want.Raft) {
				t.Fatal("it arrived changed")
			}
			break
		}
	}
	if m := receive(t, nodes[1].inbox); m.Ack == nil || m.Ack.Number != 99 {
		t.Fatalf("after the parts: have %+v", m)
	}
}

// pickyNode passes messages on and gets stuck on the first part of a snapshot.
type pickyNode struct {
	nodepb.UnimplementedNodeServiceServer
	acks, parts chan struct{}
	release     chan struct{}
}

func (p *pickyNode) Exchange(stream nodepb.NodeService_ExchangeServer) error {
	for {
		request, err := stream.Recv()
		if err != nil {
			return err
		}
		if request.GetPart() != nil {
			p.parts <- struct{}{}
			<-p.release
			return nil
		}
		for range request.GetMessages() {
			p.acks <- struct{}{}
		}
	}
}

func TestASnapshotThatIsStuckHoldsNoMessageUp(t *testing.T) {
	picky := &pickyNode{acks: make(chan struct{}, 1_000), parts: make(chan struct{}, 10), release: make(chan struct{})}
	n := nodeBeside(t, picky, func() { close(picky.release) })
	n.peers.Send([]core.Message{snapMessage(1, 2, make([]byte, core.MaxSnapshotBytes))})
	receive(t, picky.parts)
	for number := range uint64(20) {
		n.peers.Send([]core.Message{n.ack(2, number+1)})
		receive(t, picky.acks)
	}
}

func TestOversizeMessagesAreNotSent(t *testing.T) {
	nodes := cluster(t, 2)
	nodes[0].peers.Send([]core.Message{
		appMessage(1, 2, 4, make([]byte, wire.MaxRaftMessageBytes)),
		{From: 1, To: 2},
		{From: 1, To: 9, Ack: &core.AckReturn{Session: 1, Number: 1}},
		{From: 3, To: 2, Ack: &core.AckReturn{Session: 1, Number: 1}},
	})
	nodes[0].sendUntilReceived(nodes[1], 1)
	select {
	case m := <-nodes[1].inbox:
		if m.Ack.Number != 1 {
			t.Fatalf("arrived: %+v", m)
		}
	default:
	}
}

// stuckNode serves a node that takes one request of every stream and no more.
type stuckNode struct {
	nodepb.UnimplementedNodeServiceServer
	reached chan struct{}
	release chan struct{}
}

func (s *stuckNode) Exchange(stream nodepb.NodeService_ExchangeServer) error {
	_, _ = stream.Recv()
	s.reached <- struct{}{}
	<-s.release
	return nil
}

// nodeBeside starts node 1 beside a node 2 that behaves like service. release is
// called before the end, to get service unstuck.
func nodeBeside(t *testing.T, service nodepb.NodeServiceServer, release func()) *testNode {
	t.Helper()
	a := authority(t, testCluster)
	l := listen(t, "127.0.0.1:0")
	addrs := map[core.NodeID]string{2: l.Addr().String()}
	names := map[core.NodeID]string{2: nameOf(2)}
	creds := load(t, nodeFiles(t, a, nameOf(2))).ServerCredentials()
	server := grpc.NewServer(append(ServerOptions(), grpc.Creds(creds))...)
	nodepb.RegisterNodeServiceServer(server, service)
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(l)
	}()
	t.Cleanup(func() {
		release()
		server.Stop()
		<-served
	})
	return newTestNode(t, 1, nodeFiles(t, a, nameOf(1)), addrs, names)
}

func TestAStuckReaderNeverBlocksSend(t *testing.T) {
	stuck := &stuckNode{reached: make(chan struct{}, 10), release: make(chan struct{})}
	n := nodeBeside(t, stuck, func() { close(stuck.release) })
	receive(t, stuck.reached)

	big := make([]byte, 512<<10)
	var worst time.Duration
	for i := range uint64(400) { // 200 MiB: far beyond what may wait
		began := time.Now()
		n.peers.Send([]core.Message{appMessage(1, 2, i, big)})
		worst = max(worst, time.Since(began))
		if q := n.peers.peers[2].messages; q.size() > maxQueuedBytes {
			t.Fatalf("%d bytes wait, at most %d are allowed", q.size(), maxQueuedBytes)
		}
	}
	t.Logf("worst Send %v", worst)
	if worst > core.DefaultMaxElectionWindow { // a Send that waits for the reader never ends
		t.Errorf("Send took %v", worst)
	}
	if id := receive(t, n.unreachable); id != 2 {
		t.Errorf("node %d was reported", id)
	}
}

func (q *queue) size() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.bytes
}

func TestRefusals(t *testing.T) {
	nodes := cluster(t, 3)
	good := load(t, nodes[1].files).Credentials("")
	cases := []struct {
		name     string
		creds    credentials.TransportCredentials
		requests []*nodepb.ExchangeRequest
		code     codes.Code
		want     []string
	}{
		{"wrong cluster in the hello", good, []*nodepb.ExchangeRequest{hello("other", 2, 1)}, codes.PermissionDenied, []string{`"other"`, `"` + testCluster + `"`}},
		{"wrong receiver", good, []*nodepb.ExchangeRequest{hello(testCluster, 2, 3)}, codes.PermissionDenied, []string{"hello.to", "node 3", "node 1"}},
		{"another node's id", good, []*nodepb.ExchangeRequest{hello(testCluster, 3, 1)}, codes.PermissionDenied, []string{"node/node-2 may not speak as node 3"}},
		{"an unknown id", good, []*nodepb.ExchangeRequest{hello(testCluster, 8, 1)}, codes.PermissionDenied, []string{"node 8"}},
		{"the receiver's own id", good, []*nodepb.ExchangeRequest{hello(testCluster, 1, 1)}, codes.PermissionDenied, []string{"node 1"}},
		{"no hello", good, []*nodepb.ExchangeRequest{{}}, codes.InvalidArgument, []string{"hello"}},
		{"a second hello", good, []*nodepb.ExchangeRequest{hello(testCluster, 2, 1), hello(testCluster, 2, 1)}, codes.InvalidArgument, []string{"hello"}},
		{"a message of another node", good, []*nodepb.ExchangeRequest{hello(testCluster, 2, 1),
			{Messages: []*nodepb.Message{{From: 3, To: 1, Kind: &nodepb.Message_Ack{Ack: &nodepb.Ack{Session: 1, Number: 1}}}}}},
			codes.InvalidArgument, []string{"messages[0].from"}},
		{"a message for another node", good, []*nodepb.ExchangeRequest{hello(testCluster, 2, 1),
			{Messages: []*nodepb.Message{{From: 2, To: 3, Kind: &nodepb.Message_Ack{Ack: &nodepb.Ack{Session: 1, Number: 1}}}}}},
			codes.InvalidArgument, []string{"messages[0].to"}},
		{"a malformed message", good, []*nodepb.ExchangeRequest{hello(testCluster, 2, 1), {Messages: []*nodepb.Message{{From: 2, To: 1}}}},
			codes.InvalidArgument, []string{"messages[0].kind"}},
		{"an empty part", good, []*nodepb.ExchangeRequest{hello(testCluster, 2, 1), {Part: &nodepb.Part{}}}, codes.InvalidArgument, []string{"part.data"}},
		{"a part that is no message", good, []*nodepb.ExchangeRequest{hello(testCluster, 2, 1), {Part: &nodepb.Part{Data: []byte{0xff}, Last: true}}},
			codes.InvalidArgument, []string{"part.message"}},
		{"messages between parts", good, []*nodepb.ExchangeRequest{hello(testCluster, 2, 1), {Part: &nodepb.Part{Data: []byte{1}}},
			{Messages: []*nodepb.Message{{From: 2, To: 1}}}}, codes.InvalidArgument, []string{"last one is missing"}},
		{"a request above the limit", good, []*nodepb.ExchangeRequest{hello(testCluster, 2, 1), {Part: &nodepb.Part{Data: make([]byte, 5<<20)}}},
			codes.ResourceExhausted, []string{"larger than max"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			checkRefusal(t, stranger(t, nodes[0].addr, c.creds, c.requests...), c.code, c.want...)
		})
	}
	select {
	case m := <-nodes[0].inbox:
		t.Errorf("delivered: %+v", m)
	default:
	}
}

func checkRefusal(t *testing.T, err error, code codes.Code, want ...string) {
	t.Helper()
	if status.Code(err) != code {
		t.Errorf("have %v, want %s", err, code)
	}
	for _, text := range want {
		if err != nil && !strings.Contains(err.Error(), text) {
			t.Errorf("have %v, want it to say %s", err, text)
		}
	}
}

// issued is the client side of whoever holds a certificate of a's.
func issued(t *testing.T, a *Authority, r Request) credentials.TransportCredentials {
	t.Helper()
	pair, err := a.Issue(r)
	return load(t, save(t, a, pair, err)).Credentials("")
}

func TestOnlyNodesOfTheClusterMayExchange(t *testing.T) {
	a := authority(t, testCluster)
	l := listen(t, "127.0.0.1:0")
	addrs := map[core.NodeID]string{1: l.Addr().String(), 2: "127.0.0.1:1"}
	n := newTestNode(t, 1, nodeFiles(t, a, nameOf(1)), addrs, map[core.NodeID]string{2: nameOf(2)})
	n.serve(l)

	node2 := Identity{Kind: KindNode, Name: nameOf(2)}
	trust := load(t, nodeFiles(t, a, nameOf(2))).Client("").RootCAs
	foreign := nodeFiles(t, authority(t, testCluster), nameOf(2)) // of another authority with the same name
	foreign.CA = n.files.CA
	past, future := time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	cases := []struct {
		name  string
		creds credentials.TransportCredentials
		code  codes.Code
		log   string
	}{
		{"a client's certificate", issued(t, a, Request{Identity: Identity{Kind: KindClient, Role: RoleAdmin}}), codes.PermissionDenied, "only nodes may do this"},
		{"another authority", load(t, foreign).Credentials(""), codes.Unavailable, "signed by unknown authority"},
		{"expired", issued(t, a, Request{Identity: node2, From: past.Add(-time.Hour), Until: past}), codes.Unavailable, "is after"},
		{"not yet valid", issued(t, a, Request{Identity: node2, From: future}), codes.Unavailable, "is before"},
		{"no certificate", credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13, RootCAs: trust}), codes.Unavailable, "didn't provide a certificate"},
		{"TLS 1.2", credentials.NewTLS(&tls.Config{MaxVersion: tls.VersionTLS12, RootCAs: trust}), codes.Unavailable, "unsupported versions"},
		{"no TLS", insecure.NewCredentials(), codes.Unavailable, "does not look like a TLS handshake"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			n.stop() // for a log of its own, which is limited to one failure a second
			n.serve(listen(t, n.addr))
			checkRefusal(t, stranger(t, n.addr, c.creds, hello(testCluster, 2, 1)), c.code)
			n.logs(c.log)
		})
	}
}

// TestCertificatesOfAnotherCluster: two clusters that share an authority's key keep
// apart.
func TestCertificatesOfAnotherCluster(t *testing.T) {
	a := authority(t, testCluster)
	l := listen(t, "127.0.0.1:0")
	addrs := map[core.NodeID]string{1: l.Addr().String(), 2: "127.0.0.1:1"}
	n := newTestNode(t, 1, nodeFiles(t, a, nameOf(1)), addrs, map[core.NodeID]string{2: nameOf(2)})
	n.serve(l)

	sister := &Authority{cluster: "sister.cluster", cert: a.cert, key: a.key, pair: a.pair}
	files := nodeFiles(t, sister, nameOf(2))
	pool := load(t, files).Client("").RootCAs
	pair, err := tls.LoadX509KeyPair(files.Cert, files.Key)
	if err != nil {
		t.Fatal(err)
	}
	careless := credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool, Certificates: []tls.Certificate{pair}})
	checkRefusal(t, stranger(t, n.addr, careless, hello(testCluster, 2, 1)), codes.PermissionDenied, "sister.cluster", testCluster)
	checkRefusal(t, stranger(t, n.addr, load(t, files).Credentials("")), codes.Unavailable, "sister.cluster", testCluster)
}

// TestANodeAtAnothersAddress: addresses mixed up in a configuration.
func TestANodeAtAnothersAddress(t *testing.T) {
	nodes := cluster(t, 2)
	err := stranger(t, nodes[0].addr, load(t, nodes[1].files).Credentials("localhost"))
	checkRefusal(t, err, codes.Unavailable, "node/node-1 is here, node/localhost was meant")
}

func TestAServerWithoutTLSServesNoNode(t *testing.T) {
	a := authority(t, testCluster)
	addrs := map[core.NodeID]string{2: "127.0.0.1:1"}
	n := newTestNode(t, 1, nodeFiles(t, a, nameOf(1)), addrs, map[core.NodeID]string{2: nameOf(2)})
	server := grpc.NewServer()
	n.peers.Register(server)
	l := listen(t, "127.0.0.1:0")
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(l)
	}()
	err := stranger(t, l.Addr().String(), insecure.NewCredentials(), hello(testCluster, 2, 1))
	checkRefusal(t, err, codes.Unauthenticated, "mutual TLS")
	server.Stop()
	<-served
}

func TestStreamsOfOnePeerAreBounded(t *testing.T) {
	in := newInbound(&PeersOptions{}, nil, nil)
	for range maxStreams {
		if err := in.enter(2); err != nil {
			t.Fatal(err)
		}
	}
	if err := in.enter(2); status.Code(err) != codes.ResourceExhausted {
		t.Fatalf("have %v", err)
	}
	in.leave(2)
	if err := in.enter(2); err != nil {
		t.Fatal(err)
	}
	for range maxStreams {
		in.leave(2)
	}
	in.close()
	if err := in.enter(2); status.Code(err) != codes.Unavailable {
		t.Fatalf("have %v", err)
	}
}

func TestCloseEndsStreamsSoThatAServerStopsGracefully(t *testing.T) {
	nodes := cluster(t, 2)
	nodes[0].sendUntilReceived(nodes[1], 1)
	nodes[1].sendUntilReceived(nodes[0], 1)
	if err := nodes[1].peers.Close(); err != nil {
		t.Fatal(err)
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		nodes[1].server.GracefulStop()
	}()
	receive(t, stopped)
	if id := receive(t, nodes[0].unreachable); id != 2 {
		t.Fatalf("node %d was reported", id)
	}
}

func TestRotationWhileStreamsStand(t *testing.T) {
	a := authority(t, testCluster)
	l := listen(t, "127.0.0.1:0")
	counted := &countingListener{Listener: l}
	addrs := map[core.NodeID]string{1: "127.0.0.1:1", 2: l.Addr().String()}
	names := map[core.NodeID]string{1: nameOf(1), 2: nameOf(2)}
	from := newTestNode(t, 1, nodeFiles(t, a, nameOf(1)), addrs, names)
	to := newTestNode(t, 2, nodeFiles(t, a, nameOf(2)), addrs, names)
	to.serve(counted)
	from.sendUntilReceived(to, 1)
	before := counted.accepted.Load()

	// A new authority, and nothing of the old one any more.
	b := authority(t, testCluster)
	for _, n := range []*testNode{from, to} {
		pair, err := b.IssueNode(nameOf(n.id))
		if err != nil {
			t.Fatal(err)
		}
		if err := pair.Save(n.files.Cert, n.files.Key); err != nil {
			t.Fatal(err)
		}
		if err := WriteFile(n.files.CA, b.CertPEM(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	from.sendUntilReceived(to, 2)
	if now := counted.accepted.Load(); now != before {
		t.Errorf("the rotation cost %d new connections", now-before)
	}
	to.stop()
	to.serve(listen(t, to.addr))
	from.sendUntilReceived(to, 3)
}

type countingListener struct {
	net.Listener
	accepted atomic.Int32
}

func (l *countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.accepted.Add(1)
	}
	return c, err
}

func TestPeersOptionsNameAllProblems(t *testing.T) {
	a := authority(t, testCluster)
	pair, err := a.IssueClient(RoleAdmin)
	_, err = NewPeers(PeersOptions{
		ClusterID: "other", Addrs: map[core.NodeID]string{1: "x:1", 2: "x:2", 3: "x:3"},
		Names:        map[core.NodeID]string{1: "same", 2: "same"},
		Certificates: load(t, save(t, a, pair, err)),
	})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"Certificates: are client/admin", "Self: is 0", "node 3 has none", `both "same"`, "Deliver"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("have %v\nwant it to say %s", err, want)
		}
	}
}
