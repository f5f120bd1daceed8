package client

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/omnirelay/leadership/core"
)

// Why the context of a leadership ended, by context.Cause and errors.Is.
var (
	// ErrHandOver: the registry asked for the scope; the cause is a *HandOver. The
	// leadership lasts until the function returns.
	ErrHandOver = errors.New("asked to hand over")
	// ErrLeaseLapsed: no node acknowledged a keepalive in time, or the process was
	// paused. It was the own clock that said so.
	ErrLeaseLapsed = errors.New("the lease has run out")
	// ErrTaken: the registry ended the leadership.
	ErrTaken = errors.New("the scope is not led from here any more")
	// ErrReturned: the function has returned.
	ErrReturned = errors.New("the function has returned")
	// ErrClosed: the client was closed. Also what its methods return from then on.
	ErrClosed = errors.New("the client is closed")
	// ErrNotLeading is what Leading says of a context without a leadership, or with one
	// that is over.
	ErrNotLeading = errors.New("this process does not lead the scope under that fence")
)

// HandOver is the registry's request to give a scope up.
type HandOver struct {
	Reason        string // one of core.AskTransfer, AskDrain, AskRebalance, AskRetire
	To            string // the wished successor's member id; empty: by the election rule
	CorrelationID string
}

func (h *HandOver) Error() string {
	if h.To != "" {
		return fmt.Sprintf("%v to %s: %s", ErrHandOver, h.To, h.Reason)
	}
	return fmt.Sprintf("%v: %s", ErrHandOver, h.Reason)
}

// Unwrap makes errors.Is find ErrHandOver.
func (h *HandOver) Unwrap() error { return ErrHandOver }

// refusalIn is what a reply says that no repetition will change; nil: nothing.
func refusalIn(r *core.Reply) *core.Error {
	switch code := core.Code(r.Result.GetCode()); code {
	case core.CodeOK, core.CodeUnavailable, core.CodeOverloaded, core.CodeUnsupported, core.CodeTooOld, core.CodeSessionEnded,
		core.CodeNotFound, core.CodeNotLeader, core.CodeHalted, core.CodeRetiring:
		return nil
	default:
		return &core.Error{Code: code, Field: r.Result.GetField(), Message: r.Result.GetMessage()}
	}
}

// denied reports whether a node refuses the caller itself, as every other would.
func denied(err error) bool {
	switch status.Code(err) {
	case codes.Unauthenticated, codes.PermissionDenied, codes.InvalidArgument, codes.NotFound, codes.Unimplemented:
		return true
	}
	return false
}

// advice is what a node's refusal says about where and when to go on.
func advice(err error) (after time.Duration, other string) {
	for _, detail := range status.Convert(err).Details() {
		switch d := detail.(type) {
		case *errdetails.RetryInfo:
			after = max(after, d.GetRetryDelay().AsDuration())
		case *errdetails.ErrorInfo:
			other = d.GetMetadata()["grpc"]
		}
	}
	return after, other
}

// reasonOf is the code of docs/api.md in a node's refusal; empty: there is none.
func reasonOf(err error) string {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	return ""
}
