package fence

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/wire/controlpb"
)

// registry is who leads, as a Seeder is told.
type registry struct {
	mu      sync.Mutex
	leaders Leaders
	fails   error
	asked   int
}

func (r *registry) seed(context.Context) (Leaders, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked++
	return r.leaders, r.fails
}

func (r *registry) set(l Leaders, fails error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.leaders, r.fails = l, fails
}

// Nothing is admitted before the registry was asked, and asking needs nobody's help.
func TestSeedComesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &registry{fails: errors.New("no route")}
		g := newGuard(t, Options{Seeder: r.seed})
		err := g.Admit(t.Context(), "s", 5)
		var e *NotReadyError
		if !errors.As(err, &e) || e.RetryAfter < time.Second {
			t.Fatalf("%v", err)
		}
		synctest.Wait()
		err = g.Admit(t.Context(), "s", 5) // while the pause lasts nobody is asked
		if !errors.Is(err, r.fails) || r.asked != 1 {
			t.Errorf("%v, asked %d times", err, r.asked)
		}
		if g.Mark("s") != 0 {
			t.Error("a call that was not judged raised a mark")
		}
		r.set(Leaders{Fences: map[string]uint64{"s": 6}, Last: 9}, nil)
		time.Sleep(e.RetryAfter)
		refusedAs[*NotReadyError](t, g.Admit(t.Context(), "s", 5))
		synctest.Wait()
		stale(t, g.Admit(t.Context(), "s", 5), 5, 6)
		ok(t, g.Admit(t.Context(), "s", 6))
		// Of a scope that nobody led, all that was given is over.
		stale(t, g.Admit(t.Context(), "vacant", 9), 9, 10)
		ok(t, g.Admit(t.Context(), "vacant", 10))
		if r.asked != 2 {
			t.Errorf("asked %d times", r.asked)
		}
	})
}

// A registry that hangs is given up, and asked by one at a time.
func TestSeederThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var under atomic.Int64
		g := newGuard(t, Options{SeedTimeout: 2 * time.Second, Seeder: func(ctx context.Context) (Leaders, error) {
			under.Add(1)
			defer under.Add(-1)
			<-ctx.Done()
			return Leaders{}, ctx.Err()
		}})
		for range 100 {
			refusedAs[*NotReadyError](t, g.Admit(t.Context(), "s", 5))
		}
		synctest.Wait()
		if n := under.Load(); n != 1 {
			t.Errorf("%d ask at a time", n)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if under.Load() != 0 {
			t.Error("still asking after the time-out")
		}
	})
}

func TestSeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &registry{fails: errors.New("no route")}
		g := newGuard(t, Options{Seeder: r.seed})
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if err := g.Seed(ctx); !errors.Is(err, r.fails) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		if r.asked < 2 || r.asked > 15 {
			t.Errorf("asked %d times in 3 s", r.asked)
		}
		r.set(Leaders{Last: 3}, nil)
		ok(t, g.Seed(t.Context()))
		stale(t, g.Admit(t.Context(), "s", 3), 3, 4)
	})
	if err := newGuard(t, Options{}).Seed(t.Context()); err == nil {
		t.Error("seeded from nobody")
	}
}

// Without the highest fence a vacant scope is not judged: its last leader may have
// been followed by another that has gone too.
func TestSeedWithoutTheHighestFence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &registry{leaders: Leaders{Fences: map[string]uint64{"led": 6}}}
		g := newGuard(t, Options{Seeder: r.seed})
		ok(t, g.Seed(t.Context()))
		ok(t, g.Admit(t.Context(), "led", 6))
		refusedAs[*NotReadyError](t, g.Admit(t.Context(), "s", 5))
		ok(t, g.Observe("s", 4)) // a stream may lag
		synctest.Wait()
		refusedAs[*NotReadyError](t, g.Admit(t.Context(), "s", 5))
		r.set(Leaders{Fences: map[string]uint64{"s": 8}}, nil)
		time.Sleep(time.Second)
		refusedAs[*NotReadyError](t, g.Admit(t.Context(), "s", 5))
		synctest.Wait()
		stale(t, g.Admit(t.Context(), "s", 5), 5, 8)
		ok(t, g.Admit(t.Context(), "s", 8))
		ok(t, g.Admit(t.Context(), "led", 6)) // what was known stays so
	})
}

