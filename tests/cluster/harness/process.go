package harness

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Process is a child of the test, killed with it however the test ends.
type Process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended and was waited for
}

// starting hands commands to the one thread that starts children: the kernel kills
// them when the thread that started them ends, so it must last as long as the test.
var starting = sync.OnceValue(func() chan<- func() {
	work := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range work {
			f()
		}
	}()
	return work
})

// Start runs the command until it ends or the test does.
func Start(t testing.TB, cmd *exec.Cmd) *Process {
	t.Helper()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	failed := make(chan error)
	starting() <- func() { failed <- cmd.Start() }
	if err := <-failed; err != nil {
		t.Fatalf("starting %s: %v", cmd.Path, err)
	}
	p := &Process{cmd: cmd, done: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // its state is kept in cmd
		close(p.done)
	}()
	t.Cleanup(p.Kill)
	return p
}

// PID is the process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Signal sends a signal; to a process that has ended it does nothing.
func (p *Process) Signal(s os.Signal) { _ = p.cmd.Process.Signal(s) }

// Kill ends the process by SIGKILL, paused or not, and waits until it is gone.
func (p *Process) Kill() {
	p.Signal(syscall.SIGKILL)
	<-p.done
}

// Ended reports whether the process is gone.
func (p *Process) Ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// AwaitExit returns the exit code, -1 when a signal ended the process.
func (p *Process) AwaitExit(within time.Duration) (code int, err error) {
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode(), nil
	case <-time.After(within):
		return 0, fmt.Errorf("process %d still runs after %v", p.PID(), within)
	}
}

// Output runs a program under test to its end and returns what it wrote on both
// outputs, and its exit code.
func Output(t testing.TB, within time.Duration, name string, args ...string) (text string, code int) {
	t.Helper()
	path := map[string]string{"leaderd": leaderd(), "omnirelay": omnirelay()}[name]
	file, err := os.CreateTemp(t.TempDir(), "output")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = file, file
	code, err = Start(t, cmd).AwaitExit(within)
	if err != nil {
		t.Fatalf("%s %v: %v", name, args, err)
	}
	data, err := os.ReadFile(file.Name())
	if err != nil {
		t.Fatal(err)
	}
	return string(data), code
}
