package supervisor

import (
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/omnirelay/leadership/adapters/clock"
)

// effectEnv makes this program the command: it writes the time to a file without a pause.
const effectEnv = "SUPERVISOR_EFFECT"

func TestMain(m *testing.M) {
	Enter()
	if path := os.Getenv(effectEnv); path != "" {
		act(path)
	}
	if name := os.Getenv(listenerEnv); name != "" {
		listen(name)
	}
	os.Exit(m.Run())
}

func act(path string) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		os.Exit(99)
	}
	now := make([]byte, 8)
	for {
		binary.NativeEndian.PutUint64(now, uint64(clock.Boottime()))
		if _, err := file.WriteAt(now, 0); err != nil {
			os.Exit(98)
		}
	}
}

// lastEffect is the time the command wrote last; 0: none.
func lastEffect(t *testing.T, path string) int64 {
	t.Helper()
	data, err := os.ReadFile(path)
	if os.IsNotExist(err) || len(data) < 8 {
		return 0
	}
	if err != nil {
		t.Fatal(err)
	}
	return int64(binary.NativeEndian.Uint64(data))
}

// begun starts the command and waits until it acts.
func begun(t *testing.T, isolation Isolation, s schedule) (*child, string) {
	t.Helper()
	site, err := Survey(isolation)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "effect")
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	k, err := start(Command{Args: []string{self}, Env: append(os.Environ(), effectEnv+"="+path), Stdin: null, Stdout: null, Stderr: null, Site: site}, s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		k.kill()
		<-k.dead
		k.line.close()
	})
	for lastEffect(t, path) == 0 {
		select {
		case r, more := <-k.reports:
			t.Fatalf("%+v, %t", r, more)
		case <-time.After(time.Millisecond):
		}
	}
	return k, path
}

func in(d time.Duration) schedule {
	at := clock.Boottime() + int64(d)
	return schedule{termAt: at + int64(time.Hour), killAt: at, lastAt: at + int64(50*time.Millisecond)}
}

// margin is the least that mesh run leaves for the killing.
const margin = 100 * time.Millisecond

// TestTheKernelKillsAtTheDeadline, without a process of ours that runs.
func TestTheKernelKillsAtTheDeadline(t *testing.T) {
	t.Parallel()
	s := in(4 * time.Second) // the command starts before, on a busy machine too
	k, path := begun(t, Auto, s)
	if err := unix.Kill(k.fuse.Process.Pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	<-k.dead
	if late := time.Duration(lastEffect(t, path) - s.killAt); late > margin {
		t.Errorf("it acted until %v after the deadline", late)
	} else {
		t.Logf("the last effect came %v after the deadline", late)
	}
}

// TestAnExtensionCounts, and one that comes from a reader that is stopped does not.
func TestAnExtensionCounts(t *testing.T) {
	t.Parallel()
	first := in(4 * time.Second)
	k, path := begun(t, Auto, first)
	second := in(5 * time.Second)
	k.extend(second)
	<-k.dead
	if last := lastEffect(t, path); last < first.killAt || last > second.killAt+int64(margin) {
		t.Errorf("the last effect came %v after the first deadline and %v after the second", time.Duration(last-first.killAt), time.Duration(last-second.killAt))
	}
}

// TestTheEndIsThatOfTheLast: a command is over when all of it is.
func TestTheEndIsThatOfTheLast(t *testing.T) {
	for _, isolation := range []Isolation{Auto, None} {
		k, path := begun(t, isolation, in(time.Hour))
		k.kill()
		<-k.dead
		last := lastEffect(t, path)
		if now := lastEffect(t, path); now != last || clock.Boottime() <= last {
			t.Errorf("%s: it acts after its end", isolation)
		}
	}
}

// TestTheDeadlineHoldsWhileOthersWantEveryCore: they are four for each.
func TestTheDeadlineHoldsWhileOthersWantEveryCore(t *testing.T) {
	s := in(3 * time.Second)
	k, path := begun(t, Auto, s)
	for range 4 * runtime.NumCPU() {
		hog := exec.Command("sh", "-c", "while :; do :; done")
		if err := hog.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = hog.Process.Kill()
			_ = hog.Wait() // it was killed
		})
	}
	if err := unix.Kill(k.fuse.Process.Pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	<-k.dead
	late := time.Duration(lastEffect(t, path) - s.killAt)
	t.Logf("the last effect came %v after the deadline", late)
	if late > margin {
		t.Errorf("that is more than %v", margin)
	}
}
