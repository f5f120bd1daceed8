package control

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/omnirelay/leadership/adapters/transport"
	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
	"github.com/omnirelay/leadership/wire"
)

// reader is an SSE client as browsers have one: it knows the last id it saw.
type reader struct {
	site   *site
	lastID string
	// authorization is the header of that name.
	authorization string

	body  io.ReadCloser
	lines *bufio.Scanner
	stop  context.CancelFunc
}

func (st *site) connect(protocol string, query, lastID string) *reader {
	st.t.Helper()
	r := &reader{site: st, lastID: lastID}
	r.open(st.client(protocol, st.pair(st.authority.IssueClient(transport.RoleRead))), query)
	return r
}

func (r *reader) open(c *http.Client, query string) {
	r.site.t.Helper()
	ctx, stop := context.WithTimeout(r.site.t.Context(), time.Minute)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.site.url+"/control/events/leadership"+query, nil)
	if err != nil {
		r.site.t.Fatal(err)
	}
	if r.authorization != "" {
		req.Header.Set("Authorization", r.authorization)
	}
	if r.lastID != "" {
		req.Header.Set("Last-Event-ID", r.lastID)
	}
	resp, err := c.Do(req) //nolint:bodyclose // reader.close does
	if err != nil {
		r.site.t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/event-stream" {
		r.site.t.Fatalf("%d %s", resp.StatusCode, resp.Header)
	}
	r.body, r.lines, r.stop = resp.Body, bufio.NewScanner(resp.Body), stop
	r.site.t.Cleanup(r.close)
}

func (r *reader) close() {
	r.stop()
	_ = r.body.Close()
}

// next reads one event; comments and retry are skipped as browsers do.
func (r *reader) next() wire.Event {
	r.site.t.Helper()
	var kind, data string
	for r.lines.Scan() {
		name, value, _ := strings.Cut(r.lines.Text(), ": ")
		switch name {
		case "id":
			r.lastID = value
		case "event":
			kind = value
		case "data":
			data = value
		case "":
			if data == "" {
				continue
			}
			var e wire.Event
			if err := json.Unmarshal([]byte(data), &e); err != nil || e.Kind != kind {
				r.site.t.Fatalf("%v: event %q, data %s", err, kind, data)
			}
			return e
		}
	}
	r.site.t.Fatalf("the stream ended: %v", r.lines.Err())
	return wire.Event{}
}

func (r *reader) want(t *testing.T, want ...string) {
	t.Helper()
	for _, w := range want {
		if e := r.next(); fmt.Sprint(e.Kind, " ", e.Scope) != w && e.Kind+" "+e.Reason != w {
			t.Fatalf("event %s %s %s at %d.%d, want %s", e.Kind, e.Scope, e.Reason, e.Revision, e.Ordinal, w)
		}
	}
}

func TestStreamIsSnapshotMarkEvents(t *testing.T) {
	for _, protocol := range protocols {
		st := newSite(t)
		st.node.Declare("a", "b")
		st.node.Expires = 42
		session := st.node.Join("node-1")
		r := st.connect(protocol, "", "")
		first := r.next()
		if first.Kind != "SNAPSHOT" || first.Transport != protocol || first.Token.ExpiresAt.UnixNano() != 42 || r.lastID != "" {
			t.Errorf("first event %+v, last id %q", first, r.lastID)
		}
		if second := r.next(); second.Transport != "" || second.Scope != "b" {
			t.Errorf("second event %+v", second)
		}
		r.want(t, "OBSERVED snapshot-end")
		if r.lastID != "4.2" {
			t.Errorf("the snapshot's end is at %q", r.lastID)
		}
		st.node.Leave(session)
		r.want(t, "STEPPED_DOWN a", "STEPPED_DOWN b")
		if r.lastID != "5.2" {
			t.Errorf("after two events at %q", r.lastID)
		}
		if text := st.scrape(); !strings.Contains(text, fmt.Sprintf("mesh_leadership_streams{api=\"sse\",protocol=%q} 1", protocol)) {
			t.Errorf("the stream is not counted:\n%s", text)
		}
	}
}

