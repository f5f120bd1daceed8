package supervisor_test

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/omnirelay/leadership/tests/cluster/harness"
)

// TestExitCodes: of the command, and of what keeps it from running.
func TestExitCodes(t *testing.T) {
	f := newField(t, 1)
	for name, c := range map[string]struct {
		s       settings
		command []string
		code    int
		says    string
	}{
		"its own":            {command: []string{"sh", "-c", "exit 42"}, code: 42},
		"success":            {command: []string{"true"}, code: 0},
		"killed by a signal": {command: []string{"sh", "-c", "kill -INT $$"}, code: 130},
		"its environment":    {command: []string{"sh", "-c", `test "$LEADERSHIP_SCOPE" = jobs/nightly && test "$LEADERSHIP_TERM" -gt 0 && test "$LEADERSHIP_FENCE" -gt 0`}},
		"its own /proc":      {command: []string{"sh", "-c", `test "$(readlink /proc/self)" = "$(sh -c 'echo $PPID')" || test -d /proc/$$`}},
		"its descriptors":    {s: settings{files: numbered(t, 3, 9)}, command: []string{"sh", "-c", "for n in 3 4 5 6 7 8 9; do read -r x <&$n && test $x = $n || exit 1; done"}},
		"no such command":    {command: []string{"no-such-command"}, code: 1, says: "no-such-command"},
		"not a command":      {s: settings{flags: []string{"--isolation", "pidns"}}, command: []string{"/dev/null"}, code: 1, says: "permission denied"},
		"not granted":        {s: settings{scope: "global-control"}, command: []string{"true"}, code: 1, says: "grant"},
		"not declared":       {s: settings{scope: "shard/no/1"}, command: []string{"true"}, code: 1, says: "not declared"},
		"a wrong isolation":  {s: settings{flags: []string{"--isolation", "jail"}}, command: []string{"true"}, code: 1, says: "want auto"},
		"too long a grace":   {s: settings{flags: []string{"--grace", "1s"}}, command: []string{"true"}, code: 1, says: "half the TTL"},
	} {
		r := f.runCommand(c.s, "", c.command...)
		if code := r.awaitExit(patience); code != c.code {
			t.Errorf("%s: exit code %d, want %d", name, code, c.code)
		}
		if c.says != "" && !r.said(c.says) {
			t.Errorf("%s: it did not say %q", name, c.says)
		}
	}
}

// numbered returns files that hold the numbers of the descriptors they are to have.
func numbered(t *testing.T, from, to int) (files []*os.File) {
	t.Helper()
	for n := from; n <= to; n++ {
		path := filepath.Join(t.TempDir(), "number")
		must(t, os.WriteFile(path, fmt.Appendln(nil, n), 0o600))
		file, err := os.Open(path)
		must(t, err)
		t.Cleanup(func() { file.Close() })
		files = append(files, file)
	}
	return files
}

// TestSuccessorsStartWhenTheCommandEnds: no lease has to run out.
func TestSuccessorsStartWhenTheCommandEnds(t *testing.T) {
	f := newField(t, 1)
	first := f.run(settings{flags: []string{"--ttl", "20s"}}, traitQuick, traitDaemons)
	reign := f.ledger.awaitReign(0, patience, actorMain, actorDaemon)
	second := f.run(settings{}, traitPolite)
	if code := first.awaitExit(patience); code != 7 {
		t.Errorf("exit code %d, want the command's 7", code)
	}
	next := f.ledger.awaitReign(reign.fence, 5*time.Second, actorMain)
	t.Logf("the successor acted %v after the command", f.gap(reign.fence, next.fence))

	third := f.run(settings{flags: []string{"--timeout", "500ms"}})
	if code := third.awaitExit(patience); code != 2 || !third.said("not elected") {
		t.Errorf("waiting in vain: exit code %d, want 2", code)
	}
	second.signal(syscall.SIGTERM) // is the command's
	if code := second.awaitExit(patience); code != 0 {
		t.Errorf("exit code %d, want that of the command that was asked to end", code)
	}
}

