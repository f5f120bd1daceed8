package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/wire/controlpb"
)

// Service is the operations themselves, the same that gRPC serves. It finds the caller
// in the context and answers with core's errors.
type Service interface {
	controlpb.LeadershipMemberServiceServer
	controlpb.LeadershipRegistryServiceServer
	controlpb.LeadershipMeshServiceServer
}

// operation is one method of the schema that has a path.
type operation struct {
	method  string // of HTTP
	pattern string // of the path; variables have the names of fields
	name    string // in metrics and in Options.Open
	input   protoreflect.MessageDescriptor
}

// operations reads the schema, so that none of its methods can be forgotten here.
func operations() (all []operation) {
	for _, file := range []protoreflect.FileDescriptor{
		controlpb.File_leadership_member_proto, controlpb.File_leadership_registry_proto, controlpb.File_leadership_mesh_proto} {
		for i := range file.Services().Len() {
			methods := file.Services().Get(i).Methods()
			for j := range methods.Len() {
				m := methods.Get(j)
				rule, _ := proto.GetExtension(m.Options(), annotations.E_Http).(*annotations.HttpRule)
				o := operation{name: routeName(string(m.Name())), input: m.Input()}
				switch {
				case rule.GetGet() != "":
					o.method, o.pattern = http.MethodGet, rule.GetGet()
				case rule.GetPost() != "":
					o.method, o.pattern = http.MethodPost, rule.GetPost()
				default:
					continue // a stream
				}
				all = append(all, o)
			}
		}
	}
	return all
}

var wordStart = regexp.MustCompile(`([a-z])([A-Z])`)

// routeName makes leaders of ListLeaders and open-session of OpenSession.
func routeName(method string) string {
	method = strings.TrimPrefix(strings.TrimPrefix(method, "List"), "Read")
	return strings.ToLower(wordStart.ReplaceAllString(method, "$1-$2"))
}

// route is how an operation is reached.
func (o operation) route(s *Server) route {
	r := route{method: o.method, path: o.pattern, name: o.name, answer: s.operate}
	fields := o.input.Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		switch {
		case strings.Contains(o.pattern, "{"+string(field.Name())+"}"):
			r.variables = append(r.variables, field)
		case o.method == http.MethodGet:
			r.params = append(r.params, field.JSONName())
			r.fields = append(r.fields, field)
		}
	}
	return r
}

// newGateway returns the JSON side of service. It calls service in this process: what
// authenticates and bounds a call stands before it, in Server.serve.
func (s *Server) newGateway(service Service) (*runtime.ServeMux, error) {
	mux := runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, marshaler{}),
		runtime.WithErrorHandler(s.operationFailed),
		runtime.WithRoutingErrorHandler(unrouted),
		// Headers stay outside: who calls is in the context, and nothing else counts.
		runtime.WithIncomingHeaderMatcher(func(string) (string, bool) { return "", false }),
		runtime.WithOutgoingHeaderMatcher(func(string) (string, bool) { return "", false }),
		// Either would let a header or a form turn one method into another.
		runtime.WithDisableHTTPMethodOverride(),
		runtime.WithDisablePathLengthFallback(),
	)
	ctx := context.Background()
	err := errors.Join(controlpb.RegisterLeadershipMemberServiceHandlerServer(ctx, mux, service),
		controlpb.RegisterLeadershipRegistryServiceHandlerServer(ctx, mux, service),
		controlpb.RegisterLeadershipMeshServiceHandlerServer(ctx, mux, service))
	return mux, err
}

// operate hands a request to the operation that it names.
func (s *Server) operate(w http.ResponseWriter, r *request) error {
	c := &call{request: r}
	if r.Method == http.MethodPost {
		data, err := s.readBody(w, r)
		if err != nil {
			return err
		}
		c.body = data
	}
	in := r.Clone(r.Context())
	in.Body = c
	if in.Method == http.MethodHead {
		in.Method = http.MethodGet // the server drops the body of the answer
	}
	// A reader has some seconds for an answer, in which it could ask for any number more.
	counted := w.(*statusWriter)
	counted.count = func(size int) (func(), error) { return s.options.Gate.Limiter.Answer(r.caller, size) }
	s.gateway.ServeHTTP(counted, in)
	counted.count = nil
	if counted.refused != nil {
		w.Header().Del("Content-Length") // of what was not written
	}
	return counted.refused
}

