package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"testing"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/adapters/config"
	"github.com/omnirelay/leadership/adapters/raftlog"
	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
)

const benchCluster = "bench"

// modelStore is the contract of a store as a program.
type modelStore struct {
	model  *core.StoreModel
	server string
}

func newModelStore(server string) *modelStore {
	return &modelStore{model: core.NewStoreModel(), server: server}
}

func (s *modelStore) Do(_ context.Context, c *core.StoreCall) *core.StoreReply {
	return s.model.Do(s.server, c)
}

func (s *modelStore) Close() error { return nil }

// end is the store as an end of a migration, in a new process.
func (s *modelStore) end(c *config.Config) *storeEnd { return &storeEnd{config: c, store: s} }

func (s *modelStore) lead(t testing.TB) *core.Lead {
	t.Helper()
	return s.model.Do(s.server, &core.StoreCall{Confirm: &core.StoreConfirm{}}).Lead
}

func (s *modelStore) open(t testing.TB) bool {
	l := s.lead(t)
	return l != nil && l.Closed == ""
}

// storeConfig is a configuration with the registry in Redis at an address.
func storeConfig(address string) *config.Config {
	c := config.Default()
	c.ClusterID, c.NodeID = benchCluster, "node-1"
	c.Registry = config.Registry{Store: config.StoreRedis, Redis: config.Redis{Address: address, Prefix: "/leadership/bench/"}}
	c.Peers = []config.Peer{{ID: "node-1"}, {ID: "node-2"}, {ID: "node-3"}}
	return &c
}

// raftConfigs are those of three nodes with directories of their own.
func raftConfigs(dir string) (configs []*config.Config) {
	for _, id := range []string{"node-1", "node-2", "node-3"} {
		c := storeConfig("")
		c.Registry = config.Registry{Store: config.StoreRaft}
		c.NodeID, c.DataDir = id, filepath.Join(dir, id)
		configs = append(configs, c)
	}
	return configs
}

// history is a life of a registry: what was appended, and the audit trail of it.
type history struct {
	entries []*core.StoredEntry
	chain   []byte
	records []*core.Record
	last    *core.Registry
}

// newHistory lets two members lead fifty scopes, and give up as many as rounds says.
func newHistory(t testing.TB, rounds int) *history {
	t.Helper()
	h := &history{last: core.NewRegistry(0)}
	var voters []uint64
	for _, v := range votersOf(storeConfig("")) {
		voters = append(voters, uint64(v))
	}
	h.apply(t, &logpb.Command{Kind: &logpb.Command_Bootstrap{Bootstrap: &logpb.Bootstrap{ClusterId: benchCluster, Voters: voters}}})
	h.apply(t, &logpb.Command{Kind: &logpb.Command_EndFormation{EndFormation: &logpb.EndFormation{Formation: 1}}})
	scopes := &logpb.DeclareScopes{}
	for i := range 50 {
		scopes.Scopes = append(scopes.Scopes, &logpb.ScopeSpec{Id: fmt.Sprintf("shard/bench/%02d", i)})
	}
	h.apply(t, &logpb.Command{Kind: &logpb.Command_DeclareScopes{DeclareScopes: scopes}})
	for i := range 2 {
		h.apply(t, &logpb.Command{Kind: &logpb.Command_OpenSession{OpenSession: &logpb.OpenSession{
			MemberId: fmt.Sprintf("member-%d", i), Weight: 1, TtlNs: 2e9, Stands: []*logpb.Stand{{Selector: &logpb.Selector{}}},
		}}})
	}
	for i := range rounds {
		token, _ := h.last.Token(fmt.Sprintf("shard/bench/%02d", i%50))
		h.apply(t, &logpb.Command{Kind: &logpb.Command_Resign{Resign: &logpb.Resign{Session: uint64(token.Session), Scope: token.Scope, Fence: token.Fence}}})
	}
	return h
}

func (h *history) apply(t testing.TB, c *logpb.Command) {
	t.Helper()
	c.RequestId = fmt.Sprintf("request-%d", len(h.entries))
	data, err := proto.Marshal(&logpb.Entry{WallNs: 1, Commands: []*logpb.Command{c}})
	if err != nil {
		t.Fatal(err)
	}
	index := uint64(len(h.entries)) + 2 // raft's first
	out, err := h.last.Apply(index, 1, data)
	if err != nil {
		t.Fatal(err)
	}
	if code := out.Results[0].Code; code != "" {
		t.Fatalf("%v: %s", c, code)
	}
	h.chain = core.ChainEntry(h.chain, index, 1, data)
	h.entries = append(h.entries, &core.StoredEntry{Index: index, Term: 1, Data: data, Chain: h.chain})
	h.records = append(h.records, out.Records...)
}

// writeStore makes a store of the history: a snapshot of nothing, the entries behind
// it, and all but the newest of the audit trail.
func (h *history) writeStore(t testing.TB, s *modelStore) { h.writeStoreFrom(t, s, 0) }

// writeStoreFrom leaves out the oldest records of the audit trail.
func (h *history) writeStoreFrom(t testing.TB, s *modelStore, dropped int) {
	t.Helper()
	lead, snapshot, err := core.NewRegistry(0).StoredLog(1, 0, s.server)
	if err != nil {
		t.Fatal(err)
	}
	lead.ClusterId, lead.Last, snapshot.Index = benchCluster, 1, 1
	chain := snapshot.Chain
	var entries []*core.StoredEntry
	for _, e := range h.entries {
		chain = core.ChainEntry(chain, e.Index, e.Term, e.Data)
		entries = append(entries, &core.StoredEntry{Index: e.Index, Term: e.Term, Data: e.Data, Chain: chain})
	}
	after := proto.CloneOf(lead)
	after.Last, after.Chain, after.AppendId = entries[len(entries)-1].Index, chain, []byte("bench")
	for _, c := range []*core.StoreCall{
		{Replace: &core.StoreReplace{Lead: lead, Snapshot: snapshot}},
		{Append: &core.StoreAppend{Guard: core.Position{Term: 1, Last: 1}, Lead: after, Entries: entries}},
		{Publish: &core.StorePublish{Term: 1, Records: h.records[dropped : len(h.records)-1]}},
	} {
		if r := s.model.Do(s.server, c); r.Status != core.StoreOK {
			t.Fatal(r.Text)
		}
	}
}

// writeRaft makes the data directories of three nodes: the second has all, the others
// lack what the last ones brought.
func (h *history) writeRaft(t testing.TB, configs []*config.Config) {
	t.Helper()
	for i, c := range configs {
		lacking := 5 * (i % 2)
		if i == 0 {
			lacking = 3
		}
		log, _, err := raftlog.Open(logOptions(c, c.DataDir, config.StoreRaft, false))
		if err != nil {
			t.Fatal(err)
		}
		entries := h.entries[:len(h.entries)-lacking]
		if i == 1 {
			entries = h.entries
		}
		if err := errors.Join(log.Persist(raftBatch(entries, h.records)), log.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

// runMigration moves a registry; the error is how a run ended that was cut short.
func runMigration(from, to end, targets ...*config.Config) error {
	m := &migration{out: io.Discard, from: from, to: to, yes: true, targets: targets}
	return m.run(context.Background())
}

// quietCommand prints nowhere.
func quietCommand() *cobra.Command {
	cmd := &cobra.Command{}
	cmd.SetOut(io.Discard)
	cmd.SetErr(io.Discard)
	return cmd
}
