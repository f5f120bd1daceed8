package supervisor

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Isolation is what holds the descendants of a command together.
type Isolation string

const (
	// Auto is the strongest of the others that works here.
	Auto Isolation = "auto"
	// PIDNamespace: the kernel kills all, whatever is stopped and whatever they did.
	PIDNamespace Isolation = "pidns"
	// Cgroup: all are killed at once through cgroup.kill, by init or the fuse. Where both
	// are stopped, only CMD itself is killed.
	Cgroup Isolation = "cgroup"
	// None: the tree of processes is walked and killed until none is left. Where init and
	// the fuse are stopped, only CMD itself is killed.
	None Isolation = "none"
)

// ParseIsolation reads the name of an isolation.
func ParseIsolation(name string) (Isolation, error) {
	switch i := Isolation(name); i {
	case Auto, PIDNamespace, Cgroup, None:
		return i, nil
	}
	return "", fmt.Errorf("isolation: %q, want auto, pidns, cgroup or none", name)
}

// Site is an isolation that was tried on this machine and works.
type Site struct {
	Isolation Isolation
	// Warning tells what is not promised here; empty: nothing is left out.
	Warning string

	userns bool   // the namespace needs a user namespace around it
	parent string // the cgroup that others are made in
	group  string // the cgroup of one run
}

// Survey tries what is wished for. Its error says why that does not work here.
func Survey(wish Isolation) (Site, error) {
	switch wish {
	case PIDNamespace:
		return surveyNamespace()
	case Cgroup:
		return surveyCgroup()
	case None:
		return Site{Isolation: None, Warning: "isolation none: where this program's helpers are stopped, only the command itself is killed in time, not what it started"}, nil
	}
	site, noNamespace := surveyNamespace()
	if noNamespace == nil {
		return site, nil
	}
	site, noCgroup := surveyCgroup()
	if noCgroup != nil {
		site, _ = Survey(None)
	}
	site.Warning += "; " + strings.ReplaceAll(errors.Join(noNamespace, noCgroup).Error(), "\n", "; ")
	return site, nil
}

func surveyNamespace() (Site, error) {
	var failures []error
	for _, userns := range []bool{false, true} {
		site := Site{Isolation: PIDNamespace, userns: userns}
		probe := exec.Command(self)
		probe.Args = []string{probeName}
		probe.SysProcAttr = site.initAttributes()
		err := probe.Run()
		if err == nil {
			return site, nil
		}
		if errors.Is(err, unix.ENOSPC) {
			err = errors.New("the kernel gives none (sysctl user.max_pid_namespaces, user.max_user_namespaces, or 32 of them lie in each other)")
		}
		failures = append(failures, err)
	}
	return Site{}, fmt.Errorf("no PID namespace: %w, nor inside a user namespace: %w", failures[0], failures[1])
}

// initAttributes are those of init, wherever it is started.
func (s Site) initAttributes() *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{}
	if s.Isolation != PIDNamespace {
		return a
	}
	a.Cloneflags = unix.CLONE_NEWPID | unix.CLONE_NEWNS
	if s.userns {
		a.Cloneflags |= unix.CLONE_NEWUSER
		a.UidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getuid(), HostID: os.Getuid(), Size: 1}}
		a.GidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getgid(), HostID: os.Getgid(), Size: 1}}
		a.AmbientCaps = []uintptr{unix.CAP_SYS_ADMIN} // for /proc; given away before CMD starts
	}
	return a
}

// encode writes the site as one argument of the fuse and init.
func (s Site) encode() string {
	return fmt.Sprintf("%s,%t,%s", s.Isolation, s.userns, s.group)
}

func decodeSite(text string) (Site, error) {
	parts := strings.SplitN(text, ",", 3)
	if len(parts) != 3 {
		return Site{}, fmt.Errorf("%q is no isolation", text)
	}
	i, err := ParseIsolation(parts[0])
	return Site{Isolation: i, userns: parts[1] == "true", group: parts[2]}, err
}
