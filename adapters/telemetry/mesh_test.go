package telemetry

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
)

// What the registrar found is a warning with what to do, on every node that sees the
// record, and no transition of the scope.
func TestSplitBrainRecordsWarn(t *testing.T) {
	var log bytes.Buffer
	m := NewMetrics(Options{Logger: slog.New(slog.NewJSONHandler(&log, nil)), View: newWorld(t).View})
	elected := &core.Record{Seq: 1, Kind: uint32(core.EventElected), Scope: "job", ScopeKind: "custom", Fence: 5, MemberId: "one"}
	found := &core.Record{Seq: 2, Kind: uint32(core.EventSplitBrain), Scope: "job", ScopeKind: "custom", Fence: 4, MemberId: "two",
		Reason: SplitTwoClaimants, CorrelationId: "cause", Actor: "node-1"}
	gone := &core.Record{Seq: 3, Kind: uint32(core.EventSplitBrain), MemberId: "one", Reason: SplitLeaderGone}
	ended := &core.Record{Seq: 4, Kind: uint32(core.EventSteppedDown), Scope: "job", ScopeKind: "custom", Fence: 5}
	again := &core.Record{Seq: 5, Kind: uint32(core.EventElected), Scope: "job", ScopeKind: "custom", Fence: 6}
	m.Observe([]*core.Record{elected, found, gone, ended, again})
	m.Flush(t.Context())
	text := scrape(t, m)
	wantLines(t, text,
		`mesh_leadership_split_brain_total{reason="two-claimants"} 1`,
		`mesh_leadership_split_brain_total{reason="leader-gone"} 1`,
		`mesh_leadership_split_brain_total{reason="unknown-claimant"} 0`,
		`mesh_leadership_split_brain_total{reason="elected-while-led"} 0`,
		`mesh_leadership_split_brain_total{reason="fence-not-raised"} 0`,
		`mesh_leadership_records_total{kind="split_brain"} 2`,
		`mesh_leadership_transitions_total{scope_kind="custom",transition="elected"} 2`)
	if strings.Contains(text, `transition="split_brain"`) {
		t.Error("a split brain counts as a transition")
	}
	var line struct{ Level, Msg, Alarm, Scope, Leader, CorrelationID, Runbook string }
	if err := json.Unmarshal([]byte(strings.Split(log.String(), "\n")[1]), &line); err != nil {
		t.Fatal(err)
	}
	if line.Level != "WARN" || line.Msg != "split brain" || line.Alarm != SplitTwoClaimants || line.Scope != "job" || line.Leader != "two" ||
		line.CorrelationID != "cause" || line.Runbook != SplitBrainRunbook {
		t.Errorf("%+v", line)
	}
}

// The page that lines point to tells of every reason that is counted.
func TestTheRunbookTellsOfEveryReason(t *testing.T) {
	page, err := os.ReadFile("../../" + SplitBrainRunbook)
	if err != nil {
		t.Fatal(err)
	}
	for _, reason := range splitReasons {
		if !strings.Contains(string(page), "## `"+reason+"`") {
			t.Errorf("%s is not told of", reason)
		}
	}
}

// Records of members and nodes tell who and why, and touch no scope.
func TestMembersAndNodesAreLogged(t *testing.T) {
	var log bytes.Buffer
	m := NewMetrics(Options{Logger: slog.New(slog.NewJSONHandler(&log, nil)), View: newWorld(t).View})
	m.Observe([]*core.Record{
		{Seq: 1, Kind: uint32(core.EventMemberCordoned), MemberId: "one", Reason: "drain", Actor: "client/operate", Why: "kernel update", CorrelationId: "c"},
		{Seq: 2, Kind: uint32(core.EventNodeAdded), Subject: "node-4", Actor: "client/admin"},
	})
	m.Flush(t.Context())
	wantLines(t, scrape(t, m), `mesh_leadership_records_total{kind="member_cordoned"} 1`, `mesh_leadership_records_total{kind="node_added"} 1`,
		`mesh_leadership_transitions_total{scope_kind="custom",transition="lost"} 0`)
	if len(m.history.scopes) != 0 {
		t.Errorf("scopes that there are none of: %v", m.history.scopes)
	}
	lines := strings.Split(strings.TrimSpace(log.String()), "\n")
	for i, want := range []string{`"msg":"member cordoned","member":"one"`, `"msg":"node added","member":"","subject":"node-4"`} {
		if !strings.Contains(lines[i], want) {
			t.Errorf("have %s, want %s", lines[i], want)
		}
	}
	if !strings.Contains(lines[0], `"correlationId":"c","actor":"client/operate","why":"kernel update"`) {
		t.Errorf("who and why are missing: %s", lines[0])
	}
}

func drain(member string) *logpb.Command {
	return &logpb.Command{Kind: &logpb.Command_Cordon{Cordon: &logpb.Cordon{MemberId: member, Cordoned: true, Drain: true}}}
}

// What operators do is to be seen, from the start and until it is done.
func TestMembersOnTheirWayAreCounted(t *testing.T) {
	w := newWorld(t)
	m := NewMetrics(Options{Logger: slog.New(slog.DiscardHandler), View: w.View})
	wantLines(t, scrape(t, m), `mesh_leadership_members{state="cordoned"} 0`, `mesh_leadership_members{state="draining"} 0`,
		`mesh_leadership_members{state="ineligible"} 0`, `mesh_leadership_handovers{state="asked"} 0`, `mesh_leadership_handovers{state="stuck"} 0`,
		`mesh_leadership_nodes{stage="learner"} 0`, `mesh_leadership_nodes{stage="voter"} 1`, `mesh_leadership_nodes{stage="leaving"} 0`)
	w.apply(&logpb.Command{Kind: &logpb.Command_AnnounceVersion{AnnounceVersion: &logpb.AnnounceVersion{Replica: 1, MaxVersion: core.ProtocolVersion}}})
	one := &logpb.Stand{Session: 2, Selector: &logpb.Selector{Id: "a"}}
	w.apply(declare("a", "b"), open("node-1"), stand(1), open("node-2"), &logpb.Command{Kind: &logpb.Command_Stand{Stand: one}}, drain("node-1"))
	wantLines(t, scrape(t, m), `mesh_leadership_members{state="cordoned"} 1`, `mesh_leadership_members{state="draining"} 1`,
		`mesh_leadership_handovers{state="asked"} 1`, `mesh_leadership_handovers{state="stuck"} 1`)
}

// A scrape of a registry in which counting would take long leaves it out.
func TestAScrapeDoesNotHoldUpTheNode(t *testing.T) {
	w := newWorld(t)
	m := NewMetrics(Options{Logger: slog.New(slog.DiscardHandler), View: w.View})
	w.apply(&logpb.Command{Kind: &logpb.Command_AnnounceVersion{AnnounceVersion: &logpb.AnnounceVersion{Replica: 1, MaxVersion: core.ProtocolVersion}}})
	var scopes []string
	for i := range 1000 {
		scopes = append(scopes, fmt.Sprint("s", i))
	}
	w.apply(declare(scopes...), open("node-1"), stand(1))
	for i := range 70 {
		w.apply(open(fmt.Sprint("m", i)))
	}
	w.apply(drain("node-1"))
	if text := scrape(t, m); strings.Contains(text, `handovers{state="stuck"}`) || !strings.Contains(text, `handovers{state="asked"} 0`) {
		t.Error("71 sessions were looked at for each of 1,000 scopes")
	}
}
