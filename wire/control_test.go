package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/wire/controlpb"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files anew")

const (
	electedAt = int64(1_790_000_000_123_456_789)
	loggedAt  = int64(1_790_000_001_000_000_000)
)

func token() core.Token {
	return core.Token{Scope: "shard/mesh.demo/07", ScopeKind: "shard", LeaderID: "node-2", Session: 4, Term: 3, Fence: 42,
		IssuedAtWall: electedAt, Labels: map[string]string{"namespace": "mesh.demo", "shardId": "07"}}
}

func record() *core.Record {
	return &core.Record{Seq: 9, Revision: 1042, Ordinal: 3, Kind: uint32(core.EventElected), Scope: "shard/mesh.demo/07",
		ScopeKind: "shard", Labels: map[string]string{"namespace": "mesh.demo"}, MemberId: "node-2", Session: 4, Term: 3,
		Fence: 42, Reason: core.ReasonElected, CorrelationId: "c-1", Actor: "node/node-1", WallNs: loggedAt,
		IssuedWallNs: electedAt, PrevHash: []byte{0xab, 0x01}, Hash: []byte{0xcd, 0x02}}
}

func TestGoldenJSON(t *testing.T) {
	now := time.Date(2026, 9, 21, 15, 0, 0, 5, time.FixedZone("elsewhere", 7200))
	first := EventOf(core.StreamItem{Kind: core.EventElected, Record: record()})
	first.Transport = "HTTP/2.0"
	held := token()
	declared := record()
	declared.Kind, declared.MemberId, declared.Session, declared.Term = uint32(core.EventScopeDeclared), "", 0, 0
	declared.Fence, declared.IssuedWallNs, declared.Labels, declared.PrevHash = 0, 0, nil, nil
	split := record()
	split.Kind, split.MemberId, split.Reason, split.Fence = uint32(core.EventSplitBrain), "node-1", "two-claimants", 41
	cordoned := &core.Record{Seq: 10, Revision: 1043, Ordinal: 1, Kind: uint32(core.EventMemberCordoned), MemberId: "node-2", Reason: "drain",
		CorrelationId: "c-2", Actor: "client/operate/ann", Why: "kernel update", WallNs: loggedAt}
	added := &core.Record{Seq: 11, Revision: 1044, Ordinal: 1, Kind: uint32(core.EventNodeAdded), Subject: "node-4", WallNs: loggedAt}
	cases := map[string]any{
		"leaders": LeadersOf(1042, []core.Token{token(), {Scope: "global-control", ScopeKind: "global", LeaderID: "node-1", Term: 1, Fence: 1}}, now,
			func(t core.Token) time.Time {
				if t.Fence == 42 {
					return now.Add(2 * time.Second)
				}
				return time.Time{}
			}),
		"leaders-none":   LeadersOf(0, nil, now, nil),
		"event-elected":  first,
		"event-declared": EventOfRecord(declared),
		"event-snapshot": EventOf(core.StreamItem{Kind: core.EventSnapshot, Cursor: core.Cursor{Revision: 1042, Ordinal: 3}, Token: &held}),
		"event-mark":     EventOf(core.StreamItem{Kind: core.EventObserved, Cursor: core.Cursor{Revision: 1042, Ordinal: 3}, Reason: core.ReasonSnapshotEnd}),
		"event-renewed":  EventOfRenewal(token(), now, now.Add(2*time.Second)),
		"event-split":    EventOfRecord(split),
		"event-cordoned": EventOfRecord(cordoned),
		"event-node":     EventOfRecord(added),
		"audit-members":  AuditResponse{Records: []AuditRecord{AuditRecordOf(cordoned), AuditRecordOf(added)}},
		"held":           HeldOf("node-2", []core.Holding{{Token: token(), Until: 5_000}}, 3_000, 1_000_000),
		"held-none":      HeldOf("node-2", nil, 3_000, 1_000_000),
		"audit":          AuditResponse{Records: []AuditRecord{AuditRecordOf(record()), AuditRecordOf(declared)}},
		"problem":        ProblemOf(&core.Error{Code: core.CodeInvalid, Field: "scope", Message: "is empty"}, "/control/leaders"),
	}
	for name, value := range cases {
		t.Run(name, func(t *testing.T) { checkGolden(t, name, value) })
	}
}

// checkGolden compares value with its file, and what the file reads back as with
// value: clients use the same types.
func checkGolden(t *testing.T, name string, value any) {
	got, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	path := filepath.Join("testdata", name+".json")
	if *rewrite {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("have\n%s\nwant\n%s", got, want)
	}
	back := reflect.New(reflect.TypeOf(value))
	if err := json.Unmarshal(want, back.Interface()); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(back.Elem().Interface(), value) {
		t.Errorf("read back as %+v", back.Elem())
	}
}

func TestEventRoundTripThroughProto(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := drawEvent(t)
		got, err := EventFromProto(want.Proto())
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("have %+v\nwant %+v", got, want)
		}
	})
}

