package logtest

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/omnirelay/leadership/adapters/host"
	"github.com/omnirelay/leadership/adapters/storeserver"
	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
)

// Figures measures three replicas, each with a member, over a kind of log; f nil:
// raft, on the disks of the replicas. Everything is in this process but the server,
// and no network lies between.
func Figures(b *testing.B, f *Factory) {
	for name, run := range map[string]func(*testing.B, *cluster){
		"one-caller": func(b *testing.B, c *cluster) { commands(b, c, 1) },
		"64-callers": func(b *testing.B, c *cluster) { commands(b, c, 64) },
		"at-rest":    atRest,
	} {
		b.Run(name, func(b *testing.B) { run(b, measured(b, f)) })
	}
}

// figures is what a measured cluster counts.
type figures struct{ calls atomic.Int64 }

func (m *figures) set(n *node, o *host.Options) {
	o.Member = &core.MemberConfig{MemberID: fmt.Sprint("member-", n.id)}
	o.Stands = []host.Stand{{Selector: &logpb.Selector{}}}
	if n.store != nil {
		o.Store = &counted{LogStore: n.store, calls: &m.calls}
	}
}

// counted counts the calls on a store.
type counted struct {
	LogStore
	calls *atomic.Int64
}

func (s *counted) Do(ctx context.Context, c *core.StoreCall) *core.StoreReply {
	s.calls.Add(1)
	return s.LogStore.Do(ctx, c)
}

func measured(b *testing.B, f *Factory) *cluster {
	b.Helper()
	c := &cluster{t: b, dir: b.TempDir(), factory: f, place: "figures", measure: &figures{},
		cut: map[core.NodeID]bool{}, records: map[uint64]*core.Record{}}
	c.edit = func(cfg *core.Config) { // the defaults of leaderd
		cfg.HeartbeatInterval, cfg.ElectionTimeout = core.DefaultHeartbeatInterval, core.DefaultElectionTimeout
		if f != nil {
			cfg.HeartbeatInterval, cfg.ElectionTimeout = 200*time.Millisecond, time.Second
		}
		cfg.FormationMembers = 3
	}
	if f != nil {
		o := f.Server
		o.Dir = b.TempDir()
		server, err := storeserver.Start(b.Context(), o)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(server.Stop)
		c.server = server
	}
	c.run(3)
	return c
}

// commands makes b.N commands by so many callers at once, at all replicas in turn.
func commands(b *testing.B, c *cluster, callers int) {
	var next atomic.Int64
	var group sync.WaitGroup
	b.ResetTimer()
	for range callers {
		group.Go(func() {
			for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
				command := filler(int(i))(nil)
				command.RequestId = fmt.Sprint("figure/", i)
				if _, err := c.nodes[i%3].host.Do(b.Context(), command); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commands/s")
}

// atRest lets 1,000 scopes be led for ten seconds in which nothing happens.
func atRest(b *testing.B, c *cluster) {
	d := &logpb.DeclareScopes{}
	for i := range 1000 {
		d.Scopes = append(d.Scopes, &logpb.ScopeSpec{Id: fmt.Sprintf("shard/rest/%d", i)})
	}
	if _, err := c.nodes[0].host.Do(b.Context(), &logpb.Command{RequestId: "rest", Kind: &logpb.Command_DeclareScopes{DeclareScopes: d}}); err != nil {
		b.Fatal(err)
	}
	c.await("a leader for every scope", func() bool {
		led := 0
		c.nodes[0].host.View(func(g *core.Registry, _ core.Status) { led = len(g.Tokens()) })
		return led == 1000
	})
	const rest = 10 * time.Second
	var calls int64
	var server, own time.Duration
	for b.Loop() {
		calls -= c.measure.calls.Load()
		server, own = server-serverTime(b, c.server), own-processTime(b, os.Getpid())
		time.Sleep(rest) // what is measured is that nothing happens
		calls += c.measure.calls.Load()
		server, own = server+serverTime(b, c.server), own+processTime(b, os.Getpid())
	}
	seconds := b.Elapsed().Seconds()
	b.ReportMetric(float64(calls)/seconds, "calls/s")
	b.ReportMetric(100*server.Seconds()/seconds, "server-cpu-%")
	b.ReportMetric(100*own.Seconds()/seconds, "nodes-cpu-%")
}

func serverTime(b *testing.B, s *storeserver.Server) time.Duration {
	if s == nil {
		return 0
	}
	total := processTime(b, s.PID())
	entries, err := os.ReadDir("/proc")
	if err != nil {
		b.Fatal(err)
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err == nil && parentOf(pid) == s.PID() {
			total += processTime(b, pid)
		}
	}
	return total
}

func parentOf(pid int) int {
	fields, err := statOf(pid)
	if err != nil {
		return 0 // it has ended
	}
	parent, _ := strconv.Atoi(fields[1])
	return parent
}

// processTime is the processor time of a process, in ticks of 10 ms.
func processTime(b *testing.B, pid int) time.Duration {
	fields, err := statOf(pid)
	if err != nil {
		return 0
	}
	user, err1 := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	if err1 != nil || err2 != nil {
		b.Fatalf("/proc/%d/stat: %v", pid, fields)
	}
	return time.Duration(user+system) * 10 * time.Millisecond
}

// statOf returns the fields of /proc/PID/stat behind the name: proc(5).
func statOf(pid int) ([]string, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	_, rest, _ := strings.Cut(string(data), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return nil, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	return fields, nil
}
