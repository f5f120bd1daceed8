package pglog_test

import (
	"testing"
	"time"

	"github.com/omnirelay/leadership/adapters/pglog"
	"github.com/omnirelay/leadership/adapters/storeserver"
	"github.com/omnirelay/leadership/core"
)

// waited is how long after an append a fetch that waits has it.
func waited(t *testing.T, server *storeserver.Server, reader, writer *pglog.Store) time.Duration {
	t.Helper()
	admin := session(t, server.URL())
	at := confirmed(t, writer)
	now := value[time.Time](t, admin, "SELECT clock_timestamp()")
	got := make(chan time.Time)
	go func() {
		r := try(reader, &core.StoreCall{Timeout: 20 * time.Second, Fetch: &core.StoreFetch{After: at.Lead.GetLast(), MaxBytes: 1, Wait: 15 * time.Second}})
		if r.Status != core.StoreOK || len(r.Entries) != 1 {
			t.Errorf("%+v, want one entry", r)
		}
		got <- time.Now()
	}()
	until(t, "a fetch that found nothing", func() bool {
		return value[int](t, admin, "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%log_fetch%' AND state = 'idle' AND state_change > $1", now) > 0
	})
	begun := time.Now()
	do(t, writer, core.StoreOK, next(at))
	return (<-got).Sub(begun)
}

const listeners = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"

func listening(t *testing.T, server *storeserver.Server) {
	t.Helper()
	admin := session(t, server.URL())
	until(t, "a listener", func() bool { return value[int](t, admin, listeners) == 1 })
}

// With polling out of the way, it is the notification that wakes.
func TestNotificationsWake(t *testing.T) {
	server := start(t)
	writer := open(t, server)
	ok(t, writer.Close())
	reader := opened(t, pglog.Options{URL: server.URL(), ClusterID: cluster, TailPoll: pglog.MaxTailPoll})
	listening(t, server)
	for range 5 {
		if d := waited(t, server, reader, reader); d > pglog.MaxTailPoll/2 {
			t.Fatalf("woken after %s: not by the notification", d)
		}
	}
	// The listener is cut off and comes back.
	query(t, session(t, server.URL()), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'")
	listening(t, server)
	if d := waited(t, server, reader, reader); d > pglog.MaxTailPoll/2 {
		t.Fatalf("woken after %s: the listener did not come back", d)
	}
}

// While notifications are cut off, polling finds what was written.
func TestPollingFindsWhatIsNotNotified(t *testing.T) {
	server := start(t)
	s := open(t, server)
	admin := session(t, server.URL())
	for range 3 {
		listening(t, server)
		query(t, admin, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'")
		if d := waited(t, server, s, s); d > time.Second {
			t.Errorf("%s without a listener, at polls every %s", d, pglog.DefaultTailPoll)
		}
	}
}
