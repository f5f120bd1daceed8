package transport

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/wire"
	"github.com/omnirelay/leadership/wire/nodepb"
)

// Bounds of node-to-node traffic.
const (
	// maxQueued messages, or maxQueuedBytes of them, wait for one peer.
	maxQueued      = 4_096
	maxQueuedBytes = 16 << 20
	// maxQueuedAge is above the default election timeout: whoever needed an older
	// message has asked again.
	maxQueuedAge = time.Second
	// batchBytes is how much of a queue goes into one request. A larger message
	// travels alone, in parts of this size.
	batchBytes = wire.MaxRequestBytes / 2
	// maxStreams of one peer are served at once: its two, and those of a connection
	// whose end has not been noticed yet.
	maxStreams = 8

	// A failover waits for a reconnect, so it is tried again soon.
	minReconnect   = 50 * time.Millisecond
	maxReconnect   = 500 * time.Millisecond
	connectTimeout = time.Second
	// deadAfter is how long a connection may leave data unacknowledged. The kernel
	// watches it (TCP_USER_TIMEOUT, which grpc sets from its keepalive timeout);
	// heartbeats see to it that there is data. Where there is no such option grpc's
	// own pings notice, after pingInterval more, its least.
	deadAfter    = 2 * time.Second
	pingInterval = 10 * time.Second
	// serverPing is after how long a silent caller is asked, and how long it has to
	// answer. Longer than deadAfter: a server only clears away behind a dead caller.
	serverPing = 5 * time.Second
	// snapshotTimeout bounds the sending of one snapshot: 64 MiB at 1 MiB a second.
	snapshotTimeout = 64 * time.Second
	// reportInterval is the least time between two reports of unreachable peers.
	reportInterval = 50 * time.Millisecond
	// complaintInterval is how often a connection that keeps failing is logged.
	complaintInterval = time.Minute
)

// PeersOptions are the settings of Peers. All are required but Logger.
type PeersOptions struct {
	ClusterID string
	Self      core.NodeID
	// Addrs holds host:port of every other node. An entry of Self is ignored.
	Addrs map[core.NodeID]string
	// Names holds the name in every other node's certificate.
	Names map[core.NodeID]string
	// Address is host:port at which other nodes reach this one, told to those that do not
	// know it yet; empty: it is not told.
	Address string
	// Open admits nodes that Names does not hold, when their name gives their id: they may
	// have been added since.
	Open         bool
	Certificates *Certificates
	// Deliver takes a message from another node, already checked. It is called from
	// several goroutines and must not block: what does not fit is dropped.
	Deliver func(core.Message)
	// Unreachable tells that messages to a node were dropped: its connection is
	// down, or it takes them too slowly. Repeated while that lasts, at most every 50 ms
	// for each node, from one goroutine.
	Unreachable func(core.NodeID)
	// Removed tells that another node refuses this one because it was removed from the
	// cluster. It may be called again. nil: nobody wants to know.
	Removed func()
	Logger  *slog.Logger // nil: discard
}

// Validate reports all problems together.
func (o *PeersOptions) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if o.Certificates == nil {
		bad("Certificates: missing")
	} else if id := o.Certificates.Identity(); id.Kind != KindNode || id.Cluster != o.ClusterID {
		bad("Certificates: are %s of cluster %q, want a node of cluster %q", id, id.Cluster, o.ClusterID)
	}
	if o.Self == 0 {
		bad("Self: is 0, want this node's id")
	}
	if len(o.Addrs) > core.MaxReplicas {
		bad("Addrs: %d nodes, at most %d are allowed", len(o.Addrs), core.MaxReplicas)
	}
	owner := map[string]core.NodeID{}
	for id := range o.Addrs {
		name := o.Names[id]
		switch {
		case id == o.Self:
			continue
		case name == "":
			bad("Names: node %d has none", id)
		case owner[name] != 0:
			bad("Names: nodes %d and %d are both %q", owner[name], id, name)
		}
		owner[name] = id
	}
	if o.Deliver == nil || o.Unreachable == nil {
		bad("Deliver, Unreachable: both are needed")
	}
	return errors.Join(errs...)
}

