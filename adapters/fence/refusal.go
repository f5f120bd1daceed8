package fence

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/wire"
)

// Domain is the domain of the ErrorInfo in every refusal over gRPC.
const Domain = "leadership.omnirelay"

// Reasons for which a guarded call is refused: the reason of the ErrorInfo, the code
// of the problem document, and the end of its type urn:omnirelay:problem:.
const (
	ReasonStale     = "stale-token"       // the fence was overtaken: FAILED_PRECONDITION, 409
	ReasonMissing   = "authority-missing" // the call names no leader: FAILED_PRECONDITION, 428
	ReasonMalformed = "authority-invalid" // a header is malformed: INVALID_ARGUMENT, 400
	ReasonToken     = "token-invalid"     // the token is not what the registry signed: UNAUTHENTICATED, 401
	ReasonScope     = "scope-mismatch"    // it is the leader of another scope: PERMISSION_DENIED, 403
	ReasonNotReady  = "guard-not-ready"   // try again: UNAVAILABLE, 503
	ReasonLimit     = "limit"             // the guard knows too many scopes: RESOURCE_EXHAUSTED, 422
	ReasonLost      = "authority-lost"    // the caller itself no longer leads; nothing was sent: FAILED_PRECONDITION
)

// MissingError refuses a call that must be made in a leader's name and is not.
type MissingError struct {
	Header string // the first that is missing
}

func (e *MissingError) Error() string {
	return "the call names no leader: " + e.Header + " is missing; stamp it with the authority it is made under"
}

// TokenError refuses a call whose signed token is not what the registry signed, or
// says something else than the headers beside it.
type TokenError struct {
	Why error
}

func (e *TokenError) Error() string { return "the leadership token is not valid: " + e.Why.Error() }

// Unwrap is what the Verifier said.
func (e *TokenError) Unwrap() error { return e.Why }

// ScopeError refuses a call of the leader of one scope that acts on another.
type ScopeError struct {
	Scope string // whose leader calls
	Want  string // on what it acts
}

func (e *ScopeError) Error() string {
	return fmt.Sprintf("a leader of %q may not act on %q", e.Scope, e.Want)
}

// NotReadyError refuses what cannot be judged yet. Nothing was done; try again.
type NotReadyError struct {
	Reason     string
	RetryAfter time.Duration // when to try again
	Why        error         // what failed; nil: nothing did
}

func (e *NotReadyError) Error() string {
	text := "the guard cannot judge yet: " + e.Reason
	if e.Why != nil {
		text += ": " + e.Why.Error()
	}
	return text
}

// Unwrap is what failed.
func (e *NotReadyError) Unwrap() error { return e.Why }

// LostError refuses an outgoing call before it is sent: the caller no longer holds
// the authority it would make it under.
type LostError struct {
	Authority Authority
	Why       error
}

func (e *LostError) Error() string {
	return fmt.Sprintf("not sent: the leadership of %q under fence %d is no longer held: %v", e.Authority.Scope, e.Authority.Fence, e.Why)
}

// Unwrap is what the AuthorityFunc said.
func (e *LostError) Unwrap() error { return e.Why }

// GRPCStatus makes a LostError a status for callers that look at codes.
func (e *LostError) GRPCStatus() *status.Status { return statusOf(e) }

// Problem is the problem document of a refusal. Scope, Fence and Required are those
// of a *core.StaleError, and left out elsewhere.
type Problem struct {
	wire.Problem
	Scope    string `json:"scope,omitempty"`
	Fence    uint64 `json:"fence,omitempty"`    // of the refused call
	Required uint64 `json:"required,omitempty"` // the lowest that would be admitted
}

// verdict is how a refusal looks from outside.
type verdict struct {
	reason string
	title  string
	grpc   codes.Code
	http   int
}

