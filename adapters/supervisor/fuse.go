package supervisor

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// fuse is the body of the process that dies at the deadline.
func fuse() error {
	site, up, command, err := helperArguments()
	if err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("prctl: %w", err)
	}
	var first order
	if _, err := up.receive(&first); err != nil {
		return err // the supervisor is gone
	}
	t, err := newTimer()
	if err == nil {
		err = t.set(first.KillAt)
	}
	if err != nil {
		return err
	}
	return light(site, command, up, first, t)
}

// light starts init and stands between it and the supervisor until it ends.
func light(site Site, command []string, up control, first order, t timer) error {
	if err := site.adopt(); err != nil {
		return err
	}
	down, far, err := newControl()
	if err != nil {
		return err
	}
	pid, pidfd, err := startInit(site, command, far)
	_ = unix.Close(far)
	if err != nil {
		return err
	}
	hasten()
	if err := down.send(first); err != nil {
		return err
	}
	if err := up.send(report{Ready: true}, pidfd); err != nil {
		return err
	}
	_ = unix.Close(pidfd)
	go passDown(site, up, down, t)
	passUp(down, up)
	await(pid)
	site.finish()
	return nil
}

func startInit(site Site, command []string, line int) (pid, pidfd int, err error) {
	pidfd = -1
	attributes := site.initAttributes()
	attributes.PidFD = &pidfd
	if site.Isolation == PIDNamespace {
		attributes.Pdeathsig = unix.SIGKILL
	}
	pid, err = syscall.ForkExec(self, helperCommand(initName, site, line, command), &syscall.ProcAttr{
		Env: os.Environ(), Files: []uintptr{0, 1, 2}, Sys: attributes,
	})
	if err == nil && pidfd < 0 {
		_ = unix.Kill(pid, unix.SIGKILL) // it has started nothing
		err = unix.ENOSYS
	}
	if err != nil {
		return 0, -1, fmt.Errorf("init: %w; it takes Linux 5.4", err)
	}
	return pid, pidfd, nil
}

// passDown sets the timer first: init may be stopped. Without a supervisor it ends all.
func passDown(site Site, up, down control, t timer) {
	for {
		var o order
		if _, err := up.receive(&o); err != nil {
			break
		}
		if o.KillAt != 0 && t.set(o.KillAt) != nil {
			break
		}
		_ = down.send(o) // one that is stopped is killed in time without it
	}
	if site.Isolation == PIDNamespace {
		os.Exit(1) // its death is init's
	}
	down.close() // init ends the others and itself
}

// passUp ends with init.
func passUp(down, up control) {
	for {
		var r report
		if _, err := down.receive(&r); err != nil {
			return
		}
		_ = up.send(r) // a supervisor that is stopped finds out by the end of all
	}
}

// await reaps one child.
func await(pid int) {
	for {
		if _, err := unix.Wait4(pid, nil, 0, nil); err != unix.EINTR {
			return
		}
	}
}
