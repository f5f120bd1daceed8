package main

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

const second = int64(time.Second)

// honest is the evidence of a play in which all holds: alice is killed, careless bob is
// paused, wakes up, and is refused.
func honest() *evidence {
	return &evidence{
		shards:   []string{"s/1", "s/2"},
		careless: map[string]bool{"bob": true},
		accepted: []assignment{
			{At: 1 * second, Scope: "s/1", Fence: 1, Leader: "alice", ID: "alice/1/1"},
			{At: 1 * second, Scope: "s/2", Fence: 2, Leader: "bob", ID: "bob/2/1"},
			{At: 4 * second, Scope: "s/1", Fence: 3, Leader: "carol", ID: "carol/3/1"},
			{At: 6 * second, Scope: "s/2", Fence: 4, Leader: "carol", ID: "carol/4/1"},
		},
		refused: []refusal{{At: 9 * second, Scope: "s/2", Fence: 2, Required: 4, Leader: "bob", ID: "bob/2/2"}},
		journals: map[string][]attempt{
			"alice": {{What: acknowledged, Scope: "s/1", Fence: 1, ID: "alice/1/1"}},
			"bob":   {{What: acknowledged, Scope: "s/2", Fence: 2, ID: "bob/2/1"}, {What: refusedStale, Scope: "s/2", Fence: 2, ID: "bob/2/2"}},
			"carol": {{What: acknowledged, Scope: "s/1", Fence: 3, ID: "carol/3/1"}},
		},
		deeds: []deed{{At: 2 * second, What: "kill", Whom: "alice"}, {At: 3 * second, What: "pause", Whom: "bob"}, {At: 8 * second, What: "resume", Whom: "bob"}},
	}
}

func TestAnHonestPlayHasNoProblems(t *testing.T) {
	v := judge(honest())
	if len(v.Problems) > 0 {
		t.Errorf("problems: %q", v.Problems)
	}
	if v.Accepted != 4 || v.Acknowledged != 3 || v.Stale != 1 || v.Kills != 1 || v.Pauses != 1 || v.Successions != 2 || v.Slowest != 3*time.Second {
		t.Errorf("the verdict is %+v", v)
	}
	if text := v.text(); !strings.Contains(text, "VERDICT: holds") {
		t.Error(text)
	}
}

// Each thing that can go wrong is found.
func TestEveryWrongIsFound(t *testing.T) {
	for want, spoil := range map[string]func(e *evidence){
		"accepted under fence 2 after one under 4": func(e *evidence) {
			e.accepted = append(e.accepted, assignment{At: 10 * second, Scope: "s/2", Fence: 2, Leader: "bob", ID: "bob/2/9"})
		},
		"fence 3 was used by": func(e *evidence) {
			e.accepted = append(e.accepted, assignment{At: 10 * second, Scope: "s/1", Fence: 3, Leader: "dave", ID: "dave/3/1"})
		},
		"took effect twice":                  func(e *evidence) { e.accepted = append(e.accepted, e.accepted[3]) },
		"s/3: nothing was accepted":          func(e *evidence) { e.shards = append(e.shards, "s/3") },
		"is not in the resource's log":       func(e *evidence) { e.accepted = slices.Delete(e.accepted, 2, 3) },
		"nothing was acknowledged":           func(e *evidence) { e.journals = nil },
		"not counted":                        func(e *evidence) { e.refused[0].ID = "bob/2/3" },
		"with 2 required":                    func(e *evidence) { e.refused[0].Required = 2 },
		"no stale attempt was made":          func(e *evidence) { e.refused = nil },
		"took effect after it was refused":   func(e *evidence) { e.refused[0].ID = "carol/4/1"; e.refused[0].At = 5 * second },
		"after the kill of alice the next":   func(e *evidence) { e.accepted[2].At = 8 * second },
		"after the pause of bob the next":    func(e *evidence) { e.accepted = e.accepted[:3] },
		"no stale attempt of it under fence": func(e *evidence) { e.refused[0].At = 7 * second },
		"have shown nothing":                 func(e *evidence) { e.deeds = nil },
	} {
		e := honest()
		e.journals = maps.Clone(e.journals)
		spoil(e)
		v := judge(e)
		if !slices.ContainsFunc(v.Problems, func(p string) bool { return strings.Contains(p, want) }) {
			t.Errorf("want a problem like %q, got %q", want, v.Problems)
		}
		if !strings.Contains(v.text(), "VERDICT: broken") {
			t.Errorf("%q: %s", want, v.text())
		}
	}
}
