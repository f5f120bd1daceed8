package redislog

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/omnirelay/leadership/core"
)

// mustRefuse opens a store that must be found unfit for the reason given.
func mustRefuse(t *testing.T, o Options, reason string) {
	t.Helper()
	s, err := Open(t.Context(), o)
	if err == nil {
		_ = s.Close()
		t.Fatalf("opened, although: %s", reason)
	}
	var unfit interface{ Unfit() bool }
	if !errors.As(err, &unfit) || !unfit.Unfit() || !strings.Contains(err.Error(), reason) {
		t.Fatalf("refused with %q, want an unfit store and %q", err, reason)
	}
}

// await makes calls until one ends with the status and the text.
func await(t *testing.T, s *Store, status core.StoreStatus, text string) *core.StoreReply {
	t.Helper()
	var r *core.StoreReply
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		r = do(s, &core.StoreCall{Timeout: time.Second, Confirm: &core.StoreConfirm{}})
		if r.Status == status && strings.Contains(r.Text, text) {
			return r
		}
	}
	t.Fatalf("last status %d, text %q; want %d and %q", r.Status, r.Text, status, text)
	return nil
}

func TestOptionsAllProblemsAtOnce(t *testing.T) {
	_, err := Open(t.Context(), Options{Address: "nowhere", Username: "u", DB: -1, Prefix: "a b", AuditRecords: 7})
	if err == nil {
		t.Fatal("opened")
	}
	for _, field := range []string{"Address", "Password", "DB", "Prefix", "ClusterID", "AuditRecords", "Logger"} {
		if !strings.Contains(err.Error(), field+" ") {
			t.Errorf("no word about %s in:\n%v", field, err)
		}
	}
}

