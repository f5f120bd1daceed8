package host

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memory is a log that forgets, and that can be made to hang or to fail.
type memory struct {
	mu   sync.Mutex
	hang chan struct{} // closed: go on
	hung chan struct{} // gets a token when a Persist hangs
	fail error
}

func (m *memory) Persist(core.Batch) error {
	m.mu.Lock()
	hang, fail := m.hang, m.fail
	m.mu.Unlock()
	if hang != nil {
		select {
		case m.hung <- struct{}{}:
		default:
		}
		<-hang
	}
	return fail
}

func (m *memory) set(hang chan struct{}, fail error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hang, m.fail = hang, fail
}

// network joins hosts of one process.
type network struct {
	mu    sync.Mutex
	hosts map[core.NodeID]*Host
}

func (n *network) send(messages []core.Message) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, m := range messages {
		if h := n.hosts[m.To]; h != nil {
			h.Deliver(m)
		}
	}
}

type running struct {
	*Host
	log  *memory
	stop context.CancelFunc
	done chan error
}

// end stops the loop and returns what Run returned.
func (r *running) end() error {
	r.stop()
	err := <-r.done
	r.done <- err
	return err
}

// cluster starts n hosts that stand for everything.
func cluster(t *testing.T, n int, edit func(*Options)) []*running {
	t.Helper()
	net := &network{hosts: map[core.NodeID]*Host{}}
	var voters []core.NodeID
	for i := range n {
		voters = append(voters, core.NodeID(i+1))
	}
	var all []*running
	for _, id := range voters {
		log := &memory{hung: make(chan struct{}, 1)}
		o := Options{
			Core: core.Config{
				ID: id, Voters: voters, ClusterID: "test", ElectionTimeout: 150 * time.Millisecond, HeartbeatInterval: 25 * time.Millisecond,
				FormationMembers: n, FormationWindow: 500 * time.Millisecond,
			},
			Log: log, Send: net.send, Member: &core.MemberConfig{MemberID: fmt.Sprintf("member-%d", id), TTL: time.Second},
			Stands: []Stand{{Selector: &logpb.Selector{}}},
		}
		if edit != nil {
			edit(&o)
		}
		h, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		net.mu.Lock()
		net.hosts[id] = h
		net.mu.Unlock()
		ctx, stop := context.WithCancel(context.Background())
		r := &running{Host: h, log: log, stop: stop, done: make(chan error, 1)}
		go func() { r.done <- h.Run(ctx) }()
		t.Cleanup(func() { _ = r.end() })
		all = append(all, r)
	}
	return all
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// until waits for a condition that follows changes of h.
func until(t *testing.T, h *Host, what string, cond func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for !cond() {
		select {
		case <-h.Changed():
		case <-time.After(5 * time.Millisecond): // what the member believes is no change of the registry
		case <-deadline:
			t.Fatalf("waited in vain for: %s", what)
		}
	}
}

func declare(t *testing.T, h *Host, scopes ...string) {
	t.Helper()
	d := &logpb.DeclareScopes{}
	for _, s := range scopes {
		d.Scopes = append(d.Scopes, &logpb.ScopeSpec{Id: s})
	}
	_, err := h.Do(within(t), &logpb.Command{RequestId: "declare/" + scopes[0], Kind: &logpb.Command_DeclareScopes{DeclareScopes: d}})
	if err != nil {
		t.Fatal(err)
	}
}

func TestOneHostElectsItself(t *testing.T) {
	h := cluster(t, 1, nil)[0]
	declare(t, h.Host, core.GlobalControl)
	until(t, h.Host, "the own member leads", func() bool { _, held := h.Holds(core.GlobalControl); return held })
	now, held := h.Held()
	if len(held) != 1 || held[0].Until <= now || held[0].Until > now.Add(time.Second) {
		t.Errorf("held %+v at %d", held, now)
	}
	token, led := h.Token(core.GlobalControl)
	if !led || token.LeaderID != "member-1" || token.Term != 1 {
		t.Errorf("token %+v", token)
	}
	if err := h.ReadBarrier(within(t)); err != nil {
		t.Error(err)
	}
	if _, known := h.ExpiresAt(token.Session); !known {
		t.Error("the registrar does not know when its member's session can expire")
	}
	if revision, tokens := h.Snapshot(); revision == 0 || len(tokens) != 1 {
		t.Errorf("snapshot at %d: %v", revision, tokens)
	}
}

func TestRefusalsNameTheField(t *testing.T) {
	h := cluster(t, 1, nil)[0]
	_, err := h.Do(within(t), &logpb.Command{RequestId: "r", Kind: &logpb.Command_RetireScopes{RetireScopes: &logpb.RetireScopes{Scopes: []string{"a b"}}}})
	var refused *core.Error
	if !errors.As(err, &refused) || refused.Code != core.CodeInvalid || refused.Field != "scope" {
		t.Errorf("got %v", err)
	}
}

func TestSubscribeTellsEachTermOnce(t *testing.T) {
	h := cluster(t, 1, nil)[0]
	declare(t, h.Host, "a/b")
	ctx, cancel := context.WithCancel(within(t))
	defer cancel()
	var kinds []core.EventKind
	for item := range h.Subscribe(ctx, core.Filter{Scope: "a/b"}, &core.Cursor{}) {
		kinds = append(kinds, item.Kind)
		if item.Kind != core.EventElected {
			continue
		}
		if item.Record.Term == 2 {
			cancel()
			continue
		}
		until(t, h.Host, "the grant is believed", func() bool { _, held := h.Holds("a/b"); return held })
		h.GiveUp("a/b", item.Record.Fence)
		// It may be elected again at once, alone as it is: under another fence.
		if token, held := h.Holds("a/b"); held && token.Fence <= item.Record.Fence {
			t.Errorf("fence %d is held after it was given up", token.Fence)
		}
	}
	want := []core.EventKind{core.EventScopeDeclared, core.EventElected, core.EventSteppedDown, core.EventElected}
	if fmt.Sprint(kinds) != fmt.Sprint(want) {
		t.Errorf("events %v, want %v", kinds, want)
	}
}

func TestShutdownHandsEverythingOver(t *testing.T) {
	all := cluster(t, 3, nil)
	declare(t, all[0].Host, "s/1", "s/2", "s/3", "s/4", "s/5", "s/6")
	var registrar *running
	until(t, all[0].Host, "all scopes are led and a registrar is in office", func() bool {
		_, tokens := all[0].Snapshot()
		for _, h := range all {
			h.View(func(_ *core.Registry, s core.Status) {
				if s.OfficeOpen {
					registrar = h
				}
			})
		}
		return len(tokens) == 6 && registrar != nil
	})
	if err := registrar.Shutdown(within(t)); err != nil {
		t.Fatal(err)
	}
	if _, held := registrar.Held(); len(held) != 0 {
		t.Errorf("still holds %v", held)
	}
	var still bool
	registrar.View(func(_ *core.Registry, s core.Status) { still = s.IsRegistrar })
	if still {
		t.Error("still registrar")
	}
	if err := registrar.end(); err != nil {
		t.Error(err)
	}
	for _, h := range all {
		if h == registrar {
			continue
		}
		until(t, h.Host, "the others lead everything", func() bool {
			_, tokens := h.Snapshot()
			for _, tok := range tokens {
				if tok.LeaderID == registrar.MemberID() {
					return false
				}
			}
			return len(tokens) == 6
		})
	}
}

func TestHangingDiskHangsNobodyWhoLooks(t *testing.T) {
	h := cluster(t, 1, nil)[0]
	declare(t, h.Host, "a/b")
	until(t, h.Host, "the own member leads", func() bool { _, held := h.Holds("a/b"); return held })
	goOn := make(chan struct{})
	h.log.set(goOn, nil)
	done := make(chan error, 1)
	go func() {
		_, err := h.Do(within(t), &logpb.Command{RequestId: "x", Kind: &logpb.Command_DeclareScopes{
			DeclareScopes: &logpb.DeclareScopes{Scopes: []*logpb.ScopeSpec{{Id: "c/d"}}}}})
		done <- err
	}()
	<-h.log.hung
	// Nothing renews the lease while the disk hangs: it ends by the clock alone.
	until(t, h.Host, "the lease lapses", func() bool { _, held := h.Holds("a/b"); return !held })
	if _, tokens := h.Snapshot(); len(tokens) != 1 {
		t.Errorf("tokens %v", tokens)
	}
	h.log.set(nil, nil)
	close(goOn)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestFailingDiskStopsTheHost(t *testing.T) {
	h := cluster(t, 1, nil)[0]
	declare(t, h.Host, "a/b")
	until(t, h.Host, "the own member leads", func() bool { _, held := h.Holds("a/b"); return held })
	broken := errors.New("broken disk")
	h.log.set(nil, broken)
	_, err := h.Do(within(t), &logpb.Command{RequestId: "x", Kind: &logpb.Command_Read{Read: &logpb.Read{}}})
	if !errors.Is(err, errStopped) {
		t.Errorf("a request on a dead host: %v", err)
	}
	if err := <-h.done; !errors.Is(err, broken) {
		t.Errorf("Run returned %v", err)
	} else {
		h.done <- err
	}
	if _, held := h.Holds("a/b"); held {
		t.Error("a stopped host still leads")
	}
	h.View(func(_ *core.Registry, s core.Status) {
		if s.Ready || s.NotReadyReason == "" {
			t.Errorf("status %+v", s)
		}
	})
	if err := h.ReadBarrier(within(t)); !errors.Is(err, errStopped) {
		t.Errorf("a read on a dead host: %v", err)
	}
}

func TestACursorOfAnotherHistoryIsResynced(t *testing.T) {
	h := cluster(t, 1, nil)[0]
	declare(t, h.Host, "a/b")
	until(t, h.Host, "the own member leads", func() bool { _, held := h.Holds("a/b"); return held })
	var seen []string
	for item := range h.Subscribe(within(t), core.Filter{}, &core.Cursor{Revision: 1 << 40, Ordinal: 1}) {
		seen = append(seen, item.Kind.String()+" "+item.Reason)
		if item.Reason == core.ReasonSnapshotEnd {
			break
		}
	}
	if want := "[OBSERVED resync SNAPSHOT  OBSERVED snapshot-end]"; fmt.Sprint(seen) != want {
		t.Errorf("got %v, want %v", seen, want)
	}
}
