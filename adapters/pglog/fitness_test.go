package pglog_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/omnirelay/leadership/adapters/pglog"
	"github.com/omnirelay/leadership/core"
)

// unfit reports that trying again cannot help, as a caller asks it.
func unfit(err error) bool {
	var u interface{ Unfit() bool }
	return errors.As(err, &u) && u.Unfit()
}

func refusedOpen(t *testing.T, o pglog.Options, want string) {
	t.Helper()
	_, err := pglog.Open(t.Context(), o)
	if err == nil || !unfit(err) || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want a refusal with %q", err, want)
	}
}

func TestUnsafeServerIsRefusedAndWatched(t *testing.T) {
	for setting, want := range map[string]string{"fsync": "set fsync = on", "full_page_writes": "set full_page_writes = on"} {
		dir := t.TempDir()
		server := startIn(t, dir, 0)
		s := open(t, server)
		write(t, s, 1)
		server.Stop()
		startIn(t, dir, portOf(t, server), setting+"=off")
		var r *core.StoreReply
		until(t, "an answer", func() bool {
			r = try(s, &core.StoreCall{Fetch: &core.StoreFetch{}})
			return r.Status != core.StoreFailed
		})
		if r.Status != core.StoreUnfit || !strings.Contains(r.Text, want) {
			t.Errorf("%+v, want unfit: %s", r, want)
		}
		refusedOpen(t, pglog.Options{URL: server.URL(), ClusterID: cluster, Migrate: true}, want)
	}
}

func TestForeignLogs(t *testing.T) {
	server := start(t)
	s := open(t, server)
	r := write(t, s, 1)
	o := pglog.Options{URL: server.URL(), ClusterID: "two", Migrate: true}
	other := opened(t, o)
	for name, c := range map[string]*core.StoreCall{
		"fetch":   {Fetch: &core.StoreFetch{}},
		"confirm": {Confirm: &core.StoreConfirm{Term: 1, Beat: true}},
		"append":  next(r),
		"close":   {Close: &core.StoreClose{Reason: "x"}},
		"attest":  {Attest: &core.StoreAttest{Identity: r.Identity, Node: 1}},
		"publish": {Publish: &core.StorePublish{Term: 1}},
		"trail":   {Trail: &core.StoreTrail{Limit: 1}},
	} {
		if got := do(t, other, core.StoreUnfit, c); !strings.Contains(got.Text, `"one"`) && !strings.Contains(got.Text, `"two"`) {
			t.Errorf("%s: %s", name, got.Text)
		}
	}
	if l := confirmed(t, s).Lead; l.Beat != 0 || l.Closed != "" || l.Last != 1 {
		t.Errorf("another cluster changed the log: %v", l)
	}
}

func TestDamagedLogs(t *testing.T) {
	server := start(t)
	admin := session(t, server.URL())
	for _, c := range []struct{ sql, want string }{
		{"DELETE FROM leadership.lead", "the row of lead is gone"},
		{"DELETE FROM leadership.entry WHERE index = 2", "lacks entry 2"},
		{"DELETE FROM leadership.entry WHERE index = 3", "lacks entry 3"},
		{"DELETE FROM leadership.entry", "lacks entry 1"},
		{"UPDATE leadership.lead SET last = 2", "holds entry 3, behind the end"},
		{"UPDATE leadership.lead SET schema = 2", "use a newer leaderd"},
		{"DROP TABLE leadership.entry", "missing or of another version"},
		{"DROP SCHEMA leadership CASCADE", "missing or of another version"},
	} {
		query(t, admin, "DROP SCHEMA IF EXISTS leadership CASCADE")
		s := open(t, server)
		write(t, s, 3)
		query(t, admin, c.sql)
		r := try(s, &core.StoreCall{Fetch: &core.StoreFetch{MaxBytes: 1 << 20}})
		if r.Status == core.StoreOK { // the rows before the missing one; what follows tells
			r = try(s, &core.StoreCall{Fetch: &core.StoreFetch{After: r.Entries[len(r.Entries)-1].Index, MaxBytes: 1 << 20}})
		}
		if r.Status != core.StoreUnfit || !strings.Contains(r.Text, c.want) {
			t.Errorf("%s: %+v, want %q", c.sql, r, c.want)
		}
		ok(t, s.Close())
	}
}

// A row that was left by something else is not overwritten.
func TestForeignEntry(t *testing.T) {
	server := start(t)
	s := open(t, server)
	r := write(t, s, 1)
	query(t, session(t, server.URL()), `INSERT INTO leadership.entry VALUES (2, 1, '\x01', '\x02')`)
	if got := do(t, s, core.StoreUnfit, next(r)); !strings.Contains(got.Text, "not of this log") {
		t.Error(got.Text)
	}
	if l := confirmed(t, s).Lead; l.Last != 1 {
		t.Errorf("the refused append moved the log: %v", l)
	}
}

// The defaults of role and database do not decide how durable an answer is.
func TestDefaultsDoNotMatter(t *testing.T) {
	server := start(t)
	open(t, server)
	admin := session(t, server.URL())
	query(t, admin, "ALTER ROLE postgres SET synchronous_commit = off")
	s := open(t, server)
	// A standby that does not exist: what commits asynchronously is answered all the same.
	synchronous(t, server, "nobody")
	first := next(&core.StoreReply{Identity: "any"})
	for name, c := range map[string]*core.StoreCall{
		"confirm": {Confirm: &core.StoreConfirm{}},
		"append":  first, // refused, but what refuses it must be proven
		"attest":  {Attest: &core.StoreAttest{Identity: "any", Node: 1}},
		"close":   {Close: &core.StoreClose{}},
		"publish": {Publish: &core.StorePublish{Term: 9}},
	} {
		c.Timeout = 300 * time.Millisecond
		if r := try(s, c); r.Status != core.StoreFailed {
			t.Errorf("%s was answered without its standby: %+v", name, r)
		}
	}

	synchronous(t, server, "")
	query(t, admin, "ALTER ROLE postgres SET default_transaction_isolation = 'serializable'")
	refused := opened(t, pglog.Options{URL: server.URL(), ClusterID: cluster})
	if r := do(t, refused, core.StoreUnfit, &core.StoreCall{Confirm: &core.StoreConfirm{}}); !strings.Contains(r.Text, "set default_transaction_isolation") {
		t.Error(r.Text)
	}
}
