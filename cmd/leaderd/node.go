package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/omnirelay/leadership/adapters/config"
	"github.com/omnirelay/leadership/adapters/gossip"
	"github.com/omnirelay/leadership/adapters/host"
	"github.com/omnirelay/leadership/adapters/raftlog"
	"github.com/omnirelay/leadership/adapters/telemetry"
	"github.com/omnirelay/leadership/adapters/transport"
	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
)

// node is everything one leaderd runs, wired together.
type node struct {
	config       *config.Config
	logger       *slog.Logger
	certificates *transport.Certificates
	log          *raftlog.Log
	store        *lateStore // nil: the registry is kept by raft
	host         *host.Host
	peers        *transport.Peers
	metrics      *telemetry.Metrics
	peerServer   *grpc.Server
	front        *front
	gossip       *gossip.Gossip // nil: this node does not gossip

	sessions chan core.SessionID // to be remembered for a later life
	failed   chan error          // the first thing that ended by itself
	cancel   context.CancelFunc
	running  sync.WaitGroup
}

// newNode opens the log and wires the parts. Nothing listens yet.
func newNode(c *config.Config, logger *slog.Logger) (_ *node, err error) {
	n := &node{config: c, logger: logger, sessions: make(chan core.SessionID, 1), failed: make(chan error, 8), cancel: func() {}}
	defer func() {
		if err != nil {
			n.close()
		}
	}()
	n.certificates, err = transport.LoadCertificates(transport.Files{CA: c.TLS.CA, Cert: c.TLS.Cert, Key: c.TLS.Key}, logger)
	if err != nil {
		return nil, err
	}
	boot, err := n.openLog()
	if err != nil {
		return nil, err
	}
	if c.Registry.External() {
		if n.store, err = newLateStore(c, logger); err != nil {
			return nil, err
		}
	}
	n.metrics = telemetry.NewMetrics(telemetry.Options{
		Logger: logger, LeaderSeries: c.Metrics.LeaderSeries, Store: c.Registry.External(),
		View: func(f func(*core.Registry, core.Status)) { n.host.View(f) },
	})
	n.metrics.WatchGossip(n.gossipStats)
	if n.host, err = host.New(n.hostOptions(boot)); err != nil {
		return nil, err
	}
	if n.peers, err = transport.NewPeers(n.peersOptions()); err != nil {
		return nil, err
	}
	n.peerServer = grpc.NewServer(append(transport.ServerOptions(), grpc.Creds(n.certificates.ServerCredentials()))...)
	n.peers.Register(n.peerServer)
	n.front, err = newFront(n)
	return n, err
}

func (n *node) openLog() (boot core.Boot, err error) {
	n.log, boot, err = raftlog.Open(raftlog.Options{
		Dir: n.config.DataDir, ClusterID: n.config.ClusterID, NodeID: config.Peer{ID: n.config.NodeID}.Replica(),
		Store: n.config.Registry.Store,
	})
	return boot, err
}

func (n *node) hostOptions(boot core.Boot) host.Options {
	c := n.config
	o := host.Options{
		Core: core.Config{
			ID: config.Peer{ID: c.NodeID}.Replica(), Name: c.NodeID, ClusterID: c.ClusterID, Epsilon: c.ClockDrift, ElectionTimeout: c.ElectionTimeout,
			HeartbeatInterval: c.HeartbeatInterval, MaxElectionWindow: c.MaxElectionWindow, FormationMembers: int(c.FormationMembers),
			FormationWindow: c.FormationWindow, RebalanceInterval: time.Duration(c.RebalanceInterval), SnapshotEntries: c.SnapshotEntries,
		},
		Log: n.log, Boot: boot, Evaluation: c.EvaluationInterval, Logger: n.logger,
		Send:      func(messages []core.Message) { n.peers.Send(messages) },
		OnRecords: n.metrics.Observe, OnPersist: n.metrics.Persisted, OnMember: n.remember,
		OnCommand: n.metrics.Command, OnKeepalive: n.countKeepalive,
	}
	if n.store != nil {
		o.Core.Store, o.Store, o.OnStoreCall = true, n.store, n.metrics.StoreCall
	}
	o.Core.Join = c.Join
	for _, p := range c.Peers {
		if !c.Join {
			o.Core.Voters = append(o.Core.Voters, p.Replica())
		}
		if p.ID == c.NodeID {
			o.Core.Addresses = core.NodeAddresses{Peer: p.Address, HTTP: p.HTTP, GRPC: p.GRPC}
		}
	}
	if c.Enabled {
		o.Member = &core.MemberConfig{
			MemberID: c.NodeID, Labels: c.Labels, Weight: c.Weight, TTL: c.LeaseDuration, RenewalLead: c.RenewalLeadTime,
			Backoff: c.ElectionBackoff, Epsilon: c.ClockDrift,
			// The lock on the data directory proves that the former life is over.
			Replaces: core.SessionID(n.log.LastSession()),
		}
		o.Stands = standsOf(c)
	}
	return o
}

func (n *node) peersOptions() transport.PeersOptions {
	o := transport.PeersOptions{
		ClusterID: n.config.ClusterID, Self: config.Peer{ID: n.config.NodeID}.Replica(), Addrs: map[core.NodeID]string{},
		Names: map[core.NodeID]string{}, Certificates: n.certificates, Deliver: n.host.Deliver, Unreachable: n.host.Unreachable, Logger: n.logger,
		Open: !n.config.Registry.External(), Removed: n.host.Removed,
	}
	for _, p := range n.config.Peers {
		if p.ID == n.config.NodeID {
			o.Address = p.Address
		}
		o.Addrs[p.Replica()], o.Names[p.Replica()] = p.Address, p.ID
	}
	return o
}

