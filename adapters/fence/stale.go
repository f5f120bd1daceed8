package fence

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/wire"
)

// maxProblem bounds how much of a response is read to find a problem document.
const maxProblem = 64 << 10

// StaleFrom finds in err that a resource refused the call because the leader was
// replaced: in a gRPC status, or a *core.StaleError itself. Who gets one has lost
// the leadership, whatever its lease says.
func StaleFrom(err error) (*core.StaleError, bool) {
	var stale *core.StaleError
	if err == nil || errors.As(err, &stale) {
		return stale, stale != nil
	}
	st, ok := status.FromError(err)
	if !ok {
		return nil, false
	}
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.Domain == Domain && info.Reason == ReasonStale {
			return staleOf(info.Metadata["scope"], info.Metadata["fence"], info.Metadata["required"])
		}
	}
	return nil, false
}

func staleOf(scope, fence, required string) (*core.StaleError, bool) {
	f, err := parseNumber("fence", fence)
	r, err2 := parseNumber("required", required)
	if err != nil || err2 != nil || core.ParseScopeID(scope) != nil {
		return nil, false
	}
	return &core.StaleError{Scope: scope, Fence: f, Required: r}, true
}

// StaleResponse is StaleFrom for an HTTP response: 409 with a problem document of the
// type urn:omnirelay:problem:stale-token. The body can be read afterwards as before.
func StaleResponse(r *http.Response) (*core.StaleError, bool) {
	if r == nil || r.StatusCode != http.StatusConflict || r.Body == nil {
		return nil, false
	}
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != wire.ProblemContentType {
		return nil, false
	}
	data, err := io.ReadAll(io.LimitReader(r.Body, maxProblem))
	r.Body = &reread{Reader: io.MultiReader(bytes.NewReader(data), failing{err}, r.Body), Closer: r.Body}
	var p Problem
	if json.Unmarshal(data, &p) != nil || p.Code != ReasonStale {
		return nil, false
	}
	return staleOf(p.Scope, decimal(p.Fence), decimal(p.Required))
}

// reread is a body of which a part was read already.
type reread struct {
	io.Reader
	io.Closer
}

// failing ends in the error that reading ended in; without one it is empty.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) {
	if f.err == nil {
		return 0, io.EOF
	}
	return 0, f.err
}
