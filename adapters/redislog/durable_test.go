package redislog

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/omnirelay/leadership/adapters/storeserver"
	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
)

// triple is an append of three entries that belong together.
func triple(guard core.Position, identity string) *core.StoreCall {
	c := appendOf(guard, guard.Term+1, identity, []byte("first"))
	a := c.Append
	for _, data := range []string{"second", "third"} {
		a.Lead.Last++
		a.Entries = append(a.Entries, &logpb.StoredEntry{Index: a.Lead.Last, Term: a.Lead.Term, Data: []byte(data)})
	}
	return c
}

// wholeLog fetches a log made of triples, all of it, and fails when one is not whole.
func wholeLog(t *testing.T, s *Store) *core.StoreReply {
	t.Helper()
	r := mustDo(t, s, &core.StoreCall{Fetch: &core.StoreFetch{MaxBytes: core.MaxFetchBytes}})
	if len(r.Entries)%3 != 0 || uint64(len(r.Entries)) != r.Lead.GetLast() || r.Lead.GetTerm()*3 != r.Lead.GetLast() {
		t.Fatalf("%d entries, lead record %v", len(r.Entries), r.Lead)
	}
	return r
}

// reopened waits until the server is used again after a fault.
func reopened(t *testing.T, s *Store) *core.StoreReply {
	t.Helper()
	return await(t, s, core.StoreOK, "")
}

func TestKillLosesNothingAcknowledged(t *testing.T) {
	server := startServer(t)
	s := openStore(t, testOptions(server.Address()))
	identities := map[string]bool{}
	for round := range 5 {
		r := reopened(t, s)
		if identities[r.Identity] {
			t.Fatalf("the identity %s survived a restart", r.Identity)
		}
		identities[r.Identity] = true
		adopt(t, s, r.Identity)

		acknowledged := make(chan core.Position)
		go func() {
			defer close(acknowledged)
			at := core.Position{Term: r.Lead.GetTerm(), Last: r.Lead.GetLast()}
			for {
				c := triple(at, r.Identity)
				c.Append.Adopt, c.Append.Voters = true, []core.NodeID{1}
				if do(s, c).Status != core.StoreOK {
					return
				}
				at = core.Position{Term: c.Append.Lead.Term, Last: c.Append.Lead.Last}
				acknowledged <- at
			}
		}()
		var last core.Position
		for at := range acknowledged {
			if last = at; at.Last == r.Lead.GetLast()+uint64(30*(round+1)) {
				go server.Kill() // while the next append is on its way
			}
		}
		server.Kill()
		if err := server.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		reopened(t, s)
		if got := wholeLog(t, s).Lead.GetLast(); got < last.Last || got > last.Last+3 {
			t.Fatalf("the log ends at %d after the restart, acknowledged was %d", got, last.Last)
		}
	}
}

func adopt(t *testing.T, s *Store, identity string) {
	t.Helper()
	mustDo(t, s, &core.StoreCall{Attest: &core.StoreAttest{Identity: identity, Node: 1}})
}

// An append-only file that was cut off anywhere holds whole appends.
func TestTornFileHoldsWholeAppends(t *testing.T) {
	server := startServer(t)
	s := openStore(t, testOptions(server.Address()))
	at := core.Position{}
	for range 3 {
		at = positionOf(mustDo(t, s, triple(at, identityOf(t, s))))
	}
	file := appendOnlyFile(t, server)
	before, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	mustDo(t, s, triple(at, identityOf(t, s)))
	server.Kill()
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(whole[before.Size():], []byte("MULTI")) {
		t.Fatal("the append is no transaction in the file")
	}
	random := rand.New(rand.NewPCG(1, 1))
	for range 12 {
		size := before.Size() + 1 + random.Int64N(int64(len(whole))-before.Size()-1)
		if err := os.WriteFile(file, whole[:size], 0o600); err != nil {
			t.Fatal(err)
		}
		if err := server.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		reopened(t, s)
		if got := wholeLog(t, s).Lead.GetLast(); got != at.Last {
			t.Fatalf("cut off at %d of %d: the log ends at %d, want %d", size, len(whole), got, at.Last)
		}
		server.Kill()
	}
}

func positionOf(r *core.StoreReply) core.Position {
	return core.Position{Term: r.Lead.GetTerm(), Last: r.Lead.GetLast()}
}

// appendOnlyFile is the part of the server's append-only file that it writes to.
func appendOnlyFile(t *testing.T, server *storeserver.Server) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(server.Dir(), "data", "appendonlydir", "*.incr.aof"))
	if err != nil || len(found) != 1 {
		t.Fatalf("%v, %v: want one file", found, err)
	}
	return found[0]
}

