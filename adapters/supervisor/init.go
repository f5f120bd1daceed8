package supervisor

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/omnirelay/leadership/adapters/clock"
)

// initial is the process that CMD is a child of.
type initial struct {
	site  Site
	up    control
	timer *timer // for CMD's sake, which dies with init; nil: PID 1, which its own timer could not kill
	start chan struct{}

	mu     sync.Mutex
	termAt int64
	term   *time.Timer
	told   bool
	pid    int              // of CMD; 0: it does not run
	early  []syscall.Signal // came before CMD ran
}

// initiate is the body of init.
func initiate() error {
	site, up, command, err := helperArguments()
	if err != nil {
		return err
	}
	withstandSignals()
	i := &initial{site: site, up: up, start: make(chan struct{})}
	if err := i.settle(); err != nil {
		return i.fail(err)
	}
	go i.obey()
	<-i.start
	code, err := i.run(command)
	if err != nil {
		err = i.fail(err)
	} else {
		_ = up.send(report{Ended: true, Code: code})
	}
	site.finish() // a namespace ends with PID 1
	return err
}

// withstandSignals keeps init alive under signals that are for CMD, or from it. They are
// caught and not ignored, since CMD would inherit that.
func withstandSignals() {
	caught := make(chan os.Signal, 1)
	for _, s := range []os.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2, unix.SIGPIPE,
		unix.SIGALRM, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU} {
		if !signal.Ignored(s) {
			signal.Notify(caught, s)
		}
	}
}

// settle makes the place that CMD runs in.
func (i *initial) settle() error {
	if i.site.Isolation == PIDNamespace {
		return enterNamespace(i.note)
	}
	if err := i.site.adopt(); err != nil {
		return err
	}
	t, err := newTimer()
	i.timer = &t
	return err
}

func (i *initial) note(text string) { _ = i.up.send(report{Note: text}) }

func (i *initial) fail(err error) error {
	_ = i.up.send(report{Failed: err.Error()})
	return err
}

// obey follows orders until none can come any more: then all must end.
func (i *initial) obey() {
	for {
		var o order
		if _, err := i.up.receive(&o); err != nil {
			break
		}
		if err := i.follow(o); err != nil {
			break
		}
	}
	i.site.finish()
	os.Exit(1)
}

func (i *initial) follow(o order) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if o.LastAt != 0 && i.timer != nil {
		if err := i.timer.set(o.LastAt); err != nil {
			return err
		}
	}
	if o.TermAt != 0 && !i.told {
		i.termAt = o.TermAt
		i.await()
	}
	if o.Signal != 0 {
		i.pass(unix.Signal(o.Signal))
	}
	if o.Start {
		close(i.start)
	}
	return nil
}

// pass hands a signal to CMD, or keeps it until CMD runs. mu is held.
func (i *initial) pass(s syscall.Signal) {
	switch {
	case i.pid == 0:
		if !slices.Contains(i.early, s) { // signals do not queue
			i.early = append(i.early, s)
		}
	case ofTerminal(s):
		_ = unix.Kill(-i.pid, s) // it leads its group, which may have ended
	default:
		_ = unix.Kill(i.pid, s)
	}
}

// await sets a timer for the moment that CMD is told to end. mu is held.
func (i *initial) await() {
	if i.term != nil {
		i.term.Stop()
	}
	i.term = time.AfterFunc(max(0, time.Duration(i.termAt-clock.Boottime())), i.tell)
}

// tell CMD to end, once it is time.
func (i *initial) tell() {
	i.mu.Lock()
	defer i.mu.Unlock()
	switch {
	case i.told:
		return
	case clock.Boottime() < i.termAt: // moved meanwhile
		i.await()
		return
	}
	i.told = true
	if i.pid != 0 {
		_ = unix.Kill(i.pid, unix.SIGTERM)
		_ = unix.Kill(i.pid, unix.SIGCONT) // one that is stopped would not hear of it
	}
	_ = i.up.send(report{Told: true})
}

// run starts CMD and reaps until it has ended.
func (i *initial) run(command []string) (code int, err error) {
	pid, err := i.spawn(command)
	if err != nil {
		return 0, err
	}
	hasten()
	for {
		var status unix.WaitStatus
		ended, err := unix.Wait4(-1, &status, 0, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("waiting for the command: %w", err)
		}
		if ended == pid {
			i.mu.Lock()
			i.pid = 0
			i.mu.Unlock()
			return codeOf(status), nil
		}
	}
}

func (i *initial) spawn(command []string) (int, error) {
	path, err := exec.LookPath(command[0])
	if err != nil {
		return 0, err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.told {
		return 0, errors.New("the lease was about to end before the command had begun")
	}
	attributes := &syscall.SysProcAttr{Setsid: true}
	if i.site.Isolation != PIDNamespace {
		attributes.Pdeathsig = unix.SIGKILL
	}
	if i.site.Isolation == Cgroup {
		group, err := os.Open(i.site.group)
		if err != nil {
			return 0, err
		}
		defer group.Close()
		attributes.UseCgroupFD, attributes.CgroupFD = true, int(group.Fd())
	}
	i.pid, err = syscall.ForkExec(path, command, &syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{0, 1, 2}, Sys: attributes})
	if err != nil {
		i.pid = 0
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	for _, s := range i.early {
		i.pass(s)
	}
	return i.pid, nil
}

// codeOf is the exit code as shells tell it.
func codeOf(status unix.WaitStatus) int {
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}
