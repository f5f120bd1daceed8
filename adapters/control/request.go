package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/omnirelay/leadership/adapters/transport"
	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/wire"
)

// route is one endpoint.
type route struct {
	path   string
	name   string   // in metrics and in Options.Open
	always bool     // never asks for a certificate
	params []string // of the query; others are refused
	answer func(w http.ResponseWriter, r *request) error
}

func (s *Server) routes() []route {
	return []route{
		{path: "/control/held", name: EndpointHeld, answer: s.held},
		{path: "/control/leaders", name: EndpointLeaders, params: []string{"scope", "linearizable"}, answer: s.leaders},
		{path: "/control/events/leadership", name: EndpointEvents, params: []string{"scope"}, answer: s.events},
		{path: "/control/audit", name: EndpointAudit, params: []string{"scope", "after", "limit"}, answer: s.audit},
		{path: "/healthz", name: "healthz", always: true, answer: s.health},
		{path: "/readyz", name: "readyz", always: true, answer: s.ready},
		{path: "/metrics", name: EndpointMetrics, answer: s.metrics},
		{path: "/", name: "unknown", always: true, answer: unknown},
	}
}

// request is an admitted request.
type request struct {
	*http.Request
	query  map[string]string // each parameter at most once
	caller string            // for the log
}

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
	r.header.Set("Retry-After", strconv.Itoa(max(1, int(after/time.Second))))
	return r
}

// serve admits a request, answers it and counts it.
func (s *Server) serve(rt route) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		counted := &statusWriter{ResponseWriter: w, status: http.StatusOK}
		defer func() { s.options.Metrics.Request(rt.name, counted.status) }()
		// For everything but streams, which set their own. A read may wait first. A
		// writer without deadlines serves no streams, and the rest ends by itself.
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(s.options.ReadTimeout + s.options.WriteTimeout))
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		req, err := s.admit(rt, r)
		if err == nil {
			err = rt.answer(counted, req)
		}
		if err != nil {
			s.writeProblem(counted, r, err)
		}
	})
}

// admit checks everything that does not depend on the endpoint.
func (s *Server) admit(rt route, r *http.Request) (*request, error) {
	caller, err := s.authorize(rt, r)
	if err != nil {
		return nil, err
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		e := refuse(http.StatusMethodNotAllowed, core.CodeInvalid, "method", "%s is not served here; want GET", clip(r.Method))
		e.header.Set("Allow", "GET, HEAD")
		return nil, e
	}
	if r.ContentLength != 0 {
		e := refuse(http.StatusRequestEntityTooLarge, core.CodeInvalid, "body", "this endpoint takes no body; send none")
		e.header.Set("Connection", "close")
		return nil, e
	}
	query, err := parseQuery(rt, r.URL.RawQuery)
	if err != nil {
		return nil, err
	}
	return &request{r, query, caller}, nil
}

// authorize says who calls, or why they may not.
func (s *Server) authorize(rt route, r *http.Request) (caller string, err error) {
	id, err := identify(r)
	if err == nil && id.Cluster == s.options.Cluster && (id.Kind == transport.KindNode || id.Role.Allows(transport.RoleRead)) {
		return id.String(), nil
	}
	switch {
	case rt.always || slices.Contains(s.options.Open, rt.name):
		return "anonymous", nil
	case errors.Is(err, transport.ErrNoCertificate):
		return "", refuse(http.StatusUnauthorized, core.CodeInvalid, "certificate", "no client certificate was presented; call with one of role read, operate or admin")
	case err != nil:
		return "", refuse(http.StatusForbidden, core.CodeInvalid, "certificate", "%v", err)
	case id.Cluster != s.options.Cluster:
		return "", refuse(http.StatusForbidden, core.CodeInvalid, "certificate", "it is of cluster %q; this is %q", id.Cluster, s.options.Cluster)
	}
	return "", refuse(http.StatusForbidden, core.CodeInvalid, "certificate", "%s may not read; want the role read, operate or admin", id)
}

func identify(r *http.Request) (transport.Identity, error) {
	if r.TLS == nil {
		return transport.Identity{}, transport.ErrNoCertificate
	}
	return transport.PeerIdentity(*r.TLS)
}