// TestPromotedReplicaThatLostWrites stages a fail-over as an operator, or a Sentinel,
// would make it: the replica lags behind, the primary dies, the replica is promoted
// and takes over the address.
func TestPromotedReplicaThatLostWrites(t *testing.T) {
	primary, replica := startServer(t, "--repl-diskless-sync-delay", "0"), startServer(t)
	link, address := startProxy(t, primary.Address()), startProxy(t, primary.Address())
	s := openStore(t, testOptions(address.Address()))
	host, port, _ := strings.Cut(link.Address(), ":")
	boss := admin(t, replica.Address())
	command(t, boss, "REPLICAOF", host, port)
	until(t, "the replica is attached", func() bool {
		return strings.Contains(boss.Info(t.Context(), "replication").Val(), "master_link_status:up")
	})
	// Not before: the first replica that attaches gives the primary another replication id.
	old := identityOf(t, s)
	kept := positionOf(mustDo(t, s, triple(core.Position{}, old)))
	until(t, "the replica has the log", func() bool {
		return boss.HGet(t.Context(), s.keys.lead, "last").Val() == digits(kept.Last)
	})
	link.Hold(true)
	lost := positionOf(mustDo(t, s, triple(kept, old)))
	primary.Kill()
	command(t, boss, "REPLICAOF", "NO", "ONE")
	address.SetTarget(replica.Address())
	address.Cut()

	r := reopened(t, s)
	if r.Identity == old || r.Lead.GetIdentity() != old {
		t.Fatalf("identity %s, lead record %v; the one before was %s", r.Identity, r.Lead, old)
	}
	if got := positionOf(wholeLog(t, s)); got != kept {
		t.Fatalf("the log stands at %v, want %v: %v was lost", got, kept, lost)
	}
	// Nobody may append until all attested, and whoever saw what was lost does not.
	for _, identity := range []string{old, r.Identity} {
		c := triple(kept, identity)
		c.Append.Adopt, c.Append.Voters = true, []core.NodeID{1, 2}
		if r := do(s, c); r.Status != core.StoreRefused {
			t.Fatalf("an append as of %s: status %d %s", identity, r.Status, r.Text)
		}
	}
	adopt(t, s, r.Identity)
	c := triple(kept, r.Identity)
	c.Append.Adopt, c.Append.Voters = true, []core.NodeID{1, 2}
	if r := do(s, c); r.Status != core.StoreRefused {
		t.Fatalf("an append that one of two attested: status %d %s", r.Status, r.Text)
	}
	// An operator jumps the fence: the log as it is, replaced by one of the new server.
	mustDo(t, s, &core.StoreCall{Close: &core.StoreClose{Reason: "writes were lost"}})
	lead := appendOf(kept, 9, r.Identity, nil).Append.Lead
	mustDo(t, s, &core.StoreCall{Replace: &core.StoreReplace{Guard: kept, Lead: lead, Snapshot: &logpb.StoredSnapshot{Index: lead.Last, Term: 9}}})
	mustDo(t, s, appendOf(core.Position{Term: 9, Last: lead.Last}, 9, r.Identity, nil))
}

func startProxy(t *testing.T, target string) *storeserver.Proxy {
	t.Helper()
	p, err := storeserver.NewProxy(target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// until waits for a condition.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never seen: %s", what)
		}
	}
}

// A server whose memory is full changes nothing, and says how to go on.
func TestFullMemoryLeavesNothingHalfWritten(t *testing.T) {
	server := startServer(t)
	s := openStore(t, testOptions(server.Address()))
	identity := identityOf(t, s)
	at := positionOf(mustDo(t, s, triple(core.Position{}, identity)))
	first := &logpb.StoredSnapshot{Index: at.Last - 1, Term: at.Term, Data: []byte("small")}
	mustDo(t, s, &core.StoreCall{Checkpoint: &core.StoreCheckpoint{Term: at.Term, Snapshot: first}})

	operator := admin(t, server.Address())
	command(t, operator, "CONFIG", "SET", "maxmemory", "1")
	calls := map[string]*core.StoreCall{
		"append":  triple(at, identity),
		"beat":    {Confirm: &core.StoreConfirm{Term: at.Term, Beat: true}},
		"publish": {Publish: &core.StorePublish{Term: at.Term, Records: []*core.Record{{Seq: 1}, {Seq: 2}}}},
		"attest":  {Attest: &core.StoreAttest{Identity: identity, Node: 1}},
		"close":   {Close: &core.StoreClose{Reason: "a test"}},
		"checkpoint": {Checkpoint: &core.StoreCheckpoint{Term: at.Term, TrimTo: at.Last, Snapshot: &logpb.StoredSnapshot{
			Index: at.Last, Term: at.Term, Data: make([]byte, 3*pieceBytes)}}},
		"replace": {Replace: &core.StoreReplace{Guard: at, Lead: triple(at, identity).Append.Lead}},
	}
	before := contents(t, s)
	for name, c := range calls {
		r := do(s, c)
		if r.Status != core.StoreFailed || !strings.Contains(r.Text, "memory is full: raise maxmemory") {
			t.Errorf("%s: status %d %s", name, r.Status, r.Text)
		}
		if after := contents(t, s); after != before {
			t.Errorf("%s changed\n%s\nto\n%s", name, before, after)
		}
	}
	if t.Failed() {
		return
	}
	command(t, operator, "CONFIG", "SET", "maxmemory", "0")
	for _, name := range []string{"beat", "publish", "attest", "checkpoint", "append", "close"} {
		mustDo(t, s, calls[name])
	}
}

