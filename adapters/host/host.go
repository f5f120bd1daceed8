// Package host runs a replica and its process's own member in the real world: one
// loop that owns both, sleeps to the earliest deadline, and is woken by what
// arrives. Everything that decides is in core; here is only the clock, the inbox
// and the lock that lets others read.
package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/omnirelay/leadership/adapters/clock"
	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
)

// Options of a Host.
type Options struct {
	Core core.Config
	Log  core.Log
	Boot core.Boot
	// Store holds the log of the registry when Core.Store says so; else nil.
	Store Store
	// Send hands messages to other replicas. It must not block.
	Send func([]core.Message)
	// Member is this process's own member; nil when it only serves the registry.
	// Instance, Seed and Plants are set by the host.
	Member *core.MemberConfig
	Stands []Stand
	// Evaluation bounds how long a check may lag behind its deadline; it also
	// bounds how late a resumed machine notices. 0: 250 ms.
	Evaluation time.Duration
	// The callbacks run on the loop: they must neither block nor call the host. Each
	// may be nil.
	OnRecords func([]*core.Record)
	OnMember  func(core.MemberChange)
	OnPersist func(time.Duration)
	OnDropped func(reason string)
	OnCommand func(core.Code)
	// OnKeepalive tells of the own member's keepalives: sent, or acknowledged.
	OnKeepalive func(acknowledged bool)
	// OnStoreCall tells of a call on the store and what became of it, unless Run's end
	// cut it off. It runs beside the loop, on several goroutines at the same time.
	OnStoreCall func(c *core.StoreCall, reply *core.StoreReply, took time.Duration)
	Logger      *slog.Logger
}

// Stand is what the own member stands for.
type Stand struct {
	Selector *logpb.Selector
	Priority int32
}

// DefaultEvaluation is the default of Options.Evaluation.
const DefaultEvaluation = 250 * time.Millisecond

// ownConn is the connection of the process's own member.
const ownConn core.ConnID = 1

// maxInbox bounds what waits for the loop. Beyond it messages of other replicas
// are dropped, which the protocol repairs, and requests are refused.
const maxInbox = 16 * core.MaxMessagesPerTurn

// Host runs one replica. All methods are safe for concurrent use.
type Host struct {
	o      Options
	clock  clock.Clock
	logger *slog.Logger

	// mu guards the replica: the loop holds it while it thinks, and lets go of it
	// while the log is being synced.
	mu      sync.RWMutex
	replica *core.Replica
	drive   *core.Drive

	memberMu sync.Mutex
	member   *core.Member

	inbox       inbox
	calls       calls
	attachments attachments
	store       *storeCalls // while Run runs

	changedMu sync.Mutex
	changed   chan struct{}
	seen      watched

	done chan struct{}
}

// watched is what a reader may wait for.
type watched struct {
	revision  uint64
	registrar core.NodeID
	ready     bool
}

// New returns a host whose replica continues from boot. Run starts it.
func New(o Options) (*Host, error) {
	if o.Evaluation <= 0 {
		o.Evaluation = DefaultEvaluation
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Core.Store != (o.Store != nil) {
		return nil, errors.New("host: Core.Store says whether Store is used: set both or neither")
	}
	h := &Host{o: o, logger: o.Logger, changed: make(chan struct{}), done: make(chan struct{})}
	h.inbox.wake = make(chan struct{}, 1)
	h.calls.init()
	h.attachments.init()
	h.o.Core.Seed = randomSeed()
	h.o.Core.EnsureDefaults()
	now := h.clock.Now()
	var err error
	if h.replica, err = core.NewReplica(h.o.Core, o.Boot, now); err != nil {
		return nil, err
	}
	h.drive = core.NewDrive(h.replica, &lockedLog{h: h}, &world{h: h})
	if o.Member != nil {
		if err := h.newMember(now); err != nil {
			return nil, err
		}
	}
	return h, nil
}

func (h *Host) newMember(now core.Time) error {
	cfg := *h.o.Member
	cfg.Seed = randomSeed()
	cfg.Instance = fmt.Sprintf("%s/%016x", cfg.MemberID, randomSeed())
	m, err := core.NewMember(cfg, now)
	if err != nil {
		return err
	}
	for _, s := range h.o.Stands {
		if err := m.Stand(s.Selector, s.Priority); err != nil {
			return err
		}
	}
	h.member = m
	return nil
}

// Run runs the loop until ctx ends or the replica halts. It returns nil in the
// first case and the reason in the second; afterwards nothing is led from here, and
// no call on the store is under way.
func (h *Host) Run(ctx context.Context) error {
	callsCtx, endCalls := context.WithCancel(ctx)
	h.store = newStoreCalls(callsCtx, h)
	defer h.store.wait()
	defer h.stopped() // what waits for the loop is not kept waiting by the store
	defer endCalls()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-h.inbox.wake:
		case <-timer.C:
		}
		if err := h.turn(); err != nil {
			h.logger.Error("this node halted", "error", err)
			h.announce()
			return fmt.Errorf("this node halted: %w", err)
		}
		timer.Reset(h.pause())
	}
}

