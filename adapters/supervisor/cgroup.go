package supervisor

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// surveyCgroup finds out whether cgroups can be made below the one this process is in.
func surveyCgroup() (Site, error) {
	parent, err := ownCgroup()
	if err != nil {
		return Site{}, fmt.Errorf("no cgroup: %w", err)
	}
	site := Site{Isolation: Cgroup, parent: parent,
		Warning: "isolation cgroup: where this program's helpers are stopped, only the command itself is killed in time, not what it started"}
	probed, err := site.makeGroup()
	if err != nil {
		return Site{}, fmt.Errorf("no cgroup: %w", err)
	}
	defer probed.removeGroup()
	if err := probed.tryGroup(); err != nil {
		return Site{}, fmt.Errorf("no cgroup: %w", err)
	}
	return site, nil
}

// ownCgroup is the folder of the cgroup v2 that this process is in.
func ownCgroup() (string, error) {
	groups, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	own := ""
	for line := range strings.Lines(string(groups)) {
		if path, found := strings.CutPrefix(strings.TrimSpace(line), "0::"); found {
			own = path
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(mounts)) {
		// 36 25 0:32 / /sys/fs/cgroup rw - cgroup2 cgroup rw
		place, kind, _ := strings.Cut(line, " - ")
		if fields := strings.Fields(place); own != "" && len(fields) > 4 && strings.HasPrefix(kind, "cgroup2 ") {
			return filepath.Join(fields[4], own), nil
		}
	}
	return "", errors.New("cgroup v2 is not mounted")
}

// makeGroup makes the cgroup of one run.
func (s Site) makeGroup() (Site, error) {
	if s.Isolation != Cgroup {
		return s, nil
	}
	path, err := os.MkdirTemp(s.parent, "omnirelay-run-")
	if err != nil {
		return s, err
	}
	s.group = path
	return s, nil
}

// tryGroup starts a process in the cgroup, and looks for the switch that kills all.
func (s Site) tryGroup() error {
	// It is not used here: some kernels then kill whatever is started in the cgroup later.
	if err := unix.Access(s.killFile(), unix.W_OK); err != nil {
		return fmt.Errorf("%s: %w", s.killFile(), err)
	}
	group, err := os.Open(s.group)
	if err != nil {
		return err
	}
	defer group.Close()
	probe := exec.Command(self)
	probe.Args = []string{probeName, "cgroup"}
	probe.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(group.Fd())}
	return probe.Run()
}

func (s Site) killFile() string { return filepath.Join(s.group, "cgroup.kill") }

// killGroup kills all in the cgroup at once, if there is one.
func (s Site) killGroup() {
	if s.Isolation == Cgroup {
		_ = os.WriteFile(s.killFile(), []byte("1"), 0) // gone: nobody is in it
	}
}

// emptyGroup reports whether nobody is in the cgroup.
func (s Site) emptyGroup() bool {
	if s.Isolation != Cgroup {
		return true
	}
	events, err := os.ReadFile(filepath.Join(s.group, "cgroup.events"))
	return errors.Is(err, os.ErrNotExist) || err == nil && bytes.Contains(events, []byte("populated 0"))
}

// removeGroup tries for a moment: the kernel counts what has just died a little longer.
func (s Site) removeGroup() {
	if s.Isolation != Cgroup {
		return
	}
	for pause := firstPause; pause <= lastPause; pause *= 2 {
		if err := os.Remove(s.group); err == nil || errors.Is(err, os.ErrNotExist) {
			return
		}
		time.Sleep(pause)
	}
}
