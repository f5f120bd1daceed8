package supervisor_test

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/omnirelay/leadership/tests/cluster/harness"
)

// loss is a way to lose leadership, or to keep the supervisor from noticing.
type loss struct {
	name   string
	flags  []string
	traits []string
	strike func(r *runner)
	mend   func(r *runner)
	code   int // how the struck runner ends once it is mended
}

func stop(pids ...int) {
	for _, pid := range pids {
		_ = syscall.Kill(pid, syscall.SIGSTOP)
	}
}

func (r *runner) proceed() {
	for _, pid := range append(r.below(), r.cmd.Process.Pid) {
		_ = syscall.Kill(pid, syscall.SIGCONT)
	}
}

const (
	lost   = 3
	killed = 128 + int(syscall.SIGKILL)
)

// stubborn are commands that ignore SIGTERM and leave daemons in sessions of their own.
var stubborn = []string{traitDeaf, traitDaemons}

// partitionsAndPauses is how many of losses are such: the first.
const partitionsAndPauses = 6

var losses = []loss{
	{name: "the network is cut", strike: (*runner).cut, code: lost},
	{name: "the supervisor is stopped", strike: func(r *runner) { stop(r.cmd.Process.Pid) }, mend: (*runner).proceed, code: lost},
	{name: "the supervisor and the fuse are stopped", strike: func(r *runner) { stop(r.cmd.Process.Pid, r.fuse()) }, mend: (*runner).proceed, code: lost},
	{name: "the supervisor, the fuse and init are stopped", strike: func(r *runner) { stop(r.cmd.Process.Pid, r.fuse(), r.init()) }, mend: (*runner).proceed, code: lost},
	{name: "the terminal stops the foreground group", strike: func(r *runner) { _ = syscall.Kill(-r.cmd.Process.Pid, syscall.SIGTSTP) }, mend: (*runner).proceed, code: lost},
	{name: "the network is cut and everything is stopped", strike: func(r *runner) {
		r.cut()
		stop(append([]int{r.cmd.Process.Pid}, r.below()...)...)
	}, mend: (*runner).proceed, code: lost},
	{name: "the supervisor is killed", strike: func(r *runner) { r.signal(syscall.SIGKILL) }, code: killed},
	{name: "the supervisor is killed while the fuse is stopped", strike: func(r *runner) {
		stop(r.fuse())
		r.signal(syscall.SIGKILL)
	}, code: killed},
	{name: "the fuse is killed", strike: func(r *runner) { _ = syscall.Kill(r.fuse(), syscall.SIGKILL) }, code: 1},
	{name: "init is killed", strike: func(r *runner) { _ = syscall.Kill(r.init(), syscall.SIGKILL) }, code: 1},
}

// round is one loss: what it took.
type round struct {
	loss string
	gap  time.Duration // between the last effect of the old command and the first of the new
}

// lose makes first, which leads, lose to a successor that stands already, and judges.
func (f *field) lose(l loss, first *runner, reign *reign) (round, *runner, *reign) {
	f.t.Helper()
	second := f.run(settings{flags: l.flags}, l.traits...)
	second.awaitStanding()
	left := first.below()
	l.strike(first)
	next := f.ledger.awaitReign(reign.fence, patience, actorMain)
	// Whatever of the first were still alive would write among these.
	f.ledger.awaitLines(100)
	f.heal()
	if l.mend != nil {
		l.mend(first)
	}
	f.ledger.awaitLines(100)
	if code := first.awaitExit(patience); code != l.code {
		f.t.Errorf("%s: exit code %d, want %d", l.name, code, l.code)
	}
	for _, pid := range left {
		if command, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && len(command) > 0 && exists(pid, first) {
			f.t.Errorf("%s: process %d of the first lives: %q", l.name, pid, command)
		}
	}
	return round{l.name, f.gap(reign.fence, next.fence)}, second, next
}

// exists reports whether a process is of the runner's group, by which all that it started
// is known.
func exists(pid int, r *runner) bool {
	var status syscall.Stat_t
	return syscall.Stat(fmt.Sprintf("/proc/%d", pid), &status) == nil && int(status.Gid) == r.group
}

// gap is the time in which nobody wrote.
func (f *field) gap(before, after uint64) time.Duration {
	f.t.Helper()
	reigns, err := f.ledger.read()
	must(f.t, err)
	var last, first time.Duration
	for _, r := range reigns {
		switch r.fence {
		case before:
			last = r.last
		case after:
			first = r.first
		}
	}
	if last == 0 || first == 0 || first <= last {
		f.t.Fatalf("the last effect was at %v, the next at %v", last, first)
	}
	return first - last
}

// TestNothingOutlivesTheLease loses leadership in every way to a successor that waits;
// with LEADERSHIP_CHAOS fifty times by partitions and pauses, on three nodes.
func TestNothingOutlivesTheLease(t *testing.T) {
	nodes, rounds := 1, losses
	if os.Getenv("LEADERSHIP_CHAOS") != "" {
		nodes = 3
		for i := range 50 - partitionsAndPauses {
			rounds = append(rounds[:len(rounds):len(rounds)], losses[i%partitionsAndPauses])
		}
	}
	f := newField(t, nodes)
	r := f.run(settings{}, stubborn...)
	reign := f.ledger.awaitReign(0, patience, actorMain, actorDaemon)
	gaps := map[string][]time.Duration{}
	for _, l := range rounds {
		l.traits = stubborn
		var outcome round
		outcome, r, reign = f.lose(l, r, reign)
		gaps[outcome.loss] = append(gaps[outcome.loss], outcome.gap)
		f.ledger.awaitReign(reign.fence-1, patience, actorMain, actorDaemon)
	}
	var all []time.Duration
	for i, l := range losses {
		t.Logf("nobody acted when %s: %v", l.name, gaps[l.name])
		if i < partitionsAndPauses {
			all = append(all, gaps[l.name]...)
		}
	}
	// An overlap would have failed the test.
	t.Logf("FIGURE mesh run: no overlap in %d partitions and pauses at a TTL of %v; between the last effect of a command and its successor's first: %v to %v",
		len(all), ttl, slices.Min(all).Round(time.Millisecond), slices.Max(all).Round(time.Millisecond))
}

// TestNothingOutlivesTheLeaseOnABusyMachine does so while every core is wanted by many.
func TestNothingOutlivesTheLeaseOnABusyMachine(t *testing.T) {
	f := newField(t, 1)
	r := f.run(settings{}, append(stubborn, traitBusy)...)
	reign := f.ledger.awaitReign(0, patience, actorMain, actorDaemon)
	second := f.run(settings{})
	second.awaitStanding()
	stop(r.cmd.Process.Pid, r.fuse())
	release := hog(t, 16)
	defer release()
	next := f.ledger.awaitReign(reign.fence, patience)
	f.ledger.awaitLines(20)
	release()
	r.proceed()
	if code := r.awaitExit(patience); code != lost {
		t.Errorf("exit code %d, want %d", code, lost)
	}
	t.Logf("nobody acted for %v", f.gap(reign.fence, next.fence))
}

// hog keeps all cores busy until release.
func hog(t *testing.T, processes int) (release func()) {
	t.Helper()
	var hogs []*harness.Process
	for range processes {
		hogs = append(hogs, harness.Start(t, exec.Command("sh", "-c", "while :; do :; done")))
	}
	return func() {
		for _, h := range hogs {
			h.Kill()
		}
	}
}