func (h *Host) stopped() {
	h.memberMu.Lock()
	h.member = nil
	h.memberMu.Unlock()
	close(h.done)
	h.calls.failAll()
}

// turn lets the member and the replica take one step each.
func (h *Host) turn() error {
	h.tickMember()
	h.mu.Lock()
	err := h.drive.Turn()
	h.mu.Unlock()
	h.followMember()
	h.announce()
	return err
}

// pause is how long the loop may sleep.
func (h *Host) pause() time.Duration {
	if h.inbox.waiting() {
		return 0
	}
	h.mu.RLock()
	next := h.drive.Deadline()
	h.mu.RUnlock()
	h.memberMu.Lock()
	if h.member != nil {
		next = min(next, h.member.Deadline())
	}
	h.memberMu.Unlock()
	now := h.clock.Now()
	if next <= now {
		return 0
	}
	return min(next.Sub(now), h.o.Evaluation)
}

// announce wakes those who wait for a change.
func (h *Host) announce() {
	h.mu.RLock()
	s := h.replica.Status()
	h.mu.RUnlock()
	h.changedMu.Lock()
	defer h.changedMu.Unlock()
	now := watched{revision: s.Applied, registrar: s.Registrar, ready: s.Ready}
	if now != h.seen {
		h.seen = now
		close(h.changed)
		h.changed = make(chan struct{})
	}
}

// Changed returns a channel that is closed at the next change of the registry or
// of the replica's status. Take it before looking, or a change may be missed.
func (h *Host) Changed() <-chan struct{} {
	h.changedMu.Lock()
	defer h.changedMu.Unlock()
	return h.changed
}

// View lets f read the registry and the status. f must be quick, must not keep
// the registry, and must not call the host.
func (h *Host) View(f func(g *core.Registry, s core.Status)) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	f(h.replica.Registry(), h.replica.Status())
}

// Deliver takes a message from another replica.
func (h *Host) Deliver(m core.Message) {
	if !h.inbox.offer(core.Input{Message: &m}) {
		h.dropped("inbox full")
	}
}

// Unreachable tells that sending to a replica failed.
func (h *Host) Unreachable(n core.NodeID) { h.inbox.offer(core.Input{Unreachable: n}) }

// Removed tells that another node says that this one was removed from the cluster. The
// loop ends with core.ErrRemoved.
func (h *Host) Removed() { h.inbox.offer(core.Input{Removed: true}) }

func (h *Host) dropped(reason string) {
	if h.o.OnDropped != nil {
		h.o.OnDropped(reason)
	}
}

// Shutdown hands over everything in order: the own member stops acting and closes
// its session, which elects the successors in one entry; then, if this replica is
// the registrar, another takes the office. It returns when both is done or ctx
// ends; the loop still runs, until its context ends.
func (h *Host) Shutdown(ctx context.Context) error {
	memberErr := h.closeMember(ctx)
	h.inbox.offer(core.Input{HandOver: true})
	var officeErr error
	if !h.alone() {
		officeErr = h.await(ctx, "another registrar", func(s core.Status) bool { return !s.IsRegistrar })
	}
	return errors.Join(memberErr, officeErr)
}

// alone reports whether nobody else can take the office.
func (h *Host) alone() (is bool) {
	h.View(func(g *core.Registry, _ core.Status) {
		voters := len(g.Voters())
		is = voters == 1 || (voters == 0 && len(h.o.Core.Voters) <= 1)
	})
	return is
}

// await waits until cond holds for the status.
func (h *Host) await(ctx context.Context, what string, cond func(core.Status) bool) error {
	for {
		changed := h.Changed()
		var met bool
		h.View(func(_ *core.Registry, s core.Status) { met = cond(s) })
		if met {
			return nil
		}
		select {
		case <-changed:
		case <-h.done:
			return errStopped
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w", what, ctx.Err())
		}
	}
}

// errStopped is what calls on a host get after its loop has ended.
var errStopped error = &core.Error{Code: core.CodeHalted, Message: "this node has stopped; ask another"}
