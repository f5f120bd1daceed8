package control

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/wire/controlpb"
)

// random fills a message of any type with anything that its fields can hold.
func random(r *rand.Rand, m protoreflect.Message, depth int) {
	switch known := m.Interface().(type) {
	case *timestamppb.Timestamp:
		known.Seconds, known.Nanos = r.Int64N(4e9), r.Int32N(1e9)
		return
	case *durationpb.Duration:
		known.Seconds, known.Nanos = r.Int64N(3600), r.Int32N(1e9)/1000*1000
		return
	}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		if r.IntN(3) == 0 {
			continue
		}
		switch {
		case field.IsMap():
			for range r.IntN(3) {
				m.Mutable(field).Map().Set(protoreflect.ValueOfString(text(r)).MapKey(), protoreflect.ValueOfString(text(r)))
			}
		case field.IsList():
			for range r.IntN(3) {
				m.Mutable(field).List().Append(value(r, field, m.Mutable(field).List().NewElement(), depth))
			}
		default:
			m.Set(field, value(r, field, m.NewField(field), depth))
		}
	}
}

func value(r *rand.Rand, field protoreflect.FieldDescriptor, empty protoreflect.Value, depth int) protoreflect.Value {
	switch field.Kind() {
	case protoreflect.MessageKind:
		random(r, empty.Message(), depth+1)
		return empty
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(text(r))
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(r.IntN(2) == 0)
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(r.Uint64() >> r.IntN(64))
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(int64(r.Uint64()) >> r.IntN(64))
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(r.Uint32() >> r.IntN(32))
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(int32(r.Uint32()) >> r.IntN(32))
	case protoreflect.EnumKind:
		values := field.Enum().Values()
		return protoreflect.ValueOfEnum(values.Get(r.IntN(values.Len())).Number())
	}
	panic("a kind that no schema of ours has: " + field.Kind().String())
}

