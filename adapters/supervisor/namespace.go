package supervisor

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// enterNamespace is done by PID 1 of a new PID and mount namespace: /proc is to show what
// is in it. Only the mount of /proc is taken apart from the machine's; what CMD mounts
// elsewhere goes where it would go without us.
func enterNamespace(note func(string)) error {
	if os.Getpid() != 1 {
		return fmt.Errorf("process id %d, want 1: the namespace was not made", os.Getpid())
	}
	if err := mountProc(); err != nil {
		note(fmt.Sprintf("/proc shows the processes of the machine under numbers that the command cannot use: %v", err))
	}
	if os.Geteuid() == 0 {
		return nil
	}
	return renounce()
}

func mountProc() error {
	if err := unix.Mount("", "/proc", "", unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making the mount of /proc private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mounting /proc: %w", err)
	}
	return nil
}

// renounce gives away what this thread, which starts CMD, may do in its user namespace.
func renounce() error {
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("ambient capabilities: %w", err)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&header, &none[0]); err != nil {
		return fmt.Errorf("capabilities: %w", err)
	}
	return nil
}
