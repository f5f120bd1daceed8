package wire

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
	"github.com/omnirelay/leadership/wire/controlpb"
)

// Conversions of requests of the public API into commands. They check what the form
// of a request says; core checks the rest. A command has no actor yet: that is for
// whoever knows the caller. Every error is a *FieldError, with names as in JSON.

const (
	// MaxRequestID bounds the request id of a caller in bytes. It is shorter than
	// core's, which has a prefix of the caller in front.
	MaxRequestID = 100
	// MaxNumber bounds every number of a request: JSON's are exact up to there.
	MaxNumber = 1<<53 - 1
)

// request is what all requests have that change something.
type request interface {
	GetRequestId() string
	GetCorrelationId() string
	GetBase() uint64
}

// commandOf begins a command. An empty request id is let through: some callers leave it
// to the node.
func commandOf(r request) (*logpb.Command, error) {
	if err := checkRequestID(r.GetRequestId()); err != nil {
		return nil, err
	}
	if err := checkNumber("base", r.GetBase()); err != nil {
		return nil, err
	}
	c := &logpb.Command{RequestId: r.GetRequestId(), CorrelationId: r.GetCorrelationId(), Base: r.GetBase()}
	if asked, ok := r.(interface{ GetWhy() string }); ok {
		c.Why = asked.GetWhy()
	}
	return c, checkWhy(c.Why)
}

// checkWhy holds an operator's words to one line of text.
func checkWhy(why string) error {
	if len(why) > core.MaxWhy {
		return malformed("why", "has %d bytes, at most %d are allowed", len(why), core.MaxWhy)
	}
	if !utf8.ValidString(why) || strings.ContainsFunc(why, unicode.IsControl) {
		return malformed("why", "want UTF-8 text without control characters")
	}
	return nil
}

func checkRequestID(id string) error {
	if len(id) > MaxRequestID {
		return malformed("requestId", "has %d bytes, at most %d are allowed", len(id), MaxRequestID)
	}
	for i := range len(id) {
		if id[i] < 0x21 || id[i] > 0x7e {
			return malformed("requestId", "has a byte that is no printable ASCII character")
		}
	}
	return nil
}

func checkNumber(field string, n uint64) error {
	if n > MaxNumber {
		return malformed(field, "is %d, at most %d are allowed", n, uint64(MaxNumber))
	}
	return nil
}

// checkPositive is for numbers that count from 1.
func checkPositive(field string, n uint64) error {
	if n == 0 {
		return malformed(field, "is 0, want 1 or more")
	}
	return checkNumber(field, n)
}

// ofSession begins a command about a session.
func ofSession(r interface {
	request
	GetSession() uint64
}) (*logpb.Command, error) {
	if err := checkPositive("session", r.GetSession()); err != nil {
		return nil, err
	}
	return commandOf(r)
}

// ofNamed begins a command about a member or a node. The name is looked at first: in JSON
// it is in the path, which is read before the rest.
func ofNamed(field, name string, r request) (*logpb.Command, error) {
	if err := core.CheckMemberID(field, name); err != nil {
		return nil, named(err)
	}
	return commandOf(r)
}

// named makes an error of core about a field one of this package.
func named(err error) error {
	var e *core.Error
	if errors.As(err, &e) {
		return &FieldError{Field: e.Field, Message: e.Message}
	}
	return err
}

// SelectorOf converts a selector, which must be there: one that got lost would pick
// every scope.
func SelectorOf(field string, s *controlpb.Selector) (*logpb.Selector, error) {
	if s == nil {
		return nil, malformed(field, "is missing; an empty one, {}, picks all scopes")
	}
	return &logpb.Selector{Kind: s.GetKind(), Namespace: s.GetNamespace(), Id: s.GetId(), Labels: s.GetLabels()}, nil
}

// SelectorProto converts a selector for the public API; nil becomes the empty one.
func SelectorProto(s *logpb.Selector) *controlpb.Selector {
	return &controlpb.Selector{Kind: s.GetKind(), Namespace: s.GetNamespace(), Id: s.GetId(), Labels: s.GetLabels()}
}

// WishProto converts one entry of what a session stands for.
func WishProto(s *logpb.Stand) *controlpb.Wish {
	return &controlpb.Wish{Selector: SelectorProto(s.GetSelector()), Priority: s.GetPriority()}
}

// OpenSessionCommand converts a request. An absent TTL becomes the default.
func OpenSessionCommand(r *controlpb.OpenSessionRequest) (*logpb.Command, error) {
	c, err := commandOf(r)
	if err != nil {
		return nil, err
	}
	open := &logpb.OpenSession{MemberId: r.GetMemberId(), Labels: r.GetLabels(), Weight: r.GetWeight(), Replaces: r.GetReplaces()}
	if r.Weight != nil && r.GetWeight() == 0 {
		return nil, malformed("weight", "is 0, want 1 to %d", core.MaxWeight)
	}
	if err := checkNumber("replaces", r.GetReplaces()); err != nil {
		return nil, err
	}
	ttl, err := durationOf("ttl", r.GetTtl(), core.DefaultTTL)
	if err != nil {
		return nil, err
	}
	open.TtlNs = int64(ttl)
	if len(r.GetStands()) > core.MaxStands {
		return nil, malformed("stands", "are %d, at most %d are allowed", len(r.GetStands()), core.MaxStands)
	}
	for i, w := range r.GetStands() {
		sel, err := SelectorOf(fmt.Sprintf("stands[%d].selector", i), w.GetSelector())
		if err != nil {
			return nil, err
		}
		open.Stands = append(open.Stands, &logpb.Stand{Selector: sel, Priority: w.GetPriority()})
	}
	c.Kind = &logpb.Command_OpenSession{OpenSession: open}
	return c, nil
}

