package supervisor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// listenerEnv makes this program one that writes down the signals it gets; as CMD it has
// a child that does so, too.
const listenerEnv = "SUPERVISOR_LISTENER"

func listen(name string) {
	heard := make(chan os.Signal, 16)
	signal.Notify(heard, Forwarded...)
	if name == "CMD" {
		child := exec.Command(self)
		child.Env, child.Stdout = append(os.Environ(), listenerEnv+"=child"), os.Stdout
		if err := child.Start(); err != nil {
			fmt.Println(err)
			os.Exit(99)
		}
	}
	fmt.Println(name, "listens")
	for s := range heard {
		fmt.Println(name, "heard", s)
	}
}

// TestSignalsOfTheTerminalAreForTheGroup: a shell that waits takes no ^C for its own that
// what it waits for did not get. The others are for CMD.
func TestSignalsOfTheTerminalAreForTheGroup(t *testing.T) {
	for _, isolation := range []Isolation{Auto, None} {
		k, lines := listener(t, isolation)
		want := []string{"CMD listens", "child listens"}
		for _, s := range []unix.Signal{unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2, unix.SIGINT, unix.SIGQUIT, unix.SIGHUP, unix.SIGWINCH} {
			awaitLines(t, lines, want...)
			k.signal(s)
			want = []string{"CMD heard " + s.String()}
			if slices.Contains([]unix.Signal{unix.SIGINT, unix.SIGQUIT, unix.SIGHUP, unix.SIGWINCH}, s) {
				want = append(want, "child heard "+s.String())
			}
		}
		awaitLines(t, lines, want...)
		k.kill()
		for line := range lines { // whatever else they heard
			t.Errorf("%s: %s", isolation, line)
		}
	}
}

// listener starts one, and returns what it says.
func listener(t *testing.T, isolation Isolation) (*child, <-chan string) {
	t.Helper()
	site, err := Survey(isolation)
	if err != nil {
		t.Fatal(err)
	}
	said, mouth, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	k, err := start(Command{Args: []string{self}, Env: append(os.Environ(), listenerEnv+"=CMD"), Stdin: said, Stdout: mouth, Stderr: mouth, Site: site}, in(time.Hour))
	mouth.Close()
	if err != nil {
		t.Fatal(err)
	}
	lines := make(chan string, 16)
	go func() {
		defer close(lines)
		for scanner := bufio.NewScanner(said); scanner.Scan(); {
			lines <- scanner.Text()
		}
	}()
	t.Cleanup(func() {
		k.kill()
		<-k.dead
		k.line.close()
		said.Close()
	})
	return k, lines
}

// awaitLines wants these lines next, in any order.
func awaitLines(t *testing.T, lines <-chan string, want ...string) {
	t.Helper()
	for len(want) > 0 {
		select {
		case line := <-lines:
			i := slices.Index(want, line)
			if i < 0 {
				t.Fatalf("%q, want %q", line, want)
			}
			want = slices.Delete(want, i, i+1)
		case <-time.After(10 * time.Second):
			t.Fatalf("nothing was said; want %q", want)
		}
	}
}

// TestASignalBeforeTheCommandRunsIsKept: CMD is looked up and started in some
// milliseconds after the order to start it.
func TestASignalBeforeTheCommandRunsIsKept(t *testing.T) {
	runtime.LockOSThread() // CMD would die with it
	defer runtime.UnlockOSThread()
	i := &initial{site: Site{Isolation: None}, start: make(chan struct{})}
	for _, o := range []order{{Start: true}, {Signal: int(unix.SIGTERM)}, {Signal: int(unix.SIGCONT)}} {
		if err := i.follow(o); err != nil {
			t.Fatal(err)
		}
	}
	pid, err := i.spawn([]string{"sleep", "10"})
	if err != nil {
		t.Fatal(err)
	}
	var status unix.WaitStatus
	if _, err := unix.Wait4(pid, &status, 0, nil); err != nil {
		t.Fatal(err)
	}
	if code := codeOf(status); code != 128+int(unix.SIGTERM) {
		t.Errorf("exit code %d: the command did not hear of it", code)
	}
}

// TestASignalAtTheMomentOfTheElection is for the command, and ends nothing else; so is
// the end of the wait.
func TestASignalAtTheMomentOfTheElection(t *testing.T) {
	kept := 0
	for range 1000 {
		signals := make(chan os.Signal, 1)
		signals <- syscall.SIGTERM
		ctx, cancel := context.WithCancel(t.Context())
		j := &Job{Signals: signals, WaitFor: time.Nanosecond}
		w := j.wait(ctx, cancel)
		elected := w.end(nil)
		var interrupted *Interrupted
		switch {
		case elected && ctx.Err() != nil:
			t.Fatal("the leadership was given up that the election had begun")
		case elected && w.missed == nil && len(signals) == 0:
			t.Fatal("the signal is lost")
		case !elected && !errors.Is(w.err, ErrNotElected) && !errors.As(w.err, &interrupted):
			t.Fatal(w.err)
		case elected && w.missed != nil:
			kept++
		}
		cancel()
	}
	if kept == 0 {
		t.Error("the signal never came with the election: this test shows nothing")
	}
}

// TestResizingATerminalEndsNoWait: it does not end a process, either.
func TestResizingATerminalEndsNoWait(t *testing.T) {
	signals := make(chan os.Signal)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w := (&Job{Signals: signals}).wait(ctx, cancel)
	signals <- syscall.SIGWINCH
	select {
	case signals <- syscall.SIGHUP: // taken only if the wait went on
	case <-w.over:
	}
	<-w.over
	var interrupted *Interrupted
	if !errors.As(w.err, &interrupted) || interrupted.Signal != syscall.SIGHUP {
		t.Errorf("the wait ended by %v", w.err)
	}
}
