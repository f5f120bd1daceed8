package fence

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/omnirelay/leadership/core"
)

// Rule says how the calls of a method are guarded. The zero Rule admits the leader of
// any scope.
type Rule struct {
	// Open lets everybody call.
	Open bool
	// Scope says on which scope a request acts: only that scope's leader may make it.
	// nil: a leader of any scope may; then the handler has to look at the scope of
	// the authority that it finds by From. An error ends the call as it is.
	Scope func(ctx context.Context, req any) (string, error)
}

// Rules choose the Rule of a method.
type Rules struct {
	// Methods by full name, /package.Service/Method, or /package.Service/ for all
	// others of a service.
	Methods map[string]Rule
	// Default is the rule of the methods that are not named: guarded, unless it
	// says otherwise.
	Default Rule
}

func (r *Rules) of(method string) Rule {
	if rule, ok := r.Methods[method]; ok {
		return rule
	}
	if rule, ok := r.Methods[method[:strings.LastIndexByte(method, '/')+1]]; ok {
		return rule
	}
	return r.Default
}

// UnaryServerInterceptor makes each guarded call an action: see Do. The handler finds
// the authority it was admitted under by From.
func (g *Guard) UnaryServerInterceptor(rules Rules) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
		rule := rules.of(info.FullMethod)
		if rule.Open {
			return handle(ctx, req)
		}
		authority, err := g.authenticated(ctx)
		if err == nil {
			err = g.counted(rule.check(ctx, authority, req))
		}
		var action *Action
		if err == nil {
			action, err = g.Begin(ctx, authority.Scope, authority.Fence)
		}
		if err != nil {
			return nil, refused(err)
		}
		defer action.End()
		reply, err := handle(With(action.Context(), authority), req)
		return reply, handled(action.outcome(err))
	}
}

// authenticated is the authority of the call whose metadata ctx carries.
func (g *Guard) authenticated(ctx context.Context) (Authority, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	a, err := g.authenticate(ctx, md.Get)
	return a, g.counted(err)
}

// counted counts err, if it is one.
func (g *Guard) counted(err error) error {
	if err == nil {
		return nil
	}
	return g.count(err)
}

// authenticate is the authority that a call really has: with a verifier what the
// registry signed, without one what the call says.
func (g *Guard) authenticate(ctx context.Context, values func(header string) []string) (Authority, error) {
	a, err := parse(values)
	if err != nil {
		return Authority{}, err
	}
	if g.o.Verifier == nil {
		switch {
		case a.Scope == "":
			return Authority{}, &MissingError{Header: ScopeHeader}
		case a.Fence == 0:
			return Authority{}, &MissingError{Header: FenceHeader}
		}
		a.Token = "" // nobody has looked at it
		return a, nil
	}
	if a.Token == "" {
		return Authority{}, &MissingError{Header: TokenHeader}
	}
	c, err := g.o.Verifier.Verify(ctx, a.Token)
	if err != nil {
		if ctx.Err() != nil {
			return Authority{}, ctx.Err()
		}
		if errors.As(err, new(*NotReadyError)) {
			return Authority{}, err
		}
		return Authority{}, &TokenError{Why: err}
	}
	return a.confirmed(c)
}

// confirmed is what the registry signed, if nothing beside it says otherwise: who
// altered a header meant something by it.
func (a Authority) confirmed(c Claims) (Authority, error) {
	signed := Authority{Scope: c.Scope, Fence: c.Fence, Term: c.Term, Leader: c.Leader, Token: a.Token}
	for _, p := range []struct{ header, said, signed string }{
		{ScopeHeader, a.Scope, signed.Scope}, {LeaderHeader, a.Leader, signed.Leader},
		{FenceHeader, decimal(a.Fence), decimal(signed.Fence)}, {TermHeader, decimal(a.Term), decimal(signed.Term)},
	} {
		if p.said != "" && p.said != p.signed {
			return Authority{}, &TokenError{Why: fmt.Errorf("it says %s %q, the header beside it %q", p.header, p.signed, p.said)}
		}
	}
	if signed.Fence == 0 || signed.Fence > MaxFence {
		return Authority{}, &TokenError{Why: fmt.Errorf("it says fence %d; want 1 to %d", signed.Fence, MaxFence)}
	}
	return signed, nil
}

// check refuses a request that acts on another scope than the authority's.
func (r *Rule) check(ctx context.Context, a Authority, req any) error {
	if r.Scope == nil {
		return nil
	}
	want, err := r.Scope(ctx, req)
	if err == nil && want != a.Scope {
		err = &ScopeError{Scope: a.Scope, Want: want}
	}
	return err
}

// refused is how a gRPC server returns what the guard refused. An error of Rule.Scope
// stays as it came.
func refused(err error) error {
	if _, ok := verdictOf(err); ok {
		return &refusal{err}
	}
	return err
}

// handled is how a gRPC server returns the error of a handler: as it came, but a
// refusal of a stale leader, its own or one from the database it asked, as one.
func handled(err error) error {
	if _, ok := status.FromError(err); !ok && errors.As(err, new(*core.StaleError)) {
		return &refusal{err}
	}
	return err
}