func durationOf(field string, d *durationpb.Duration, absent time.Duration) (time.Duration, error) {
	if d == nil {
		return absent, nil
	}
	if err := d.CheckValid(); err != nil {
		return 0, malformed(field, "%v", err)
	}
	return d.AsDuration(), nil
}

// CloseSessionCommand converts a request.
func CloseSessionCommand(r *controlpb.CloseSessionRequest) (*logpb.Command, error) {
	c, err := ofSession(r)
	if err != nil {
		return nil, err
	}
	c.Kind = &logpb.Command_CloseSession{CloseSession: &logpb.CloseSession{Session: r.GetSession()}}
	return c, nil
}

// StandCommand converts a request.
func StandCommand(r *controlpb.StandRequest) (*logpb.Command, error) {
	c, err := ofSession(r)
	if err != nil {
		return nil, err
	}
	sel, err := SelectorOf("selector", r.GetSelector())
	if err != nil {
		return nil, err
	}
	c.Kind = &logpb.Command_Stand{Stand: &logpb.Stand{Session: r.GetSession(), Selector: sel, Priority: r.GetPriority(), Number: r.GetNumber()}}
	return c, checkNumber("number", r.GetNumber())
}

// WithdrawCommand converts a request.
func WithdrawCommand(r *controlpb.WithdrawRequest) (*logpb.Command, error) {
	c, err := ofSession(r)
	if err != nil {
		return nil, err
	}
	sel, err := SelectorOf("selector", r.GetSelector())
	if err != nil {
		return nil, err
	}
	c.Kind = &logpb.Command_Withdraw{Withdraw: &logpb.Withdraw{Session: r.GetSession(), Selector: sel, Number: r.GetNumber()}}
	return c, checkNumber("number", r.GetNumber())
}

// ResignCommand converts a request.
func ResignCommand(r *controlpb.ResignRequest) (*logpb.Command, error) {
	c, err := ofSession(r)
	if err != nil {
		return nil, err
	}
	c.Kind = &logpb.Command_Resign{Resign: &logpb.Resign{Session: r.GetSession(), Scope: r.GetScope(), Fence: r.GetFenceToken()}}
	return c, checkPositive("fenceToken", r.GetFenceToken())
}

// checkScopes counts before anything is converted.
func checkScopes(n int) error {
	if n == 0 || n > core.MaxScopesPerCmd {
		return malformed("scopes", "are %d, want 1 to %d", n, core.MaxScopesPerCmd)
	}
	return nil
}

// DeclareScopesCommand converts a request.
func DeclareScopesCommand(r *controlpb.DeclareScopesRequest) (*logpb.Command, error) {
	c, err := commandOf(r)
	if err != nil {
		return nil, err
	}
	if err := checkScopes(len(r.GetScopes())); err != nil {
		return nil, err
	}
	declare := &logpb.DeclareScopes{}
	for _, s := range r.GetScopes() {
		declare.Scopes = append(declare.Scopes, &logpb.ScopeSpec{Id: s.GetId(), Kind: s.GetKind(), Labels: s.GetLabels(),
			PreferredMember: s.GetPreferredMember(), Failover: logpb.ScopeSpec_Failover(s.GetFailover())})
	}
	c.Kind = &logpb.Command_DeclareScopes{DeclareScopes: declare}
	return c, nil
}

// RetireScopesCommand converts a request.
func RetireScopesCommand(r *controlpb.RetireScopesRequest) (*logpb.Command, error) {
	c, err := commandOf(r)
	if err != nil {
		return nil, err
	}
	if err := checkScopes(len(r.GetScopes())); err != nil {
		return nil, err
	}
	c.Kind = &logpb.Command_RetireScopes{RetireScopes: &logpb.RetireScopes{Scopes: r.GetScopes()}}
	return c, nil
}

// TransferCommand converts a request.
func TransferCommand(r *controlpb.TransferRequest) (*logpb.Command, error) {
	c, err := commandOf(r)
	if err != nil {
		return nil, err
	}
	c.Kind = &logpb.Command_Transfer{Transfer: &logpb.Transfer{Scope: r.GetScope(), ToMember: r.GetToMember(), Fence: r.GetFenceToken()}}
	return c, checkNumber("fenceToken", r.GetFenceToken())
}

// CancelTransferCommand converts a request.
func CancelTransferCommand(r *controlpb.CancelTransferRequest) (*logpb.Command, error) {
	c, err := commandOf(r)
	if err != nil {
		return nil, err
	}
	c.Kind = &logpb.Command_CancelTransfer{CancelTransfer: &logpb.CancelTransfer{Scope: r.GetScope()}}
	return c, nil
}

// CordonCommand converts a request.
func CordonCommand(r *controlpb.CordonRequest) (*logpb.Command, error) {
	c, err := ofNamed("memberId", r.GetMemberId(), r)
	if err != nil {
		return nil, err
	}
	c.Kind = &logpb.Command_Cordon{Cordon: &logpb.Cordon{MemberId: r.GetMemberId(), Cordoned: true, Drain: r.GetDrain()}}
	return c, nil
}

// UncordonCommand converts a request.
func UncordonCommand(r *controlpb.UncordonRequest) (*logpb.Command, error) {
	c, err := ofNamed("memberId", r.GetMemberId(), r)
	if err != nil {
		return nil, err
	}
	c.Kind = &logpb.Command_Cordon{Cordon: &logpb.Cordon{MemberId: r.GetMemberId()}}
	return c, nil
}