func text(r *rand.Rand) string {
	return []string{"", "job", "a/b", `<&>"\`, "ä€😀", "\u2028\n\x00", strings.Repeat("x", 200)}[r.IntN(7)]
}

func newMessage(d protoreflect.MessageDescriptor) proto.Message {
	t, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		panic(err)
	}
	return t.New().Interface()
}

// messages are new ones of every type that is read or written.
func messages() (all []proto.Message) {
	for _, file := range []protoreflect.FileDescriptor{
		controlpb.File_leadership_member_proto, controlpb.File_leadership_registry_proto, controlpb.File_leadership_mesh_proto} {
		for i := range file.Services().Len() {
			methods := file.Services().Get(i).Methods()
			for j := range methods.Len() {
				if m := methods.Get(j); !m.IsStreamingClient() {
					all = append(all, newMessage(m.Input()), newMessage(m.Output()))
				}
			}
		}
	}
	return all
}

// What is written is Proto JSON, and reading it gives back what was written; so does
// reading what others write as Proto JSON.
func TestWrittenIsProtoJSON(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 4))
	for _, empty := range messages() {
		for range 50 {
			m, theirs, ours := proto.Clone(empty), proto.Clone(empty), proto.Clone(empty)
			random(r, m.ProtoReflect(), 0)
			written := encode(m)
			if err := protojson.Unmarshal(written, theirs); err != nil || !proto.Equal(m, theirs) {
				t.Fatalf("%v: %s is not %v", err, written, m)
			}
			if err := decode(written, ours); err != nil || !proto.Equal(m, ours) {
				t.Fatalf("%v: %s was read as %v", err, written, ours)
			}
			standard, err := protojson.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			ours = proto.Clone(empty)
			if err := decode(standard, ours); err != nil || !proto.Equal(m, ours) {
				t.Fatalf("%v: %s was read as %v", err, standard, ours)
			}
		}
	}
}

// The answers that were there before the schema keep every byte.
func TestAnswersAreTheOldOnes(t *testing.T) {
	for name, m := range map[string]proto.Message{
		"leaders": &controlpb.ListLeadersResponse{}, "leaders-none": &controlpb.ListLeadersResponse{}, "audit": &controlpb.ReadAuditResponse{},
	} {
		golden, err := os.ReadFile("../../wire/testdata/" + name + ".json")
		if err != nil {
			t.Fatal(err)
		}
		if err := protojson.Unmarshal(golden, m); err != nil {
			t.Fatal(err)
		}
		var want bytes.Buffer
		if err := json.Compact(&want, golden); err != nil {
			t.Fatal(err)
		}
		if got := encode(m); string(got) != want.String() {
			t.Errorf("%s:\n%s, want\n%s", name, got, &want)
		}
	}
}

func TestEmptyAnswersShowTheirLists(t *testing.T) {
	for want, m := range map[string]proto.Message{
		`{"revision":0,"scopes":[]}`:                 &controlpb.ListScopesResponse{},
		`{"revision":0,"sessions":[],"cordoned":[]}`: &controlpb.ListSessionsResponse{},
		`{"session":0,"number":0,"lease":"1.96s","view":{"session":0,"revision":0,"live":false,"grants":[]}}`: &controlpb.KeepAliveResponse{
			Lease: durationpb.New(1_960_000_000), View: &controlpb.SessionView{}},
	} {
		if got := encode(m); string(got) != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	for want, d := range map[string]*durationpb.Duration{"0s": {}, "-0.5s": {Nanos: -5e8}, "-1.000000001s": {Seconds: -1, Nanos: -1}, "3600s": {Seconds: 3600}} {
		if got := seconds(d); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

func TestWrongBodiesAreNamedByPlace(t *testing.T) {
	for body, want := range map[string]string{
		`{"membrId":"a"}`: "membrId: unknown field; known here: requestId, correlationId, base, memberId,",
		`{"stands":[{},{"selector":{"scope":"a"}}]}`: "stands[1].selector.scope: unknown field; known here: kind, namespace, id, labels",
		`{"stands":[{"priority":"x"}]}`:              `stands[0].priority: it is "x"; want a whole number from -2147483648 to 2147483647`,
		`{"":1}`:                                     "body: unknown field",
		`{"stands":[null]}`:                          "stands[0]: it is null; want an object",
		`{"stands":{}}`:                              "stands: it is an object; want a list",
		`{"base":1.0}`:                               "base: it is 1.0; want a whole number from 0 to 18446744073709551615",
		`{"base":-1}`:                                "base: it is -1; want a whole number",
		`{"base":18446744073709551616}`:              "base: it is 18446744073709551616; want a whole number",
		`{"base":true}`:                              "base: it is true; want a whole number",
		`{"base":{}}`:                                "base: it is an object; want a whole number",
		`{"weight":4294967296}`:                      "weight: it is 4294967296; want a whole number from 0 to 4294967295",
		`{"memberId":7}`:                             "memberId: it is 7; want a text",
		`{"memberId":"a","memberId":"b"}`:            "memberId: it is written twice",
		`{"memberId":"a","member_id":"b"}`:           "member_id: it is written twice",
		`{"labels":{"a":"1","a":"2"}}`:               "labels.a: it is written twice",
		`{"labels":{"a":1}}`:                         "labels.a: it is 1; want a text",
		`{"labels":["a"]}`:                           "labels: it is a list; want an object",
		`{"ttl":2}`:                                  `ttl: it is 2; want seconds, like "2s" or "0.5s"`,
		`{"ttl":"500ms"}`:                            `ttl: it is "500ms"; want seconds`,
		`{"memberId":"a"`:                            "body: it is no JSON",
		`{"memberId":"a"}{}`:                         "body: something follows the object",
		`{"memberId":"a"} x`:                         "body: something follows the object",
		`[]`:                                         "body: it is a list; want an object",
		`null`:                                       "body: it is null; want an object",
		"{\"memberId\":\"\xff\"}":                    "body: it is not UTF-8",
		`{"stands":[{"selector":{"labels":{"x":[[[[`: "stands[0].selector.labels.x: it is a list; want a text",
		`{"` + strings.Repeat("z", 4000) + `":1}`:    strings.Repeat("z", 80) + "…: unknown field",
		`{"stands":[`: "stands: it is no JSON",
		`{"memberId":"` + strings.Repeat("a", 100) + `",}`: "body: it is no JSON",
	} {
		err := decode([]byte(body), &controlpb.OpenSessionRequest{})
		e, ok := err.(*core.Error)
		if !ok || e.Code != core.CodeInvalid || !strings.HasPrefix(e.Field+": "+e.Message, want) {
			t.Errorf("%.60s: %v, want %s", body, err, want)
		}
	}
	err := decode([]byte(`{"scopes":[{"failover":"FAST"}]}`), &controlpb.DeclareScopesRequest{})
	if err == nil || !strings.Contains(err.Error(), `scopes[0].failover: it is "FAST"; want FAILOVER_UNSPECIFIED or FAILOVER_LEASE or FAILOVER_FAST`) {
		t.Error(err)
	}
}

func TestNumbersAreExact(t *testing.T) {
	for _, text := range []string{`18446744073709551615`, `"18446744073709551615"`} {
		m := &controlpb.OpenSessionRequest{}
		if err := decode([]byte(`{"base":`+text+`,"weight":null}`), m); err != nil || m.Base != math.MaxUint64 || m.Weight != nil {
			t.Errorf("%s: %v %v", text, m, err)
		}
	}
}

// FuzzDecode holds decode against Proto JSON: what it accepts means the same there, and
// what is refused there it refuses.
func FuzzDecode(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 1))
	for kind, empty := range messages() {
		m := proto.Clone(empty)
		random(r, m.ProtoReflect(), 0)
		f.Add(uint8(kind), encode(m))
	}
	for _, text := range []string{`{"base":"1"}`, `{"ttl":"-0.5s"}`, `{"stands":[{"selector":null}]}`, `{"scopes":[{"failover":2}]}`, `{"base":1e3}`, `{"session":01}`, ` `, `{"labels":{"":""}}`} {
		f.Add(uint8(0), []byte(text))
		f.Add(uint8(20), []byte(text))
	}
	all := messages()
	f.Fuzz(func(t *testing.T, kind uint8, data []byte) {
		empty := all[int(kind)%len(all)]
		ours, theirs := proto.Clone(empty), proto.Clone(empty)
		if decode(data, ours) != nil || len(bytes.TrimSpace(data)) == 0 {
			return
		}
		if err := protojson.Unmarshal(data, theirs); err != nil {
			t.Fatalf("accepted, but %v", err)
		}
		if !proto.Equal(ours, theirs) {
			t.Fatalf("read as %v, Proto JSON as %v", ours, theirs)
		}
		if again := proto.Clone(empty); decode(encode(ours), again) != nil || !proto.Equal(ours, again) {
			t.Fatalf("%v does not come back: %v", ours, fmt.Sprint(again))
		}
	})
}