// mesh writes one of each kind that is about no scope's leadership.
func (st *site) mesh() {
	st.node.Apply(&logpb.Command{Kind: &logpb.Command_AnnounceVersion{AnnounceVersion: &logpb.AnnounceVersion{Replica: 1, MaxVersion: core.ProtocolVersion}}})
	st.node.Apply(&logpb.Command{Kind: &logpb.Command_AnnounceVersion{AnnounceVersion: &logpb.AnnounceVersion{Replica: 1, MaxVersion: core.ProtocolVersion,
		Node: &logpb.Node{Name: "node-2", PeerAddress: "127.0.0.1:1"}}}})
	st.node.Apply(&logpb.Command{Why: "kernel update", Actor: "ann", Kind: &logpb.Command_Cordon{Cordon: &logpb.Cordon{MemberId: "m", Cordoned: true}}},
		&logpb.Command{Kind: &logpb.Command_ReportSplitBrain{ReportSplitBrain: &logpb.ReportSplitBrain{Reports: []*logpb.SplitBrain{
			{Scope: "a", MemberId: "m", Fence: 7, Reason: core.SplitBrainTwoClaimants}, {MemberId: "gone", Reason: core.SplitBrainLeaderGone},
		}}}},
		&logpb.Command{Why: "more room", Kind: &logpb.Command_MoveRegistrar{MoveRegistrar: &logpb.MoveRegistrar{To: "node-2"}}})
	st.node.Declare("last")
}

// A stream of all scopes tells of members and nodes, with who and why; a stream of one scope
// tells what may be wrong with that scope, and nothing of members and nodes.
func TestStreamsTellOfMembersAndNodes(t *testing.T) {
	st := newSite(t)
	st.node.Declare("a")
	all, one := st.connect(http2, "", ""), st.connect(http2, "?scope=a", "")
	all.want(t, "OBSERVED snapshot-end")
	one.want(t, "OBSERVED snapshot-end")
	st.mesh()
	if e := all.next(); e.Kind != "MEMBER_CORDONED" || e.LeaderID != "m" || e.Scope != "" || e.Why != "kernel update" || e.Reason != "cordon" || e.Token != nil {
		t.Errorf("cordoned: %+v", e)
	}
	for _, r := range []*reader{all, one} {
		if e := r.next(); e.Kind != "SPLIT_BRAIN" || e.Scope != "a" || e.LeaderID != "m" || e.Reason != "two-claimants" || e.Token != nil || e.CorrelationID == "" {
			t.Errorf("two claimants: %+v", e)
		}
	}
	if e := all.next(); e.Kind != "SPLIT_BRAIN" || e.Scope != "" || e.LeaderID != "gone" || e.Reason != "leader-gone" {
		t.Errorf("a leader gone: %+v", e)
	}
	if e := all.next(); e.Kind != "REGISTRAR_MOVED" || e.Subject != "node-2" || e.Why != "more room" {
		t.Errorf("moved: %+v", e)
	}
	all.want(t, "SCOPE_DECLARED last")
	st.node.Retire("a")
	one.want(t, "SCOPE_RETIRED a")
}

func (st *site) scrape() string {
	_, text := st.get("/metrics")
	return text
}

func TestStreamOfOneScope(t *testing.T) {
	st := newSite(t)
	st.node.Declare("a", "b")
	session := st.node.Join("node-1")
	r := st.connect(http2, "?scope=b", "")
	r.want(t, "SNAPSHOT b", "OBSERVED snapshot-end")
	st.node.Leave(session)
	st.node.Retire("a", "b")
	r.want(t, "STEPPED_DOWN b", "SCOPE_RETIRED b")
	// A retired scope is unknown, but its last events are still owed.
	r.close()
	late := st.connect(http2, "?scope=b", "5.2")
	late.want(t, "SCOPE_RETIRED b")
}

