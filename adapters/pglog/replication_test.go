package pglog_test

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/omnirelay/leadership/adapters/pglog"
	"github.com/omnirelay/leadership/adapters/storeserver"
	"github.com/omnirelay/leadership/core"
)

// both is a URL of two servers.
func both(t *testing.T, a, b *storeserver.Server) string {
	t.Helper()
	u, err := url.Parse(a.URL())
	ok(t, err)
	u.Host += "," + b.Address()
	return u.String()
}

// synchronous makes a server wait for its standby.
func synchronous(t *testing.T, server *storeserver.Server, names string) {
	t.Helper()
	admin := session(t, server.URL())
	query(t, admin, "ALTER SYSTEM SET synchronous_standby_names = '"+names+"'")
	query(t, admin, "SELECT pg_reload_conf()")
	until(t, "the setting", func() bool { return value[string](t, admin, "SHOW synchronous_standby_names") == names })
}

func streaming(t *testing.T, primary *storeserver.Server) {
	t.Helper()
	admin := session(t, primary.URL())
	until(t, "a standby that streams", func() bool {
		return value[int](t, admin, "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'") == 1
	})
}

func promote(t *testing.T, standby *storeserver.Server) {
	t.Helper()
	if !value[bool](t, session(t, standby.URL()), "SELECT pg_promote()") {
		t.Fatal("the standby was not promoted")
	}
}

func TestStandbyIsNotThePrimary(t *testing.T) {
	primary := start(t)
	open(t, primary)
	standby := standbyOf(t, primary)
	_, err := pglog.Open(t.Context(), pglog.Options{URL: standby.URL(), ClusterID: cluster})
	if err == nil || unfit(err) || !strings.Contains(err.Error(), "is a standby, not the primary") {
		t.Errorf("%v", err)
	}
	// Of several, the one that takes writes is used, in whatever order they are named.
	s := opened(t, pglog.Options{URL: both(t, standby, primary), ClusterID: cluster})
	write(t, s, 1)
}

// A standby that was waited for lost nothing. It is another server all the same:
// until every voter has said that it lost nothing, nobody appends.
func TestFailOverToSynchronousStandby(t *testing.T) {
	primary := start(t)
	open(t, primary)
	standby := standbyOf(t, primary)
	streaming(t, primary)
	synchronous(t, primary, "standby")
	s := opened(t, pglog.Options{URL: both(t, primary, standby), ClusterID: cluster})
	before := write(t, s, 20)

	primary.Kill()
	promote(t, standby)
	var after *core.StoreReply
	until(t, "the promoted server", func() bool {
		after = try(s, &core.StoreCall{Confirm: &core.StoreConfirm{}})
		return after.Status == core.StoreOK
	})
	if after.Identity == before.Identity {
		t.Errorf("a promoted standby is known as %s, as before", after.Identity)
	}
	if after.Lead.Last != before.Lead.Last || len(fetched(t, s, 0).Entries) != 20 {
		t.Errorf("the log ends at %d, %d was acknowledged", after.Lead.Last, before.Lead.Last)
	}
	append := next(after)
	append.Append.Adopt, append.Append.Voters = true, []core.NodeID{1, 2}
	do(t, s, core.StoreRefused, append)
	for n := range core.NodeID(2) {
		do(t, s, core.StoreOK, &core.StoreCall{Attest: &core.StoreAttest{Identity: after.Identity, Node: n + 1}})
	}
	do(t, s, core.StoreOK, append)
}

// A standby that was not waited for may lack what was acknowledged: that is seen.
func TestFailOverThatLosesWrites(t *testing.T) {
	primary := start(t)
	open(t, primary)
	standby := standbyOf(t, primary)
	streaming(t, primary)
	s := opened(t, pglog.Options{URL: both(t, primary, standby), ClusterID: cluster})
	seen := write(t, s, 3)
	admin := session(t, standby.URL())
	until(t, "three entries on the standby", func() bool { return value[int](t, admin, "SELECT count(*) FROM leadership.entry") == 3 })
	standby.Kill()
	before := write(t, s, 4)
	primary.Kill()
	ok(t, standby.Restart(t.Context()))
	promote(t, standby)
	var after *core.StoreReply
	until(t, "the promoted server", func() bool {
		after = try(s, &core.StoreCall{Fetch: &core.StoreFetch{After: before.Lead.Last}})
		return after.Status == core.StoreOK
	})
	if after.Identity == before.Identity || after.Lead.Last != seen.Lead.Last {
		t.Errorf("%+v: want another identity than %s, and a log that ends at %d", after, before.Identity, seen.Lead.Last)
	}
	do(t, s, core.StoreRefused, next(before))
}

// A commit that waits for its standby is left to wait: who gives up the call must not
// make it end on the primary alone, for others to see.
func TestGivingUpDoesNotCancelTheStandby(t *testing.T) {
	server := start(t)
	admin := session(t, server.URL())
	query(t, admin, "ALTER ROLE postgres SET client_min_messages = 'error'")
	s := open(t, server)
	r := write(t, s, 1)
	synchronous(t, server, "nobody")
	second := next(r)
	second.Timeout = 300 * time.Millisecond
	do(t, s, core.StoreFailed, second)
	waiting := func() int {
		return value[int](t, admin, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
	}
	if n := waiting(); n != 1 {
		t.Fatalf("%d commits wait for the standby, want 1", n)
	}
	if last := fetched(t, s, 0).Lead.Last; last != 1 {
		t.Errorf("entry %d is shown although no standby has it", last)
	}
	// An operator who cancels it gets it: the server commits, and warns.
	query(t, admin, "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
	until(t, "the commit that was cancelled", func() bool { return fetched(t, s, 0).Lead.Last == 2 })
	third := make(chan *core.StoreReply)
	go func() { third <- try(s, &core.StoreCall{Confirm: &core.StoreConfirm{}}) }()
	until(t, "a commit that waits", func() bool { return waiting() == 1 })
	query(t, admin, "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
	if r := <-third; r.Status != core.StoreFailed || !strings.Contains(r.Text, "on the primary alone") {
		t.Errorf("a commit that was cancelled: %+v", r)
	}
	synchronous(t, server, "")
	do(t, s, core.StoreOK, second) // recognised
}
