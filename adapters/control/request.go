package control

import (
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/omnirelay/leadership/adapters/access"
	"github.com/omnirelay/leadership/core"
)

// route is one endpoint: a method of HTTP on a path.
type route struct {
	method    string // of HTTP; GET answers HEAD too
	path      string
	name      string                         // in metrics and in Options.Open
	always    bool                           // never asks for a credential
	free      bool                           // not counted against the rate of its caller
	params    []string                       // of the query; others are refused
	fields    []protoreflect.FieldDescriptor // what params are in the schema; none: answer reads them itself
	variables []protoreflect.FieldDescriptor // of the path
	answer    func(w http.ResponseWriter, r *request) error
}

func (s *Server) routes() []route {
	all := []route{
		{path: "/control/held", name: EndpointHeld, answer: s.held},
		{path: "/control/events/leadership", name: EndpointEvents, params: []string{"scope"}, answer: s.events},
		{path: "/control/keys", name: "keys", always: true, answer: s.keys},
		{path: "/control/openapi.json", name: "openapi", answer: s.openAPI},
		// Whoever probes must not be answered by a limit: it would take the node for dead.
		{path: "/healthz", name: "healthz", always: true, free: true, answer: s.health},
		{path: "/readyz", name: "readyz", always: true, free: true, answer: s.ready},
		{path: "/metrics", name: EndpointMetrics, answer: s.metrics},
	}
	for i := range all {
		all[i].method = http.MethodGet
	}
	for _, o := range operations() {
		all = append(all, o.route(s))
	}
	return all
}

// handle serves every route of one path.
func (s *Server) handle(routes []route) {
	byPath := map[string][]route{}
	for _, rt := range routes {
		byPath[rt.path] = append(byPath[rt.path], rt)
	}
	for path, same := range byPath {
		s.mux.Handle(path, s.serve(same))
	}
	s.mux.Handle("/", s.serve([]route{{method: "*", name: "unknown", always: true, answer: unknown}}))
}

// request is an admitted request.
type request struct {
	*http.Request
	route  route
	query  map[string]string // each parameter at most once
	caller access.Caller
}

// serve admits a request, answers it and counts it. The routes differ in their method.
func (s *Server) serve(routes []route) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rt, served := choose(routes, r.Method)
		counted := &statusWriter{ResponseWriter: w, status: http.StatusOK}
		defer func() { s.options.Metrics.Request(rt.name, counted.status) }()
		// For everything but streams, which set their own. A call may wait first. A
		// writer without deadlines serves no streams, and the rest ends by itself.
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(s.options.ReadTimeout + s.options.WriteTimeout))
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		req, err := s.admit(rt, r)
		if err == nil && !served {
			err = notAllowed(routes, r.Method)
		}
		if err == nil {
			err = rt.answer(counted, req)
		}
		if err != nil {
			s.writeProblem(counted, r, err)
		}
	})
}

// choose finds the route of a method, or one to blame.
func choose(routes []route, method string) (rt route, served bool) {
	for _, rt := range routes {
		if rt.method == "*" || rt.method == method || rt.method == http.MethodGet && method == http.MethodHead {
			return rt, true
		}
	}
	return routes[0], false
}

func notAllowed(routes []route, method string) error {
	var allow []string
	for _, rt := range routes {
		if allow = append(allow, rt.method); rt.method == http.MethodGet {
			allow = append(allow, http.MethodHead)
		}
	}
	slices.Sort(allow)
	e := refuse(http.StatusMethodNotAllowed, core.CodeInvalid, "method", "%s is not served here; want %s", clip(method), strings.Join(allow, ", "))
	e.header.Set("Allow", strings.Join(allow, ", "))
	return e
}

// admit checks everything that does not depend on the endpoint.
func (s *Server) admit(rt route, r *http.Request) (*request, error) {
	caller, err := s.authorize(rt, r)
	if err != nil {
		return nil, err
	}
	// Over HTTP/3 the length of what was not announced is not known to be 0.
	if r.Method != http.MethodPost && (r.ContentLength > 0 || r.ContentLength < 0 && r.ProtoMajor < 3) {
		return nil, tooLarge("this endpoint takes no body; send none")
	}
	query, err := parseQuery(rt, r.URL.RawQuery)
	if err != nil {
		return nil, err
	}
	for _, field := range rt.variables {
		if err := checkText(field, r.PathValue(string(field.Name()))); err != nil {
			return nil, err
		}
	}
	return &request{r.WithContext(access.WithCaller(r.Context(), caller)), rt, query, caller}, nil
}

