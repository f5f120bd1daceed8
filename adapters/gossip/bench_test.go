package gossip

import (
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/omnirelay/leadership/core"
)

// joinLimit is within how long 95 % of the members must know one that joins.
const joinLimit = 2 * time.Second

// curve tells how many of the peers knew after how long.
func curve(b *testing.B, took []time.Duration) {
	b.Helper()
	slices.Sort(took)
	at := func(percent int) time.Duration { return took[min(len(took)-1, (len(took)*percent+99)/100-1)] }
	text := ""
	for _, ms := range []int{10, 25, 50, 100, 150, 200, 300, 400, 500, 750, 1000, 1500, 2000} {
		n, _ := slices.BinarySearch(took, time.Duration(ms)*time.Millisecond)
		text += fmt.Sprintf(" %dms:%d%%", ms, 100*n/len(took))
		if n == len(took) {
			break
		}
	}
	b.Logf("knew the joiner, %d samples:%s", len(took), text)
	b.ReportMetric(float64(at(50).Milliseconds()), "p50-ms")
	b.ReportMetric(float64(at(95).Milliseconds()), "p95-ms")
	b.ReportMetric(float64(at(100).Milliseconds()), "max-ms")
	b.ReportMetric(0, "ns/op")
	if at(95) > joinLimit {
		b.Errorf("95 %% knew after %v; within %v is right", at(95), joinLimit)
	}
}

// BenchmarkJoinProcesses: a fifth process joins four; the time runs from its first
// instruction.
func BenchmarkJoinProcesses(b *testing.B) {
	m := newMesh(b)
	all, _ := processes(b, m, 4, role{})
	var took []time.Duration
	for i := range max(b.N, 20) {
		name := fmt.Sprint("joiner", i)
		joiner := startChild(b, role{Name: name, KeyFile: m.keyFile, Seeds: []string{all[i%4].address}})
		for _, c := range all {
			until(b, "the joiner is known", func() bool { _, ok := c.when(name, core.HealthAlive, time.Time{}); return ok })
			at, _ := c.when(name, core.HealthAlive, time.Time{})
			took = append(took, at.Sub(joiner.begun))
		}
		joiner.stop()
	}
	curve(b, took)
}

// crowd is many members in this process, with the settings of a configuration that says
// nothing.
type crowd struct {
	*mesh
	members []*Gossip
	stops   []func()
	mu      sync.Mutex
	known   map[string][]time.Time // when each member was told that one is alive
}

const (
	crowdSize  = 200
	crowdPause = 50 * time.Millisecond
)

func newCrowd(b *testing.B, claims []core.Claim) *crowd {
	b.Helper()
	// What 200 processes would do happens in one: with rare collections and some room
	// between two starts, the figures are of gossip and not of one overloaded process.
	gc := debug.SetGCPercent(800)
	b.Cleanup(func() { debug.SetGCPercent(gc) })
	begun := time.Now()
	c := &crowd{mesh: newMesh(b), known: map[string][]time.Time{}}
	b.Cleanup(func() {
		var stopping sync.WaitGroup
		for _, stop := range c.stops {
			stopping.Go(stop)
		}
		stopping.Wait()
	})
	for i := range crowdSize {
		c.add(b, fmt.Sprintf("m%03d", i), claims)
		time.Sleep(crowdPause)
	}
	steps := []int{90, 95, 99, 100}
	for deadline := time.Now().Add(5 * time.Minute); len(steps) > 0; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			b.Fatalf("not formed: %+v", c.members[0].Stats())
		}
		for len(steps) > 0 && c.formed() >= steps[0] {
			b.Logf("%d members, one each %v: %d %% of all pairs knew each other %v after the last start",
				crowdSize, crowdPause, steps[0], (time.Since(begun) - crowdSize*crowdPause).Round(time.Millisecond))
			steps = steps[1:]
		}
	}
	return c
}

// formed is how many of 100 pairs know each other.
func (c *crowd) formed() int {
	known := 0
	for _, g := range c.members {
		known += g.Stats().Members[StatusAlive]
	}
	return 100 * known / (crowdSize * crowdSize)
}

func (c *crowd) add(b *testing.B, id string, claims []core.Claim) (*Gossip, time.Time) {
	b.Helper()
	o := Options{Name: id, Metadata: Metadata{ClusterID: "demo", Role: "node", Region: "eu-1"}, Listen: "127.0.0.1:0", KeyFile: c.keyFile}
	if n := len(c.members); n > 0 {
		o.Seeds = []string{c.members[n/2].Address()}
	}
	o.Claims = func() ([]core.Claim, time.Duration) { return claims, 2 * time.Second }
	o.Deliver = func(n core.GossipNews) bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		if n.Health == core.HealthAlive {
			c.known[n.MemberID] = append(c.known[n.MemberID], time.Now())
		}
		return true
	}
	begun := time.Now()
	g, err := New(o)
	if err != nil {
		b.Fatal(err)
	}
	c.stops = append(c.stops, launch(b, g))
	c.members = append(c.members, g)
	return g, begun
}

