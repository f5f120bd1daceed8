package gossip

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/omnirelay/leadership/core"
)

// A member can be a process of its own: this test binary, told so by its environment.

const childVariable = "GOSSIP_TEST_CHILD"

// role is what a child is told to be.
type role struct {
	Name, KeyFile string
	Seeds, Watch  []string
	Period        time.Duration
	Misses        int
	Nice          int // how little of a processor it is given
	// Hog: be no member, but keep a processor busy.
	Hog bool
}

// event is what a child tells: at what time it saw what of whom.
type event struct {
	At     time.Time
	ID     string
	Health core.Health
}

// playRole is the main function of a child. It ends when its input does.
func playRole(text string) int {
	var r role
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := syscall.Setpriority(syscall.PRIO_PROCESS, 0, r.Nice); r.Nice != 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	ended := make(chan struct{})
	go func() { _, _ = io.Copy(io.Discard, os.Stdin); close(ended) }()
	if r.Hog {
		hog(ended)
		return 0
	}
	var mu sync.Mutex
	out := json.NewEncoder(os.Stdout)
	begun := time.Now()
	g, err := New(Options{
		Name: r.Name, Metadata: Metadata{ClusterID: "demo", Role: "node"}, Listen: "127.0.0.1:0", Seeds: r.Seeds, KeyFile: r.KeyFile,
		WatchPeriod: r.Period, WatchMisses: r.Misses, Watch: func() []string { return r.Watch },
		Deliver: func(n core.GossipNews) bool {
			mu.Lock()
			defer mu.Unlock()
			_ = out.Encode(event{At: time.Now(), ID: n.MemberID, Health: n.Health})
			return true
		},
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	mu.Lock()
	_ = out.Encode(event{At: begun, ID: g.Address()})
	mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); g.Run(ctx) }()
	<-ended
	_ = g.Leave(time.Second)
	cancel()
	_ = g.Close()
	<-done
	return 0
}

// hog keeps one processor busy.
func hog(ended chan struct{}) {
	for n := 0; ; n++ {
		if n%1_000_000 == 0 {
			select {
			case <-ended:
				return
			default:
			}
		}
	}
}

// child is a process and what it has told so far.
type child struct {
	process *exec.Cmd
	stdin   io.Closer
	address string
	begun   time.Time

	mu     sync.Mutex
	events []event
}

func startChild(t testing.TB, r role) *child {
	t.Helper()
	// The kernel ends a child with the thread that started it.
	runtime.LockOSThread()
	t.Cleanup(runtime.UnlockOSThread)
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	c := &child{process: exec.Command(os.Args[0])}
	c.process.Env = append(os.Environ(), childVariable+"="+string(text))
	c.process.Stderr = os.Stderr
	c.process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stdin, err := c.process.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.stdin = stdin
	stdout, err := c.process.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.stop)
	if r.Hog {
		return c
	}
	lines := bufio.NewScanner(stdout)
	var first event
	if !lines.Scan() || json.Unmarshal(lines.Bytes(), &first) != nil {
		t.Fatalf("the child said nothing: %v", lines.Err())
	}
	c.address, c.begun = first.ID, first.At
	go func() {
		for lines.Scan() {
			var e event
			if json.NewDecoder(strings.NewReader(lines.Text())).Decode(&e) == nil {
				c.mu.Lock()
				c.events = append(c.events, e)
				c.mu.Unlock()
			}
		}
	}()
	return c
}

// stop lets the child say farewell and waits for its end.
func (c *child) stop() {
	_ = c.stdin.Close()
	_ = c.process.Wait()
}

// kill ends it at once.
func (c *child) kill() time.Time {
	at := time.Now()
	_ = c.process.Process.Kill()
	return at
}

// when is when the child first told a health of a member, since a time.
func (c *child) when(id string, h core.Health, since time.Time) (time.Time, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.events {
		if e.ID == id && e.Health == h && !e.At.Before(since) {
			return e.At, true
		}
	}
	return time.Time{}, false
}

// count is how often the child told a health of anybody, from since on.
func (c *child) count(h core.Health, since time.Time) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.events {
		if e.Health == h && !e.At.Before(since) {
			n++
		}
	}
	return n
}

// victims are watched as soon as they are there.
var victims = []string{"victim0", "victim1", "victim2", "victim3", "victim4", "victim5"}

// processes starts members in processes of their own, joined to each other.
func processes(t testing.TB, m *mesh, n int, r role) (all []*child, names []string) {
	t.Helper()
	for i := range n {
		names = append(names, fmt.Sprint("p", i))
	}
	r.KeyFile = m.keyFile
	for i := range n {
		r.Name, r.Watch = names[i], slices.Concat(names, victims)
		if i > 0 {
			r.Seeds = []string{all[0].address}
		}
		all = append(all, startChild(t, r))
	}
	for i, c := range all {
		for _, id := range names {
			until(t, fmt.Sprintf("p%d knows %s", i, id), func() bool { _, ok := c.when(id, core.HealthAlive, time.Time{}); return ok })
		}
	}
	return all, names
}

// Five processes: one that joins is known to all others within 2 s of its first
// instruction; one that leaves has left everywhere; one that is killed is suspect soon.
func TestProcessesJoinLeaveAndDie(t *testing.T) {
	m := newMesh(t)
	all, names := processes(t, m, 4, role{Period: 100 * time.Millisecond, Misses: 3})
	joiner := startChild(t, role{Name: "joiner", KeyFile: m.keyFile, Seeds: []string{all[1].address}, Watch: names, Period: 100 * time.Millisecond, Misses: 3})
	for i, c := range all {
		until(t, "the joiner is known", func() bool { _, ok := c.when("joiner", core.HealthAlive, time.Time{}); return ok })
		at, _ := c.when("joiner", core.HealthAlive, time.Time{})
		if took := at.Sub(joiner.begun); took > 2*time.Second {
			t.Errorf("p%d knew of it after %v", i, took)
		}
	}
	joiner.stop()
	for _, c := range all {
		until(t, "the joiner has left", func() bool { _, ok := c.when("joiner", core.HealthLeft, time.Time{}); return ok })
		if c.count(core.HealthDead, time.Time{}) != 0 {
			t.Error("one who said farewell was called dead")
		}
	}
	killed := all[3].kill()
	for _, c := range all[:3] {
		until(t, "p3 is suspect", func() bool { _, ok := c.when("p3", core.HealthSuspect, killed); return ok })
	}
}