// authorize says who calls, or why they may not or not now. What changes something asks
// for more than reading by itself.
func (s *Server) authorize(rt route, r *http.Request) (access.Caller, error) {
	shown := access.Evidence{TLS: r.TLS, Authorization: r.Header.Values("Authorization"), Remote: r.RemoteAddr}
	nothing := len(shown.Authorization) == 0 && (r.TLS == nil || len(r.TLS.PeerCertificates) == 0)
	if rt.always || nothing && slices.Contains(s.options.Open, rt.name) {
		anyone := access.Anonymous(r.RemoteAddr)
		anyone.Role = access.RoleRead
		if rt.free {
			return anyone, nil
		}
		return anyone, s.options.Gate.Limiter.Request(anyone)
	}
	caller, err := s.options.Gate.Admit(r.Context(), shown)
	if err == nil && rt.method == http.MethodGet {
		err = caller.MayRead()
	}
	return caller, err
}

// readBody reads the JSON of a request that changes something.
func (s *Server) readBody(w http.ResponseWriter, r *request) ([]byte, error) {
	if err := s.sameSite(r); err != nil {
		return nil, err
	}
	// The server has no limit of its own on how slowly a body comes in: it serves streams.
	wire := http.NewResponseController(w)
	_ = wire.SetReadDeadline(time.Now().Add(s.bodyWithin))
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, s.options.MaxBody))
	_ = wire.SetReadDeadline(time.Time{})
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return nil, tooLarge("it has more than " + strconv.FormatInt(large.Limit, 10) + " bytes; send less at once")
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, refuse(http.StatusRequestTimeout, core.CodeInvalid, "body", "it did not arrive within %v", s.bodyWithin)
	case err != nil:
		return nil, wrong("body", "it broke off")
	}
	return data, nil
}

// sameSite refuses what a page of another site had a browser send. A browser adds a
// client certificate to every request, whichever page made it: without this, any page
// that an operator visits could transfer and retire. Such a page cannot send this
// content type unasked, and browsers say where a request comes from; either would do.
func (s *Server) sameSite(r *request) error {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return refuse(http.StatusUnsupportedMediaType, core.CodeInvalid, "Content-Type", "%q; want application/json, with a body or without", clip(r.Header.Get("Content-Type")))
	}
	if err := s.crossOrigin.Check(r.Request); err != nil {
		return refuse(http.StatusForbidden, core.CodeInvalid, "Origin", "it comes from a page of another site; only pages of this node and programs are served")
	}
	if r.TLS != nil && !r.TLS.HandshakeComplete {
		return refuse(http.StatusTooEarly, core.CodeInvalid, "connection", "sent before the handshake was over, which somebody else may repeat; send it again")
	}
	return nil
}

func tooLarge(message string) error {
	e := refuse(http.StatusRequestEntityTooLarge, core.CodeInvalid, "body", "%s", message)
	e.header.Set("Connection", "close")
	return e
}

// parseQuery accepts each parameter of the endpoint at most once, and no others.
func parseQuery(rt route, raw string) (map[string]string, error) {
	if len(raw) > maxQueryBytes {
		return nil, refuse(http.StatusRequestURITooLong, core.CodeInvalid, "query", "%d bytes; at most %d are read", len(raw), maxQueryBytes)
	}
	values, err := url.ParseQuery(raw)
	if err != nil {
		return nil, wrong("query", "it is malformed; write name=value pairs joined by &, percent-encoded")
	}
	query := make(map[string]string, len(values))
	for name, list := range values {
		blamed := clip(name)
		if name == "" {
			blamed = "query"
		}
		if rt.method != "*" && !slices.Contains(rt.params, name) {
			return nil, wrong(blamed, "unknown query parameter; %s", knownParams(rt))
		}
		if len(list) > 1 {
			return nil, wrong(blamed, "given %d times; write it once", len(list))
		}
		query[name] = list[0]
	}
	for _, field := range rt.fields {
		if text, given := query[field.JSONName()]; given {
			if err := checkText(field, text); err != nil {
				return nil, err
			}
		}
	}
	return query, nil
}

// checkText checks what the query or the path says of a field, more strictly than the
// gateway does that reads it.
func checkText(field protoreflect.FieldDescriptor, text string) error {
	name := field.JSONName()
	switch field.Kind() {
	case protoreflect.StringKind:
		if strings.HasPrefix(name, "scope") {
			return core.ParseScopeID(text)
		}
		return core.CheckMemberID(name, text)
	case protoreflect.BoolKind:
		if text != "true" && text != "false" {
			return wrong(name, "%q is neither true nor false", clip(text))
		}
		return nil
	}
	_, err := number(field.Kind(), text, name)
	return err
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

func unknown(_ http.ResponseWriter, r *request) error { return notServed(r.URL.Path) }

// statusWriter remembers what was answered.
type statusWriter struct {
	http.ResponseWriter
	status  int
	written bool

	count   func(size int) (release func(), err error) // an answer that is not read yet; nil: streams
	refused error                                      // by count: nothing was written
}

func (w *statusWriter) WriteHeader(status int) {
	w.status, w.written = status, true
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusWriter) Write(p []byte) (int, error) {
	if w.count != nil {
		release, err := w.count(len(p))
		if err != nil {
			w.refused = err
			return len(p), nil // or the gateway would fill the log with it
		}
		defer release()
	}
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
