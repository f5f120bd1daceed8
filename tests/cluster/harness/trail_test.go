package harness

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
	"github.com/omnirelay/leadership/wire"
)

// twoLeaders is the trail of a registry in which a leads two scopes and then b.
func twoLeaders(t *testing.T) (trail Trail) {
	t.Helper()
	g := core.NewRegistry(0)
	stands := []*logpb.Stand{{Selector: &logpb.Selector{}}}
	for i, c := range []*logpb.Command{
		{Kind: &logpb.Command_Bootstrap{Bootstrap: &logpb.Bootstrap{ClusterId: "demo", Voters: []uint64{1}}}},
		{Kind: &logpb.Command_DeclareScopes{DeclareScopes: &logpb.DeclareScopes{Scopes: []*logpb.ScopeSpec{{Id: "x"}, {Id: "y"}}}}},
		{Kind: &logpb.Command_OpenSession{OpenSession: &logpb.OpenSession{MemberId: "a", Weight: 1, TtlNs: int64(TTL), Stands: stands}}},
		{Kind: &logpb.Command_OpenSession{OpenSession: &logpb.OpenSession{MemberId: "b", Weight: 1, TtlNs: int64(TTL), Stands: stands}}},
		{Kind: &logpb.Command_CloseSession{CloseSession: &logpb.CloseSession{Session: 1}}},
	} {
		c.RequestId, c.CorrelationId = fmt.Sprint("r", i), fmt.Sprint("c", i)
		must(t, core.CompleteCommand(c))
		payload, err := proto.Marshal(&logpb.Entry{Proposer: 1, WallNs: int64(i+1) * int64(time.Second), Commands: []*logpb.Command{c}})
		must(t, err)
		_, err = g.Apply(uint64(i+1), 1, payload)
		must(t, err)
	}
	records, ok := g.History().AfterSeq(0, 1000)
	if !ok || len(records) < 8 {
		t.Fatalf("%d records", len(records))
	}
	for _, r := range records {
		trail = append(trail, wire.AuditRecordOf(r))
	}
	return trail
}

func TestTrailIsVerified(t *testing.T) {
	if err := twoLeaders(t).Verify(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(Trail) Trail{
		"changed":         func(tr Trail) Trail { tr[3].MemberID = "c"; return tr },
		"changed in time": func(tr Trail) Trail { tr[3].OccurredAt = tr[3].OccurredAt.Add(1); return tr },
		"one missing":     func(tr Trail) Trail { return slices.Delete(tr, 3, 4) },
		"the first gone":  func(tr Trail) Trail { return tr[1:] },
		"one twice":       func(tr Trail) Trail { return slices.Insert(tr, 3, tr[3]) },
		"two exchanged":   func(tr Trail) Trail { tr[3], tr[4] = tr[4], tr[3]; return tr },
		"nothing":         func(Trail) Trail { return nil },
	} {
		if err := spoil(twoLeaders(t)).Verify(); err == nil {
			t.Errorf("%s: not found", name)
		}
	}
}

// A registry that is wrong chains its wrong records well: their order is checked apart.
func TestOrderIsVerified(t *testing.T) {
	elected := func(revision uint64, scope string, term, fence uint64) wire.AuditRecord {
		return wire.AuditRecord{Revision: revision, Ordinal: 1, Kind: "ELECTED", Scope: scope, MemberID: "a", Term: term, FenceToken: fence}
	}
	expired := func(revision uint64, scope string, fence uint64) wire.AuditRecord {
		return wire.AuditRecord{Revision: revision, Ordinal: 1, Kind: "EXPIRED", Scope: scope, MemberID: "a", FenceToken: fence}
	}
	for says, trail := range map[string]Trail{
		"":                         {elected(1, "x", 1, 1), elected(2, "y", 1, 2), expired(3, "x", 1), elected(4, "x", 2, 3)},
		"with fence 1 after 1":     {elected(1, "x", 1, 1), elected(2, "y", 1, 1)},
		"with fence 2 after 3":     {elected(1, "x", 1, 3), elected(2, "y", 1, 2)},
		"had not ended: true":      {elected(1, "x", 1, 1), elected(2, "x", 2, 2)},
		"for term 3 of x after":    {elected(1, "x", 1, 1), expired(2, "x", 1), elected(3, "x", 3, 2)},
		"ends fence 2":             {elected(1, "x", 1, 1), expired(2, "x", 2)},
		"at 1.1 comes after 1.1":   {elected(1, "x", 1, 1), elected(1, "y", 1, 2)},
		"which led x: false":       {expired(1, "x", 1)},
		"at 2.1 comes after 3.1":   {elected(3, "x", 1, 1), elected(2, "y", 1, 2)},
		"term 2 of x after term 0": {elected(1, "x", 2, 1)},
	} {
		err := trail.verifyOrder()
		if (err == nil) != (says == "") || (err != nil && !strings.Contains(err.Error(), says)) {
			t.Errorf("%q: %v", says, err)
		}
	}
}
