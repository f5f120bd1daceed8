package supervisor

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestASlowClockKillsInTime: the kernel lets a time daemon slow the clock that timers run
// by, by a tenth. Even then the lease is not over when all is to be dead.
func TestASlowClockKillsInTime(t *testing.T) {
	const now, remaining, margin, grace = int64(1e15), 4 * time.Second, 500 * time.Millisecond, time.Second
	s := scheduleOf(now, remaining, margin, grace)
	if !(now < s.termAt && s.termAt < s.killAt && s.killAt < s.lastAt) || time.Duration(s.killAt-s.termAt) != grace {
		t.Fatalf("%+v", s)
	}
	inTrueTime := func(at int64) time.Duration { return time.Duration(at-now) * 10 / 9 }
	if kill, last := inTrueTime(s.killAt), inTrueTime(s.lastAt); kill > remaining-margin || last > remaining-margin/2 {
		t.Errorf("by a clock that is slow by a tenth: killed after %v and %v of %v", kill, last, remaining)
	}
	if s := scheduleOf(now, margin/2, margin, grace); s.killAt >= now {
		t.Errorf("with less than the margin left: %+v at %d", s, now)
	}
}

func TestTimesThatDoNotFitAreRefused(t *testing.T) {
	for what, j := range map[string]Job{
		"no margin":         {TTL: time.Second},
		"a grace too long":  {TTL: time.Second, Margin: 100 * time.Millisecond, Grace: 401 * time.Millisecond},
		"a grace below 0":   {TTL: time.Second, Margin: 100 * time.Millisecond, Grace: -1},
		"patience below 0":  {TTL: time.Second, Margin: 100 * time.Millisecond, StopWithin: -1},
		"a time-out before": {TTL: time.Second, Margin: 100 * time.Millisecond, WaitFor: -1},
	} {
		if _, err := j.Run(t.Context()); err == nil {
			t.Errorf("%s: accepted", what)
		}
	}
}

func TestIsolationsByName(t *testing.T) {
	for _, name := range []string{"auto", "pidns", "cgroup", "none"} {
		if i, err := ParseIsolation(name); err != nil || string(i) != name {
			t.Errorf("%s: %q, %v", name, i, err)
		}
	}
	if _, err := ParseIsolation("jail"); err == nil || !strings.Contains(err.Error(), "pidns") {
		t.Errorf("an unknown one: %v", err)
	}
	site := Site{Isolation: Cgroup, userns: true, group: "/sys/fs/cgroup/a,b"}
	if back, err := decodeSite(site.encode()); err != nil || back != site {
		t.Errorf("%+v came back as %+v, %v", site, back, err)
	}
}

// TestProcessesWithOddNames: a name may look like the rest of the line.
func TestProcessesWithOddNames(t *testing.T) {
	path := filepath.Join(t.TempDir(), "42", "stat")
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("42 (a) S 1 (b)) R 7 42 0 -1"), 0o600); err != nil {
		t.Fatal(err)
	}
	if pid, parent, ok := readStat(path); !ok || pid != 42 || parent != 7 {
		t.Errorf("%d, %d, %t", pid, parent, ok)
	}
	if !slices.Contains(descendants(os.Getppid()), os.Getpid()) {
		t.Error("this process is not below its parent")
	}
}

// TestWhoEndsTheWaitingFirst: the election or what else may, never both.
func TestWhoEndsTheWaitingFirst(t *testing.T) {
	w := &waiting{ended: make(chan struct{}), over: make(chan struct{})}
	if !w.settle(nil) || w.settle(errors.New("too late")) || w.err != nil {
		t.Errorf("the second counted: %v", w.err)
	}
}
