package rpc

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/omnirelay/leadership/adapters/access"
	"github.com/omnirelay/leadership/adapters/telemetry"
	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/wire"
)

// errorDomain is the domain of the ErrorInfo in every refusal.
const errorDomain = "leadership.omnirelay"

// refusal is what a status says: its code, what is wrong in words, the same for programs,
// and where it helps the field, when to come back and where to go.
type refusal struct {
	code     codes.Code
	text     string
	reason   string
	field    string
	metadata map[string]string
	after    time.Duration // 0: no hint
}

// statusOf makes a status of an error of the API. One that is no refusal is told to the
// log and not to the caller: it may tell more than a caller should know.
func (s *Server) statusOf(method string, err error) error {
	var denied *access.Denied
	var exceeded *access.Exceeded
	var refused *core.Error
	s.options.Metrics.RequestRefused(telemetry.APIGRPC, access.RefusalOf(err))
	switch {
	case err == nil:
		return nil
	case errors.As(err, &denied):
		return refusalOfDenied(denied).status()
	case errors.As(err, &exceeded):
		return refusal{code: codes.ResourceExhausted, text: exceeded.Error(), reason: string(core.CodeOverloaded), after: exceeded.RetryAfter}.status()
	case errors.As(err, &refused):
		return s.refusalOf(refused).status()
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return status.FromContextError(err).Err()
	}
	if _, ok := status.FromError(err); ok {
		return err // of grpc itself
	}
	s.options.Logger.Error("call failed", "method", method, slog.Any("error", err))
	return refusal{code: codes.Internal, text: "this node failed; its log says more", reason: "internal"}.status()
}

func refusalOfDenied(d *access.Denied) refusal {
	r := refusal{code: codes.PermissionDenied, text: d.Error(), reason: d.Reason(), metadata: map[string]string{"want": d.Want, "have": d.Have}}
	if d.Unauthenticated {
		r.code = codes.Unauthenticated
	}
	return r
}

// refusalOf adds where else to go, when it is this node that cannot serve.
func (s *Server) refusalOf(e *core.Error) refusal {
	r := refusal{code: wire.GRPCCode(e), text: e.Message, reason: string(e.Code), field: e.Field}
	if e.Field != "" {
		r.text = e.Field + ": " + e.Message
	}
	r.after, _ = wire.RetryAfter(e.Code)
	if elsewhere := e.Code == core.CodeUnavailable || e.Code == core.CodeOverloaded || e.Code == core.CodeHalted; elsewhere && s.options.Hint != nil {
		r.metadata = s.options.Hint()
	}
	return r
}

func (r refusal) status() error {
	details := []protoadapt.MessageV1{&errdetails.ErrorInfo{Reason: r.reason, Domain: errorDomain, Metadata: r.metadata}}
	if r.field != "" {
		details = append(details, &errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: r.field, Description: r.text}}})
	}
	if r.after > 0 {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(r.after)})
	}
	st, err := status.New(r.code, r.text).WithDetails(details...)
	if err != nil {
		return status.Error(r.code, r.text)
	}
	return st.Err()
}
