package transport

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/omnirelay/leadership/core"
)

// Nodes come and go while Peers runs: the registry's table says which there are and
// where, and a node that is not in it yet says itself where it is reached.

// maxPeers bounds the connections kept at the same time: the nodes there may be, and
// those of before that are not known to be gone.
const maxPeers = 2 * core.MaxNodes

// PeerNode is another node, as the registry knows it.
type PeerNode struct {
	ID      core.NodeID
	Name    string // in its certificate
	Address string // host:port of its peer listener
}

// SetNodes takes the nodes that the registry knows, this one among them or not, and
// those that were removed. An address counts when it is new in the table, so that one
// which a node told since is not undone. Connections to removed nodes end; their
// streams are refused, which tells them.
func (p *Peers) SetNodes(nodes []PeerNode, removed []core.NodeID) {
	for _, id := range removed {
		if p.directory.remove(id) {
			p.disconnect(id)
		}
	}
	for _, n := range nodes {
		if n.ID == p.o.Self || n.Name == "" || !reachable(n.Address) || !p.directory.table(n) {
			continue
		}
		if err := p.connect(n.ID, n.Name, n.Address); err != nil {
			p.o.Logger.Error("no connection to a node of the registry", "name", n.Name, "addr", n.Address, "error", err)
		}
	}
}

// learn takes the address that a node told when it opened a stream.
func (p *Peers) learn(id core.NodeID, name, addr string) {
	if !reachable(addr) {
		return
	}
	if err := p.connect(id, name, addr); err != nil {
		p.o.Logger.Error("no connection to a node that told its address", "name", name, "addr", addr, "error", err)
	}
}

// reachable reports whether an address looks like one that can be connected to.
func reachable(addr string) bool {
	host, port, err := net.SplitHostPort(addr)
	return err == nil && host != "" && port != "" && port != "0" && len(addr) <= core.MaxNodeAddress
}

// connect begins to connect to a node, in place of where it was before.
func (p *Peers) connect(id core.NodeID, name, addr string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	old := p.peers[id]
	switch {
	case p.ctx.Err() != nil || (old != nil && old.addr == addr && old.name == name):
		return nil
	case old == nil && len(p.peers) >= maxPeers:
		return fmt.Errorf("%d nodes are connected already", maxPeers)
	}
	out, err := newOutbound(p.o, id, name, addr, p.reports)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(p.ctx)
	out.cancel = cancel
	p.peers[id] = out
	p.tasks.Go(func() { out.run(ctx) })
	p.tasks.Go(func() { out.runSnapshots(ctx) })
	if old != nil {
		p.end(old)
	}
	return nil
}

func (p *Peers) disconnect(id core.NodeID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if out := p.peers[id]; out != nil && p.ctx.Err() == nil {
		delete(p.peers, id)
		p.end(out)
	}
}

// end stops what connects to a node, without waiting.
func (p *Peers) end(out *outbound) {
	out.cancel()
	p.tasks.Go(func() {
		if err := out.conn.Close(); err != nil {
			out.logger.Warn("closing the connection to a peer", "error", err)
		}
	})
}

// directory knows which nodes may speak here.
type directory struct {
	self       core.NodeID
	open       bool
	complaints *rate.Limiter

	mu      sync.RWMutex
	names   map[core.NodeID]string
	tabled  map[core.NodeID]PeerNode // as the registry said last
	removed map[core.NodeID]bool
	signals map[core.NodeID]chan struct{} // closed when the node is removed
}

func newDirectory(o *PeersOptions) *directory {
	d := &directory{
		self: o.Self, open: o.Open, complaints: rate.NewLimiter(rate.Every(time.Second), 3), names: map[core.NodeID]string{},
		tabled: map[core.NodeID]PeerNode{}, removed: map[core.NodeID]bool{}, signals: map[core.NodeID]chan struct{}{},
	}
	for id, name := range o.Names {
		d.names[id] = name
	}
	return d
}

// remove notes that a node was removed; false: it is known.
func (d *directory) remove(id core.NodeID) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.removed[id] {
		return false
	}
	d.removed[id] = true
	if s := d.signals[id]; s != nil {
		close(s)
	}
	delete(d.names, id)
	delete(d.tabled, id)
	return true
}

// gone returns a channel that is closed when a node, which was admitted, is removed.
func (d *directory) gone(id core.NodeID) <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.signals[id]
	if s == nil {
		s = make(chan struct{})
		d.signals[id] = s
		if d.removed[id] {
			close(s)
		}
	}
	return s
}

// table takes what the registry says of a node; false: it said the same before.
func (d *directory) table(n PeerNode) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.removed[n.ID] || d.tabled[n.ID] == n {
		return false
	}
	d.tabled[n.ID], d.names[n.ID] = n, n.Name
	return true
}

// admit decides whether a node, named by its certificate, may speak as from.
func (d *directory) admit(from core.NodeID, id Identity) error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	name, known := d.names[from]
	switch {
	case d.removed[from]:
		return errRemoved
	case from == d.self || (!known && !(d.open && core.NodeIDOf(id.Name) == from)):
		return status.Errorf(codes.PermissionDenied, "hello.from: node %d is none of this node's peers", from)
	case known && id.Name != name:
		return status.Errorf(codes.PermissionDenied, "hello.from: %s may not speak as node %d, which is node/%s", id, from, name)
	}
	return nil
}

// errRemoved is what a removed node is told. No other refusal has its code.
var errRemoved = status.Error(codes.FailedPrecondition, "this node was removed from the cluster, and its name is never used again")

// complain tells of a message that there is no way for.
func (d *directory) complain(m *core.Message, o *PeersOptions) {
	if d.complaints.Allow() {
		o.Logger.Warn("message dropped: where that node is reached is not known", "from", m.From, "to", m.To, "self", o.Self)
	}
}
