package api

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/adapters/access"
	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
	"github.com/omnirelay/leadership/wire"
)

// randomID names a request whose caller did not.
func randomID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand ends the program instead
	return hex.EncodeToString(b[:])
}

// idPrefix is the length of what stands before a caller's request id in the log.
const idPrefix = 2*12 + 1

// logID is the request id of a converted request in the log. Before the caller's own stands
// a digest of two things. Who asks, or one caller could take the reply of another: by
// name, not by credential, since a retry with a renewed certificate is a retry. And what
// is asked, or a request that was given an id of before by mistake would get that
// one's reply and never be executed.
func logID(caller access.Caller, c *logpb.Command) string {
	what, err := proto.MarshalOptions{Deterministic: true}.Marshal(&logpb.Command{Kind: c.Kind})
	if err != nil {
		what = nil // no UTF-8 in it: refused when it is validated
	}
	sum := sha256.New()
	_, _ = fmt.Fprintf(sum, "%d/%s/", len(caller.Name), caller.Name)
	_, _ = sum.Write(what) // a hash takes everything
	return hex.EncodeToString(sum.Sum(nil)[:12]) + "/" + c.RequestId
}

// ownID is the caller's part of a request id in the log.
func ownID(id string) string { return id[min(idPrefix, len(id)):] }

// complete makes a converted request a command of its caller, with an id of its own.
func (s *Service) complete(c *logpb.Command, caller access.Caller) {
	if c.RequestId == "" {
		c.RequestId = s.newID()
	}
	c.RequestId = logID(caller, c)
	s.attribute(c, caller)
}

// attribute says whose command it is, and from when.
//
// A base of 0 becomes the revision of this node's copy, each time anew: such a retry is
// recognized as long as its reply is kept (core.MaxReplies). Whoever retries over longer
// times sends the same base each time, and is refused when nobody can tell any more.
func (s *Service) attribute(c *logpb.Command, caller access.Caller) {
	c.Actor = caller.Name
	if c.Base == 0 {
		s.o.Source.View(func(g *core.Registry, _ core.Status) { c.Base = g.Revision() })
	}
}

// execute has a command executed.
func (s *Service) execute(ctx context.Context, caller access.Caller, c *logpb.Command) (*core.Result, error) {
	s.complete(c, caller)
	return s.do(ctx, c)
}

// do has a complete command executed.
func (s *Service) do(ctx context.Context, c *logpb.Command) (*core.Result, error) {
	result, err := s.o.Source.Do(ctx, c)
	var refused *core.Error
	if result != nil && errors.As(err, &refused) && refused.Code == core.CodeTooOld {
		return nil, &core.Error{Code: core.CodeTooOld, Field: refused.Field, Message: fmt.Sprintf("%s: %d", refused.Message, result.Revision)}
	}
	return result, outcome(ctx, err)
}

// bounded gives a call the node's window, if its caller did not give it less.
func (s *Service) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, s.o.Window, &core.Error{Code: core.CodeUnavailable, Message: fmt.Sprintf(
		"no registrar answered within %v; whether anything was executed is unknown: retry with the same request id", s.o.Window)})
}

// outcome tells the end of a time that this node chose, whose cause is the refusal, from
// the end of the caller's.
func outcome(ctx context.Context, err error) error {
	var refused *core.Error
	if errors.Is(err, context.DeadlineExceeded) && errors.As(context.Cause(ctx), &refused) {
		return refused
	}
	return err
}

// asked makes an error of a conversion one of the API.
func asked(err error) error {
	var e *wire.FieldError
	if errors.As(err, &e) {
		return &core.Error{Code: core.CodeInvalid, Field: e.Field, Message: e.Message}
	}
	return err
}

// barrier waits until the copy holds all that was acknowledged before.
func (s *Service) barrier(ctx context.Context) error {
	return outcome(ctx, s.o.Source.ReadBarrier(ctx))
}

// vouch refuses to answer from a copy that may be behind without bound.
func vouch(st *core.Status) error {
	if st.Ready {
		return nil
	}
	return &core.Error{Code: core.CodeUnavailable, Message: st.NotReadyReason}
}
