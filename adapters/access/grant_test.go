package access

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
)

func TestGrantsCover(t *testing.T) {
	shard := Grant{Kind: "shard", Namespace: "ns", MaxPriority: 5}
	team := Grant{Labels: map[string]string{"team": "a"}}
	for _, tc := range []struct {
		grant    Grant
		selector *logpb.Selector
		priority int32
		want     bool
	}{
		{Grant{}, nil, 0, false},
		{Grant{}, &logpb.Selector{Id: "job"}, 0, false},
		{Grant{ID: EveryScope}, nil, 0, true},
		{Grant{ID: EveryScope}, &logpb.Selector{Id: core.GlobalControl}, 0, true},
		{Grant{ID: EveryScope}, &logpb.Selector{Id: "a//b"}, 0, false},
		{shard, nil, 0, false},
		{shard, &logpb.Selector{}, 0, false},
		{shard, &logpb.Selector{Kind: "shard"}, 0, false},
		{shard, &logpb.Selector{Namespace: "ns"}, 0, false},
		{shard, &logpb.Selector{Kind: "shard", Namespace: "ns"}, 0, true},
		{shard, &logpb.Selector{Kind: "shard", Namespace: "other"}, 0, false},
		{shard, &logpb.Selector{Kind: "shard", Labels: map[string]string{"namespace": "ns"}}, 0, true},
		{shard, &logpb.Selector{Kind: "shard", Namespace: "ns", Labels: map[string]string{"shardId": "01"}}, 0, true},
		{shard, &logpb.Selector{Id: "shard/ns/01"}, 0, true},
		{shard, &logpb.Selector{Id: "shard/ns/01"}, 5, true},
		{shard, &logpb.Selector{Id: "shard/ns/01"}, 6, false},
		{shard, &logpb.Selector{Id: "shard/ns/01"}, -7, true},
		{shard, &logpb.Selector{Id: "shard/other/01"}, 0, false},
		{shard, &logpb.Selector{Id: "shard/ns"}, 0, false},
		{shard, &logpb.Selector{Id: "job", Kind: "shard", Namespace: "ns"}, 0, true}, // declared as such, it is one
		{shard, &logpb.Selector{Id: "job", Namespace: "ns"}, 0, false},
		{shard, &logpb.Selector{Id: core.GlobalControl}, 0, false},
		{shard, &logpb.Selector{Id: core.GlobalControl, Kind: "shard", Namespace: "ns"}, 0, false},
		// Contradictions pick nothing; whoever writes one meant something else.
		{shard, &logpb.Selector{Id: "shard/ns/01", Kind: "custom"}, 0, false},
		{shard, &logpb.Selector{Id: "shard/ns/01", Namespace: "other"}, 0, false},
		{shard, &logpb.Selector{Id: "shard/ns/01", Labels: map[string]string{"shardId": "02"}}, 0, false},
		{shard, &logpb.Selector{Kind: "shard", Namespace: "ns", Labels: map[string]string{"namespace": "other"}}, 0, false},
		{Grant{ID: EveryScope}, &logpb.Selector{Id: "shard/ns/01", Namespace: "other"}, 0, false},

		{Grant{Kind: "custom"}, &logpb.Selector{Id: "job"}, 0, false}, // it may be declared of another kind
		{Grant{Kind: "custom"}, &logpb.Selector{Id: "job", Kind: "custom"}, 0, true},
		{Grant{Kind: "custom"}, &logpb.Selector{Id: core.GlobalControl, Kind: "custom"}, 0, false},
		{Grant{Kind: "global"}, &logpb.Selector{Id: core.GlobalControl, Kind: "global"}, 0, true},
		{Grant{Kind: "global"}, &logpb.Selector{Id: core.GlobalControl}, 0, false},
		{Grant{ID: core.GlobalControl}, &logpb.Selector{Id: core.GlobalControl}, 0, true},
		{Grant{ID: core.GlobalControl}, &logpb.Selector{Kind: "global"}, 0, false},
		{Grant{ID: "job"}, &logpb.Selector{Id: "job", Kind: "custom"}, 0, true},
		{Grant{ID: "job"}, &logpb.Selector{Id: "jobs"}, 0, false},
		{Grant{ID: "job"}, &logpb.Selector{Labels: map[string]string{"id": "job"}}, 0, false},

		{team, &logpb.Selector{Labels: map[string]string{"team": "a", "x": "y"}}, 0, true},
		{team, &logpb.Selector{Labels: map[string]string{"team": "b"}}, 0, false},
		{team, &logpb.Selector{Id: "job"}, 0, false},
		{team, &logpb.Selector{Id: core.GlobalControl, Labels: map[string]string{"team": "a"}}, 0, false},
		{Grant{Labels: map[string]string{"team": ""}}, &logpb.Selector{Kind: "custom"}, 0, false},
		{Grant{Labels: map[string]string{"team": ""}}, &logpb.Selector{Labels: map[string]string{"team": ""}}, 0, true},
		{Grant{Labels: map[string]string{"shardId": "01"}}, &logpb.Selector{Id: "shard/ns/01"}, 0, true},
		{Grant{ID: EveryScope, Kind: "shard"}, &logpb.Selector{Kind: "shard"}, 0, false},
	} {
		if got := tc.grant.Covers(tc.selector, tc.priority); got != tc.want {
			t.Errorf("%+v covers {%v} at %d: %v", tc.grant, tc.selector, tc.priority, got)
		}
	}
}

