package etcdlog

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/omnirelay/leadership/adapters/storeserver"
	"github.com/omnirelay/leadership/core"
)

// mirror copies the test's keys from one etcd to another, as they are now.
func mirror(t *testing.T, from, to *storeserver.Server) {
	t.Helper()
	got, err := rawClient(t, from).Get(t.Context(), testPrefix, clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	target := rawClient(t, to)
	for _, kv := range got.Kvs {
		if _, err := target.Put(t.Context(), string(kv.Key), string(kv.Value)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestAnotherCluster puts another etcd, which holds the same log, in the place of the
// one that a store is connected to. Nothing is appended there until the voters
// attested it.
func TestAnotherCluster(t *testing.T) {
	eachEtcd(t, func(t *testing.T, first *storeserver.Server) {
		second := startEtcd(t, storeserver.Options{Binary: binaries["3.7"]})
		proxy, err := storeserver.NewProxy(first.Address())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(proxy.Close)
		s := open(t, options(proxy.Address()))
		fill(t, s)
		mirror(t, first, second)
		a := nextAppend(t, s, 1, []byte("x"))
		proxy.SetTarget(second.Address())
		proxy.Cut()
		var r *core.StoreReply
		for r == nil || r.Status == core.StoreFailed { // the cut connection
			r = s.Do(t.Context(), &core.StoreCall{Timeout: patience, Append: a})
		}
		if r.Status != core.StoreRefused || r.Identity == a.Lead.Identity || r.Lead.Last != a.Guard.Last {
			t.Fatalf("an append on another cluster: %+v", r)
		}
		attestThere(t, s, r.Identity, a)
	})
}

func attestThere(t *testing.T, s *Store, identity string, a *core.StoreAppend) {
	t.Helper()
	do(t, s, core.StoreRefused, &core.StoreCall{Attest: &core.StoreAttest{Identity: a.Lead.Identity, Node: 1}})
	adopt := *a
	adopt.Lead = appendAt(identity, a.Guard, 2, []byte("x")).Lead
	adopt.Adopt, adopt.Voters = true, []core.NodeID{1, 2}
	do(t, s, core.StoreRefused, &core.StoreCall{Append: &adopt})
	for _, n := range adopt.Voters {
		do(t, s, core.StoreRefused, &core.StoreCall{Append: &adopt})
		do(t, s, core.StoreOK, &core.StoreCall{Attest: &core.StoreAttest{Identity: identity, Node: n}})
	}
	do(t, s, core.StoreOK, &core.StoreCall{Append: &adopt})
	r := do(t, s, core.StoreOK, &core.StoreCall{Fetch: &core.StoreFetch{MaxBytes: 1 << 20}})
	if r.Lead.Identity != identity || len(r.Attested) != 2 || r.Lead.Last != a.Guard.Last+1 {
		t.Errorf("after the adoption: %+v", r)
	}
}

// TestOlderCopy puts an older copy of its data under a server. Its identity stays, so
// the store passes on what the server says, which is less than a replica's mark;
// and it warns.
func TestOlderCopy(t *testing.T) {
	eachEtcd(t, func(t *testing.T, server *storeserver.Server) {
		var logged bytes.Buffer
		o := options(server.Address())
		o.Logger = slog.New(slog.NewTextHandler(&logged, nil))
		s := open(t, o)
		fill(t, s)
		server.Stop()
		copied := t.TempDir() + "/copy"
		if err := server.Copy(copied); err != nil {
			t.Fatal(err)
		}
		restart(t, server)
		do(t, s, core.StoreOK, &core.StoreCall{Append: nextAppend(t, s, 1, []byte("lost"))})
		server.Stop()
		if err := server.RestoreFrom(copied); err != nil {
			t.Fatal(err)
		}
		restart(t, server)
		r := do(t, s, core.StoreOK, &core.StoreCall{Fetch: &core.StoreFetch{After: 10, Wait: patience}})
		if r.Lead.Last != 9 || len(r.Entries) != 0 {
			t.Errorf("reply %+v", r)
		}
		if !strings.Contains(logged.String(), "older state") {
			t.Errorf("logged: %s", logged.String())
		}
		waitingFetchSees(t, s, func() {
			do(t, s, core.StoreOK, &core.StoreCall{Append: nextAppend(t, s, 2, []byte("goes on"))})
		})
	})
}

func restart(t *testing.T, server *storeserver.Server) {
	t.Helper()
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
}
