package fence

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/omnirelay/leadership/wire"
)

// cutGrace is how long a response that is being written may take to end after its
// leader was overtaken.
const cutGrace = time.Second

// Handler guards next: each request is one action, see Do, and next finds the
// authority it was admitted under by From. scope says on which scope a request acts:
// only that scope's leader may make it; nil: a leader of any scope may. An error of
// scope is answered with 400.
//
// A refusal is a problem document, see Problem. When the leader is overtaken, the
// request's context ends, and reading its body and writing its response fail, where
// the server's connection supports deadlines. What next writes of a response
// before that is sent; when it wrote none, the refusal is.
func (g *Guard) Handler(next http.Handler, scope func(r *http.Request) (string, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		authority, err := g.authenticate(r.Context(), r.Header.Values)
		if err == nil && scope != nil {
			err = checkScope(r, authority, scope)
		}
		if err != nil {
			writeProblem(w, r, g.count(err))
			return
		}
		action, err := g.Begin(r.Context(), authority.Scope, authority.Fence)
		if err != nil {
			writeProblem(w, r, err)
			return
		}
		defer action.End()
		g.serve(w, r.WithContext(With(action.Context(), authority)), action, next)
	})
}

func checkScope(r *http.Request, a Authority, scope func(r *http.Request) (string, error)) error {
	want, err := scope(r)
	switch {
	case err != nil:
		return malformed("scope", "%v", err)
	case want != a.Scope:
		return &ScopeError{Scope: a.Scope, Want: want}
	}
	return nil
}

// serve runs next, and cuts what the client lets it wait for once it is overtaken.
func (g *Guard) serve(w http.ResponseWriter, r *http.Request, action *Action, next http.Handler) {
	guarded := &guardedWriter{ResponseWriter: w, action: action}
	if r.Body != nil && r.Body != http.NoBody {
		r.Body = &guardedBody{ReadCloser: r.Body, action: action}
	}
	release := onOvertaken(action, func() { cut(w) })
	defer release() // w is not to be touched after we return
	next.ServeHTTP(guarded, r)
	if stale := action.Stale(); stale != nil && !guarded.wrote {
		release()
		if r.ProtoMajor == 1 { // later versions know no such header
			w.Header().Set("Connection", "close") // deadlines of the connection have passed
		}
		writeProblem(w, r, g.count(stale))
	}
}

// onOvertaken has f called when the action is overtaken. After release returned it is
// not and will not be running.
func onOvertaken(action *Action, f func()) (release func()) {
	var mu sync.Mutex
	stop := context.AfterFunc(action.Context(), func() {
		mu.Lock()
		defer mu.Unlock()
		if f != nil && action.Stale() != nil {
			f()
		}
	})
	return func() {
		stop()
		mu.Lock()
		defer mu.Unlock()
		f = nil
	}
}

// cut lets transfers that wait for the client fail. A writer without deadlines is
// left alone: then only the context ends.
func cut(w http.ResponseWriter) {
	c := http.NewResponseController(w)
	_ = c.SetReadDeadline(time.Now())
	_ = c.SetWriteDeadline(time.Now().Add(cutGrace))
}

// guardedBody is a request's body, of which nothing is handed over once the leader
// was overtaken.
type guardedBody struct {
	io.ReadCloser
	action *Action
}

func (b *guardedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if stale := b.action.Stale(); stale != nil {
		return 0, stale
	}
	return n, err
}

// guardedWriter refuses to write once the leader was overtaken.
type guardedWriter struct {
	http.ResponseWriter
	action *Action
	wrote  bool
}

// Unwrap is for http.ResponseController.
func (w *guardedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *guardedWriter) WriteHeader(status int) {
	if w.action.Stale() == nil {
		w.wrote = w.wrote || status >= http.StatusOK
		w.ResponseWriter.WriteHeader(status)
	}
}

func (w *guardedWriter) Write(p []byte) (int, error) {
	if stale := w.action.Stale(); stale != nil {
		return 0, stale
	}
	w.wrote = true
	return w.ResponseWriter.Write(p)
}

// FlushError is for http.ResponseController, and Flush for who asks for a Flusher.
func (w *guardedWriter) FlushError() error {
	if stale := w.action.Stale(); stale != nil {
		return stale
	}
	w.wrote = true
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Flush is FlushError for who cannot be told.
func (w *guardedWriter) Flush() { _ = w.FlushError() }

func writeProblem(w http.ResponseWriter, r *http.Request, err error) {
	p := problemOf(err, r.URL.Path)
	h := w.Header()
	h.Set("Content-Type", wire.ProblemContentType)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if after := retryAfter(err); after > 0 {
		h.Set("Retry-After", strconv.Itoa(max(1, int(after/time.Second))))
	}
	if p.Status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", "Leadership") // a 401 must name a scheme (RFC 9110)
	}
	w.WriteHeader(p.Status)
	// Who does not read the answer is not there to be told.
	_ = json.NewEncoder(w).Encode(p)
}
