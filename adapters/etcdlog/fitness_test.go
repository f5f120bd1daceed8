package etcdlog

import (
	"log/slog"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/omnirelay/leadership/adapters/storeserver"
)

func TestUnfitVersions(t *testing.T) {
	for version, want := range map[string]string{
		"3.3.27": "too old", "2.3.8": "too old", "3.5.0": "3.5.3 or later", "3.5.2": "3.5.3 or later",
		"3.4.23": "", "3.5.3": "", "3.6.0": "", "3.7.3": "", "4.0.0": "", "3.8.0-alpha": "", "": "", "next": "",
	} {
		got := unfitVersion(version)
		if (want == "") != (got == "") || !strings.Contains(got, want) {
			t.Errorf("version %q: %q, want %q", version, got, want)
		}
	}
}

func TestMembersOfOneCluster(t *testing.T) {
	o := options("a:1", "b:1", "c:1")
	s := &Store{options: o, log: slog.New(slog.DiscardHandler)}
	status := func(cluster uint64) *clientv3.StatusResponse {
		return &clientv3.StatusResponse{Header: &pb.ResponseHeader{ClusterId: cluster}, Version: "3.7.3"}
	}
	if err := s.judgeMembers([]*clientv3.StatusResponse{status(1), nil, status(1)}); err != nil {
		t.Error(err)
	}
	err := s.judgeMembers([]*clientv3.StatusResponse{nil, status(1), status(2)})
	if err == nil || !strings.Contains(err.Error(), "name members of one cluster") {
		t.Errorf("two clusters: %v", err)
	}
}

func TestOpenRefusesTwoClusters(t *testing.T) {
	a := startEtcd(t, storeserver.Options{Binary: binaries["3.7"]})
	b := startEtcd(t, storeserver.Options{Binary: binaries["3.4"]})
	refused(t, options(a.Address(), b.Address()), "name members of one cluster")
}
