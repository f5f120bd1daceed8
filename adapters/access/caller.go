package access

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
)

// Caller is who calls, and what they may do. The zero Caller may do nothing.
type Caller struct {
	// Name is the actor in audit records and logs: printable, at most core.MaxActor
	// bytes.
	Name    string
	Cluster string
	// Role is RoleRead, RoleOperate, RoleAdmin, or empty.
	Role Role
	// Member is the id of the member that the caller may act as. Empty: none.
	Member string
	// Grants are what that member may stand for.
	Grants []Grant
	// Anonymous callers showed no credential.
	Anonymous bool
	// Key is what a Limiter counts by: equal for all calls of one identity.
	Key string
	// Expires is when the credential ends, and with it what rests on it, streams too.
	// Zero: never.
	Expires time.Time
}

// MayRead allows reading and subscribing, the audit included.
func (c Caller) MayRead() error {
	if c.Member != "" {
		return nil
	}
	return c.may(RoleRead)
}

// MayOperate allows moving leadership away from members and back.
func (c Caller) MayOperate() error { return c.may(RoleOperate) }

// MayAdmin allows changing which scopes there are.
func (c Caller) MayAdmin() error { return c.may(RoleAdmin) }

func (c Caller) may(want Role) error {
	if c.Role.Includes(want) {
		return nil
	}
	return c.denied(string(want), "")
}

// MayActAs allows sessions, stands and resignations of that member.
func (c Caller) MayActAs(member string) error {
	if c.Member != "" && c.Member == member {
		return nil
	}
	return c.denied(string(RoleMember)+" for "+clip(member), "a member acts only as itself")
}

// MayStand allows the caller's member to stand with this selector, nil meaning all
// scopes, and this priority.
func (c Caller) MayStand(sel *logpb.Selector, priority int32) error {
	if c.Member == "" {
		return c.denied(string(RoleMember), "")
	}
	for _, g := range c.Grants {
		if g.Covers(sel, priority) {
			return nil
		}
	}
	reason := "no grant of this member covers it whole"
	if sel.GetId() != "" && sel.GetKind() == "" && !strings.HasPrefix(sel.GetId(), core.KindShard+"/") {
		reason += "; an id says nothing of kind and labels: where a grant names those, let the selector name them too"
	}
	return c.denied(fmt.Sprintf("a grant for %s at priority %d", describe(sel), priority), reason)
}

func (c Caller) denied(want, reason string) *Denied {
	d := &Denied{Unauthenticated: c.Anonymous || c.Name == "", Want: want, Have: c.have()}
	d.Message = fmt.Sprintf("%s has %s; want %s", c.named(), d.Have, want)
	if reason != "" {
		d.Message += ": " + reason
	}
	return d
}

func (c Caller) named() string {
	if c.Name == "" {
		return "nobody"
	}
	return c.Name
}

// have says what the caller may, in words.
func (c Caller) have() string {
	var all []string
	if c.Role != "" {
		all = append(all, string(c.Role))
	}
	if c.Member != "" {
		all = append(all, fmt.Sprintf("%s for %s with %d grants", RoleMember, clip(c.Member), len(c.Grants)))
	}
	if len(all) == 0 {
		return "no role"
	}
	return strings.Join(all, " and ")
}

// describe says in words what a selector picks.
func describe(sel *logpb.Selector) string {
	var all []string
	for _, c := range []struct{ name, value string }{{"id", sel.GetId()}, {"kind", sel.GetKind()}, {"namespace", sel.GetNamespace()}} {
		if c.value != "" {
			all = append(all, c.name+" "+clip(c.value))
		}
	}
	if n := len(sel.GetLabels()); n > 0 {
		all = append(all, fmt.Sprintf("%d labels", n))
	}
	if len(all) == 0 {
		return "every scope"
	}
	return "scopes of " + strings.Join(all, ", ")
}

// callerKey is where a context keeps its caller.
type callerKey struct{}

// WithCaller returns a context that carries c.
func WithCaller(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// CallerFrom returns what WithCaller put in. Without it: the Caller that may do
// nothing, and false.
func CallerFrom(ctx context.Context) (Caller, bool) {
	c, ok := ctx.Value(callerKey{}).(Caller)
	return c, ok
}