// Peers exchanges messages with the other nodes: one stream out to each, one from
// each. Snapshots go out over connections of their own, so that heartbeats do not
// queue behind tens of megabytes in a socket.
type Peers struct {
	o         *PeersOptions
	directory *directory
	reports   *reports
	inbound   *inbound

	mu    sync.RWMutex
	peers map[core.NodeID]*outbound

	ctx    context.Context
	cancel context.CancelFunc
	tasks  sync.WaitGroup
	once   sync.Once
	closed error
}

// NewPeers starts connecting to the other nodes.
func NewPeers(o PeersOptions) (*Peers, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	p := &Peers{o: &o, directory: newDirectory(&o), peers: map[core.NodeID]*outbound{}, reports: newReports(o.Unreachable)}
	p.inbound = newInbound(&o, p.directory, p.learn)
	p.ctx, p.cancel = context.WithCancel(context.Background())
	for id, addr := range o.Addrs {
		if id == o.Self {
			continue
		}
		if err := p.connect(id, o.Names[id], addr); err != nil {
			return nil, errors.Join(fmt.Errorf("node %d at %q: %w", id, addr, err), p.Close())
		}
	}
	p.tasks.Go(func() { p.reports.run(p.ctx) })
	return p, nil
}

// Send hands messages over for sending and never blocks. What cannot be sent is
// dropped and its receiver reported as unreachable. A snapshot is encoded later, by
// another goroutine: it must not be modified any more.
func (p *Peers) Send(messages []core.Message) {
	now := time.Now()
	for i := range messages {
		p.send(&messages[i], now)
	}
}

func (p *Peers) send(m *core.Message, now time.Time) {
	p.mu.RLock()
	out, known := p.peers[m.To]
	p.mu.RUnlock()
	if !known || m.From != p.o.Self {
		p.directory.complain(m, p.o)
		return
	}
	if m.Raft.GetType() == raftpb.MsgSnap {
		out.putSnapshot(*m)
		return
	}
	encoded, err := wire.EncodeMessage(m)
	if err != nil {
		p.o.Logger.Error("message dropped: other nodes would refuse it", "to", m.To, "error", err)
		return
	}
	if out.messages.put(encoded, now) > 0 {
		p.reports.add(m.To)
	}
}

// Close ends all streams in both directions and waits for them. The server that
// Peers was registered on is its owner's to stop, before or after. Further calls
// return what the first did.
func (p *Peers) Close() error {
	p.once.Do(func() {
		p.mu.Lock() // nobody begins a connection from now on
		p.cancel()
		p.mu.Unlock()
		p.inbound.close()
		p.tasks.Wait()
		var errs []error
		for _, out := range p.peers {
			errs = append(errs, out.conn.Close())
		}
		p.closed = errors.Join(errs...)
	})
	return p.closed
}

// Register adds the receiving side to a server, which must ask for certificates.
func (p *Peers) Register(r grpc.ServiceRegistrar) { nodepb.RegisterNodeServiceServer(r, p.inbound) }

// ServerOptions are what a grpc server that carries Peers needs. The limit on a
// request is grpc's own default, said aloud: snapshots travel in parts, so that no
// caller of the API beside them may send more than that.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(4 << 20),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: serverPing, Timeout: serverPing}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: pingInterval / 2, PermitWithoutStream: true}),
	}
}

// reports tells of unreachable peers from a goroutine of its own: Send is called
// by the loop that must also take the report.
type reports struct {
	tell   func(core.NodeID)
	mu     sync.Mutex
	nodes  map[core.NodeID]bool
	signal chan struct{}
}

func newReports(tell func(core.NodeID)) *reports {
	return &reports{tell: tell, nodes: map[core.NodeID]bool{}, signal: make(chan struct{}, 1)}
}

func (r *reports) add(id core.NodeID) {
	r.mu.Lock()
	r.nodes[id] = true
	r.mu.Unlock()
	select {
	case r.signal <- struct{}{}:
	default:
	}
}

func (r *reports) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.signal:
		}
		r.mu.Lock()
		nodes := r.nodes
		r.nodes = map[core.NodeID]bool{}
		r.mu.Unlock()
		for id := range nodes {
			r.tell(id)
		}
		wait(ctx, reportInterval)
	}
}

// wait returns after d, or when ctx ends.
func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
