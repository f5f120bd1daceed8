package storeserver

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// command is a program to run.
type command struct {
	path string
	args []string
	dir  string
	user *syscall.Credential // nil: as we are
	stop syscall.Signal      // asks it to end in order
}

// exec prepares the command as a child that dies with us, in a group of its own.
func (c command) exec() *exec.Cmd {
	cmd := exec.Command(c.path, c.args...)
	cmd.Dir = c.dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL, Credential: c.user}
	cmd.WaitDelay = 2 * time.Second // a grandchild may hold the output open
	return cmd
}

// process is a running program, its children included.
type process struct {
	cmd    *exec.Cmd
	output *tail
	done   chan struct{} // closed when it has ended and was waited for
}

// starting hands work to the one thread that starts children: the kernel kills them
// when the thread that started them ends, so it must last as long as we do.
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

func launch(c command, log io.Writer) (*process, error) {
	p := &process{cmd: c.exec(), output: &tail{next: log}, done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p.output, p.output
	result := make(chan error)
	starting() <- func() { result <- p.cmd.Start() }
	if err := <-result; err != nil {
		return nil, err
	}
	go func() {
		_ = p.cmd.Wait() // its state is kept in cmd
		close(p.done)
	}()
	return p, nil
}

// run runs a program to its end.
func run(ctx context.Context, c command, log io.Writer) error {
	p, err := launch(c, log)
	if err != nil {
		return err
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		p.kill()
		return ctx.Err()
	}
	if !p.cmd.ProcessState.Success() {
		return fmt.Errorf("%s: %s\n%s", filepath.Base(c.path), p.state(), p.output.String())
	}
	return nil
}

// pid is 0 for what was never started.
func (p *process) pid() int {
	if p == nil {
		return 0
	}
	return p.cmd.Process.Pid
}

// state says how it ended; only after done.
func (p *process) state() string { return p.cmd.ProcessState.String() }

// ended reports whether it runs no more, or never did.
func (p *process) ended() bool {
	if p == nil {
		return true
	}
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// signal sends to the first process; to one that has ended it does nothing.
func (p *process) signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) }

// pause stops the first process, which then starts no more, and then its children,
// which it returns.
func (p *process) pause() []int {
	if p.ended() {
		return nil
	}
	p.signal(syscall.SIGSTOP)
	await(func() bool { s := stateOf(p.pid()); return s == 'T' || gone(s) })
	children := descendants(p.pid())
	for _, pid := range children {
		_ = syscall.Kill(pid, syscall.SIGSTOP)
	}
	return children
}

func (p *process) resume() {
	if p.ended() {
		return
	}
	for _, pid := range descendants(p.pid()) {
		_ = syscall.Kill(pid, syscall.SIGCONT)
	}
	p.signal(syscall.SIGCONT)
}

// kill ends all processes and waits until they are gone. PostgreSQL's are no group:
// each makes a session of its own.
func (p *process) kill() {
	if p.ended() {
		return
	}
	children := p.pause()
	p.signal(syscall.SIGKILL)
	for _, pid := range children {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	<-p.done
	await(func() bool {
		for _, pid := range children {
			if !gone(stateOf(pid)) {
				return false
			}
		}
		return true
	})
}

// await waits for something the kernel does in a moment, and no longer than 10 s.
func await(done func() bool) {
	for end := time.Now().Add(10 * time.Second); !done() && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
}

// gone reports whether a state is that of a process that runs and holds nothing any more.
func gone(state byte) bool { return state == 0 || state == 'Z' || state == 'X' }

// stateOf is the letter in /proc/pid/stat, 0 when there is no such process.
func stateOf(pid int) byte {
	state, _ := stat(strconv.Itoa(pid))
	return state
}

// stat reads a process's state and parent.
func stat(pid string) (state byte, parent int) {
	data, err := os.ReadFile(filepath.Join("/proc", pid, "stat"))
	if err != nil {
		return 0, 0
	}
	// pid (name, which may hold anything) state parent ...
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	if len(fields) < 2 {
		return 0, 0
	}
	parent, _ = strconv.Atoi(fields[1])
	return fields[0][0], parent
}

// descendants finds the children of a process, and theirs.
func descendants(root int) []int {
	names, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil
	}
	children := map[int][]int{}
	for _, name := range names {
		pid, err := strconv.Atoi(filepath.Base(name))
		if err != nil {
			continue
		}
		if _, parent := stat(filepath.Base(name)); parent != 0 {
			children[parent] = append(children[parent], pid)
		}
	}
	var found []int
	for next := children[root]; len(next) > 0; {
		pid := next[0]
		next = append(next[1:], children[pid]...)
		found = append(found, pid)
	}
	return found
}

// tail keeps the end of what is written, and passes all of it on.
type tail struct {
	mu   sync.Mutex
	data []byte
	next io.Writer
}

const maxTail = 4 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.data = append(t.data, p...)
	if over := len(t.data) - maxTail; over > 0 {
		t.data = append(t.data[:0], t.data[over:]...)
	}
	if t.next != nil {
		_, _ = t.next.Write(p) // a log that fails must not stop a server
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.data)
}