func drawEvent(t *rapid.T) Event {
	kind := core.EventKind(rapid.IntRange(int(core.EventSnapshot), int(core.EventRegistrarMoved)).Draw(t, "kind"))
	e := Event{
		Kind: kind.String(), Scope: rapid.String().Draw(t, "scope"), LeaderID: rapid.String().Draw(t, "leader"),
		Reason: rapid.String().Draw(t, "reason"), CorrelationID: rapid.String().Draw(t, "correlation"),
		OccurredAt: drawTime(t), Revision: rapid.Uint64().Draw(t, "revision"), Ordinal: rapid.Uint32().Draw(t, "ordinal"),
		Subject: rapid.String().Draw(t, "subject"), Why: rapid.String().Draw(t, "why"),
		Transport: rapid.SampledFrom([]string{"", "HTTP/2.0"}).Draw(t, "transport"),
	}
	if rapid.Bool().Draw(t, "token") {
		e.Token = &Token{
			Scope: e.Scope, ScopeKind: "custom", LeaderID: e.LeaderID,
			Term: rapid.Uint64Range(0, 1<<53).Draw(t, "term"), FenceToken: rapid.Uint64Range(0, 1<<53).Draw(t, "fence"),
			IssuedAt: drawTime(t), ExpiresAt: drawTime(t),
			Labels: rapid.MapOf(rapid.String(), rapid.String()).Draw(t, "labels"),
		}
	}
	return e
}

func drawTime(t *rapid.T) time.Time {
	if rapid.Bool().Draw(t, "unset") {
		return time.Time{}
	}
	return wallTime(rapid.Int64Min(1).Draw(t, "ns"))
}

func TestEveryKindHasItsNameOnBothAPIs(t *testing.T) {
	for value, name := range controlpb.LeadershipEventKind_name {
		if value == 0 {
			continue
		}
		if got := core.EventKind(value).String(); kindPrefix+got != name {
			t.Errorf("kind %d is %s in core and %s in the API", value, got, name)
		}
	}
	next := core.EventKind(len(controlpb.LeadershipEventKind_name))
	if !strings.HasPrefix(next.String(), "EVENT_KIND_") {
		t.Errorf("kind %s of core is missing from the API", next)
	}
}

func TestEventFromProtoNamesTheField(t *testing.T) {
	far := &timestamppb.Timestamp{Nanos: -1}
	cases := map[string]*controlpb.LeadershipEvent{
		"kind":             {},
		"occurredAt":       {Kind: 3, OccurredAt: far},
		"token.term":       {Kind: 3, Token: &controlpb.LeadershipToken{Term: -1}},
		"token.fenceToken": {Kind: 3, Token: &controlpb.LeadershipToken{FenceToken: -1}},
		"token.issuedAt":   {Kind: 3, Token: &controlpb.LeadershipToken{IssuedAt: far}},
		"token.expiresAt":  {Kind: 3, Token: &controlpb.LeadershipToken{ExpiresAt: far}},
	}
	for want, p := range cases {
		_, err := EventFromProto(p)
		var field *FieldError
		if !errors.As(err, &field) || field.Field != want {
			t.Errorf("want an error of field %s, have %v", want, err)
		}
	}
}

// A client is not stopped by what a later version tells.
func TestEventsOfLaterVersions(t *testing.T) {
	e, err := EventFromProto(&controlpb.LeadershipEvent{Kind: 999, Revision: 7, Ordinal: 2})
	if err != nil || e.Known() || e.Kind != "EVENT_KIND_999" || e.Revision != 7 || e.Ordinal != 2 {
		t.Errorf("have %+v, %v", e, err)
	}
	for kind := core.EventSnapshot; kind <= core.EventRegistrarMoved; kind++ {
		if !(Event{Kind: kind.String()}).Known() {
			t.Errorf("%s is not known", kind)
		}
	}
}

func TestConversionsShareNothingWithCore(t *testing.T) {
	source := token()
	converted := TokenOf(source, time.Time{})
	converted.Labels["namespace"] = "changed"
	if source.Labels["namespace"] != "mesh.demo" {
		t.Error("a consumer that writes into its labels wrote into the registry's")
	}
}

func TestProblems(t *testing.T) {
	secret := ProblemOf(errors.New("open /secret/path"), "/x")
	if secret.Status != 500 || secret.Code != "internal" || strings.Contains(secret.Detail, "secret") {
		t.Errorf("have %+v", secret)
	}
	for code, want := range map[core.Code]codes.Code{
		core.CodeInvalid: codes.InvalidArgument, core.CodeUnavailable: codes.Unavailable, "new-one": codes.Internal,
	} {
		if got := GRPCCode(&core.Error{Code: code}); got != want {
			t.Errorf("%s: have %s, want %s", code, got, want)
		}
	}
	for code := range answers {
		if p := ProblemOf(&core.Error{Code: code, Message: "m"}, "/x"); p.Status < 400 || p.Status == 500 || p.Title == "" || p.Detail != "m" {
			t.Errorf("%s: have %+v", code, p)
		}
	}
}
