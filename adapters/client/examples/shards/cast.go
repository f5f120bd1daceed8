package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// process is a child of the play.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

// start runs a command in a group of its own; its output goes to a file. The kernel
// ends it with the thread that calls this.
func start(log string, name string, args ...string) (*process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	p := &process{cmd: exec.Command(name, args...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	go func() {
		_ = p.cmd.Wait() // whoever cares looks at the log
		close(p.done)
	}()
	return p, nil
}

func (p *process) signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) }

// kill ends it, paused or not.
func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	<-p.done
}

// stop asks it to end, and kills it when it does not within the time.
func (p *process) stop(within time.Duration) {
	p.signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(within):
		p.kill()
	}
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// actor is one member through all lives of its process.
type actor struct {
	id       string
	careless bool
	args     []string
	log      string
	process  *process
	state    state
	backAt   time.Time // when it is started or resumed
}

type state string

const (
	running state = "running"
	killed  state = "killed"
	paused  state = "paused"
)

const resourceName = "resource"

func (a *actor) start() (err error) {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	a.process, err = start(a.log, self, a.args...)
	a.state = running
	return err
}

// newActor is a member with a certificate in dir/tls.
func (p *play) newActor(n int) *actor {
	a := &actor{id: fmt.Sprintf("member-%02d", n), careless: n%3 != 0}
	a.log = filepath.Join(p.dir, a.id+".log")
	a.args = []string{
		"member", "-id", a.id, "-endpoints", p.endpoints(), "-ca", p.cluster.CA, "-cert", p.tls(a.id + ".pem"), "-key", p.tls(a.id + "-key.pem"),
		"-namespace", p.namespace, "-resource", "http://" + p.address, "-journal", filepath.Join(p.dir, a.id+".jsonl"), "-every", p.every.String(),
	}
	if a.careless {
		a.args = append(a.args, "-careless")
	}
	return a
}
