package core

import (
	"fmt"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/omnirelay/leadership/core/logpb"
)

// A small world of a rebalance: who leads what, who may lead what, and with which weight.
type balanceWorld struct {
	g       *Registry
	members []string
	scopes  []string
}

// drawBalance draws members of different weights that stand for all scopes, or, when
// mixed, for some, and a distribution among them that need not be balanced.
func drawBalance(t *rapid.T, mixed bool) balanceWorld {
	w := balanceWorld{g: NewRegistry(0)}
	apply := func(commands ...*logpb.Command) {
		for i, c := range commands {
			c.RequestId, c.Base = fmt.Sprintf("r%d-%d", w.g.revision, i), w.g.revision
		}
		payload, err := proto.Marshal(&logpb.Entry{Commands: commands})
		if err != nil {
			t.Fatal(err)
		}
		out, err := w.g.Apply(w.g.revision+1, 1, payload)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range out.Results {
			if r.Code != "" {
				t.Fatal(storyResult(r))
			}
		}
	}
	apply(&logpb.Command{Kind: &logpb.Command_Bootstrap{Bootstrap: &logpb.Bootstrap{ClusterId: "b", Voters: []uint64{1}}}})
	for i := range rapid.IntRange(2, 3).Draw(t, "members") {
		id := fmt.Sprintf("m%d", i)
		w.members = append(w.members, id)
		apply(&logpb.Command{Kind: &logpb.Command_OpenSession{OpenSession: &logpb.OpenSession{
			MemberId: id, TtlNs: int64(DefaultTTL), Weight: uint32(rapid.IntRange(1, 3).Draw(t, "weight"))}}})
	}
	d := &logpb.DeclareScopes{}
	for i := range rapid.IntRange(1, 7).Draw(t, "scopes") {
		id := fmt.Sprintf("s%d", i)
		w.scopes = append(w.scopes, id)
		d.Scopes = append(d.Scopes, &logpb.ScopeSpec{Id: id, Kind: KindCustom})
	}
	apply(&logpb.Command{Kind: &logpb.Command_DeclareScopes{DeclareScopes: d}})
	for _, sc := range w.scopes {
		// Its leader stands first, alone; then the others do.
		first := rapid.IntRange(0, len(w.members)-1).Draw(t, "leader")
		for n := range len(w.members) {
			m := (first + n) % len(w.members)
			if n > 0 && mixed && rapid.IntRange(0, 2).Draw(t, "stands") == 0 {
				continue
			}
			apply(&logpb.Command{Kind: &logpb.Command_Stand{Stand: &logpb.Stand{Session: uint64(m + 1), Selector: &logpb.Selector{Id: sc}}}})
		}
	}
	return w
}

// arrangement is who leads each scope, by number.
type arrangement string

func (w balanceWorld) now() arrangement {
	a := make([]byte, len(w.scopes))
	for i, sc := range w.scopes {
		a[i] = byte(w.g.scopes[sc].leader.id - 1)
	}
	return arrangement(a)
}

// steps lists the arrangements that one justified move leads to: the holder still leads
// more for its weight than the successor and the slack.
func (w balanceWorld) steps(a arrangement) (next []arrangement) {
	loads := make([]uint64, len(w.members))
	for _, m := range []byte(a) {
		loads[m]++
	}
	for i, sc := range w.scopes {
		from := w.g.sessions[SessionID(a[i]+1)]
		for m := range w.members {
			to := w.g.sessions[SessionID(m+1)]
			if to == from || !w.g.eligible(to, w.g.scopes[sc]) {
				continue
			}
			if (loads[m]+1+rebalanceSlack)*uint64(from.weight) < loads[a[i]]*uint64(to.weight) {
				b := []byte(a)
				b[i] = byte(m)
				next = append(next, arrangement(b))
			}
		}
	}
	return next
}

// fewest is how many scopes must change hands at least until no move is justified, over
// all orders in which justified moves can be made.
func (w balanceWorld) fewest() int {
	start := w.now()
	seen := map[arrangement]bool{start: true}
	best := len(w.scopes) + 1
	for wave := []arrangement{start}; len(wave) > 0; {
		var next []arrangement
		for _, a := range wave {
			steps := w.steps(a)
			if len(steps) == 0 {
				best = min(best, changed(start, a))
			}
			for _, b := range steps {
				if !seen[b] {
					seen[b] = true
					next = append(next, b)
				}
			}
		}
		wave = next
	}
	return best
}

func changed(a, b arrangement) (n int) {
	for i := range a {
		if a[i] != b[i] {
			n++
		}
	}
	return n
}

func (w balanceWorld) after(moves []Move) arrangement {
	a := []byte(w.now())
	for _, mv := range moves {
		a[slices.Index(w.scopes, mv.Scope)] = byte(slices.Index(w.members, mv.To))
	}
	return arrangement(a)
}

// Where everybody stands for everything, no plan restores balance with fewer moves,
// weights included.
func TestRebalanceMovesTheFewest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawBalance(t, false)
		moves, _ := w.g.PlanRebalance(MaxScopes)
		if left := w.steps(w.after(moves)); len(left) > 0 {
			t.Fatalf("after %v from %v a move is justified still", moves, []byte(w.now()))
		}
		if want := w.fewest(); len(moves) != want {
			t.Fatalf("%d moves from %v, %d would do: %v", len(moves), []byte(w.now()), want, moves)
		}
	})
}

// Where some cannot lead everything, balance is restored as well, with at most so many
// more moves.
func TestRebalanceOfWhoCannotLeadEverything(t *testing.T) {
	const more = 1
	rapid.Check(t, func(t *rapid.T) {
		w := drawBalance(t, true)
		moves, _ := w.g.PlanRebalance(MaxScopes)
		if left := w.steps(w.after(moves)); len(left) > 0 {
			t.Fatalf("after %v from %v a move is justified still", moves, []byte(w.now()))
		}
		if want := w.fewest(); len(moves) > want+more {
			t.Fatalf("%d moves from %v, %d would do: %v", len(moves), []byte(w.now()), want, moves)
		}
	})
}

// A plan for fewer moves is the beginning of the whole one, and tells how many remain.
func TestAPartOfARebalance(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawBalance(t, rapid.Bool().Draw(t, "mixed"))
		all, _ := w.g.PlanRebalance(MaxScopes)
		limit := rapid.IntRange(0, 5).Draw(t, "limit")
		some, remaining := w.g.PlanRebalance(limit)
		if len(some) != min(limit, len(all)) || len(some)+remaining != len(all) || !slices.Equal(some, all[:len(some)]) {
			t.Fatalf("%v and %d more, of %v with a limit of %d", some, remaining, all, limit)
		}
	})
}