// TestHandOver: the command is asked to end; the successor begins when all is dead.
func TestHandOver(t *testing.T) {
	f := newField(t, 1)
	for _, c := range []struct {
		traits []string
		flags  []string
	}{
		{[]string{traitPolite, traitDaemons}, nil},
		{stubborn, []string{"--stop-within", "300ms"}},
	} {
		first := f.run(settings{flags: c.flags}, c.traits...)
		before := f.ledger.current().fence
		reign := f.ledger.awaitReign(before, patience, actorMain, actorDaemon)
		second := f.run(settings{member: "heir"}, traitPolite)
		second.awaitStanding()
		text, code := harness.Output(t, patience, "omnirelay", "mesh", "leaders", "transfer", "--cluster", f.cluster.ManifestPath(), "--scope", scope, "--to", "heir")
		if code != 0 {
			t.Fatalf("transfer: exit code %d: %s", code, text)
		}
		f.ledger.awaitReign(reign.fence, patience, actorMain)
		if code := first.awaitExit(patience); code != lost {
			t.Errorf("exit code %d, want %d", code, lost)
		}
		second.signal(syscall.SIGTERM)
		if code := second.awaitExit(patience); code != 0 {
			t.Errorf("the heir's exit code is %d, want 0", code)
		}
	}
}

// TestIsolations: what works without a namespace, as long as init is not stopped.
func TestIsolations(t *testing.T) {
	f := newField(t, 1)
	stopped := loss{name: "stopped", strike: func(r *runner) { stop(r.cmd.Process.Pid, r.fuse()) }, mend: (*runner).proceed, code: lost}
	ended := loss{name: "init is killed", strike: func(r *runner) { _ = syscall.Kill(r.init(), syscall.SIGKILL) }, code: 1}
	killed := loss{name: "killed", strike: func(r *runner) { r.signal(syscall.SIGKILL) }, code: killed}
	for isolation, losses := range map[string][]loss{"cgroup": {killed}, "none": {stopped, ended}} {
		flags := []string{"--isolation", isolation}
		for _, l := range losses {
			l.flags = flags
			first := f.run(settings{flags: flags}, stubborn...)
			reign := f.ledger.awaitReign(f.ledger.current().fence, patience, actorMain, actorDaemon)
			if !first.said("isolation " + isolation) {
				t.Errorf("%s: no word of what is not promised", isolation)
			}
			outcome, second, _ := f.lose(l, first, reign)
			t.Logf("%s, %s: nobody acted for %v", isolation, outcome.loss, outcome.gap)
			second.signal(syscall.SIGTERM)
			if code := second.awaitExit(patience); code != 128+int(syscall.SIGTERM) {
				t.Errorf("%s: exit code %d", isolation, code)
			}
		}
	}
}

// TestTheCommandItselfDiesWithoutANamespace: that much is promised when all helpers are
// stopped. The command has no daemons here: they would live on.
func TestTheCommandItselfDiesWithoutANamespace(t *testing.T) {
	f := newField(t, 1)
	flags := []string{"--isolation", "none"}
	first := f.run(settings{flags: flags}, traitDeaf)
	reign := f.ledger.awaitReign(0, patience, actorMain)
	l := loss{name: "all are stopped", flags: flags, code: lost, mend: (*runner).proceed,
		strike: func(r *runner) { stop(r.cmd.Process.Pid, r.fuse(), r.init()) }}
	outcome, _, _ := f.lose(l, first, reign)
	t.Logf("%s: nobody acted for %v", outcome.loss, outcome.gap)
}

// TestUsersWithoutRights have namespaces of their own where the kernel gives them any.
func TestUsersWithoutRights(t *testing.T) {
	f := newField(t, 1)
	root := f.run(settings{}, traitQuick) // declares the scope, which others may not
	root.awaitExit(patience)
	first := f.run(settings{user: 4711, flags: []string{"--isolation", "pidns"}}, stubborn...)
	reign := f.ledger.awaitReign(f.ledger.current().fence, patience, actorMain, actorDaemon)
	l := loss{name: "stopped", strike: func(r *runner) { stop(r.cmd.Process.Pid, r.fuse()) }, mend: (*runner).proceed, code: lost}
	outcome, _, _ := f.lose(l, first, reign)
	t.Logf("%s: nobody acted for %v", outcome.loss, outcome.gap)
	if data, err := os.ReadFile("/proc/sys/user/max_user_namespaces"); err != nil || string(data) == "0\n" {
		t.Errorf("no user namespaces here (%v): this test shows nothing", err)
	}
}
