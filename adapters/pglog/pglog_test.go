package pglog_test

import (
	"strings"
	"testing"
	"time"

	"github.com/omnirelay/leadership/adapters/pglog"
	"github.com/omnirelay/leadership/core"
)

func TestOptionsAreJudgedTogether(t *testing.T) {
	_, err := pglog.Open(t.Context(), pglog.Options{Schema: "pg_x", TailPoll: time.Hour})
	for _, want := range []string{"URL has 0 bytes", `Schema is "pg_x"`, "ClusterID has 0 bytes", "TailPoll is 1h0m0s"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q in it", err, want)
		}
	}
}

func TestServerOutOfReach(t *testing.T) {
	server := start(t)
	s := open(t, server)
	server.Kill()
	r := try(s, &core.StoreCall{ID: 7, Timeout: time.Second, Confirm: &core.StoreConfirm{}})
	if r.Status != core.StoreFailed || r.ID != 7 || r.Identity != "" || r.Text == "" {
		t.Errorf("%+v", r)
	}
	_, err := pglog.Open(t.Context(), pglog.Options{URL: server.URL(), ClusterID: cluster})
	if err == nil || unfit(err) {
		t.Errorf("%v, want an error that may pass", err)
	}
	ok(t, server.Restart(t.Context()))
	until(t, "an answer", func() bool {
		return try(s, &core.StoreCall{Confirm: &core.StoreConfirm{}}).Status == core.StoreOK
	})
}

func TestClosedStoreFails(t *testing.T) {
	s := open(t, start(t))
	waiting := make(chan *core.StoreReply)
	go func() { waiting <- try(s, &core.StoreCall{Fetch: &core.StoreFetch{Wait: 9 * time.Second}}) }()
	ok(t, s.Close())
	if r := <-waiting; r.Status != core.StoreFailed {
		t.Errorf("a fetch that waits: %+v", r)
	}
	if r := try(s, &core.StoreCall{Confirm: &core.StoreConfirm{}}); r.Status != core.StoreFailed {
		t.Errorf("%+v", r)
	}
}

// Beats go on for ever in one place: they must not make the table grow.
func TestBeatsStayInTheirPlace(t *testing.T) {
	server := start(t)
	s := open(t, server)
	r := write(t, s, 1)
	for range 2000 {
		do(t, s, core.StoreOK, &core.StoreCall{Confirm: &core.StoreConfirm{Term: r.Lead.Term, Beat: true}})
	}
	if beat := confirmed(t, s).Lead.Beat; beat != 2000 {
		t.Errorf("beat %d, want 2000", beat)
	}
	size := value[int64](t, session(t, server.URL()), "SELECT pg_relation_size('leadership.lead')")
	if size > 2*8192 {
		t.Errorf("the lead record takes %d bytes after 2000 beats", size)
	}
}
