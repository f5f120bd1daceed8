package supervisor

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Pauses between rounds of killing: what is killed needs a moment to die.
const (
	firstPause = time.Millisecond
	lastPause  = 100 * time.Millisecond
)

// adopt makes this process the parent of its descendants whose own parent dies. In a PID
// namespace PID 1 is.
func (s Site) adopt() error {
	if s.Isolation == PIDNamespace {
		return nil
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("prctl: %w", err)
	}
	return nil
}

// finish kills all descendants of this process and returns when they and their cgroup are
// gone. In a PID namespace the kernel does that.
func (s Site) finish() {
	if s.Isolation == PIDNamespace {
		return
	}
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		s.killGroup()
		for _, pid := range descendants(os.Getpid()) {
			_ = unix.Kill(pid, unix.SIGKILL) // gone, or of another user: found again in the next round
		}
		if childless() && s.emptyGroup() {
			s.removeGroup() // whoever is the last of the three can
			return
		}
		time.Sleep(pause)
	}
}

// childless reaps what has ended, and reports whether no child is left. As long as a
// descendant lives, a child does: the orphans are adopted.
func childless() bool {
	for {
		pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
		switch {
		case err == unix.ECHILD:
			return true
		case err == nil && pid == 0:
			return false
		}
	}
}

// descendants lists the processes below one.
func descendants(of int) (found []int) {
	children := map[int][]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is good
	for _, path := range stats {
		if pid, parent, ok := readStat(path); ok {
			children[parent] = append(children[parent], pid)
		}
	}
	next := []int{of}
	for len(next) > 0 {
		below := children[next[0]]
		delete(children, next[0]) // a number used again could close a circle
		found = append(found, below...)
		next = append(next[1:], below...)
	}
	return found
}

// readStat reads pid and parent from a line like 12 (name) S 1 ...; the name may contain
// anything.
func readStat(path string) (pid, parent int, ok bool) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, 0, false
	}
	end := bytes.LastIndexByte(data, ')')
	if end < 0 {
		return 0, 0, false
	}
	fields := bytes.Fields(data[end+1:])
	if len(fields) < 2 {
		return 0, 0, false
	}
	pid, err = strconv.Atoi(filepath.Base(filepath.Dir(path)))
	if err != nil {
		return 0, 0, false
	}
	parent, err = strconv.Atoi(string(fields[1]))
	return pid, parent, err == nil
}
