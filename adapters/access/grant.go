package access

import (
	"errors"
	"fmt"
	"maps"
	"strings"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
)

// EveryScope is the ID of a Grant that covers every scope.
const EveryScope = "*"

// Grant lets a member stand for scopes. All its conditions must hold for a scope, as
// in a selector. One without conditions covers nothing: for everything there is
// EveryScope.
type Grant struct {
	Kind      string
	Namespace string // the label core.LabelNamespace, as shards have it
	ID        string // or EveryScope, alone
	Labels    map[string]string
	// MaxPriority is the highest priority to stand with.
	MaxPriority int32
}

// Covers reports whether the grant allows a stand with this selector, nil meaning all
// scopes. It does when every scope that the selector could ever pick, whatever is
// declared, is one of the grant's: each condition of the grant is required by the
// selector too, or follows from the id it names.
func (g Grant) Covers(sel *logpb.Selector, priority int32) bool {
	if priority > g.MaxPriority || g.check() != nil || core.ValidateSelector(sel) != nil {
		return false
	}
	known, possible := factsOf(sel)
	if !possible {
		return false
	}
	if g.ID == EveryScope {
		return true
	}
	// Whoever declares scopes may give any of them any kind and labels; the one scope
	// that everybody knows by its name must be granted by that name or kind.
	if known.id == core.GlobalControl && g.ID != core.GlobalControl && g.Kind != core.KindGlobal {
		return false
	}
	return (g.ID == "" || g.ID == known.id) &&
		(g.Kind == "" || g.Kind == known.kind) &&
		(g.Namespace == "" || has(known.labels, core.LabelNamespace, g.Namespace)) &&
		contains(known.labels, g.Labels)
}

// facts are what is known of every scope that a selector picks; empty: nothing.
type facts struct {
	id, kind string
	labels   map[string]string
}

// factsOf says what follows from a selector, and whether it can pick anything. Of an
// id under shard/ kind and labels follow; of any other nothing does, for they are
// free to choose where it is declared.
func factsOf(sel *logpb.Selector) (known facts, possible bool) {
	known = facts{id: sel.GetId(), kind: sel.GetKind(), labels: maps.Clone(sel.GetLabels())}
	if known.labels == nil {
		known.labels = map[string]string{}
	}
	possible = true
	learn := func(label, value string) {
		if v, told := known.labels[label]; told && v != value {
			possible = false
		}
		known.labels[label] = value
	}
	if sel.GetNamespace() != "" {
		learn(core.LabelNamespace, sel.GetNamespace())
	}
	if parts := strings.Split(known.id, "/"); parts[0] == core.KindShard && len(parts) == 3 {
		possible = possible && (known.kind == "" || known.kind == core.KindShard)
		known.kind = core.KindShard
		learn(core.LabelNamespace, parts[1])
		learn(core.LabelShardID, parts[2])
	}
	return known, possible
}

func has(labels map[string]string, name, value string) bool {
	v, there := labels[name]
	return there && v == value
}

func contains(labels, wanted map[string]string) bool {
	for name, value := range wanted {
		if !has(labels, name, value) {
			return false
		}
	}
	return true
}

// check refuses a grant that says nothing or cannot be meant.
func (g Grant) check() error {
	others := g.Kind != "" || g.Namespace != "" || len(g.Labels) > 0
	switch {
	case g.ID == EveryScope && others:
		return errors.New("a grant of every scope has further conditions; want one or the other")
	case g.ID == EveryScope:
	case g.ID == "" && !others:
		return fmt.Errorf("a grant has no condition; want id, kind, namespace or labels, or the id %q for every scope", EveryScope)
	default:
		if err := core.ValidateSelector(&logpb.Selector{Id: g.ID, Kind: g.Kind, Namespace: g.Namespace, Labels: g.Labels}); err != nil {
			return fmt.Errorf("a grant: %s", plain(err))
		}
	}
	if g.MaxPriority > core.MaxPriority || g.MaxPriority < -core.MaxPriority {
		return fmt.Errorf("maxPriority of a grant: %d, want from %d to %d", g.MaxPriority, -core.MaxPriority, core.MaxPriority)
	}
	return nil
}