// declared says whether the registry takes a scope of this kind and with these labels,
// and what it makes of it, as core/scope.go tells it.
func declared(id, kind string, labels map[string]string) *logpb.ScopeSpec {
	spec, err := core.NewScopeSpec(id)
	if err != nil {
		return nil
	}
	if kind != "" {
		if strings.HasPrefix(id, "shard/") && kind != core.KindShard {
			return nil
		}
		spec.Kind = kind
	}
	all := maps.Clone(labels)
	if all == nil {
		all = map[string]string{}
	}
	maps.Copy(all, spec.Labels)
	spec.Labels = all
	return spec
}

// picks is the twin of core's rule which scopes a selector picks.
func picks(id, kind, namespace string, labels map[string]string, spec *logpb.ScopeSpec) bool {
	if id != "" && id != spec.Id || kind != "" && kind != spec.Kind {
		return false
	}
	if namespace != "" && namespace != spec.Labels[core.LabelNamespace] {
		return false
	}
	for name, value := range labels {
		if v, ok := spec.Labels[name]; !ok || v != value {
			return false
		}
	}
	return true
}

// Small alphabets, so that most draws touch each other. Each of the kinds may be
// declared of any scope outside of shard/.
var (
	someIDs        = []string{"", core.GlobalControl, "job", "shard/a/1", "shard/a/2", "shard/b/1", "team/job", "shards/a/1"}
	someKinds      = []string{"", core.KindGlobal, core.KindShard, core.KindCustom, "own"}
	someNamespaces = []string{"", "a", "b"}
	someLabels     = []string{core.LabelNamespace, core.LabelShardID, "team", "kind"}
	someValues     = []string{"", "a", "b", "1", "2"}
)

func drawLabels(t *rapid.T, name string) map[string]string {
	most := rapid.SampledFrom([]int{0, 0, 1, 2}).Draw(t, name+" at most")
	return rapid.MapOfN(rapid.SampledFrom(someLabels), rapid.SampledFrom(someValues), 0, most).Draw(t, name)
}

func drawGrant(t *rapid.T) Grant {
	g := Grant{MaxPriority: rapid.Int32Range(-2, 2).Draw(t, "most")}
	switch rapid.IntRange(0, 3).Draw(t, "shape") {
	case 0:
		g.ID = rapid.SampledFrom(append(slices.Clone(someIDs), EveryScope)).Draw(t, "grant id")
	case 1:
		g.ID = rapid.SampledFrom(someIDs).Draw(t, "grant id")
		fallthrough
	default:
		g.Kind, g.Namespace = rapid.SampledFrom(someKinds).Draw(t, "grant kind"), rapid.SampledFrom(someNamespaces).Draw(t, "grant namespace")
		g.Labels = drawLabels(t, "grant labels")
	}
	return g
}

func drawSelector(t *rapid.T) *logpb.Selector {
	sel := &logpb.Selector{Kind: rapid.SampledFrom(append(slices.Clone(someKinds), "", "", "")).Draw(t, "kind"),
		Namespace: rapid.SampledFrom(append(slices.Clone(someNamespaces), "", "")).Draw(t, "namespace"), Labels: drawLabels(t, "labels")}
	if rapid.Bool().Draw(t, "by id") {
		sel.Id = rapid.SampledFrom(someIDs).Draw(t, "id")
	}
	return sel
}

// repeat gives a selector most of the grant's own conditions: it is hardly ever
// covered otherwise. Those it lacks are what the rule is about.
func repeat(t *rapid.T, g Grant, sel *logpb.Selector) {
	also := func(name string) bool { return rapid.IntRange(0, 3).Draw(t, name) > 0 }
	if g.ID != EveryScope && g.ID != "" && also("its id") {
		sel.Id = g.ID
	}
	if g.Kind != "" && also("its kind") {
		sel.Kind = g.Kind
	}
	if g.Namespace != "" && also("its namespace") {
		sel.Namespace = g.Namespace
	}
	if also("its labels") {
		maps.Copy(sel.Labels, g.Labels)
	}
}

// universe is every scope that the alphabets can declare with up to one label, and
// those that a test drew.
func universe() (all []*logpb.ScopeSpec) {
	for _, id := range someIDs[1:] {
		for _, kind := range someKinds {
			for _, name := range someLabels {
				for _, value := range someValues {
					if spec := declared(id, kind, map[string]string{name: value}); spec != nil {
						all = append(all, spec)
					}
				}
			}
			if spec := declared(id, kind, nil); spec != nil {
				all = append(all, spec)
			}
		}
	}
	return all
}

