package logtest

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/adapters/host"
	"github.com/omnirelay/leadership/adapters/raftlog"
	"github.com/omnirelay/leadership/adapters/storeserver"
	"github.com/omnirelay/leadership/core"
)

const (
	clusterID = "logtest"
	settled   = 45 * time.Second // the longest wait of a case of replicas
)

// cluster is some replicas in this process over one log: raft's, among themselves, or
// one in a store, each through a proxy of its own.
type cluster struct {
	t       testing.TB
	dir     string
	factory *Factory // nil: raft
	server  *storeserver.Server
	place   string
	edit    func(*core.Config)
	measure *figures // nil: nothing is measured
	nodes   []*node
	// stopping: the replicas are expected to stop with a reason.
	stopping bool

	mu      sync.Mutex
	cut     map[core.NodeID]bool // from the other replicas
	records map[uint64]*core.Record
	wrong   error
}

// node is a replica, which may be stopped and started again on its directory.
type node struct {
	c     *cluster
	id    core.NodeID
	proxy *storeserver.Proxy
	host  *host.Host // nil: stopped
	log   *raftlog.Log
	store LogStore
	stop  context.CancelFunc
	done  chan error
}

// newCluster starts n replicas and waits until they are of one protocol version.
func newCluster(t testing.TB, f *Factory, server *storeserver.Server, place string, n int, edit func(*core.Config)) *cluster {
	t.Helper()
	c := &cluster{t: t, dir: t.TempDir(), factory: f, server: server, place: place, edit: edit,
		cut: map[core.NodeID]bool{}, records: map[uint64]*core.Record{}}
	c.run(n)
	return c
}

// run starts n replicas and waits until they are of one protocol version.
func (c *cluster) run(n int) {
	c.t.Helper()
	for i := range n {
		c.nodes = append(c.nodes, &node{c: c, id: core.NodeID(i + 1)})
	}
	c.t.Cleanup(c.close)
	for _, n := range c.nodes {
		n.start()
	}
	c.await("all replicas ready, at one protocol version", func() bool {
		for _, n := range c.nodes {
			if s := n.status(); !s.Ready || s.Version != core.ProtocolVersion {
				return false
			}
		}
		return true
	})
}

func (c *cluster) close() {
	for _, n := range c.nodes {
		n.end()
		if n.proxy != nil {
			n.proxy.Close()
		}
	}
}

func (c *cluster) kind() string {
	if c.factory == nil {
		return "raft"
	}
	return string(c.factory.Server.Kind)
}

func (c *cluster) config(id core.NodeID) core.Config {
	cfg := core.Config{ID: id, ClusterID: clusterID, ElectionTimeout: 500 * time.Millisecond, HeartbeatInterval: 50 * time.Millisecond,
		MaxElectionWindow: settled, RebalanceInterval: -1, Store: c.factory != nil}
	for _, n := range c.nodes {
		cfg.Voters = append(cfg.Voters, n.id)
	}
	if c.edit != nil {
		c.edit(&cfg)
	}
	return cfg
}

// start runs the replica on what its directory and the store hold.
func (n *node) start() {
	t := n.c.t
	t.Helper()
	log, boot, err := raftlog.Open(n.options())
	if err != nil {
		t.Fatal(err)
	}
	n.log = log
	o := host.Options{Core: n.c.config(n.id), Log: log, Boot: boot, Send: n.c.send, OnRecords: n.c.collect}
	if n.c.factory != nil {
		n.open()
		o.Store = n.store
	}
	if m := n.c.measure; m != nil {
		m.set(n, &o)
	}
	h, err := host.New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	n.stop, n.done = stop, make(chan error, 1)
	n.c.mu.Lock()
	n.host = h
	n.c.mu.Unlock()
	go func() { n.done <- h.Run(ctx) }()
}

func (n *node) options() raftlog.Options {
	o := raftlog.Options{Dir: filepath.Join(n.c.dir, fmt.Sprint(n.id)), ClusterID: clusterID, NodeID: n.id}
	if n.c.factory != nil {
		o.Store = n.c.kind()
	}
	return o
}

