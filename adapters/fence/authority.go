package fence

import (
	"context"
	"fmt"
	"strconv"

	"github.com/omnirelay/leadership/core"
)

// Names of the metadata of a gRPC call, and of the headers of an HTTP request, that
// carry a leader's authority. Each is given at most once.
const (
	ScopeHeader  = "leadership-scope"  // scope id
	FenceHeader  = "leadership-fence"  // decimal
	TermHeader   = "leadership-term"   // decimal; optional
	LeaderHeader = "leadership-leader" // member id; optional
	TokenHeader  = "leadership-token"  // what the registry signed; optional
)

const (
	// MaxFence is the highest number that is taken for a fence or a term: JSON and
	// Lua carry it exactly, and the registry never gives a higher one.
	MaxFence uint64 = 1<<53 - 1
	// MaxTokenBytes bounds a signed token.
	MaxTokenBytes = 4 << 10

	maxDigits = 16 // of MaxFence
)

// Authority is in whose name a call is made: the leader of Scope under Fence.
type Authority struct {
	Scope  string
	Fence  uint64 // 1 to MaxFence
	Term   uint64 // 0: not told
	Leader string // member id; empty: not told
	// Token is the registry's signature of the above. A resource that verifies
	// tokens believes nothing else. Empty: none.
	Token string
}

type authorityKey struct{}

// With returns a context that carries a, for the calls that are made with it.
func With(ctx context.Context, a Authority) context.Context {
	return context.WithValue(ctx, authorityKey{}, a)
}

// From is the authority that ctx carries: on the leader's side what With put there,
// in a guarded handler what the call was admitted under.
func From(ctx context.Context) (Authority, bool) {
	a, ok := ctx.Value(authorityKey{}).(Authority)
	return a, ok
}

// pairs lists the headers of a, those that say nothing left out.
func (a Authority) pairs() [][2]string {
	all := [][2]string{{ScopeHeader, a.Scope}, {FenceHeader, decimal(a.Fence)}, {TermHeader, decimal(a.Term)}, {LeaderHeader, a.Leader}, {TokenHeader, a.Token}}
	said := all[:0]
	for _, p := range all {
		if p[1] != "" {
			said = append(said, p)
		}
	}
	return said
}

func decimal(n uint64) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatUint(n, 10)
}

var headers = []string{ScopeHeader, FenceHeader, TermHeader, LeaderHeader, TokenHeader}

// parse reads the authority that a call claims. values gives all values of a header.
// Nothing of it is believed yet. It returns a *MissingError when there is none at
// all, and a *core.Error that names the header that is malformed.
func parse(values func(header string) []string) (Authority, error) {
	said := map[string]string{}
	for _, h := range headers {
		switch v := values(h); {
		case len(v) > 1:
			return Authority{}, malformed(h, "given %d times; want it once", len(v))
		case len(v) == 1:
			said[h] = v[0]
		}
	}
	if len(said) == 0 {
		return Authority{}, &MissingError{Header: ScopeHeader}
	}
	return parseSaid(said)
}

func parseSaid(said map[string]string) (a Authority, err error) {
	a = Authority{Scope: said[ScopeHeader], Leader: said[LeaderHeader], Token: said[TokenHeader]}
	if a.Scope != "" {
		if err := core.ParseScopeID(a.Scope); err != nil {
			return Authority{}, malformed(ScopeHeader, "%s", messageOf(err))
		}
	}
	if a.Fence, err = parseNumber(FenceHeader, said[FenceHeader]); err != nil {
		return Authority{}, err
	}
	if a.Term, err = parseNumber(TermHeader, said[TermHeader]); err != nil {
		return Authority{}, err
	}
	if a.Leader != "" {
		if err := core.CheckMemberID(LeaderHeader, a.Leader); err != nil {
			return Authority{}, err
		}
	}
	if len(a.Token) > MaxTokenBytes {
		return Authority{}, malformed(TokenHeader, "%d bytes long; at most %d are allowed", len(a.Token), MaxTokenBytes)
	}
	return a, nil
}

// parseNumber reads a number as it is written in one way only: digits, no sign, no
// leading zero. Empty is 0: not told.
func parseNumber(header, text string) (uint64, error) {
	if text == "" {
		return 0, nil
	}
	if len(text) > maxDigits {
		return 0, malformed(header, "%d characters; want a number from 1 to %d", len(text), MaxFence)
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n == 0 || n > MaxFence || text[0] == '0' {
		return 0, malformed(header, "%q; want a number from 1 to %d", text, MaxFence)
	}
	return n, nil
}

func malformed(header, format string, args ...any) error {
	return &core.Error{Code: core.CodeInvalid, Field: header, Message: fmt.Sprintf(format, args...)}
}