// A covered selector picks no scope, of all that could be declared, that the grant
// does not name; and the scope that everybody knows, as it is declared, only where
// the grant says so by id, by its kind, or for every scope.
func TestACoveredStandPicksGrantedScopesOnly(t *testing.T) {
	scopes := universe()
	covered, picked := 0, 0
	try := func(t *rapid.T) {
		g, sel := drawGrant(t), drawSelector(t)
		repeat(t, g, sel)
		priority := rapid.Int32Range(-5, 2).Draw(t, "priority")
		if !g.Covers(sel, priority) {
			return
		}
		covered++
		if priority > g.MaxPriority {
			t.Fatalf("%+v covers priority %d", g, priority)
		}
		every := g.ID == EveryScope
		drawn := declared(rapid.SampledFrom(someIDs[1:]).Draw(t, "scope"), rapid.SampledFrom(someKinds).Draw(t, "scope kind"), drawLabels(t, "scope labels"))
		for _, spec := range append(scopes[:len(scopes):len(scopes)], drawn) {
			if spec == nil || !picks(sel.Id, sel.Kind, sel.Namespace, sel.Labels, spec) {
				continue
			}
			picked++
			if !every && !picks(g.ID, g.Kind, g.Namespace, g.Labels, spec) {
				t.Fatalf("grant %+v covers the selector {%v}, which picks %v", g, sel, spec)
			}
			natural := spec.Id == core.GlobalControl && spec.Kind == core.KindGlobal && len(spec.Labels) == 0
			if named := every || g.ID == core.GlobalControl || g.Kind == core.KindGlobal; natural && !named {
				t.Fatalf("grant %+v gives %s by the selector {%v}", g, core.GlobalControl, sel)
			}
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		for range 50 {
			try(t)
		}
	})
	t.Logf("%d selectors covered, %d scopes picked", covered, picked)
	if covered == 0 || picked == 0 {
		t.Errorf("%d selectors covered, %d scopes picked: the test shows nothing", covered, picked)
	}
}

// Whoever is refused cannot be told by this test to have been refused rightly, but a
// selector that repeats the grant's conditions must be covered.
func TestTheGrantsOwnSelectorIsCovered(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := Grant{ID: rapid.SampledFrom(someIDs).Draw(t, "id"), Kind: rapid.SampledFrom(someKinds).Draw(t, "kind"),
			Namespace: rapid.SampledFrom(someNamespaces).Draw(t, "namespace"), Labels: drawLabels(t, "labels")}
		sel := &logpb.Selector{Id: g.ID, Kind: g.Kind, Namespace: g.Namespace, Labels: g.Labels}
		_, possible := factsOf(sel)
		want := possible && g.check() == nil
		if got := g.Covers(sel, 0); got != want {
			t.Fatalf("%+v covers its own conditions: %v, want %v", g, got, want)
		}
	})
}

// FuzzCovers holds Covers against the twin for texts that nobody would write.
func FuzzCovers(f *testing.F) {
	f.Add("shard", "ns", "", "team", "a", "shard", "ns", "shard/ns/1", "team", "a", int32(0), "shard/ns/1", "shard")
	f.Add("", "", "*", "", "", "", "", "", "", "", int32(1), "global-control", "global")
	f.Add("custom", "", "", "", "", "custom", "", "global-control", "namespace", "a", int32(0), "global-control", "custom")
	f.Fuzz(func(t *testing.T, gKind, gNamespace, gID, gLabel, gValue, kind, namespace, id, label, value string, priority int32, scope, scopeKind string) {
		g := Grant{Kind: gKind, Namespace: gNamespace, ID: gID, Labels: labelled(gLabel, gValue)}
		sel := &logpb.Selector{Kind: kind, Namespace: namespace, Id: id, Labels: labelled(label, value)}
		if !g.Covers(sel, priority) {
			return
		}
		if g.check() != nil || priority > 0 {
			t.Fatalf("%+v covers at %d", g, priority)
		}
		for _, labels := range []map[string]string{nil, labelled(label, value), labelled(gLabel, gValue)} {
			for _, name := range []string{scope, id, gID} {
				spec := declared(name, scopeKind, labels)
				if spec == nil || !picks(sel.Id, sel.Kind, sel.Namespace, sel.Labels, spec) {
					continue
				}
				if g.ID != EveryScope && !picks(g.ID, g.Kind, g.Namespace, g.Labels, spec) {
					t.Fatalf("grant %+v covers {%v}, which picks %v", g, sel, spec)
				}
			}
		}
	})
}

func labelled(name, value string) map[string]string {
	if name == "" {
		return nil
	}
	return map[string]string{name: value}
}
