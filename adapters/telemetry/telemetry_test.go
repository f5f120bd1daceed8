package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
)

// world is a registry that a test writes entries to.
type world struct {
	t        *testing.T
	mu       sync.Mutex
	registry *core.Registry
	index    uint64
	wall     int64
	status   core.Status
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, registry: core.NewRegistry(0), wall: 1_790_000_000_000_000_000}
	w.apply(&logpb.Command{Kind: &logpb.Command_Bootstrap{Bootstrap: &logpb.Bootstrap{ClusterId: "demo", Voters: []uint64{1}}}})
	return w
}

func (w *world) View(f func(*core.Registry, core.Status)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f(w.registry, w.status)
}

// apply writes one entry and returns its records.
func (w *world) apply(commands ...*logpb.Command) []*core.Record {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.index++
	for i, c := range commands {
		c.RequestId = fmt.Sprintf("r%d.%d", w.index, i)
		c.CorrelationId = "c-" + c.RequestId
		if err := core.CompleteCommand(c); err != nil {
			w.t.Fatal(err)
		}
	}
	payload, err := proto.Marshal(&logpb.Entry{Proposer: 1, WallNs: w.wall, Commands: commands})
	if err != nil {
		w.t.Fatal(err)
	}
	out, err := w.registry.Apply(w.index, 1, payload)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, r := range out.Results {
		if r.Code != "" {
			w.t.Fatalf("refused: %v", r)
		}
	}
	return out.Records
}

func declare(ids ...string) *logpb.Command {
	d := &logpb.DeclareScopes{}
	for _, id := range ids {
		d.Scopes = append(d.Scopes, &logpb.ScopeSpec{Id: id})
	}
	return &logpb.Command{Kind: &logpb.Command_DeclareScopes{DeclareScopes: d}}
}

func open(member string) *logpb.Command {
	return &logpb.Command{Kind: &logpb.Command_OpenSession{OpenSession: &logpb.OpenSession{MemberId: member, Weight: 1, TtlNs: int64(time.Second)}}}
}

func stand(session uint64) *logpb.Command {
	return &logpb.Command{Kind: &logpb.Command_Stand{Stand: &logpb.Stand{Session: session, Selector: &logpb.Selector{}}}}
}

func closing(session uint64) *logpb.Command {
	return &logpb.Command{Kind: &logpb.Command_CloseSession{CloseSession: &logpb.CloseSession{Session: session}}}
}

func scrape(t *testing.T, m *Metrics) string {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("scrape: %d %s", w.Code, w.Body)
	}
	return w.Body.String()
}

func wantLines(t *testing.T, text string, lines ...string) {
	t.Helper()
	for _, l := range lines {
		if !strings.Contains("\n"+text, "\n"+l+"\n") {
			t.Errorf("no line %q", l)
		}
	}
}

func TestEveryCounterIsThereFromTheStart(t *testing.T) {
	m := NewMetrics(Options{Logger: slog.New(slog.DiscardHandler), LeaderSeries: 10, View: newWorld(t).View})
	text := scrape(t, m)
	for _, kind := range []string{"global", "shard", "custom"} {
		for _, transition := range []string{"elected", "lost", "expired", "stepped_down"} {
			wantLines(t, text, fmt.Sprintf(`mesh_leadership_transitions_total{scope_kind=%q,transition=%q} 0`, kind, transition))
		}
	}
	wantLines(t, text,
		`mesh_leadership_split_brain_total{reason="elected-while-led"} 0`,
		`mesh_leadership_split_brain_total{reason="fence-not-raised"} 0`,
		`mesh_leadership_split_brain_total{reason="stale-effect"} 0`,
		`mesh_leadership_split_brain_total{reason="two-claimants"} 0`,
		`mesh_leadership_split_brain_total{reason="unknown-claimant"} 0`,
		`mesh_leadership_split_brain_total{reason="leader-gone"} 0`,
		`mesh_leadership_records_total{kind="split_brain"} 0`,
		`mesh_leadership_records_total{kind="member_cordoned"} 0`,
		`mesh_leadership_records_total{kind="registrar_moved"} 0`,
		`mesh_leadership_requests_refused_total{api="http",reason="busy"} 0`,
		`mesh_leadership_requests_refused_total{api="grpc",reason="unauthenticated"} 0`,
		`mesh_leadership_sla_breaches_total 0`,
		`mesh_leadership_election_duration_ms_count 0`,
		`mesh_leadership_commands_total{code="ok"} 0`,
		`mesh_leadership_commands_total{code="too-old"} 0`,
		`mesh_leadership_keepalives_total{outcome="sent"} 0`,
		`mesh_leadership_streams{api="sse",protocol="HTTP/3.0"} 0`,
		`mesh_leadership_streams{api="grpc",protocol="HTTP/2.0"} 0`,
		`mesh_leadership_stream_resyncs_total{api="sse"} 0`,
		`mesh_leadership_snapshot_installs_total 0`,
		`mesh_leadership_leader_series_omitted 0`)
	if strings.Contains(text, `transition="renewed"`) {
		t.Error("renewals are no transitions")
	}
}

