package supervisor

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// hasten lets this process die before others get to run, where that is allowed: each of
// its threads has to run once more in order to end. It is done after the last child was
// started, so that no child inherits it. Realtime scheduling would do more than that: Go's
// threads wait for each other by yielding, which lets nobody of lower priority run, and two
// such processes can keep both cores from those that they supervise.
func hasten() {
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return
	}
	const first = -20 // nice
	for _, thread := range threads {
		if id, err := strconv.Atoi(thread.Name()); err == nil {
			_ = unix.Setpriority(unix.PRIO_PROCESS, id, first)
		}
	}
}