// verdictOf is false for an error that is none of this package's refusals.
func verdictOf(err error) (verdict, bool) {
	var ce *core.Error
	switch {
	case errors.As(err, new(*core.StaleError)):
		return verdict{ReasonStale, "The leader was replaced", codes.FailedPrecondition, http.StatusConflict}, true
	case errors.As(err, new(*MissingError)):
		return verdict{ReasonMissing, "Only a leader may do this", codes.FailedPrecondition, http.StatusPreconditionRequired}, true
	case errors.As(err, new(*NotReadyError)): // before TokenError: keys may be out of reach
		return verdict{ReasonNotReady, "The guard cannot judge yet", codes.Unavailable, http.StatusServiceUnavailable}, true
	case errors.As(err, new(*TokenError)):
		return verdict{ReasonToken, "The leadership token is not valid", codes.Unauthenticated, http.StatusUnauthorized}, true
	case errors.As(err, new(*ScopeError)):
		return verdict{ReasonScope, "The leader of another scope", codes.PermissionDenied, http.StatusForbidden}, true
	case errors.As(err, new(*LostError)):
		return verdict{ReasonLost, "The caller no longer leads", codes.FailedPrecondition, http.StatusConflict}, true
	case errors.As(err, &ce) && ce.Code == core.CodeLimit:
		return verdict{ReasonLimit, "A limit is reached", codes.ResourceExhausted, http.StatusUnprocessableEntity}, true
	case errors.As(err, &ce):
		return verdict{ReasonMalformed, "The authority is malformed", codes.InvalidArgument, http.StatusBadRequest}, true
	case errors.Is(err, context.DeadlineExceeded):
		return verdict{ReasonNotReady, "The guard was not done in time", codes.DeadlineExceeded, http.StatusServiceUnavailable}, true
	case errors.Is(err, context.Canceled):
		return verdict{ReasonNotReady, "The call was withdrawn", codes.Canceled, http.StatusServiceUnavailable}, true
	}
	return verdict{}, false
}

// statusOf is the gRPC status of a refusal; Internal without its text for what is none.
func statusOf(err error) *status.Status {
	v, ok := verdictOf(err)
	if !ok {
		return status.New(codes.Internal, "the guard failed")
	}
	info := &errdetails.ErrorInfo{Reason: v.reason, Domain: Domain}
	var stale *core.StaleError
	if errors.As(err, &stale) {
		info.Metadata = map[string]string{"scope": stale.Scope, "fence": strconv.FormatUint(stale.Fence, 10), "required": strconv.FormatUint(stale.Required, 10)}
	}
	details := []protoadapt.MessageV1{info}
	if after := retryAfter(err); after > 0 {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(after)})
	}
	st := status.New(v.grpc, err.Error())
	if detailed, err := st.WithDetails(details...); err == nil {
		st = detailed
	}
	return st
}

func retryAfter(err error) time.Duration {
	var e *NotReadyError
	if errors.As(err, &e) {
		return e.RetryAfter
	}
	return 0
}

// refusal is a refusal as a gRPC server returns it: a status for the wire, and the
// error itself for who looks from within.
type refusal struct{ why error }

func (r *refusal) Error() string              { return r.why.Error() }
func (r *refusal) Unwrap() error              { return r.why }
func (r *refusal) GRPCStatus() *status.Status { return statusOf(r.why) }

// problemOf is the problem document of a refused request for the path instance.
func problemOf(err error, instance string) Problem {
	v, ok := verdictOf(err)
	if !ok {
		return Problem{Problem: wire.ProblemOf(err, instance)}
	}
	p := Problem{Problem: wire.Problem{
		Type: "urn:omnirelay:problem:" + v.reason, Title: v.title, Status: v.http,
		Detail: err.Error(), Instance: instance, Code: v.reason,
	}}
	var stale *core.StaleError
	if errors.As(err, &stale) {
		p.Scope, p.Fence, p.Required = stale.Scope, stale.Fence, stale.Required
	}
	var ce *core.Error
	if errors.As(err, &ce) {
		p.Field = ce.Field
	}
	return p
}

func messageOf(err error) string {
	var e *core.Error
	if errors.As(err, &e) {
		return e.Message
	}
	return err.Error()
}
