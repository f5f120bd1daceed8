package client

import (
	"errors"
	"fmt"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
)

// Scope picks what to stand for: all declared scopes, now and later, for which every
// condition that is set holds. At least one must be set.
type Scope struct {
	ID        string // one scope, like global-control
	Kind      string // like shard
	Namespace string // of shards
	Labels    map[string]string
	// Priority among the candidates, -core.MaxPriority to core.MaxPriority; the highest
	// is elected.
	Priority int32
}

func (s Scope) selector() (*logpb.Selector, error) {
	if s.ID == "" && s.Kind == "" && s.Namespace == "" && len(s.Labels) == 0 {
		return nil, errors.New("scope: no condition is set, which would pick every scope there is; set an id, kind, namespace or label")
	}
	sel := &logpb.Selector{Id: s.ID, Kind: s.Kind, Namespace: s.Namespace, Labels: s.Labels}
	if err := core.ValidateSelector(sel); err != nil {
		return nil, fmt.Errorf("scope: %w", err)
	}
	return sel, nil
}

// covers reports whether a led scope is one that sel picks.
func covers(sel *logpb.Selector, t core.Token) bool {
	if sel.GetId() != "" && sel.GetId() != t.Scope ||
		sel.GetKind() != "" && sel.GetKind() != t.ScopeKind ||
		sel.GetNamespace() != "" && sel.GetNamespace() != t.Labels[core.LabelNamespace] {
		return false
	}
	for k, want := range sel.GetLabels() {
		if v, ok := t.Labels[k]; !ok || v != want {
			return false
		}
	}
	return true
}