// A client that is cut again and again, at any place, and always comes back with
// the last id it saw, sees what one that never was cut sees.
func TestReconnectingMissesNothingAndSeesNothingTwice(t *testing.T) {
	st := newSite(t)
	st.node.Declare("a", "b", "c")
	steady := st.connect(http2, "", "")
	steady.want(t, "OBSERVED snapshot-end")
	flaky := st.connect(http1, "", "")
	flaky.want(t, "OBSERVED snapshot-end")
	const rounds = 40
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range rounds {
			st.node.Leave(st.node.Join(fmt.Sprintf("node-%d", i)))
		}
	}()
	const events = rounds * 6
	var want, got []string
	for i := range events {
		want = append(want, line(steady.next()))
		got = append(got, line(flaky.next()))
		if i%7 == 0 {
			flaky.close()
			flaky = st.connect(protocols[i%3], "", flaky.lastID)
		}
	}
	<-done
	if strings.Join(want, "\n") != strings.Join(got, "\n") {
		t.Errorf("steady saw\n%s\nflaky saw\n%s", strings.Join(want, "\n"), strings.Join(got, "\n"))
	}
}

func line(e wire.Event) string {
	return fmt.Sprintf("%d.%d %s %s %s", e.Revision, e.Ordinal, e.Kind, e.Scope, e.LeaderID)
}

func TestGoneHistoryIsAResync(t *testing.T) {
	st := newSite(t)
	st.node.Declare("job")
	overrun(st.node)
	st.node.Join("node-1")
	r := st.connect(http2, "?scope=job", "2.1")
	if e := r.next(); e.Kind != "OBSERVED" || e.Reason != core.ReasonResync || e.Transport != "HTTP/2.0" {
		t.Errorf("first event %+v", e)
	}
	r.want(t, "SNAPSHOT job", "OBSERVED snapshot-end")
	if !strings.Contains(st.scrape(), `mesh_leadership_stream_resyncs_total{api="sse"} 1`) {
		t.Error("the resync is not counted")
	}
}

func TestSilentStreamGetsComments(t *testing.T) {
	st := newSite(t, func(o *Options) { o.Heartbeat = 5 * time.Millisecond })
	r := st.connect(http2, "", "")
	r.want(t, "OBSERVED snapshot-end")
	for alive := 0; alive < 3; {
		if !r.lines.Scan() {
			t.Fatal("the stream ended")
		}
		if r.lines.Text() == ": alive" {
			alive++
		}
	}
}

// The deadline of one write must not end a stream that is silent after it.
func TestSilenceOutlastsTheWriteDeadline(t *testing.T) {
	overEach(t, func(t *testing.T, protocol string) {
		st := newSite(t, func(o *Options) { o.WriteTimeout, o.Heartbeat = 200*time.Millisecond, 500*time.Millisecond })
		r := st.connect(protocol, "", "")
		r.want(t, "OBSERVED snapshot-end")
		for alive := 0; alive < 2; { // each heartbeat lies behind the deadline of the write before
			if !r.lines.Scan() {
				t.Fatalf("the stream ended: %v", r.lines.Err())
			}
			if r.lines.Text() == ": alive" {
				alive++
			}
		}
		st.node.Declare("late")
		r.want(t, "SCOPE_DECLARED late")
	})
}

// overEach runs f over every protocol, at the same time as it is mostly waiting.
func overEach(t *testing.T, f func(t *testing.T, protocol string)) {
	for _, protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			f(t, protocol)
		})
	}
}

func TestStreamsAreBounded(t *testing.T) {
	st := newSite(t, func(o *Options) { o.MaxStreams = 2 })
	one := st.connect(http2, "", "")
	st.connect(http1, "", "")
	resp, text := st.get("/control/events/leadership")
	if p := read[wire.Problem](t, text); resp.StatusCode != http.StatusServiceUnavailable || p.Code != "overloaded" || resp.Header.Get("Retry-After") != "5" {
		t.Fatalf("%d %s", resp.StatusCode, text)
	}
	one.close()
	// The server learns of the end by itself.
	await(t, "the slot of a reader that left is free", func() bool { return len(st.server.slots) < 2 })
	st.connect(http2, "", "")
}

