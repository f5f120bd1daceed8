package telemetry

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/omnirelay/leadership/core"
)

// Each call and what became of it is there from the start, at 0; without an external
// store there is nothing of it.
func TestStoreMetricsAreThereFromTheStart(t *testing.T) {
	m := NewMetrics(Options{Logger: slog.New(slog.DiscardHandler), View: newWorld(t).View, Store: true})
	wantLines(t, scrape(t, m),
		`mesh_leadership_store_calls_total{call="append",status="ok"} 0`,
		`mesh_leadership_store_calls_total{call="trail",status="unfit"} 0`,
		`mesh_leadership_store_call_seconds_count{call="close"} 0`,
		`mesh_leadership_store_up 0`)
	m.StoreCall(&core.StoreCall{Checkpoint: &core.StoreCheckpoint{}}, &core.StoreReply{Status: core.StoreRefused}, 3*time.Second)
	wantLines(t, scrape(t, m),
		`mesh_leadership_store_calls_total{call="checkpoint",status="refused"} 1`,
		`mesh_leadership_store_call_seconds_sum{call="checkpoint"} 3`,
		`mesh_leadership_store_up 1`)
	without := NewMetrics(Options{Logger: slog.New(slog.DiscardHandler), View: newWorld(t).View})
	if text := scrape(t, without); strings.Contains(text, "store_") {
		t.Error("a node without an external store tells of one")
	}
}

// Every call has a name of its own.
func TestStoreCallsAreNamed(t *testing.T) {
	calls := []core.StoreCall{
		{Append: &core.StoreAppend{}}, {Confirm: &core.StoreConfirm{}}, {Fetch: &core.StoreFetch{}}, {Publish: &core.StorePublish{}},
		{Checkpoint: &core.StoreCheckpoint{}}, {Attest: &core.StoreAttest{}}, {Close: &core.StoreClose{}}, {Replace: &core.StoreReplace{}}, {Trail: &core.StoreTrail{}},
	}
	for i, c := range calls {
		if name := storeCallName(&c); name != storeCalls[i] {
			t.Errorf("%+v is called %q, want %q", c, name, storeCalls[i])
		}
	}
}

// An outage is logged once, with its reason, and so is its end.
func TestOutagesAreLoggedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		m := NewMetrics(Options{Logger: slog.New(slog.NewTextHandler(&log, nil)), View: newWorld(t).View, Store: true})
		call := &core.StoreCall{Fetch: &core.StoreFetch{}}
		ok, failed := &core.StoreReply{Status: core.StoreOK}, &core.StoreReply{Status: core.StoreFailed, Text: "connection refused"}
		tell := func(r *core.StoreReply, took time.Duration) {
			time.Sleep(time.Second)
			m.StoreCall(call, r, took)
		}
		wantLog := func(lines int, last string) {
			t.Helper()
			all := strings.Split(strings.TrimSpace(log.String()), "\n")
			if len(all) != lines || !strings.Contains(all[lines-1], last) {
				t.Fatalf("want %d lines, the last with %q; have\n%s", lines, last, log.String())
			}
		}
		tell(ok, time.Millisecond)
		wantLog(1, `msg="the store answers"`)
		tell(failed, 2*time.Second) // one that was answered began later
		tell(ok, time.Millisecond)
		wantLog(1, "")
		for range 10 {
			tell(failed, 100*time.Millisecond)
		}
		wantLog(2, `level=WARN msg="the store does not answer" call=fetch reason="connection refused"`)
		wantLines(t, scrape(t, m), "mesh_leadership_store_up 0")
		tell(ok, time.Millisecond)
		tell(ok, time.Millisecond)
		wantLog(3, `msg="the store answers again" after=10.1s`)
		wantLines(t, scrape(t, m), "mesh_leadership_store_up 1")
	})
}