func TestSettingsAreCheckedAndWatched(t *testing.T) {
	server := startServer(t)
	operator := admin(t, server.Address())
	s := openStore(t, testOptions(server.Address()))
	for _, c := range []struct{ name, wrong, right, reason string }{
		{"appendonly", "no", "yes", "appendonly is"},
		{"appendfsync", "everysec", "always", `appendfsync is "everysec": what was acknowledged in the last second would be lost in a crash; set appendfsync always`},
		{"no-appendfsync-on-rewrite", "yes", "no", `no-appendfsync-on-rewrite is "yes"`},
		{"maxmemory-policy", "allkeys-lru", "noeviction", `maxmemory-policy is "allkeys-lru"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			command(t, operator, "CONFIG", "SET", c.name, c.wrong)
			await(t, s, core.StoreUnfit, c.reason)
			mustRefuse(t, testOptions(server.Address()), c.reason)
			command(t, operator, "CONFIG", "SET", c.name, c.right)
			await(t, s, core.StoreOK, "")
		})
	}
}

// A script itself refuses a server whose append-only file is off: it need not wait
// for the next look at the settings.
func TestAppendOnlyOffRefusesWrites(t *testing.T) {
	server := startServer(t)
	s := openStore(t, testOptions(server.Address()))
	identity := identityOf(t, s)
	command(t, admin(t, server.Address()), "CONFIG", "SET", "appendonly", "no")
	r := do(s, appendOf(core.Position{}, 1, identity, nil))
	if r.Status != core.StoreUnfit || !strings.Contains(r.Text, "appendonly") {
		t.Fatalf("status %d: %s", r.Status, r.Text)
	}
}

func TestSettingsThatCannotBeReadAreRefused(t *testing.T) {
	server := startServer(t, "--rename-command", "CONFIG", "")
	mustRefuse(t, testOptions(server.Address()), "its settings cannot be verified: allow CONFIG GET")
}

func TestClusterModeIsRefused(t *testing.T) {
	server := startServer(t, "--cluster-enabled", "yes")
	mustRefuse(t, testOptions(server.Address()), "Cluster mode")
}

func TestWrongCredentialsAreRefused(t *testing.T) {
	server := startServer(t, "--requirepass", "secret")
	o := testOptions(server.Address())
	mustRefuse(t, o, "wants a password")
	o.Password = "wrong"
	mustRefuse(t, o, "no such user and password")
	o.Password = "secret"
	openStore(t, o)
	o.DB = 100
	mustRefuse(t, o, "fewer databases")
}

func TestUnreachableServerIsNotUnfit(t *testing.T) {
	server := startServer(t)
	server.Kill()
	_, err := Open(t.Context(), testOptions(server.Address()))
	var unfit interface{ Unfit() bool }
	if err == nil || errors.As(err, &unfit) {
		t.Fatalf("%v: want an error that trying again may cure", err)
	}
}

// A Sentinel shows on the server that it watches.
func TestSentinelIsRefusedAndNoticed(t *testing.T) {
	primary := startServer(t)
	s := openStore(t, testOptions(primary.Address()))
	identityOf(t, s)
	sentinel := startServer(t, "--sentinel")
	boss := admin(t, sentinel.Address())
	host, port, _ := strings.Cut(primary.Address(), ":")
	command(t, boss, "SENTINEL", "MONITOR", "registry", host, port, 1)

	await(t, s, core.StoreUnfit, "a Sentinel watches the server")
	mustRefuse(t, testOptions(primary.Address()), "a Sentinel watches the server")
	mustRefuse(t, testOptions(sentinel.Address()), "the server is a Sentinel")

	command(t, boss, "SENTINEL", "REMOVE", "registry")
	await(t, s, core.StoreOK, "")
}

// A primary with a replica is fit; a replica is not, nor is a primary that became one.
func TestReplicaIsRefusedAndNoticed(t *testing.T) {
	primary, replica := startServer(t, "--repl-diskless-sync-delay", "0"), startServer(t)
	host, port, _ := strings.Cut(primary.Address(), ":")
	s, other := openStore(t, testOptions(primary.Address())), openStore(t, testOptions(replica.Address()))
	command(t, admin(t, replica.Address()), "REPLICAOF", host, port)
	await(t, other, core.StoreUnfit, "the server is a replica of "+primary.Address())
	mustRefuse(t, testOptions(replica.Address()), "the server is a replica of "+primary.Address())
	until(t, "the replica is attached", func() bool {
		return strings.Contains(admin(t, primary.Address()).Info(t.Context(), "replication").Val(), "state=online")
	})
	mustDo(t, s, appendOf(core.Position{}, 1, identityOf(t, s), nil))
}

// What was found out about one server says nothing about the next behind the same
// address, however soon it answers.
func TestAnotherServerIsLookedAtBeforeItsAnswerCounts(t *testing.T) {
	sound, careless := startServer(t), startServer(t, "--appendfsync", "everysec")
	address := startProxy(t, sound.Address())
	s := openStore(t, testOptions(address.Address()))
	identityOf(t, s)
	address.SetTarget(careless.Address())
	address.Cut()
	for {
		r := do(s, &core.StoreCall{Timeout: time.Second, Confirm: &core.StoreConfirm{}})
		switch {
		case r.Status == core.StoreFailed: // of a connection that was cut
			continue
		case r.Status != core.StoreUnfit || !strings.Contains(r.Text, "appendfsync"):
			t.Fatalf("status %d %s", r.Status, r.Text)
		}
		return
	}
}

// A primary that was a replica for a while has the data of the other one, and
// another identity, although it never restarted.
func TestPrimaryThatWasAReplicaIsAnother(t *testing.T) {
	server, other := startServer(t), startServer(t, "--repl-diskless-sync-delay", "0")
	s := openStore(t, testOptions(server.Address()))
	before := identityOf(t, s)
	host, port, _ := strings.Cut(other.Address(), ":")
	operator := admin(t, server.Address())
	command(t, operator, "REPLICAOF", host, port)
	until(t, "it has the data of the other", func() bool {
		return strings.Contains(operator.Info(t.Context(), "replication").Val(), "master_link_status:up")
	})
	command(t, operator, "REPLICAOF", "NO", "ONE")
	after := await(t, s, core.StoreOK, "").Identity
	process, _, _ := strings.Cut(before, "/")
	if after == before || !strings.HasPrefix(after, process) {
		t.Fatalf("identity %s, before %s", after, before)
	}
}

func TestOldServerAndProxiesAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		facts  map[string]string
		reason string
	}{
		"old":   {map[string]string{"redis_version": "6.2.1"}, `the server has version "6.2.1"`},
		"proxy": {map[string]string{"run_id": ""}, "no proxy"},
		"disk":  {map[string]string{"aof_last_write_status": "err"}, "make room"},
	} {
		facts := map[string]string{"redis_version": "7.0.0", "run_id": "r", "master_replid": "m", "role": "master", "aof_last_write_status": "ok"}
		if err := unfitRole(facts); err != nil {
			t.Errorf("a sound server: %v", err)
		}
		for k, v := range c.facts {
			facts[k] = v
		}
		if err := unfitRole(facts); err == nil || !strings.Contains(err.Error(), c.reason) {
			t.Errorf("%s: %v, want %q", name, err, c.reason)
		}
	}
}

// While one call looks at a server that does not answer, another returns in time.
func TestLooksWaitNoLongerThanTheCall(t *testing.T) {
	server := startServer(t)
	s := openStore(t, testOptions(server.Address()))
	server.Pause()
	defer server.Resume()
	long, cancel := context.WithCancel(t.Context())
	done := make(chan *core.StoreReply)
	go func() {
		done <- s.Do(long, &core.StoreCall{Timeout: time.Minute, Confirm: &core.StoreConfirm{}})
	}()
	begin := time.Now()
	r := s.Do(t.Context(), &core.StoreCall{ID: 7, Timeout: 100 * time.Millisecond, Confirm: &core.StoreConfirm{}})
	if took := time.Since(begin); r.Status != core.StoreFailed || r.ID != 7 || took > time.Second {
		t.Errorf("status %d after %v", r.Status, took)
	}
	cancel()
	if r := <-done; r.Status != core.StoreFailed {
		t.Errorf("status %d of a call that was cancelled", r.Status)
	}
}
