// Package logtest is the conformance suite of the logs that a registry can lie in.
// It holds every external store to the contract in core/store.go, on real servers
// that are killed, paused, filled and set back behind a network that misbehaves; and
// it holds replicas over all four logs to one result.
package logtest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/omnirelay/leadership/adapters/storeserver"
	"github.com/omnirelay/leadership/core"
)

// LogStore is what an adapter offers of a store; see core.StoreCall.
type LogStore interface {
	Do(ctx context.Context, c *core.StoreCall) *core.StoreReply
	Close() error
}

// Site is where a log lies.
type Site struct {
	// Address is where the server is reached, host:port: a proxy, or the server.
	Address string
	// ClusterID is whose log it is.
	ClusterID string
	// Place is a name for all of it: a prefix of keys, a schema. Lower-case letters
	// and digits, beginning with a letter; each case has its own.
	Place string
}

// Factory is a kind of store: how to start its server and open a log on it, and what
// it promises beyond the contract. What a kind cannot do is declared here, with the
// reason, and printed; nothing is left out silently.
type Factory struct {
	// Server is started by the suite; Dir, Port and Log are the suite's.
	Server storeserver.Options
	// Open opens a log, and makes in the server what is needed for that.
	Open func(ctx context.Context, at Site) (LogStore, error)
	// SameAfterRestart says that the identity of the server survives a restart, for a
	// store whose cluster keeps what it acknowledged through one.
	SameAfterRestart bool
	// Damages are ways in which data can be unfit, made directly in the server; each
	// must be found out by Open or by the first call.
	Damages []Damage
	// Fill makes the server full, so that writing fails, and returns how to make room
	// again; that may restart the server. storeserver's LimitFiles makes a full disk.
	Fill func(ctx context.Context, s *storeserver.Server) (makeRoom func(context.Context) error, err error)
	// CannotFill says why there is no Fill.
	CannotFill string
}

// Damage is something wrong with the data at a site that holds a log.
type Damage struct {
	Name string
	Do   func(ctx context.Context, at Site) error
	// Want is a part of what the refusal says.
	Want string
}

// long reports whether the long versions are run: make chaos.
func long() bool { return os.Getenv("LEADERSHIP_CHAOS") == "1" }

// scale is n, or many times that in the long version; with -short, which runs beside
// the race detector, a quarter.
func scale(n int) int {
	switch {
	case long():
		return n * 10
	case testing.Short():
		return max(n/4, 1)
	}
	return n
}

// largeSnapshot is as large as the snapshots of a large registry get, in bytes.
func largeSnapshot() int {
	switch {
	case long():
		return core.MaxSnapshotBytes
	case testing.Short():
		return 4 << 20
	}
	return 20 << 20
}

// test is one case. It returns what broke the contract, so that the suite itself can
// be tested on stores that break it.
type test struct {
	name string
	run  func(b *bench) error
	// without says why the case does not apply to a kind; "": it does.
	without func(f *Factory) string
	// server: the case does something to the server or the network.
	server bool
}

// caseWithin bounds one case; the long version has ten times as much.
const caseWithin = 60 * time.Second

var tests = []test{
	{name: "first office", run: firstOffice},
	{name: "order and chain", run: orderAndChain},
	{name: "random calls equal the model", run: randomCalls},
	{name: "appends are seen whole", run: appendsWhole},
	{name: "two registrars at once", run: twoRegistrars},
	{name: "repeated append", run: repeatedAppend},
	{name: "tail never skips", run: tailNeverSkips},
	{name: "a fetch waits no longer than asked", run: fetchWaits},
	{name: "beats are seen", run: beatsSeen},
	{name: "published once and in order", run: publishedOnce},
	{name: "trail begins late", run: trailBeginsLate},
	{name: "attest and adopt", run: attestAndAdopt},
	{name: "close and replace", run: closeAndReplace},
	{name: "limits", run: limits},
	{name: "trimming under readers", run: trimmingUnderReaders},
	{name: "many callers", run: manyCallers},
	{name: "other cluster", run: otherCluster},
	{name: "damaged data", run: damagedData, server: true, without: func(f *Factory) string {
		if len(f.Damages) == 0 {
			return "it declares no damages"
		}
		return ""
	}},
	{name: "answer lost", run: answerLost, server: true},
	{name: "connection cut", run: connectionCut, server: true},
	{name: "late append", run: lateAppend, server: true},
	{name: "late calls", run: lateCalls, server: true},
	{name: "slow network", run: slowNetwork, server: true},
	{name: "server paused", run: serverPaused, server: true},
	{name: "server killed", run: serverKilled, server: true},
	{name: "server full", run: serverFull, server: true, without: func(f *Factory) string {
		if f.Fill == nil {
			return f.CannotFill
		}
		return ""
	}},
	{name: "storm", run: storm, server: true},
	{name: "older copy", run: olderCopy, server: true},
}

// Store runs the whole contract on a kind of store. It takes about half a minute;
// with LEADERSHIP_CHAOS=1 in the environment the loops are ten times as long.
func Store(t *testing.T, f Factory) {
	t.Helper()
	if f.Fill == nil && f.CannotFill == "" {
		t.Fatal("logtest: Fill is nil and CannotFill does not say why")
	}
	options := f.Server
	options.Dir = filepath.Join(t.TempDir(), "server")
	server, err := storeserver.Start(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Kill)
	applied, left := 0, 0
	for i, c := range tests {
		if c.without != nil {
			if why := c.without(&f); why != "" {
				t.Logf("logtest: %s: does not apply to %s: %s", c.name, f.Server.Kind, why)
				left++
				continue
			}
		}
		applied++
		t.Run(c.name, func(t *testing.T) { onServer(t, &f, server, c, i) })
	}
	t.Logf("logtest: %s: %d cases, %d do not apply", f.Server.Kind, applied, left)
}

// onServer runs a case through a proxy of its own, at a place of its own.
func onServer(t *testing.T, f *Factory, server *storeserver.Server, c test, number int) {
	proxy, err := storeserver.NewProxy(server.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	b := &bench{
		cluster: fmt.Sprintf("cluster-%d", number), place: fmt.Sprintf("case%d", number), seed: uint64(number),
		patience: recovery, logf: t.Logf, factory: f, server: server, proxy: proxy, dir: t.TempDir(),
	}
	b.open = func(ctx context.Context, through bool) (LogStore, error) {
		return f.Open(ctx, b.site(through))
	}
	if err := b.perform(t.Context(), c.run); err != nil {
		t.Error(err)
	}
}