// An event of before the seeding says nothing new of a scope that nobody led then.
func TestLateEventBesideTheSeed(t *testing.T) {
	g := newGuard(t, Options{Seeder: (&registry{leaders: Leaders{Last: 9}}).seed})
	ok(t, g.Seed(t.Context()))
	ok(t, g.Observe("s", 4))
	stale(t, g.Admit(t.Context(), "s", 9), 9, 10)
	ok(t, g.Observe("s", 12))
	stale(t, g.Admit(t.Context(), "s", 11), 11, 12)
}

// Kept marks and the registry's: the higher counts, and what is kept needs no name.
func TestSeedBesideKeptMarks(t *testing.T) {
	r := &registry{leaders: Leaders{Fences: map[string]uint64{"a": 9, "foreign": 8}}}
	g := newGuard(t, Options{Marks: &shelf{marks: map[string]uint64{"a": 7, "b": 7}}, Seeder: r.seed, Scopes: func(s string) bool { return s != "foreign" }})
	ok(t, g.Seed(t.Context()))
	stale(t, g.Admit(t.Context(), "a", 8), 8, 9)
	stale(t, g.Admit(t.Context(), "b", 6), 6, 7)
	ok(t, g.Admit(t.Context(), "new", 1))
	if g.Mark("foreign") != 0 {
		t.Error("a scope of others takes memory")
	}
	r.set(Leaders{Fences: map[string]uint64{"a": 9}, Last: 12}, nil)
	ok(t, g.Seed(t.Context()))
	ok(t, g.Admit(t.Context(), "a", 9))
	stale(t, g.Admit(t.Context(), "b", 12), 12, 13)
}

func TestSeedIsChecked(t *testing.T) {
	many := map[string]uint64{}
	for i := range core.MaxGuardScopes + 1 {
		many[fmt.Sprintf("s%d", i)] = 1
	}
	for name, l := range map[string]Leaders{
		"scope":        {Fences: map[string]uint64{"a b": 1}},
		"no fence":     {Fences: map[string]uint64{"s": 0}},
		"huge":         {Fences: map[string]uint64{"s": MaxFence + 1}},
		"above all":    {Fences: map[string]uint64{"s": 6}, Last: 5},
		"huge highest": {Last: MaxFence},
		"too many":     {Fences: many},
	} {
		g := newGuard(t, Options{Seeder: (&registry{leaders: l}).seed})
		if err := g.seedOnce(t.Context()); err == nil {
			t.Errorf("%s: taken", name)
		}
		refusedAs[*NotReadyError](t, g.Admit(t.Context(), "s", 5))
	}
}

// lister is a registry as its gRPC client shows it.
type lister struct {
	reply *controlpb.ListLeadersResponse
	err   error
}

func (l lister) ListLeaders(_ context.Context, r *controlpb.ListLeadersRequest, _ ...grpc.CallOption) (*controlpb.ListLeadersResponse, error) {
	if !r.GetLinearizable() || r.GetScope() != "" {
		return nil, errors.New("want a linearizable read of all scopes")
	}
	return l.reply, l.err
}

var _ Lister = controlpb.LeadershipRegistryServiceClient(nil)

func TestSeedFromRegistry(t *testing.T) {
	token := func(scope string, fence int64) *controlpb.LeadershipToken {
		return &controlpb.LeadershipToken{Scope: scope, FenceToken: fence}
	}
	l, err := SeedFrom(lister{reply: &controlpb.ListLeadersResponse{Revision: 40, LastFence: 11, Tokens: []*controlpb.LeadershipToken{token("a", 9), token("b", 3)}}})(t.Context())
	ok(t, err)
	if l.Revision != 40 || l.Last != 11 || len(l.Fences) != 2 || l.Fences["a"] != 9 || l.Fences["b"] != 3 {
		t.Errorf("%+v", l)
	}
	if _, err := SeedFrom(lister{reply: &controlpb.ListLeadersResponse{Tokens: []*controlpb.LeadershipToken{token("a", -1)}}})(t.Context()); err == nil {
		t.Error("a negative fence was taken")
	}
	if _, err := SeedFrom(lister{err: errors.New("no registrar")})(t.Context()); err == nil || !strings.Contains(err.Error(), "no registrar") {
		t.Errorf("%v", err)
	}
}