// Memory that fills up in the midst of an append does not break it off.
func TestMemoryFillsUpBetweenAppends(t *testing.T) {
	server := startServer(t)
	s := openStore(t, testOptions(server.Address()))
	identity := identityOf(t, s)
	operator := admin(t, server.Address())
	used := factsOf(operator.Info(t.Context(), "memory").Val())["used_memory"]
	n, err := strconv.Atoi(used)
	if err != nil {
		t.Fatal(err)
	}
	command(t, operator, "CONFIG", "SET", "maxmemory", n+(4<<20))
	at := core.Position{}
	for {
		c := triple(at, identity)
		for _, e := range c.Append.Entries {
			e.Data = make([]byte, 300<<10)
		}
		r := do(s, c)
		if r.Status == core.StoreFailed && at.Last > 0 && strings.Contains(r.Text, "memory is full") {
			break
		}
		if r.Status != core.StoreOK || at.Last > 100 {
			t.Fatalf("behind %v: status %d %s", at, r.Status, r.Text)
		}
		at = positionOf(r)
	}
	if got := positionOf(wholeLog(t, s)); got != at {
		t.Fatalf("the log stands at %v, want %v", got, at)
	}
}

// contents is what lies under the prefix.
func contents(t *testing.T, s *Store) string {
	t.Helper()
	var all strings.Builder
	for _, key := range s.keys.list() {
		dump, err := s.calls.Dump(context.Background(), key).Result()
		fmt.Fprintf(&all, "%s %x %v\n", key, dump, err)
	}
	return all.String()
}

func TestForgottenScriptsAreSentAgain(t *testing.T) {
	server := startServer(t)
	s := openStore(t, testOptions(server.Address()))
	identity := identityOf(t, s)
	at := core.Position{}
	for range 3 {
		command(t, admin(t, server.Address()), "SCRIPT", "FLUSH")
		at = positionOf(mustDo(t, s, triple(at, identity)))
	}
	wholeLog(t, s)
}

// An append whose answer was lost took effect once, however often it is repeated.
func TestLostAnswerIsRecognised(t *testing.T) {
	server := startServer(t)
	network := startProxy(t, server.Address())
	s := openStore(t, testOptions(network.Address()))
	c := triple(core.Position{}, identityOf(t, s))
	c.Timeout = time.Second
	network.Swallow(true)
	if r := do(s, c); r.Status != core.StoreFailed {
		t.Fatalf("status %d although the answer was lost", r.Status)
	}
	network.Swallow(false)
	for range 2 {
		mustDo(t, s, c)
	}
	if last := wholeLog(t, s).Lead.GetLast(); last != 3 {
		t.Fatalf("the log ends at %d, want 3", last)
	}
}

// A call whose answer was lost is not made again behind the caller's back: that one
// would be refused although it took effect.
func TestNothingIsRepeatedUnasked(t *testing.T) {
	server := startServer(t)
	network := startProxy(t, server.Address())
	s := openStore(t, testOptions(network.Address()))
	record := func(seq uint64) *core.StoreCall {
		return &core.StoreCall{Timeout: 5 * time.Second, Publish: &core.StorePublish{After: seq - 1, Records: []*core.Record{{Seq: seq}}}}
	}
	mustDo(t, s, record(1)) // the server knows the script from here on
	publish := record(2)
	network.Swallow(true)
	answer := make(chan *core.StoreReply)
	go func() { answer <- do(s, publish) }()
	operator := admin(t, server.Address())
	until(t, "the record was published", func() bool { return operator.XLen(t.Context(), s.keys.audit).Val() == 2 })
	until(t, "the answer was lost", func() bool { return network.Swallowed() > 0 })
	network.Swallow(false) // cuts the connection
	if r := <-answer; r.Status != core.StoreFailed {
		t.Fatalf("status %d %s", r.Status, r.Text)
	}
	if r := do(s, publish); r.Status != core.StoreRefused || r.Published != 2 {
		t.Fatalf("status %d, published %d", r.Status, r.Published)
	}
}