// BenchmarkJoinCrowd: one member joins 200.
func BenchmarkJoinCrowd(b *testing.B) {
	c := newCrowd(b, nil)
	var took []time.Duration
	for i := range max(b.N, 10) {
		id := fmt.Sprint("joiner", i)
		_, begun := c.add(b, id, nil)
		until(b, "all know the joiner", func() bool {
			c.mu.Lock()
			defer c.mu.Unlock()
			return len(c.known[id]) == len(c.members) // itself among them
		})
		c.mu.Lock()
		for _, at := range c.known[id] {
			took = append(took, at.Sub(begun))
		}
		c.mu.Unlock()
	}
	curve(b, took)
}

// BenchmarkCrowdCost: what one of 200 members takes of the network and of a processor,
// while nothing happens and while each claims a few scopes.
func BenchmarkCrowdCost(b *testing.B) {
	for name, claims := range map[string][]core.Claim{"idle": nil, "each-claims-5": someClaims(5)} {
		b.Run(name, func(b *testing.B) {
			c := newCrowd(b, claims)
			sum := func() (sent, packets, words uint64) {
				for _, g := range c.members {
					s := g.Stats()
					sent, packets, words = sent+s.SentBytes, packets+s.SentPackets, words+s.WordsHeard
				}
				return sent, packets, words
			}
			const during = 10 * time.Second
			time.Sleep(2 * time.Second) // what the joining left behind is sent
			sent, packets, words := sum()
			cpu := processorTime(b)
			time.Sleep(during)
			sentAfter, packetsAfter, wordsAfter := sum()
			each := func(n uint64) float64 { return float64(n) / crowdSize / during.Seconds() }
			b.ReportMetric(each(sentAfter-sent), "bytes/s")
			b.ReportMetric(each(packetsAfter-packets), "packets/s")
			b.ReportMetric(each(wordsAfter-words), "words/s")
			b.ReportMetric(100*float64(processorTime(b)-cpu)/float64(during)/crowdSize, "cpu-%")
			b.ReportMetric(0, "ns/op")
		})
	}
}

func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkSuspicion: five processes that watch each other, with the machine at rest, with
// more busy processes than processors, and with these going first: how often one that
// lives is suspected, and how soon one that was killed.
func BenchmarkSuspicion(b *testing.B) {
	for _, setting := range []struct {
		period time.Duration
		misses int
	}{{50 * time.Millisecond, 3}, {100 * time.Millisecond, 3}, {100 * time.Millisecond, 5}, {200 * time.Millisecond, 3}} {
		for _, load := range []struct {
			name       string
			hogs, nice int
		}{{"rest", 0, 0}, {"8-hogs", 8, 0}, {"8-hogs-first", 8, 19}} {
			b.Run(fmt.Sprintf("%vx%d/%s", setting.period, setting.misses, load.name), func(b *testing.B) {
				suspicion(b, role{Period: setting.period, Misses: setting.misses, Nice: load.nice}, load.hogs)
			})
		}
	}
}

func suspicion(b *testing.B, r role, hogs int) {
	const during, members = 20 * time.Second, 5
	kills := len(victims) + 1
	m := newMesh(b)
	all, names := processes(b, m, members, r)
	for range hogs {
		startChild(b, role{Hog: true})
	}
	begun := time.Now()
	time.Sleep(during)
	wrong := 0
	for _, c := range all {
		wrong += c.count(core.HealthSuspect, begun)
	}
	// Each member is watched by four others.
	b.ReportMetric(float64(wrong)/(members*during.Hours()), "wrong/member-hour")
	b.ReportMetric(float64(wrong), "wrong")
	var took []time.Duration
	for i := range kills {
		victim := len(all) - 1
		at := all[victim].kill()
		for _, c := range all[:victim] {
			until(b, "the victim is suspect", func() bool { _, ok := c.when(names[victim], core.HealthSuspect, at); return ok })
			seen, _ := c.when(names[victim], core.HealthSuspect, at)
			took = append(took, seen.Sub(at))
		}
		all[victim].stop()
		if i == kills-1 {
			break
		}
		all, names = all[:victim], names[:victim]
		r.Name, r.KeyFile, r.Seeds, r.Watch = victims[i], m.keyFile, []string{all[0].address}, nil
		all, names = append(all, startChild(b, r)), append(names, r.Name)
		for _, c := range all[:victim] {
			until(b, "the next victim is known", func() bool { _, ok := c.when(r.Name, core.HealthAlive, time.Time{}); return ok })
		}
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Milliseconds()), "detect-p50-ms")
	b.ReportMetric(float64(took[len(took)-1].Milliseconds()), "detect-max-ms")
	b.ReportMetric(0, "ns/op")
}