// A reader that keeps its connection and stops reading is cut, and costs no other
// reader anything.
func TestStoppedReaderIsCut(t *testing.T) {
	overEach(t, func(t *testing.T, protocol string) {
		st := newSite(t, func(o *Options) { o.WriteTimeout = 3 * time.Second })
		stopped := st.connect(protocol, "", "")
		live := st.connect(http2, "", "")
		live.want(t, "OBSERVED snapshot-end")
		seen := live.drain()
		ids := make([]string, 500)
		for i := range ids {
			ids[i] = fmt.Sprintf("filler/%d/%s", i, strings.Repeat("x", 60))
		}
		written := int64(0)
		await(t, "a reader that stopped is cut", func() bool {
			if seen.Load() == written { // no faster than the live reader reads
				st.node.Declare(ids...)
				st.node.Retire(ids...)
				written += int64(2 * len(ids))
			}
			return len(st.server.slots) == 1
		})
		await(t, "the live reader has seen everything", func() bool { return seen.Load() == written })
		if !strings.Contains(st.scrape(), `mesh_leadership_streams_cut_total{api="sse"} 1`) {
			t.Error("the cut is not counted")
		}
		stopped.close()
	})
}

// drain reads on and counts events.
func (r *reader) drain() *atomic.Int64 {
	seen, done := &atomic.Int64{}, make(chan struct{})
	go func() {
		defer close(done)
		for r.lines.Scan() {
			if strings.HasPrefix(r.lines.Text(), "event: ") {
				seen.Add(1)
			}
		}
	}()
	r.site.t.Cleanup(func() { r.close(); <-done })
	return seen
}

// await gives what must come all the time that a loaded machine may need.
func await(t *testing.T, what string, is func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !is() {
		if time.Now().After(deadline) {
			t.Fatal("waited in vain: " + what)
		}
		time.Sleep(time.Millisecond)
	}
}

func TestStreamOfANodeWithoutTheClusterEnds(t *testing.T) {
	st := newSite(t, func(o *Options) { o.Heartbeat = 5 * time.Millisecond })
	r := st.connect(http2, "", "")
	r.want(t, "OBSERVED snapshot-end")
	st.node.SetReady("no registrar")
	for r.lines.Scan() {
	}
	if err := r.lines.Err(); err != nil {
		t.Errorf("ended by %v, want a clean end", err)
	}
}

func TestEndStreamsEndsThem(t *testing.T) {
	st := newSite(t)
	r := st.connect(http2, "", "")
	r.want(t, "OBSERVED snapshot-end")
	st.server.EndStreams()
	for r.lines.Scan() {
	}
	if err := r.lines.Err(); err != nil {
		t.Errorf("ended by %v, want a clean end", err)
	}
	if resp, _ := st.get("/control/events/leadership"); resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("%d after the end, want 503", resp.StatusCode)
	}
}

// A browser never comes back to a stream that was answered with an error.
func TestAStreamOpenedTooEarlyWaits(t *testing.T) {
	st := newSite(t)
	st.node.Declare("job")
	st.node.SetReady("no registrar")
	r := st.connect(http2, "", "")
	st.node.Join("node-1")
	st.node.SetReady("")
	if e := r.next(); e.Kind != "SNAPSHOT" || e.LeaderID != "node-1" {
		t.Errorf("first event %+v", e)
	}
}

// By the letter of the HTML standard a reader forgets its place at every new
// connection, so a resumed stream names it before the first event.
func TestAResumedStreamNamesItsPlace(t *testing.T) {
	st := newSite(t)
	r := st.connect(http1, "", "7.2")
	r.lastID = ""
	if r.lines.Scan(); r.lines.Text() != "id: 7.2" {
		t.Errorf("first line %q", r.lines.Text())
	}
}

// A cursor of another history is answered by starting over, not by silence.
func TestACursorFromNowhereIsResynced(t *testing.T) {
	st := newSite(t)
	st.node.Declare("job")
	st.node.Join("node-1")
	r := st.connect(http1, "", "9999999.1")
	var kinds []string
	for range 3 {
		e := r.next()
		kinds = append(kinds, e.Kind+" "+e.Reason)
	}
	if got := fmt.Sprint(kinds); got != "[OBSERVED resync SNAPSHOT  OBSERVED snapshot-end]" {
		t.Error(got)
	}
}
