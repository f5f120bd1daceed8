package gossip

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/omnirelay/leadership/core"
)

// register is a roster on a clock of the test's.
type register struct {
	*roster
	t   *testing.T
	now time.Time
}

func newRegister(t *testing.T) *register {
	r := &register{t: t, now: time.Unix(1000, 0)}
	r.roster = newRoster("demo", versionRange{min: []int{1}}, &counters{}, func() time.Time { return r.now })
	return r
}

func metadataOf(life uint64) Metadata {
	return Metadata{ClusterID: "demo", Role: "node", MeshVersion: "1.0", Life: life}
}

// told drains the news, as text.
func (r *register) told() string {
	var all string
	for news, ok := r.next(); ok; news, ok = r.next() {
		all += fmt.Sprintf("%s:%s", news.MemberID, [...]string{"unknown", "alive", "suspect", "dead", "left"}[news.Health])
		if news.Unsupported {
			all += "!"
		}
		if news.ClaimsFor > 0 {
			all += fmt.Sprintf("(%d for %v)", len(news.Claims), news.ClaimsFor)
		}
		all += " "
	}
	return all
}

func (r *register) expect(want string) {
	r.t.Helper()
	if got := r.told(); got != want {
		r.t.Errorf("told %q, want %q", got, want)
	}
}

func TestOnlyChangesAreTold(t *testing.T) {
	r := newRegister(t)
	r.joined("a", "h:1", metadataOf(1), nil)
	r.expect("a:alive ")
	r.joined("a", "h:1", metadataOf(1), nil)
	r.answered("a")
	r.expect("")
	r.suspect("a")
	r.suspect("a")
	r.expect("a:suspect ")
	r.suspect("a")
	r.answered("a")
	r.gone("a")
	r.expect("a:dead ") // what was overtaken is not told
	r.answered("a")     // memberlist says when it is back
	r.expect("")
	r.joined("a", "h:1", metadataOf(2), nil)
	r.gone("nobody")
	r.suspect("nobody")
	r.expect("a:alive ")
	old := metadataOf(2)
	old.MeshVersion = "0.9"
	r.joined("a", "h:1", old, nil)
	r.expect("a:alive! ")
	r.joined("a", "h:1", metadataOf(2), nil)
	r.expect("a:alive ")
}

// A farewell counts whichever way round it and memberlist's word arrive, and only for
// the life that said it.
func TestFarewell(t *testing.T) {
	bye := &Word{Member: "a", Life: 1, Seq: 9, Set: 9, Parts: 1, Remaining: time.Second, Leaving: true}
	for name, arrive := range map[string]func(r *register){
		"before": func(r *register) { r.hear(bye); r.gone("a") },
		"after":  func(r *register) { r.gone("a"); r.hear(bye) },
	} {
		r := newRegister(t)
		r.joined("a", "h:1", metadataOf(1), nil)
		r.told()
		arrive(r)
		r.expect("a:left ")
		if err := r.admit("a", metadataOf(1)); !errors.Is(err, errEnded) {
			t.Errorf("%s: the life that ended is admitted: %v", name, err)
		}
		if err := r.admit("a", metadataOf(2)); err != nil {
			t.Errorf("%s: the next life: %v", name, err)
		}
		r.joined("a", "h:1", metadataOf(2), nil)
		if got := r.hear(bye); got != heardStale {
			t.Errorf("%s: a farewell of an earlier life is %v", name, got)
		}
		r.expect("a:alive ")
	}
}

func TestClaimsAreTold(t *testing.T) {
	r := newRegister(t)
	r.joined("a", "h:1", metadataOf(1), nil)
	w := &Word{Member: "a", Life: 1, Seq: 1, Set: 1, Parts: 1, Remaining: 2 * time.Second, Claims: someClaims(3)}
	if got := r.hear(w); got != heardFresh {
		t.Errorf("heard %v", got)
	}
	r.now = r.now.Add(500 * time.Millisecond) // until it was told
	r.expect("a:alive(3 for 1.5s) ")
	if got := r.hear(w); got != heardBefore {
		t.Errorf("again: heard %v", got)
	}
	r.expect("")
	for name, stale := range map[string]*Word{
		"another life":  {Member: "a", Life: 2, Seq: 9, Set: 1, Parts: 1, Remaining: time.Second},
		"nobody":        {Member: "b", Life: 1, Seq: 9, Set: 1, Parts: 1, Remaining: time.Second},
		"earlier claim": {Member: "a", Life: 1, Seq: 9, Set: 0, Parts: 1, Remaining: time.Second},
	} {
		if got := r.hear(stale); got != heardStale {
			t.Errorf("%s: heard %v", name, got)
		}
	}
	// A word of nothing ends the old claims; one that has run out by now tells nothing.
	r.hear(&Word{Member: "a", Life: 1, Seq: 2, Set: 2, Parts: 1, Remaining: time.Second})
	r.expect("a:alive(0 for 1s) ")
	r.hear(&Word{Member: "a", Life: 1, Seq: 3, Set: 2, Parts: 1, Remaining: time.Second})
	r.now = r.now.Add(time.Second)
	r.expect("")
	// Another life starts without claims, and counts anew.
	r.joined("a", "h:1", metadataOf(2), nil)
	if got := r.hear(&Word{Member: "a", Life: 2, Seq: 1, Set: 1, Parts: 1, Remaining: time.Second, Claims: someClaims(1)}); got != heardFresh {
		t.Errorf("in the next life: heard %v", got)
	}
	r.expect("a:alive(1 for 1s) ")
}

func TestRosterIsBounded(t *testing.T) {
	r := newRegister(t)
	for i := range MaxMembers {
		id := fmt.Sprint("m", i)
		if err := r.admit(id, metadataOf(1)); err != nil {
			t.Fatal(err)
		}
		r.joined(id, "h:1", metadataOf(1), nil)
	}
	r.told()
	if err := r.admit("more", metadataOf(1)); !errors.Is(err, errFull) {
		t.Errorf("one more: %v", err)
	}
	if err := r.admit("m3", metadataOf(2)); err != nil {
		t.Errorf("one that is known: %v", err)
	}
	r.gone("m5")
	r.gone("m5")
	r.suspect("m6")
	if n := r.size(); n != MaxMembers-1 {
		t.Errorf("%d present", n)
	}
	r.told()
	if err := r.admit("more", metadataOf(1)); !errors.Is(err, errFull) {
		t.Errorf("memberlist still keeps the one that is gone: %v", err)
	}
	r.now = r.now.Add(2 * gossipToGone)
	if err := r.admit("more", metadataOf(1)); err != nil {
		t.Errorf("one has been gone for long: %v", err)
	}
	r.expect("m5:unknown ")
}

func TestTheGoneAreForgotten(t *testing.T) {
	r := newRegister(t)
	r.joined("a", "h:1", metadataOf(1), nil)
	r.joined("b", "h:2", metadataOf(1), nil)
	r.gone("a")
	r.now = r.now.Add(keepGone - 1)
	r.expire()
	r.expect("a:dead b:alive ")
	r.now = r.now.Add(1)
	r.expire()
	r.expect("a:unknown ")
	if peers := r.peers(); len(peers) != 1 || peers[0].ID != "b" || r.size() != 1 {
		t.Errorf("%+v, %d present", peers, r.size())
	}
	if err := r.admit("b", Metadata{ClusterID: "other"}); !errors.Is(err, errCluster) {
		t.Errorf("of another cluster: %v", err)
	}
	if StatusAlive.health() != core.HealthAlive || Status("").health() != core.HealthUnknown {
		t.Error("a status is another health")
	}
}
