package wire

import (
	"errors"
	"net/http"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/omnirelay/leadership/core"
)

// ProblemContentType is the media type of a Problem.
const ProblemContentType = "application/problem+json"

// Problem is an RFC 9457 problem document.
type Problem struct {
	Type     string `json:"type"`
	Title    string `json:"title"`
	Status   int    `json:"status"`
	Detail   string `json:"detail,omitempty"`
	Instance string `json:"instance,omitempty"`
	Code     string `json:"code"`            // a core code, for programs
	Field    string `json:"field,omitempty"` // the offending field
}

// answer is how a code looks on each API.
type answer struct {
	title string
	http  int
	grpc  codes.Code
}

var answers = map[core.Code]answer{
	core.CodeInvalid:        {"The request is wrong", http.StatusBadRequest, codes.InvalidArgument},
	core.CodeNotFound:       {"There is no such thing", http.StatusNotFound, codes.NotFound},
	core.CodeConflict:       {"The request contradicts what is there", http.StatusConflict, codes.FailedPrecondition},
	core.CodeSessionEnded:   {"The session has ended", http.StatusGone, codes.FailedPrecondition},
	core.CodeNotLeader:      {"The session does not lead the scope at that fence", http.StatusConflict, codes.FailedPrecondition},
	core.CodeRetiring:       {"The scope is being retired", http.StatusConflict, codes.FailedPrecondition},
	core.CodeLimit:          {"A limit is reached", http.StatusUnprocessableEntity, codes.ResourceExhausted},
	core.CodeTooOld:         {"The retry came too late to be recognized", http.StatusConflict, codes.FailedPrecondition},
	core.CodeUnsupported:    {"Not every node understands the request yet", http.StatusNotImplemented, codes.Unimplemented},
	core.CodeUnavailable:    {"There is no registrar; the outcome is unknown", http.StatusServiceUnavailable, codes.Unavailable},
	core.CodeOverloaded:     {"Too much is in flight", http.StatusTooManyRequests, codes.ResourceExhausted},
	core.CodeHalted:         {"This node has stopped", http.StatusServiceUnavailable, codes.Unavailable},
	core.CodeAlreadyStarted: {"The registry exists already", http.StatusConflict, codes.AlreadyExists},
}

// retryAfter is when to come back to a node that could not serve for a while.
const retryAfter = time.Second

// RetryAfter is when to send a refused request again; passes is false for codes that
// mean the same then.
func RetryAfter(code core.Code) (after time.Duration, passes bool) {
	switch code {
	case core.CodeUnavailable, core.CodeOverloaded, core.CodeHalted, core.CodeRetiring:
		return retryAfter, true
	}
	return 0, false
}

// answerTo falls back to an internal error for what no code names.
func answerTo(code core.Code) answer {
	if a, ok := answers[code]; ok {
		return a
	}
	return answer{"The node failed", http.StatusInternalServerError, codes.Internal}
}

// ProblemOf converts err, raised by a request for the path instance. An error that
// is not a *core.Error becomes an internal one without its text, which may tell
// more than a caller should know.
func ProblemOf(err error, instance string) Problem {
	code, detail, field := refusal(err)
	a := answerTo(code)
	name := string(code)
	if name == "" {
		name = "internal"
	}
	return Problem{Type: "urn:omnirelay:problem:" + name, Title: a.title, Status: a.http,
		Detail: detail, Instance: instance, Code: name, Field: field}
}

// GRPCCode is the gRPC status code of err: that of its core code, Internal without.
func GRPCCode(err error) codes.Code {
	code, _, _ := refusal(err)
	return answerTo(code).grpc
}

func refusal(err error) (code core.Code, detail, field string) {
	var e *core.Error
	if !errors.As(err, &e) {
		return core.CodeOK, "", ""
	}
	return e.Code, e.Message, e.Field
}