// open opens the log in the store through the replica's own proxy.
func (n *node) open() {
	t := n.c.t
	t.Helper()
	var err error
	address := n.c.server.Address()
	if n.proxy == nil && n.c.measure == nil {
		if n.proxy, err = storeserver.NewProxy(n.c.server.Address()); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), callTimeout)
	defer cancel()
	if n.proxy != nil {
		address = n.proxy.Address()
	}
	n.store, err = n.c.factory.Open(ctx, Site{Address: address, ClusterID: clusterID, Place: n.c.place})
	if err != nil {
		t.Fatal(err)
	}
}

// end stops the replica at once, as a kill does, with its log closed.
func (n *node) end() {
	if n.host == nil {
		return
	}
	n.c.mu.Lock()
	n.host = nil
	n.c.mu.Unlock()
	n.stop()
	err := <-n.done
	if n.c.stopping {
		err = nil
	}
	if n.store != nil {
		err = errors.Join(err, n.store.Close())
		n.store = nil
	}
	if err := errors.Join(err, n.log.Close()); err != nil {
		n.c.t.Errorf("replica %d: %v", n.id, err)
	}
}

func (n *node) status() (s core.Status) {
	n.host.View(func(_ *core.Registry, now core.Status) { s = now })
	return s
}

// state is the replica's copy: where it stands, and its hash.
func (n *node) state() (revision uint64, hash [32]byte) {
	n.host.View(func(g *core.Registry, _ core.Status) { revision, hash = g.Revision(), g.Hash() })
	return revision, hash
}

// send is the network among the replicas.
func (c *cluster) send(messages []core.Message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range messages {
		if to := c.nodes[m.To-1]; to.host != nil && !c.cut[m.From] && !c.cut[m.To] {
			to.host.Deliver(m)
		}
	}
}

// isolate cuts a replica off from the others and from the store.
func (c *cluster) isolate(n *node, on bool) {
	c.mu.Lock()
	c.cut[n.id] = on
	c.mu.Unlock()
	if n.proxy != nil {
		n.proxy.Hold(on)
	}
}

// collect holds the events of all replicas against one another.
func (c *cluster) collect(records []*core.Record) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range records {
		if known := c.records[r.Seq]; known == nil {
			c.records[r.Seq] = r
		} else if !proto.Equal(known, r) && c.wrong == nil {
			c.wrong = fmt.Errorf("two replicas tell of record %d:\n%v\n%v", r.Seq, known, r)
		}
	}
}

// trace is what was told, in order, as it must be on every log.
func (c *cluster) trace() []string {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.wrong != nil {
		c.t.Fatal(c.wrong)
	}
	var trace []string
	for seq := uint64(1); c.records[seq] != nil; seq++ {
		trace = append(trace, tell(c.records[seq]))
	}
	if len(trace) != len(c.records) {
		c.t.Fatalf("record %d of %d was told by nobody", len(trace)+1, len(c.records))
	}
	return trace
}

