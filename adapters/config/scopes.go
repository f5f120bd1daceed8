package config

import (
	"fmt"
	"maps"
	"strconv"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
)

// DeclaredScope is one scope that the settings declare, and how this node's member
// stands for it.
type DeclaredScope struct {
	Spec     *logpb.ScopeSpec
	Priority int32
}

// DeclaredScopes are all scopes of Scopes and Shards, in the order of the file. c
// must be valid.
func (c *Config) DeclaredScopes() []DeclaredScope {
	declared, _ := c.declare()
	return declared
}

// written is a scope and the key it stands under.
type written struct {
	key   string
	scope Scope
}

// declare expands the settings and says what is wrong with them.
func (c *Config) declare() ([]DeclaredScope, Problems) {
	var j judge
	all := make([]written, 0, len(c.Scopes))
	for i, s := range c.Scopes {
		all = append(all, written{fmt.Sprintf("scopes[%d]", i), s})
	}
	for i, s := range c.Shards {
		all = append(all, s.expand(&j, fmt.Sprintf("shards[%d]", i))...)
		if len(all) > core.MaxScopes {
			break // further families would only cost memory
		}
	}
	if len(all) > core.MaxScopes {
		j.refuse("scopes", fmt.Sprintf("%d scopes or more, with those of shards", len(all)), fmt.Sprintf("at most %d are right", core.MaxScopes))
		return nil, j.found
	}
	return specify(&j, all), j.found
}

// specify turns what was written into specifications, each id once.
func specify(j *judge, all []written) []DeclaredScope {
	declared := make([]DeclaredScope, 0, len(all))
	first := map[string]string{}
	for _, w := range all {
		if key, twice := first[w.scope.ID]; twice {
			j.refuse(w.key, fmt.Sprintf("%q is declared by %s already", clip(w.scope.ID), key), "declare each scope once")
			continue
		}
		first[w.scope.ID] = w.key
		spec, ok := w.scope.spec(j, w.key)
		if ok {
			declared = append(declared, DeclaredScope{Spec: spec, Priority: w.scope.Priority})
		}
	}
	return declared
}

func (c *Config) judgeScopes(j *judge) {
	_, problems := c.declare()
	j.found = append(j.found, problems...)
}

// spec is what core is told of the scope.
func (s Scope) spec(j *judge, key string) (*logpb.ScopeSpec, bool) {
	before := len(j.found)
	j.number(key+".priority", int64(s.Priority), -core.MaxPriority, core.MaxPriority)
	spec, err := core.NewScopeSpec(s.ID)
	if err != nil {
		j.refuseError(key, err)
		return nil, false
	}
	if s.Kind != "" {
		if spec.Kind == core.KindShard && s.Kind != core.KindShard {
			j.refuse(key+".kind", fmt.Sprintf("%q does not fit an id under shard/", clip(s.Kind)), "shard, or leave it out")
		}
		j.refuseError(key+".kind", core.ValidateSelector(&logpb.Selector{Kind: s.Kind}))
		spec.Kind = s.Kind
	}
	j.labels(key+".labels", s.Labels)
	labels := maps.Clone(s.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	maps.Copy(labels, spec.Labels)
	if spec.Labels = labels; len(labels) > core.MaxLabels {
		j.refuse(key+".labels", fmt.Sprintf("%d labels with those the id implies", len(labels)), fmt.Sprintf("at most %d are right", core.MaxLabels))
	}
	if s.Preferred != "" {
		j.refuseError(key+".preferred", core.CheckMemberID("preferred", s.Preferred))
		spec.PreferredMember = s.Preferred
	}
	switch s.Failover {
	case "", "lease":
		spec.Failover = logpb.ScopeSpec_FAILOVER_LEASE
	case "fast":
		spec.Failover = logpb.ScopeSpec_FAILOVER_FAST
	default:
		j.oneOf(key+".failover", s.Failover, "lease", "fast")
	}
	return spec, len(j.found) == before
}

// expand writes the family out, scope by scope.
func (s Shard) expand(j *judge, key string) []written {
	if !j.required(key+".namespace", s.Namespace, "name the namespace of the shards") {
		return nil
	}
	ids := s.IDs
	switch ranged := s.From != "" || s.To != ""; {
	case ranged && len(ids) > 0:
		j.refuse(key, "has both ids and from/to", "write one of them")
		return nil
	case !ranged && len(ids) == 0:
		j.refuse(key, "names no shards", `write ids, or from and to, like from: "00" and to: "63"`)
		return nil
	case ranged:
		var ok bool
		if ids, ok = s.rangeOfIDs(j, key); !ok {
			return nil
		}
	}
	all := make([]written, len(ids))
	for i, id := range ids {
		all[i] = written{key, Scope{ID: "shard/" + s.Namespace + "/" + id, Labels: s.Labels, Preferred: s.Preferred, Priority: s.Priority, Failover: s.Failover}}
	}
	return all
}

// rangeOfIDs counts from From to To, padded with zeros to their common width.
func (s Shard) rangeOfIDs(j *judge, key string) ([]string, bool) {
	from, err1 := strconv.ParseUint(s.From, 10, 32)
	to, err2 := strconv.ParseUint(s.To, 10, 32)
	switch {
	case err1 != nil || err2 != nil || len(s.From) != len(s.To):
		j.refuse(key, fmt.Sprintf("from %q to %q is no range", clip(s.From), clip(s.To)), `write decimal digits, both equally many, like from: "00" and to: "63"`)
	case from > to || to-from >= core.MaxScopes:
		j.refuse(key, fmt.Sprintf("from %s to %s is no range of 1 to %d shards", s.From, s.To, core.MaxScopes), "let from be the lower, and the range smaller")
	default:
		ids := make([]string, 0, to-from+1)
		for n := from; n <= to; n++ {
			ids = append(ids, fmt.Sprintf("%0*d", len(s.From), n))
		}
		return ids, true
	}
	return nil, false
}

// labelSelector is how core checks labels that are no part of a scope yet.
func labelSelector(labels map[string]string) *logpb.Selector { return &logpb.Selector{Labels: labels} }