// operationFailed answers with the error of an operation, or of reading its request.
func (s *Server) operationFailed(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, err error) {
	if c, ok := r.Body.(*call); ok && c.failed != nil {
		err = c.failed // the gateway keeps only its text
	}
	s.writeProblem(w.(*statusWriter), r, err)
}

// unrouted is for paths that Server.serve lets through and the gateway does not know:
// those with an encoded slash.
func unrouted(ctx context.Context, mux *runtime.ServeMux, m runtime.Marshaler, w http.ResponseWriter, r *http.Request, _ int) {
	runtime.HTTPError(ctx, mux, m, w, r, notServed(r.URL.Path))
}

// call is a request on its way through the gateway, dressed as the body of one.
type call struct {
	request *request
	body    []byte
	failed  error // why it could not be read
}

func (*call) Read([]byte) (int, error) { return 0, io.EOF }
func (*call) Close() error             { return nil }

// fill reads the body into m, and what headers and path say of the same fields.
func (c *call) fill(m proto.Message) error {
	if err := decode(c.body, m); err != nil {
		return err
	}
	if err := c.alias(m, "request_id", "Idempotency-Key"); err != nil {
		return err
	}
	if err := c.alias(m, "correlation_id", "X-Correlation-Id"); err != nil {
		return err
	}
	for _, field := range c.request.route.variables {
		// The gateway sets it afterwards, whatever the body says.
		message, inPath := m.ProtoReflect(), c.request.PathValue(string(field.Name()))
		if said := message.Get(field).String(); message.Has(field) && said != inPath {
			return wrong(field.JSONName(), "%s in the body, %s in the path; leave it out of the body", clip(said), clip(inPath))
		}
	}
	return nil
}

// alias sets a field from a header that other services use for the same thing.
func (c *call) alias(m proto.Message, name protoreflect.Name, header string) error {
	values := c.request.Header.Values(header)
	field := m.ProtoReflect().Descriptor().Fields().ByName(name)
	if len(values) == 0 || field == nil {
		return nil
	}
	if len(values) > 1 {
		return wrong(header, "given %d times; send it once", len(values))
	}
	said := m.ProtoReflect().Get(field).String()
	if said != "" && said != values[0] {
		return wrong(header, "it is %q and %s is %q; send one of them", clip(values[0]), field.JSONName(), clip(said))
	}
	m.ProtoReflect().Set(field, protoreflect.ValueOfString(values[0]))
	return nil
}

// marshaler is how the gateway reads and writes messages.
type marshaler struct{}

func (marshaler) ContentType(any) string { return "application/json" }

func (marshaler) Marshal(v any) ([]byte, error) {
	m, ok := v.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("%T is no message", v)
	}
	return append(encode(m), '\n'), nil
}

func (marshaler) Unmarshal(data []byte, v any) error {
	m, ok := v.(proto.Message)
	if !ok {
		return fmt.Errorf("%T is no message", v)
	}
	return decode(data, m)
}

func (marshaler) NewDecoder(r io.Reader) runtime.Decoder {
	return runtime.DecoderFunc(func(v any) error {
		c := r.(*call)
		c.failed = c.fill(v.(proto.Message))
		return c.failed
	})
}

func (m marshaler) NewEncoder(w io.Writer) runtime.Encoder {
	return runtime.EncoderFunc(func(v any) error {
		data, err := m.Marshal(v)
		if err == nil {
			_, err = io.Copy(w, bytes.NewReader(data))
		}
		return err
	})
}

// notServed is for what no route serves.
func notServed(path string) error {
	return refuse(http.StatusNotFound, core.CodeNotFound, "path", "%s is not served here", clip(path))
}
