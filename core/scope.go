package core

import (
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/omnirelay/leadership/core/logpb"
)

// Kinds of scopes that the service knows by name. Any other kind is as good.
const (
	KindGlobal = "global"
	KindShard  = "shard"
	KindCustom = "custom"

	// GlobalControl is the one scope of KindGlobal that upstream users know.
	GlobalControl = "global-control"

	LabelNamespace = "namespace"
	LabelShardID   = "shardId"
)

// ParseScopeID checks a scope id: 1 to MaxScopeSegments segments of letters,
// digits, '.', '_' and '-', joined by '/'.
func ParseScopeID(id string) error {
	if id == "" {
		return invalid("scope", "empty; want an id like %s or shard/<namespace>/<shardId>", GlobalControl)
	}
	if len(id) > MaxScopeID {
		return invalid("scope", "%d bytes long; at most %d are allowed", len(id), MaxScopeID)
	}
	segments := strings.Split(id, "/")
	if len(segments) > MaxScopeSegments {
		return invalid("scope", "%d segments; at most %d are allowed", len(segments), MaxScopeSegments)
	}
	for _, s := range segments {
		if err := checkName("scope", s, MaxScopeSegment); err != nil {
			return err
		}
	}
	if segments[0] == KindShard && len(segments) != 3 {
		return invalid("scope", "%q: a shard is written shard/<namespace>/<shardId>", id)
	}
	return nil
}

// checkName accepts 1 to limit letters, digits, '.', '_' and '-'.
func checkName(field, s string, limit int) error {
	if s == "" {
		return invalid(field, "an empty name or segment; want 1 to %d letters, digits, '.', '_' or '-'", limit)
	}
	if len(s) > limit {
		return invalid(field, "a name of %d bytes; at most %d are allowed", len(s), limit)
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-') {
			return invalid(field, "%q has a byte that is no letter, digit, '.', '_' or '-'", s)
		}
	}
	return nil
}

// checkText accepts up to limit bytes of printable UTF-8.
func checkText(field, s string, limit int) error {
	if len(s) > limit {
		return invalid(field, "%d bytes long; at most %d are allowed", len(s), limit)
	}
	if !utf8.ValidString(s) || strings.ContainsFunc(s, controls) {
		return invalid(field, "want UTF-8 text without control characters")
	}
	return nil
}

// controls reports whether r steers a terminal or turns the direction of text: what one
// member or operator writes must not change how others see it.
func controls(r rune) bool { return unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) }

func checkLabels(field string, labels map[string]string) error {
	if len(labels) > MaxLabels {
		return invalid(field, "%d labels; at most %d are allowed", len(labels), MaxLabels)
	}
	for _, k := range sortedKeys(labels) {
		if err := checkName(field, k, MaxLabelKey); err != nil {
			return err
		}
		if err := checkText(field, labels[k], MaxLabelValue); err != nil {
			return err
		}
	}
	return nil
}

// CheckMemberID checks a member id: the characters of a scope segment, at most
// MaxMemberID bytes.
func CheckMemberID(field, id string) error { return checkName(field, id, MaxMemberID) }

// NewScopeSpec returns the specification of a scope that its id alone implies:
// kind and labels, failover by lease, nobody preferred.
func NewScopeSpec(id string) (*logpb.ScopeSpec, error) {
	spec := &logpb.ScopeSpec{Id: id}
	if err := completeSpec(spec); err != nil {
		return nil, err
	}
	return spec, nil
}

// completeSpec checks spec and fills in what its id implies.
func completeSpec(spec *logpb.ScopeSpec) error {
	if err := ParseScopeID(spec.Id); err != nil {
		return err
	}
	segments := strings.Split(spec.Id, "/")
	implied := KindCustom
	switch {
	case spec.Id == GlobalControl:
		implied = KindGlobal
	case segments[0] == KindShard:
		implied = KindShard
	}
	if spec.Kind == "" {
		spec.Kind = implied
	}
	if implied != KindCustom && spec.Kind != implied {
		// Who is granted the scopes of another kind must not come by these.
		return invalid("kind", "%q for scope %q, which is of kind %s", spec.Kind, spec.Id, implied)
	}
	if implied == KindShard {
		labels := make(map[string]string, len(spec.Labels)+2)
		maps.Copy(labels, spec.Labels)
		labels[LabelNamespace], labels[LabelShardID] = segments[1], segments[2]
		spec.Labels = labels
	}
	if err := checkName("kind", spec.Kind, MaxScopeSegment); err != nil {
		return err
	}
	if err := checkLabels("labels", spec.Labels); err != nil {
		return err
	}
	if spec.Failover < logpb.ScopeSpec_FAILOVER_UNSPECIFIED || spec.Failover > logpb.ScopeSpec_FAILOVER_FAST {
		return invalid("failover", "unknown mode %d; want LEASE or FAST", spec.Failover)
	}
	if spec.PreferredMember != "" {
		return CheckMemberID("preferredMember", spec.PreferredMember)
	}
	return nil
}

// ValidateSelector checks the sizes and names in a selector.
func ValidateSelector(sel *logpb.Selector) error {
	if sel.GetId() != "" {
		if err := ParseScopeID(sel.GetId()); err != nil {
			return err
		}
	}
	if sel.GetKind() != "" {
		if err := checkName("selector.kind", sel.GetKind(), MaxScopeSegment); err != nil {
			return err
		}
	}
	if sel.GetNamespace() != "" {
		if err := checkName("selector.namespace", sel.GetNamespace(), MaxScopeSegment); err != nil {
			return err
		}
	}
	return checkLabels("selector.labels", sel.GetLabels())
}

// selects reports whether every condition of sel holds for spec.
func selects(sel *logpb.Selector, spec *logpb.ScopeSpec) bool {
	if sel.GetId() != "" && sel.GetId() != spec.Id {
		return false
	}
	if sel.GetKind() != "" && sel.GetKind() != spec.Kind {
		return false
	}
	if sel.GetNamespace() != "" && sel.GetNamespace() != spec.Labels[LabelNamespace] {
		return false
	}
	for _, k := range sortedKeys(sel.GetLabels()) {
		if v, ok := spec.Labels[k]; !ok || v != sel.GetLabels()[k] {
			return false
		}
	}
	return true
}

func sameSelector(a, b *logpb.Selector) bool {
	return a.GetId() == b.GetId() && a.GetKind() == b.GetKind() && a.GetNamespace() == b.GetNamespace() &&
		maps.Equal(a.GetLabels(), b.GetLabels())
}

// sortedKeys lists the keys of a map in order.
func sortedKeys[K interface{ ~string | ~uint64 }, V any](m map[K]V) []K {
	return sortedKeysWhere(m, nil)
}

// sortedKeysWhere is the one place where core ranges over a map: everything that can
// reach an output goes through an order that is the same on every replica. wanted picks
// by the values; nil picks all.
func sortedKeysWhere[K interface{ ~string | ~uint64 }, V any](m map[K]V, wanted func(V) bool) []K {
	if len(m) == 0 {
		return nil
	}
	var keys []K
	if wanted == nil {
		keys = make([]K, 0, len(m))
	}
	for k, v := range m {
		if wanted == nil || wanted(v) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return keys
}