func (c *cluster) await(what string, is func() bool) {
	c.t.Helper()
	for end := time.Now().Add(settled); !is(); {
		if time.Now().After(end) {
			for _, n := range c.nodes {
				if n.host != nil {
					c.t.Logf("replica %d: %+v", n.id, n.status())
				}
			}
			c.t.Fatalf("never seen: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// registrar waits for an office that is open, of one of the replicas.
func (c *cluster) registrar(of ...*node) (registrar *node) {
	c.t.Helper()
	c.await("an open office", func() bool {
		for _, n := range of {
			if n.host == nil {
				continue
			}
			if s := n.status(); s.IsRegistrar && s.OfficeOpen {
				registrar = n
				return true
			}
		}
		return false
	})
	return registrar
}

// others are all replicas but one.
func (c *cluster) others(than *node) []*node {
	return slices.DeleteFunc(slices.Clone(c.nodes), func(n *node) bool { return n == than })
}

// agree waits until all replicas that run stand at the same place, and their hashes
// are equal there.
func (c *cluster) agree() (revision uint64, hash [32]byte) {
	c.t.Helper()
	c.await("all replicas at the same place", func() bool {
		first := true
		for _, n := range c.nodes {
			if n.host == nil {
				continue
			}
			r, h := n.state()
			switch {
			case first:
				revision, hash, first = r, h, false
			case r != revision:
				return false
			case h != hash:
				c.t.Fatalf("at revision %d, replica %d has another state hash than the first", r, n.id)
			}
		}
		return true
	})
	return revision, hash
}

// do makes a command at a replica that has seen what is led now, and says what came of
// it.
func (c *cluster) do(n *node, id string, s step) string {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), settled)
	defer cancel()
	if err := n.host.ReadBarrier(ctx); err != nil {
		c.t.Fatalf("%s: reading what is led: %v", id, err)
	}
	return c.command(ctx, n, id, s)
}

func (c *cluster) command(ctx context.Context, n *node, id string, s step) string {
	c.t.Helper()
	command := s(func(scope string) (t core.Token) {
		n.host.View(func(g *core.Registry, _ core.Status) { t, _ = g.Token(scope) })
		return t
	})
	command.RequestId, command.CorrelationId, command.Actor = id, "cause/"+id, "logtest"
	result, err := n.host.Do(ctx, command)
	var refused *core.Error
	if err != nil && !errors.As(err, &refused) {
		c.t.Fatalf("%s: %v", id, err)
	}
	return fmt.Sprintf("%s: code %q field %q session %d fence %d", id, result.GetCode(), result.GetField(), result.GetSession(), result.GetFence())
}

// play makes all commands of the script, at one replica after another, some twice,
// and returns the answers.
func (c *cluster) play() []string {
	c.t.Helper()
	var answers []string
	for i, s := range script() {
		id := fmt.Sprintf("script/%d", i)
		answer := c.do(c.nodes[i%len(c.nodes)], id, s)
		answers = append(answers, answer)
		if i%4 == 1 {
			again := c.do(c.nodes[(i+1)%len(c.nodes)], id, s)
			answers = append(answers, again)
		}
	}
	return answers
}

// fill grows the log by so many commands.
func (c *cluster) fill(n *node, name string, count int) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), settled)
	defer cancel()
	for i := range count {
		c.command(ctx, n, fmt.Sprintf("%s/%d", name, i), filler(i))
	}
}

// entry is one of either log.
type entry struct {
	index, term uint64
	data        []byte
}

// entries reads the log of a cluster that is stopped.
func (c *cluster) entries() []entry {
	c.t.Helper()
	var all []entry
	if c.factory == nil {
		log, boot, err := raftlog.Open(c.nodes[0].options())
		if err != nil {
			c.t.Fatal(err)
		}
		defer func() { _ = log.Close() }()
		for _, e := range boot.Entries {
			all = append(all, entry{e.GetIndex(), e.GetTerm(), e.GetData()})
		}
		return all
	}
	log, err := wholeLog(c.client())
	if err != nil {
		c.t.Fatal(err)
	}
	for _, e := range log.entries {
		all = append(all, entry{e.Index, e.Term, e.Data})
	}
	return all
}

// client opens the cluster's log past all proxies.
func (c *cluster) client() *client {
	c.t.Helper()
	b := &bench{ctx: c.t.Context(), cluster: clusterID, place: c.place, patience: recovery, factory: c.factory, server: c.server}
	b.open = func(ctx context.Context, through bool) (LogStore, error) { return c.factory.Open(ctx, b.site(false)) }
	client, err := b.direct()
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = client.store.Close() })
	return client
}

// replay feeds entries to a registry and returns its hash and what it tells.
func replay(t *testing.T, entries []entry) (hash [32]byte, trace []string) {
	t.Helper()
	g := core.NewRegistry(0)
	for _, e := range entries {
		out, err := g.Apply(e.index, e.term, e.data)
		if err != nil {
			t.Fatalf("entry %d: %v", e.index, err)
		}
		for _, r := range out.Records {
			trace = append(trace, tell(r))
		}
	}
	return g.Hash(), trace
}