func TestRecordsBecomeLinesAndCounts(t *testing.T) {
	w := newWorld(t)
	var log bytes.Buffer
	logger, err := NewLogger(&log, LogOptions{Level: "info", Format: "auto"})
	if err != nil {
		t.Fatal(err)
	}
	m := NewMetrics(Options{Logger: logger, LeaderSeries: 2, View: w.View})
	records := w.apply(declare("global-control", "shard/a/0", "job"))
	w.wall += int64(250 * time.Millisecond)
	records = append(records, w.apply(open("node-1"), stand(1))...)
	records = append(records, w.apply(open("node-2"), stand(2), closing(1))...)
	m.Observe(records)

	text := scrape(t, m)
	wantLines(t, text,
		`mesh_leadership_transitions_total{scope_kind="shard",transition="elected"} 2`,
		`mesh_leadership_transitions_total{scope_kind="shard",transition="stepped_down"} 1`,
		`mesh_leadership_transitions_total{scope_kind="custom",transition="elected"} 2`,
		`mesh_leadership_election_duration_ms_count 6`,
		`mesh_leadership_election_duration_ms_sum 750`,
		`mesh_leadership_records_total{kind="scope_declared"} 3`,
		`mesh_leadership_split_brain_total{reason="elected-while-led"} 0`,
		`mesh_leadership_split_brain_total{reason="fence-not-raised"} 0`,
		`mesh_leadership_leader{leader="node-2",scope="global-control",scope_kind="global"} 1`,
		`mesh_leadership_leader{leader="node-2",scope="job",scope_kind="custom"} 1`,
		`mesh_leadership_leader_series_omitted 1`,
		`mesh_leadership_scopes{state="led"} 3`,
		`mesh_leadership_sessions 1`)
	if strings.Contains(text, `scope="shard/a/0"`) {
		t.Error("more leader series than the bound of 2")
	}
	m.Flush(t.Context())
	checkLines(t, log.String(), records)
}

// checkLines compares the log with the records, one line each.
func checkLines(t *testing.T, log string, records []*core.Record) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(log), "\n")
	if len(lines) != len(records) {
		t.Fatalf("%d lines for %d records:\n%s", len(lines), len(records), log)
	}
	for i, r := range records {
		var line struct {
			Scope, Leader, Reason, Cursor, CorrelationID string
			Term, Fence                                  uint64
		}
		if err := json.Unmarshal([]byte(lines[i]), &line); err != nil {
			t.Fatal(err)
		}
		if line.Scope != r.Scope || line.Leader != r.MemberId || line.Reason != r.Reason || line.Term != r.Term || line.Fence != r.Fence ||
			line.CorrelationID != r.CorrelationId || line.Cursor != fmt.Sprintf("%d.%d", r.Revision, r.Ordinal) {
			t.Errorf("line %s does not tell record %v", lines[i], r)
		}
	}
}

func TestSplitBrainIsSeenInRecords(t *testing.T) {
	elected := func(seq, fence uint64) *core.Record {
		return &core.Record{Seq: seq, Kind: uint32(core.EventElected), Scope: "job", ScopeKind: "custom", Fence: fence}
	}
	expired := &core.Record{Seq: 2, Kind: uint32(core.EventExpired), Scope: "job", ScopeKind: "custom"}
	for name, tc := range map[string]struct {
		records         []*core.Record
		whileLed, fence int
	}{
		"clean":     {[]*core.Record{elected(1, 5), expired, elected(3, 6)}, 0, 0},
		"while led": {[]*core.Record{elected(1, 5), elected(2, 6)}, 1, 0},
		"fence":     {[]*core.Record{elected(1, 5), expired, elected(3, 5)}, 0, 1},
		// A snapshot was installed between the two: what ended is not seen here.
		"skipped": {[]*core.Record{elected(1, 5), elected(9, 6)}, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			m := NewMetrics(Options{Logger: slog.New(slog.DiscardHandler), View: newWorld(t).View})
			m.Observe(tc.records)
			wantLines(t, scrape(t, m),
				fmt.Sprintf(`mesh_leadership_split_brain_total{reason="elected-while-led"} %d`, tc.whileLed),
				fmt.Sprintf(`mesh_leadership_split_brain_total{reason="fence-not-raised"} %d`, tc.fence))
		})
	}
}

func TestVacancyBeyondTheWindowIsABreachOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		m := NewMetrics(Options{Logger: slog.New(slog.DiscardHandler), View: w.View})
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			m.WatchWindow(ctx, 5*time.Second, 100*time.Millisecond)
		}()
		breaches := func(want int) {
			t.Helper()
			synctest.Wait()
			if text := scrape(t, m); !strings.Contains(text, fmt.Sprintf("mesh_leadership_sla_breaches_total %d\n", want)) {
				t.Errorf("want %d breaches after %v", want, time.Now())
			}
		}
		w.apply(declare("job"))
		time.Sleep(4 * time.Second)
		breaches(0)
		time.Sleep(2 * time.Second)
		breaches(1)
		time.Sleep(time.Minute)
		breaches(1)
		w.apply(open("node-1"), stand(1))
		time.Sleep(time.Second)
		w.wall++
		w.apply(closing(1))
		time.Sleep(4 * time.Second)
		breaches(1)
		time.Sleep(2 * time.Second)
		breaches(2)
		stop()
		<-done
	})
}

// stuck is a log whose reader has stopped.
type stuck struct{ release chan struct{} }

func (s *stuck) Write(p []byte) (int, error) {
	<-s.release
	return len(p), nil
}

func TestObserveNeverWaitsForTheLog(t *testing.T) {
	log := &stuck{make(chan struct{})}
	m := NewMetrics(Options{Logger: slog.New(slog.NewJSONHandler(log, nil)), View: newWorld(t).View})
	const records = 2*maxLines + 100
	for seq := range uint64(records) {
		m.Observe([]*core.Record{{Seq: seq + 1, Kind: uint32(core.EventScopeDeclared), Scope: "job"}})
	}
	// The writer took up to one bound's worth before it was stuck.
	text := scrape(t, m)
	if !strings.Contains(text, "mesh_leadership_log_lines_dropped_total") || strings.Contains(text, "mesh_leadership_log_lines_dropped_total 0\n") {
		t.Error("lines beyond the bound are not counted as dropped")
	}
	wantLines(t, text, fmt.Sprintf(`mesh_leadership_records_total{kind="scope_declared"} %d`, records))
	close(log.release)
	m.Flush(t.Context())
}

func TestStreamsAreCounted(t *testing.T) {
	m := NewMetrics(Options{Logger: slog.New(slog.DiscardHandler), View: newWorld(t).View})
	closed := m.StreamOpened(APISSE, "HTTP/2.0")
	m.StreamOpened(APISSE, "HTTP/2.0")
	closed()
	m.Command(core.CodeInvalid)
	m.Command("made-up")
	wantLines(t, scrape(t, m),
		`mesh_leadership_streams{api="sse",protocol="HTTP/2.0"} 1`,
		`mesh_leadership_streams_opened_total{api="sse",protocol="HTTP/2.0"} 2`,
		`mesh_leadership_commands_total{code="invalid"} 1`,
		`mesh_leadership_commands_total{code="internal"} 1`)
}

func TestLoggerRefusesWhatItDoesNotKnow(t *testing.T) {
	for _, o := range []LogOptions{{"loud", "auto"}, {"info", "xml"}, {"", "text"}} {
		if _, err := NewLogger(os.Stderr, o); err == nil {
			t.Errorf("%+v: want an error", o)
		}
	}
	var b bytes.Buffer
	l, err := NewLogger(&b, LogOptions{"warn", "text"})
	if err != nil {
		t.Fatal(err)
	}
	l.Info("quiet")
	l.Warn("told", "a", 1)
	if s := b.String(); strings.Contains(s, "quiet") || !strings.Contains(s, "told a=1") || strings.Contains(s, "\x1b") {
		t.Errorf("have %q", s)
	}
}
