package supervisor

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// Command is what runs under a leadership.
type Command struct {
	Args []string // the first is looked up in PATH; at least one
	Env  []string
	// Of CMD; not nil.
	Stdin, Stdout, Stderr *os.File
	Site                  Site // of Survey
}

// child is a running command, as its supervisor sees it.
type child struct {
	site    Site
	fuse    *exec.Cmd
	line    control
	init    int           // its pidfd
	exited  chan struct{} // closed when the fuse is gone
	reports chan report   // closed when the line is
	dead    chan struct{} // closed when nothing of it lives any more
}

// start returns when CMD is about to run. Whatever it returns, nothing of the command
// outlives the schedule. Nothing else is to be started meanwhile: it would hold on to the
// line to the fuse.
func start(c Command, s schedule) (*child, error) {
	site, err := c.Site.makeGroup()
	if err == nil {
		err = site.adopt()
	}
	if err != nil {
		return nil, err
	}
	line, far, err := newControl()
	if err != nil {
		return nil, err
	}
	k := &child{site: site, line: line, init: -1, exited: make(chan struct{}), reports: make(chan report, 16), dead: make(chan struct{})}
	k.fuse = &exec.Cmd{
		Path: self, Args: helperCommand(fuseName, site, far, c.Args), Env: c.Env,
		Stdin: c.Stdin, Stdout: c.Stdout, Stderr: c.Stderr,
		SysProcAttr: &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL},
	}
	started := make(chan error)
	go k.hold(started)
	err = <-started
	_ = unix.Close(far)
	if err == nil {
		err = k.begin(s)
	}
	if err != nil {
		k.abandon()
		return nil, fmt.Errorf("the command was not started: %w", err)
	}
	go k.listen()
	go k.watch()
	return k, nil
}

// hold is the thread that the fuse dies with: it lasts as long as the fuse does.
func (k *child) hold(started chan<- error) {
	runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
	defer close(k.exited)
	err := k.fuse.Start()
	started <- err
	if err == nil {
		_ = k.fuse.Wait() // how it ended is of no interest
	}
}

// begin lights the fuse, learns who init is, and only then lets CMD start: else nobody
// could tell when its descendants are dead.
func (k *child) begin(s schedule) error {
	if err := k.line.send(s.order()); err != nil {
		return err
	}
	var r report
	var err error
	if k.init, err = k.line.receive(&r); err != nil {
		return fmt.Errorf("the fuse ended: %w", err)
	}
	if !r.Ready || k.init < 0 {
		return errors.New("the fuse did not pass on its init")
	}
	o := s.order()
	o.Start = true
	return k.line.send(o)
}

// abandon ends what start began: CMD does not run, or not for long.
func (k *child) abandon() {
	k.kill()
	k.watch()
	k.line.close()
}

// extend tells until when it may live from now on.
func (k *child) extend(s schedule) { _ = k.line.send(s.order()) } // a fuse that is stopped keeps the former end

func (k *child) signal(s syscall.Signal) { _ = k.line.send(order{Signal: int(s)}) } // the user can send it again

// kill ends all at once.
func (k *child) kill() {
	if k.fuse.Process != nil {
		_ = k.fuse.Process.Kill()
	}
	if k.init >= 0 {
		_ = unix.PidfdSendSignal(k.init, unix.SIGKILL, nil, 0) // gone, perhaps
	}
}

// listen hands reports on.
func (k *child) listen() {
	defer close(k.reports)
	for {
		var r report
		if _, err := k.line.receive(&r); err != nil {
			return
		}
		k.reports <- r
	}
}

// watch waits until nothing of the command lives.
func (k *child) watch() {
	defer close(k.dead)
	<-k.exited
	k.kill() // init lives without the fuse where it is no PID 1
	if k.init >= 0 {
		awaitEnd(k.init)
		_ = unix.Close(k.init)
	}
	k.site.finish()
}

// awaitEnd waits for the end of a process. PID 1 of a namespace ends after all others in it.
func awaitEnd(pidfd int) {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	for {
		if n, err := unix.Poll(fds, -1); err != unix.EINTR && (n > 0 || err != nil) {
			return
		}
	}
}
