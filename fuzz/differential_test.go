package fuzz_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/wire"
	"github.com/omnirelay/leadership/wire/controlpb"
)

// operation is a method of the schema that both protocols serve.
type operation struct {
	grpc     string // full name
	method   string // of HTTP
	pattern  string // of the path
	in, out  protoreflect.MessageDescriptor
	examples []proto.Message
}

// operations reads the schema, so that a new method is tried as soon as it is there.
func operations() (all []operation) {
	examples := exampleRequests()
	for _, file := range []protoreflect.FileDescriptor{
		controlpb.File_leadership_member_proto, controlpb.File_leadership_registry_proto, controlpb.File_leadership_mesh_proto} {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				m := service.Methods().Get(j)
				rule, _ := proto.GetExtension(m.Options(), annotations.E_Http).(*annotations.HttpRule)
				o := operation{grpc: fmt.Sprintf("/%s/%s", service.FullName(), m.Name()), in: m.Input(), out: m.Output(), examples: examples[m.Input().FullName()]}
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

// exampleRequests are good ones, by the name of their message.
func exampleRequests() map[protoreflect.FullName][]proto.Message {
	limit, after := uint32(3), uint64(1)
	examples := map[protoreflect.FullName][]proto.Message{}
	for _, m := range []proto.Message{
		&controlpb.OpenSessionRequest{RequestId: "o", MemberId: "m", Stands: []*controlpb.Wish{{Selector: &controlpb.Selector{Id: "a"}, Priority: 3}}, Replaces: 1},
		&controlpb.KeepAliveRequest{Session: 1, Number: 1},
		&controlpb.KeepAliveRequest{Session: 2, Number: 1},
		&controlpb.StandRequest{RequestId: "s", Session: 1, Selector: &controlpb.Selector{Id: "a"}, Number: 1},
		&controlpb.StandRequest{RequestId: "s", Session: 1, Selector: &controlpb.Selector{}, Priority: 11},
		&controlpb.WithdrawRequest{RequestId: "w", Session: 1, Selector: &controlpb.Selector{}},
		&controlpb.ResignRequest{RequestId: "r", Session: 1, Scope: "a", FenceToken: 1},
		&controlpb.CloseSessionRequest{RequestId: "c", Session: 1},
		&controlpb.CloseSessionRequest{RequestId: "c", Session: 3},
		&controlpb.SignTokenRequest{Session: 1, Scope: "a", FenceToken: 1},
		&controlpb.ListLeadersRequest{Scope: "a", Linearizable: true},
		&controlpb.ListLeadersRequest{Scope: "none"},
		&controlpb.ListScopesRequest{},
		&controlpb.ListSessionsRequest{MemberId: "m"},
		&controlpb.ReadAuditRequest{Scope: "a", After: &after, Limit: &limit},
		&controlpb.DeclareScopesRequest{RequestId: "d", Scopes: []*controlpb.ScopeSpec{{Id: "c", Labels: map[string]string{"a": "b"}, Failover: 2}, {Id: "shard/x/2"}}},
		&controlpb.RetireScopesRequest{RequestId: "x", Scopes: []string{"b"}},
		&controlpb.TransferRequest{RequestId: "t", Scope: "a", ToMember: "other"},
		&controlpb.CancelTransferRequest{RequestId: "u", Scope: "b"},
		&controlpb.CordonRequest{RequestId: "k", MemberId: "m", Drain: true},
		&controlpb.UncordonRequest{RequestId: "l", MemberId: "m"},
		&controlpb.CordonRequest{RequestId: "n", MemberId: "other", Why: "kernel update"},
		&controlpb.RebalanceRequest{RequestId: "r", DryRun: true, Why: "w"},
		&controlpb.RebalanceRequest{RequestId: "r", Limit: &limit},
		&controlpb.ListPeersRequest{},
		&controlpb.ListPeersRequest{MemberId: "gossiping"},
		&controlpb.ListPeersRequest{MemberId: "nobody"},
		&controlpb.ListNodesRequest{},
		&controlpb.AddNodeRequest{RequestId: "e", Node: &controlpb.NewNode{Name: "node-2", PeerAddress: "h:1", HttpAddress: "h:2", GrpcAddress: "h:3"}},
		&controlpb.RemoveNodeRequest{RequestId: "f", Name: "node-2"},
		&controlpb.ReplaceNodeRequest{RequestId: "g", Name: "node-1", By: &controlpb.NewNode{Name: "node-2", PeerAddress: "h:1"}, Why: "w"},
		&controlpb.ReplaceNodeRequest{RequestId: "i", Name: " "},
		&controlpb.MoveRegistrarRequest{RequestId: "h", Why: "w"},
	} {
		name := m.ProtoReflect().Descriptor().FullName()
		examples[name] = append(examples[name], m)
	}
	return examples
}

// The same requests, by the same caller, on nodes in the same state, have the same
// answers over gRPC and as JSON, and leave the nodes in the same state.
func FuzzSameAnswers(f *testing.F) {
	s := newSite(f)
	all := operations()
	for i, o := range all {
		for _, m := range o.examples {
			f.Add(o.caller(), uint8(i), marshal(f, m), uint8(i), marshal(f, m))
		}
	}
	f.Fuzz(func(t *testing.T, caller, first uint8, a []byte, second uint8, b []byte) {
		s.begin(t)
		who := s.callers[int(caller)%len(s.callers)]
		s.compare(t, who, all[int(first)%len(all)], a)
		s.compare(t, who, all[int(second)%len(all)], b)
		s.wantSameState(t)
	})
}

// TestSameAnswersToEverybody makes every example twice, as every kind of caller.
func TestSameAnswersToEverybody(t *testing.T) {
	s := newSite(t)
	for _, o := range operations() {
		if len(o.examples) == 0 {
			t.Errorf("no example of %s", o.in.FullName())
		}
		for _, m := range o.examples {
			for i, who := range s.callers {
				s.begin(t)
				got, compared := s.compare(t, who, o, marshal(t, m))
				again, _ := s.compare(t, who, o, marshal(t, m))
				s.wantSameState(t)
				if i == int(o.caller()) && (!compared || got.body == "" && !o.refused(m)) {
					t.Errorf("%s %v is refused by both: %+v, then %+v", o.grpc, m, got, again)
				}
			}
		}
	}
}

// caller is who may call o: an administrator, or a member.
func (o operation) caller() uint8 {
	if strings.Contains(o.grpc, "MemberService") {
		return 1
	}
	return 0
}

// refused is true for the examples that nobody may ask.
func (o operation) refused(m proto.Message) bool {
	switch r := m.(type) {
	case *controlpb.KeepAliveRequest:
		return r.Session == 2 // it has ended
	case *controlpb.CloseSessionRequest:
		return r.Session == 3 // of another member
	case *controlpb.StandRequest:
		return r.Priority > 10 // more than is granted
	case *controlpb.ListLeadersRequest:
		return r.Scope == "none"
	case *controlpb.ListPeersRequest:
		return r.MemberId == "nobody"
	case *controlpb.RemoveNodeRequest:
		return true // it was never added
	case *controlpb.ReplaceNodeRequest:
		return true // nobody has told its name yet
	}
	return false
}

func (s *site) begin(t testing.TB) {
	s.grpcNode.begin(t)
	s.httpNode.begin(t)
}

func (s *site) wantSameState(t *testing.T) {
	t.Helper()
	if s.grpcNode.hash() != s.httpNode.hash() {
		t.Fatal("the nodes are in different states")
	}
}

// outcome is what a caller is told.
type outcome struct {
	reason, field, text string
	retry               bool
	body                string // as Proto JSON; empty for refusals
}

// compare asks both nodes and returns what they told. compared is false for what cannot
// be said in JSON.
func (s *site) compare(t *testing.T, who string, o operation, data []byte) (told outcome, compared bool) {
	t.Helper()
	request := dynamicpb.NewMessage(o.in)
	if proto.Unmarshal(data, request) != nil || !s.prepare(request) {
		return outcome{}, false
	}
	httpRequest := s.jsonRequest(t, who, o, request)
	if httpRequest == nil {
		return outcome{}, false
	}
	byGRPC := s.askGRPC(t, who, o, request)
	byHTTP := s.askHTTP(t, o, httpRequest)
	if byGRPC.reason == "denied" && byHTTP.reason == "invalid" {
		return byGRPC, true // the form of a path and a query is read before anybody asks for a role
	}
	if byGRPC != byHTTP {
		t.Fatalf("%s %v\ngRPC %+v\nHTTP %+v", o.grpc, request, byGRPC, byHTTP)
	}
	return byGRPC, true
}

// prepare names what a node would name at random, and keeps a request from waiting for
// what never comes. It is false for what JSON cannot say.
func (s *site) prepare(m *dynamicpb.Message) bool {
	if hasUnknown(m) {
		return false
	}
	fields := m.Descriptor().Fields()
	for _, name := range []protoreflect.Name{"request_id", "correlation_id"} {
		if field := fields.ByName(name); field != nil && m.Get(field).String() == "" {
			m.Set(field, protoreflect.ValueOfString("named"))
		}
	}
	var revision uint64
	s.grpcNode.View(func(g *core.Registry, _ core.Status) { revision = g.Revision() })
	if field := fields.ByName("cursor"); field != nil && m.Get(field).Uint() > revision && m.Get(field).Uint() <= wire.MaxNumber {
		m.Set(field, protoreflect.ValueOfUint64(revision))
	}
	return true
}

// hasUnknown finds fields and values of a later version of the schema: JSON is read by
// names, and has none for them.
func hasUnknown(m protoreflect.Message) (found bool) {
	if len(m.GetUnknown()) > 0 {
		return true
	}
	m.Range(func(field protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		of := func(v protoreflect.Value) bool {
			switch field.Kind() {
			case protoreflect.EnumKind:
				return field.Enum().Values().ByNumber(v.Enum()) == nil
			case protoreflect.MessageKind:
				return hasUnknown(v.Message())
			}
			return false
		}
		switch {
		case field.IsMap(): // of texts
		case field.IsList():
			for i := range v.List().Len() {
				found = found || of(v.List().Get(i))
			}
		default:
			found = of(v)
		}
		return !found
	})
	return found
}

// jsonRequest says the same in JSON; nil when that cannot be said.
func (s *site) jsonRequest(t *testing.T, who string, o operation, m *dynamicpb.Message) *http.Request {
	t.Helper()
	rest := proto.Clone(m).(*dynamicpb.Message)
	path := o.pattern
	query := url.Values{}
	for i := range o.in.Fields().Len() {
		field := o.in.Fields().Get(i)
		text := rest.Get(field).String()
		switch variable := "{" + string(field.Name()) + "}"; {
		case strings.Contains(path, variable):
			if text == "" || strings.Contains(text, "/") || text == "." || text == ".." {
				return nil
			}
			path = strings.ReplaceAll(path, variable, url.PathEscape(text))
			rest.Clear(field)
		case o.method == http.MethodGet && rest.Has(field):
			query.Set(field.JSONName(), text)
		}
	}
	if o.method == http.MethodGet {
		r, err := s.request(o.method, path+"?"+query.Encode(), who, nil)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	body, err := protojson.Marshal(rest)
	if err != nil {
		return nil // a duration beyond what JSON can say
	}
	r, err := s.request(o.method, path, who, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	return r
}

func (s *site) askGRPC(t *testing.T, who string, o operation, m proto.Message) outcome {
	t.Helper()
	response := dynamicpb.NewMessage(o.out)
	err := s.grpc.Invoke(as(context.Background(), who), o.grpc, m, response)
	if err == nil {
		return outcome{body: plain(t, response)}
	}
	st := status.Convert(err)
	got := outcome{text: st.Message()}
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			got.reason = d.Reason
		case *errdetails.BadRequest:
			got.field = d.FieldViolations[0].Field
			got.text = strings.TrimPrefix(got.text, got.field+": ")
		case *errdetails.RetryInfo:
			got.retry = true
		}
	}
	if got.reason == "" || st.Code() == codes.Unknown || st.Code() == codes.Internal {
		t.Fatalf("%s %v: %v without a reason", o.grpc, m, st)
	}
	wantLine(t, got.text)
	return got
}

func (s *site) askHTTP(t *testing.T, o operation, r *http.Request) outcome {
	t.Helper()
	w := httptest.NewRecorder()
	s.http.ServeHTTP(w, r)
	if w.Code == http.StatusOK {
		response := dynamicpb.NewMessage(o.out)
		if err := protojson.Unmarshal(w.Body.Bytes(), response); err != nil {
			t.Fatalf("%s answered %s: %v", r.URL, w.Body, err)
		}
		return outcome{body: plain(t, response)}
	}
	var p wire.Problem
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || p.Status != w.Code || w.Header().Get("Content-Type") != wire.ProblemContentType {
		t.Fatalf("%s answered %d with %s: %v", r.URL, w.Code, w.Body, err)
	}
	return outcome{reason: p.Code, field: p.Field, text: p.Detail, retry: w.Header().Get("Retry-After") != ""}
}

// plain is m without the times at which it was answered.
func plain(t *testing.T, m *dynamicpb.Message) string {
	t.Helper()
	for name, of := range map[protoreflect.Name]protoreflect.FullName{
		"generated_at": "omnirelay.mesh.control.v1.ListLeadersResponse", "expires_at": "omnirelay.mesh.control.v1.SignTokenResponse"} {
		if field := m.Descriptor().Fields().ByName(name); field != nil && m.Descriptor().FullName() == of {
			if !m.Has(field) {
				t.Fatalf("%s is missing", name)
			}
			m.Set(field, protoreflect.ValueOfMessage((&timestamppb.Timestamp{}).ProtoReflect()))
		}
	}
	return fmt.Sprintf("%x", marshal(t, m))
}
