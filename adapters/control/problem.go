package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/omnirelay/leadership/adapters/access"
	"github.com/omnirelay/leadership/adapters/telemetry"
	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/wire"
)

// refusal is an error that is not only a core.Error.
type refusal struct {
	problem *core.Error
	status  int
	header  http.Header
}

func (r *refusal) Error() string { return r.problem.Error() }
func (r *refusal) Unwrap() error { return r.problem }

func refuse(status int, code core.Code, field, format string, args ...any) *refusal {
	return &refusal{&core.Error{Code: code, Field: field, Message: fmt.Sprintf(format, args...)}, status, http.Header{}}
}

// later is a refusal that asks to come back.
func later(code core.Code, after time.Duration, format string, args ...any) *refusal {
	r := refuse(http.StatusServiceUnavailable, code, "", format, args...)
	r.header.Set("Retry-After", retryAfter(after))
	return r
}

// retryAfter rounds up: who comes too early is refused again.
func retryAfter(d time.Duration) string { return strconv.Itoa(max(1, int(math.Ceil(d.Seconds())))) }

// problemOf is the document that answers err, with the headers that go with it.
func problemOf(r *http.Request, err error) (wire.Problem, http.Header) {
	var (
		own      *refusal
		denied   *access.Denied
		exceeded *access.Exceeded
		known    *core.Error
	)
	switch {
	case errors.As(err, &own):
		p := wire.ProblemOf(err, r.URL.Path)
		p.Status = own.status
		return p, own.header
	case errors.As(err, &denied):
		return deniedProblem(r, denied)
	case errors.As(err, &exceeded):
		p := wire.ProblemOf(&core.Error{Code: core.CodeOverloaded, Message: exceeded.Error()}, r.URL.Path)
		return p, http.Header{"Retry-After": {retryAfter(exceeded.RetryAfter)}}
	case errors.As(err, &known):
		p := wire.ProblemOf(err, r.URL.Path)
		if known.Code == core.CodeTooOld && r.Method == http.MethodGet {
			p.Status = http.StatusGone // nothing was attempted: what was asked for is no more
		}
		return p, nil
	}
	return wire.ProblemOf(foreign(err), r.URL.Path), nil
}

// foreign finds core's words for errors of the libraries between a caller and core. A
// call whose time is over may have been executed.
func foreign(err error) error {
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return &core.Error{Code: core.CodeUnavailable, Message: "the time that the caller allowed is over; the outcome is unknown, retry with the same requestId"}
	case status.Code(err) == codes.Unimplemented:
		return &core.Error{Code: core.CodeUnsupported, Message: "this node does not serve the operation"}
	case status.Code(err) == codes.InvalidArgument:
		return &core.Error{Code: core.CodeInvalid, Message: clip(status.Convert(err).Message())}
	}
	return err
}

func deniedProblem(r *http.Request, d *access.Denied) (wire.Problem, http.Header) {
	p := wire.Problem{Type: "urn:omnirelay:problem:" + d.Reason(), Title: "The caller may not do this", Status: http.StatusForbidden,
		Detail: d.Error(), Instance: r.URL.Path, Code: d.Reason()}
	if !d.Unauthenticated {
		return p, nil
	}
	p.Title, p.Status = "The caller is not known", http.StatusUnauthorized
	return p, http.Header{"Www-Authenticate": {`Bearer realm="leadership"`}}
}

// writeProblem answers with an RFC 9457 document.
func (s *Server) writeProblem(w *statusWriter, r *http.Request, err error) {
	if w.written {
		return // a stream that broke: there is nobody to tell
	}
	s.options.Metrics.RequestRefused(telemetry.APIHTTP, access.RefusalOf(err))
	problem, header := problemOf(r, err)
	for name, values := range header {
		w.Header()[name] = values
	}
	if after, passes := wire.RetryAfter(core.Code(problem.Code)); passes && w.Header().Get("Retry-After") == "" {
		w.Header().Set("Retry-After", retryAfter(after))
	}
	if problem.Status >= http.StatusInternalServerError && problem.Status != http.StatusServiceUnavailable {
		s.options.Logger.Error("request failed", "path", clip(r.URL.Path), "error", err)
	}
	if r.ProtoMajor > 2 {
		w.Header().Del("Connection") // it has no such thing
	}
	w.Header().Set("Content-Type", wire.ProblemContentType)
	writeJSON(w, problem.Status, s.hinted(problem, err))
}

// hintedProblem also says where else to go.
type hintedProblem struct {
	wire.Problem
	Elsewhere map[string]string `json:"elsewhere,omitempty"`
}

// hinted adds another node where it is this one that cannot serve. A caller that is over
// its own limits is sent nowhere.
func (s *Server) hinted(p wire.Problem, err error) hintedProblem {
	var e *core.Error
	if s.options.Hint == nil || !errors.As(err, &e) {
		return hintedProblem{Problem: p}
	}
	switch e.Code {
	case core.CodeUnavailable, core.CodeOverloaded, core.CodeHalted:
		return hintedProblem{p, s.options.Hint()}
	}
	return hintedProblem{Problem: p}
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	if w.Header().Get("Content-Type") == "" {
		w.Header().Set("Content-Type", "application/json")
	}
	data, err := json.Marshal(v)
	if err != nil {
		panic(err) // our own types always encode
	}
	w.WriteHeader(status)
	_, _ = w.Write(append(data, '\n')) // the caller left: nobody to tell
}