// standsOf is what the own member stands for: single scopes by id, families of
// shards by their namespace.
func standsOf(c *config.Config) []host.Stand {
	var stands []host.Stand
	for _, s := range c.Scopes {
		stands = append(stands, host.Stand{Selector: &logpb.Selector{Id: s.ID}, Priority: s.Priority})
	}
	for _, s := range c.Shards {
		stands = append(stands, host.Stand{Selector: &logpb.Selector{Kind: core.KindShard, Namespace: s.Namespace}, Priority: s.Priority})
	}
	return stands
}

func (n *node) countKeepalive(acknowledged bool) {
	if acknowledged {
		n.metrics.KeepaliveAcknowledged()
	} else {
		n.metrics.KeepaliveSent()
	}
}

// remember keeps the session's id for a later life of this node. It is called on
// the host's loop, so the disk is left to another goroutine.
func (n *node) remember(c core.MemberChange) {
	if c.Kind != core.ChangeSessionOpened {
		return
	}
	select {
	case <-n.sessions: // an older one that was not written yet
	default:
	}
	n.sessions <- c.Session
}

// start listens and runs everything. What fails afterwards is told on n.failed.
func (n *node) start() error {
	peers, err := net.Listen("tcp", n.config.Listeners.Peer)
	if err != nil {
		return fmt.Errorf("listeners.peer: %w", err)
	}
	if err := n.front.listen(); err != nil {
		_ = peers.Close()
		return err
	}
	if err := n.openGossip(); err != nil {
		_ = peers.Close()
		return fmt.Errorf("mesh.%w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	n.cancel = cancel
	peers = transport.Limit(peers, transport.Limits{HandshakeTimeout: n.config.Limits.HandshakeTimeout})
	n.run(func() error { return n.peerServer.Serve(peers) })
	n.run(func() error { return n.host.Run(ctx) })
	if n.store != nil {
		n.run(func() error { return n.store.run(ctx) })
	}
	n.run(func() error { return n.declare(ctx) })
	n.run(func() error { return n.followNodes(ctx) })
	n.run(func() error { return n.rememberSessions(ctx) })
	n.run(func() error {
		n.metrics.WatchWindow(ctx, n.config.MaxElectionWindow, n.config.EvaluationInterval)
		return nil
	})
	n.runGossip(ctx)
	n.front.serve(ctx, n)
	return nil
}

// run runs f until the node closes; an error of it ends the node.
func (n *node) run(f func() error) {
	n.running.Go(func() {
		if err := f(); err != nil {
			select {
			case n.failed <- err:
			default: // the first failures tell enough
			}
		}
	})
}

func (n *node) rememberSessions(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case id := <-n.sessions:
			if err := n.log.SetSession(uint64(id)); err != nil {
				return err
			}
		}
	}
}

// close stops what was started, in the reverse order.
func (n *node) close() {
	if n.front != nil {
		n.front.close()
	}
	n.cancel()
	n.closeGossip()
	if n.peers != nil {
		if err := n.peers.Close(); err != nil {
			n.logger.Warn("closing connections to peers", "error", err)
		}
	}
	if n.peerServer != nil {
		n.peerServer.Stop()
	}
	n.running.Wait()
	if n.metrics != nil {
		ctx, cancel := context.WithTimeout(context.Background(), closeWithin)
		defer cancel()
		n.metrics.Flush(ctx)
	}
	if n.store != nil {
		if err := n.store.Close(); err != nil {
			n.logger.Warn("closing the store", "error", err)
		}
	}
	if n.log != nil {
		if err := n.log.Close(); err != nil {
			n.logger.Warn("closing the log", "error", err)
		}
	}
}

// declare declares the configured scopes that are not there yet, and stops when
// all are.
func (n *node) declare(ctx context.Context) error {
	wanted := n.config.DeclaredScopes()
	for round := 0; ; round++ {
		missing, changed := n.missing(wanted)
		if missing == nil {
			return nil
		}
		if len(missing) > 0 {
			err := n.declareSome(ctx, missing[:min(len(missing), core.MaxScopesPerCmd)], round)
			if err != nil && ctx.Err() == nil {
				n.logger.Warn("declaring the configured scopes", "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-time.After(n.config.ElectionTimeout):
		}
	}
}

// missing returns the scopes that are not declared, nil when none is missing.
// While the node cannot tell, it returns an empty list and a channel to wait on.
func (n *node) missing(wanted []config.DeclaredScope) (missing []*logpb.ScopeSpec, changed <-chan struct{}) {
	changed = n.host.Changed()
	n.host.View(func(g *core.Registry, s core.Status) {
		if !s.Ready {
			missing = []*logpb.ScopeSpec{}
			return
		}
		for _, w := range wanted {
			if _, there := g.Scope(w.Spec.Id); !there {
				missing = append(missing, w.Spec)
			}
		}
	})
	return missing, changed
}

func (n *node) declareSome(ctx context.Context, scopes []*logpb.ScopeSpec, round int) error {
	var revision uint64
	n.host.View(func(g *core.Registry, _ core.Status) { revision = g.Revision() })
	_, err := n.host.Do(ctx, &logpb.Command{
		RequestId: fmt.Sprintf("%s/declare/%d/%d", n.config.NodeID, time.Now().UnixNano(), round), Base: revision, Actor: n.config.NodeID,
		Kind: &logpb.Command_DeclareScopes{DeclareScopes: &logpb.DeclareScopes{Scopes: scopes}},
	})
	var refused *core.Error
	if errors.As(err, &refused) && refused.Code == core.CodeRetiring {
		return nil // looked at again after the next change
	}
	return err
}
