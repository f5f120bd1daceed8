package rpc

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/omnirelay/leadership/adapters/transport"
	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/wire"
)

// errorDomain is the domain of the ErrorInfo in every refusal.
const errorDomain = "leadership.omnirelay"

// refusalOf is the status of a refused request: its code, what is wrong in words, the
// core code as ErrorInfo, and where it helps the field and when to come back.
func refusalOf(err error) error {
	var e *core.Error
	if !errors.As(err, &e) {
		return err
	}
	return refuse(wire.GRPCCode(e), e)
}

func refuse(code codes.Code, e *core.Error) error {
	details := []protoadapt.MessageV1{&errdetails.ErrorInfo{Reason: string(e.Code), Domain: errorDomain}}
	if e.Field != "" {
		details = append(details, &errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: e.Field, Description: e.Message}}})
	}
	if e.Code == core.CodeUnavailable || e.Code == core.CodeOverloaded {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(time.Second)})
	}
	text := e.Message
	if e.Field != "" {
		text = e.Field + ": " + text
	}
	st, err := status.New(code, text).WithDetails(details...)
	if err != nil {
		return status.Error(code, text)
	}
	return st.Err()
}

func unauthorized(code codes.Code, format string, args ...any) error {
	return refuse(code, &core.Error{Code: core.CodeInvalid, Field: "certificate", Message: fmt.Sprintf(format, args...)})
}

// authorize says who calls, or why they may not read.
func (s *Server) authorize(ctx context.Context) (caller string, err error) {
	id, err := identify(ctx)
	switch {
	case errors.Is(err, transport.ErrNoCertificate):
		return "", unauthorized(codes.Unauthenticated, "no client certificate was presented; call with one of role read, operate or admin")
	case err != nil:
		return "", unauthorized(codes.PermissionDenied, "%v", err)
	case id.Cluster != s.options.Cluster:
		return "", unauthorized(codes.PermissionDenied, "it is of cluster %q; this is %q", id.Cluster, s.options.Cluster)
	case id.Kind != transport.KindNode && !id.Role.Allows(transport.RoleRead):
		return "", unauthorized(codes.PermissionDenied, "%s may not read; want the role read, operate or admin", id)
	}
	return id.String(), nil
}

func identify(ctx context.Context) (transport.Identity, error) {
	if p, ok := peer.FromContext(ctx); ok {
		if tls, ok := p.AuthInfo.(credentials.TLSInfo); ok {
			return transport.PeerIdentity(tls.State)
		}
	}
	return transport.Identity{}, transport.ErrNoCertificate
}
