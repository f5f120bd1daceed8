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
	if errors.As(err, &stale) {
		return stale, true
	}
	said := staleInfo(status.Convert(err))
	return staleOf(said["scope"], said["fence"], said["required"])
}

// staleInfo is what a status says of a stale leader; nil: nothing.
func staleInfo(st *status.Status) map[string]string {
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.Domain == Domain && info.Reason == ReasonStale {
			return info.Metadata
		}
	}
	return nil
}

func staleOf(scope, fence, required string) (*core.StaleError, bool) {
	s := &core.StaleError{Scope: scope, Fence: number(fence), Required: number(required)}
	if s.Fence == 0 || s.Required == 0 || !isScope(scope) {
		return nil, false
	}
	return s, true
}

func isScope(id string) bool { return core.ParseScopeID(id) == nil }

// number is 0 for what is none.
func number(text string) uint64 {
	n, _ := parseNumber("", text)
	return n
}

func isProblem(contentType string) bool {
	kind, _, err := mime.ParseMediaType(contentType)
	return err == nil && kind == wire.ProblemContentType
}

// StaleResponse is StaleFrom for an HTTP response: 409 with a problem document of the
// type urn:omnirelay:problem:stale-token. The body can be read afterwards as before.
func StaleResponse(r *http.Response) (*core.StaleError, bool) {
	if r == nil || r.StatusCode != http.StatusConflict || r.Body == nil || !isProblem(r.Header.Get("Content-Type")) {
		return nil, false
	}
	var p Problem
	_ = json.Unmarshal(peek(r), &p) // what is no problem document says nothing
	if p.Code != ReasonStale {
		return nil, false
	}
	return staleOf(p.Scope, decimal(p.Fence), decimal(p.Required))
}

// peek is the begin of a response's body, which can be read again.
func peek(r *http.Response) []byte {
	data, err := io.ReadAll(io.LimitReader(r.Body, maxProblem))
	r.Body = &reread{Reader: io.MultiReader(bytes.NewReader(data), failing{err}, r.Body), Closer: r.Body}
	return data
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
