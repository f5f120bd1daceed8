package control

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/omnirelay/leadership/adapters/api"
	"github.com/omnirelay/leadership/adapters/control/controltest"
	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/wire"
)

// withAPI serves the real operations on the site's node.
func withAPI(o *Options) {
	service, err := api.New(api.Options{Source: o.Source.(*controltest.Node), Cluster: "demo", NodeID: "node-1", SessionsPerMember: 1,
		Attach: func(func(core.ReplicaMessage)) (api.Attachment, error) { return nil, errors.New("no replica is here") },
		Window: o.ReadTimeout, WriteTimeout: o.WriteTimeout, Logger: o.Logger})
	if err != nil {
		panic(err)
	}
	o.Service = service
}

func TestLeaders(t *testing.T) {
	st := newSite(t, withAPI)
	st.node.Declare("global-control", "shard/a/0", "job")
	st.node.Expires = st.node.Wall + int64(2*time.Second)
	st.node.Join("node-1")
	resp, text := st.get("/control/leaders")
	all := read[wire.LeadersResponse](t, text)
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "application/json" || all.Revision != 4 || len(all.Tokens) != 3 {
		t.Fatalf("%d %s", resp.StatusCode, text)
	}
	first := all.Tokens[0]
	if first.Scope != "global-control" || first.LeaderID != "node-1" || first.Term != 1 || first.FenceToken == 0 ||
		first.ExpiresAt.UnixNano() != st.node.Expires || first.IssuedAt.UnixNano() != st.node.Wall {
		t.Errorf("token %+v", first)
	}
	_, text = st.get("/control/leaders?scope=shard/a/0&linearizable=true")
	if one := read[wire.LeadersResponse](t, text); len(one.Tokens) != 1 || one.Tokens[0].Labels["shardId"] != "0" {
		t.Errorf("one scope: %s", text)
	}
	st.node.Leave(1)
	_, text = st.get("/control/leaders?scope=job")
	if none := read[wire.LeadersResponse](t, text); none.Tokens == nil || len(none.Tokens) != 0 {
		t.Errorf("a vacant scope: %s", text)
	}
}

func TestAudit(t *testing.T) {
	st := newSite(t, withAPI)
	st.node.Declare("a", "b")
	s1 := st.node.Join("node-1")
	st.node.Join("node-2")
	st.node.Leave(s1)
	seqs := func(path string) (out []uint64) {
		_, text := st.get(path)
		for _, r := range read[wire.AuditResponse](t, text).Records {
			out = append(out, r.Seq)
		}
		return out
	}
	for path, want := range map[string]string{
		"/control/audit":                         "[1 2 3 4 5 6 7 8]",
		"/control/audit?limit=2":                 "[7 8]",
		"/control/audit?after=3&limit=2":         "[4 5]",
		"/control/audit?after=8":                 "[]",
		"/control/audit?scope=a":                 "[1 3 5 7]",
		"/control/audit?scope=a&limit=1":         "[7]",
		"/control/audit?scope=a&after=1&limit=1": "[3]",
	} {
		if got := fmt.Sprint(seqs(path)); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
	_, text := st.get("/control/audit")
	records := read[wire.AuditResponse](t, text).Records
	for i := 1; i < len(records); i++ {
		if records[i].PreviousHash != records[i-1].Hash || records[i].Hash == "" {
			t.Errorf("record %d does not follow", records[i].Seq)
		}
	}
}

func TestLinearizableReadWaitsAndGivesUp(t *testing.T) {
	st := newSite(t, func(o *Options) {
		o.ReadTimeout = 20 * time.Millisecond
		withAPI(o)
	})
	st.node.Barrier = func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	}
	resp, text := st.get("/control/leaders?linearizable=true")
	if p := read[wire.Problem](t, text); resp.StatusCode != http.StatusServiceUnavailable || !strings.Contains(p.Detail, "within 20ms") || resp.Header.Get("Retry-After") != "1" {
		t.Errorf("%d %s", resp.StatusCode, text)
	}
	// What is acknowledged before the barrier returns is in the answer.
	st.node.Barrier = func(context.Context) error {
		st.node.Declare("late")
		st.node.Join("node-1")
		return nil
	}
	if _, text := st.get("/control/leaders?linearizable=true"); len(read[wire.LeadersResponse](t, text).Tokens) != 1 {
		t.Errorf("read before the barrier: %s", text)
	}
}

func TestRetiredHistoryIsGone(t *testing.T) {
	st := newSite(t, withAPI)
	st.node.Declare("job")
	overrun(st.node)
	resp, text := st.get("/control/audit?after=1")
	if p := read[wire.Problem](t, text); resp.StatusCode != http.StatusGone || p.Field != "after" || !strings.Contains(p.Detail, "the oldest is ") {
		t.Errorf("%d %s", resp.StatusCode, text)
	}
}