// parseQuery accepts each parameter of the endpoint at most once, and no others.
func parseQuery(rt route, raw string) (map[string]string, error) {
	if len(raw) > maxQueryBytes {
		return nil, refuse(http.StatusRequestURITooLong, core.CodeInvalid, "query", "%d bytes; at most %d are read", len(raw), maxQueryBytes)
	}
	values, err := url.ParseQuery(raw)
	if err != nil {
		return nil, refuse(http.StatusBadRequest, core.CodeInvalid, "query", "it is malformed; write name=value pairs joined by &, percent-encoded")
	}
	query := make(map[string]string, len(values))
	for name, list := range values {
		if rt.name != "unknown" && !slices.Contains(rt.params, name) {
			return nil, refuse(http.StatusBadRequest, core.CodeInvalid, clip(name), "unknown query parameter; %s", knownParams(rt))
		}
		if len(list) > 1 {
			return nil, refuse(http.StatusBadRequest, core.CodeInvalid, clip(name), "given %d times; write it once", len(list))
		}
		query[name] = list[0]
	}
	return query, nil
}

func knownParams(rt route) string {
	if len(rt.params) == 0 {
		return "this endpoint takes none"
	}
	return "known here: " + strings.Join(rt.params, ", ")
}

// scopeParam is the query's scope, empty for all.
func (r *request) scopeParam() (string, error) {
	scope, given := r.query["scope"]
	if !given {
		return "", nil
	}
	return scope, core.ParseScopeID(scope)
}

// boolParam is false when the parameter is not there.
func (r *request) boolParam(name string) (bool, error) {
	switch value, given := r.query[name]; {
	case !given, value == "false":
		return false, nil
	case value == "true":
		return true, nil
	}
	return false, refuse(http.StatusBadRequest, core.CodeInvalid, name, "%q is neither true nor false", clip(r.query[name]))
}

// numberParam reads decimal digits for a number from low to high.
func (r *request) numberParam(name string, low, high uint64) (n uint64, given bool, err error) {
	text, given := r.query[name]
	if !given {
		return 0, false, nil
	}
	n, err = strconv.ParseUint(text, 10, 64)
	if err != nil || n < low || n > high {
		return 0, true, refuse(http.StatusBadRequest, core.CodeInvalid, name, "%q is out of bounds; write a number from %d to %d", clip(text), low, high)
	}
	return n, true, nil
}

func unknown(_ http.ResponseWriter, r *request) error {
	return refuse(http.StatusNotFound, core.CodeNotFound, "path", "%s is not served here", clip(r.URL.Path))
}

// writeProblem answers with an RFC 9457 document.
func (s *Server) writeProblem(w *statusWriter, r *http.Request, err error) {
	if w.written {
		return // a stream that broke: there is nobody to tell
	}
	problem := wire.ProblemOf(err, r.URL.Path)
	var e *refusal
	if errors.As(err, &e) {
		problem.Status = e.status
		for name, values := range e.header {
			w.Header()[name] = values
		}
	}
	if problem.Status == http.StatusServiceUnavailable && w.Header().Get("Retry-After") == "" {
		w.Header().Set("Retry-After", "1")
	}
	if problem.Status >= http.StatusInternalServerError && problem.Status != http.StatusServiceUnavailable {
		s.options.Logger.Error("request failed", "path", clip(r.URL.Path), "error", err)
	}
	w.Header().Set("Content-Type", wire.ProblemContentType)
	writeJSON(w, problem.Status, problem)
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

// statusWriter remembers what was answered.
type statusWriter struct {
	http.ResponseWriter
	status  int
	written bool
}

func (w *statusWriter) WriteHeader(status int) {
	w.status, w.written = status, true
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusWriter) Write(p []byte) (int, error) {
	w.written = true
	return w.ResponseWriter.Write(p)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// clip keeps what a caller wrote from filling an answer.
func clip(text string) string {
	const most = 80
	if len(text) <= most {
		return strings.ToValidUTF8(text, "?")
	}
	return strings.ToValidUTF8(text[:most], "?") + "…"
}
