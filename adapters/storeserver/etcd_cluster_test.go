package storeserver

import "testing"

func TestEtcdCluster(t *testing.T) {
	members, err := StartEtcdCluster(t.Context(), 3, Options{Kind: Etcd, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range members {
		t.Cleanup(s.Kill)
	}
	n := etcdNote{members[0]}
	n.write(t, "1")
	members[1].Kill()
	// If it was the leader, the others elect another first.
	eventually(t, "a write without a member", func() bool { return n.tryWrite(t.Context(), "2") == nil })
	mustRestart(t, members[1])
	if got := (etcdNote{members[1]}).read(t); got != "2" {
		t.Errorf("a member that came back reads %q, want 2", got)
	}
	if _, err := StartEtcdCluster(t.Context(), 3, Options{Kind: Redis, Dir: t.TempDir()}); err == nil {
		t.Error("a cluster of Redis was started")
	}
}
