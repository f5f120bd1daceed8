// Package transport_test holds the clients of adapters/transport against a network
// that drops packets. It runs in a network namespace of its own, which ends with the
// process: nothing of the machine's network is touched, and root is not needed where
// users may make namespaces.
package transport_test

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"go.uber.org/goleak"
)

const inside = "TRANSPORT_TEST_NAMESPACE"

func TestMain(m *testing.M) {
	if os.Getenv(inside) == "" {
		os.Exit(reexec())
	}
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "ip link set lo up: %v: %s\n", err, out)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// reexec runs this program again, in a new network namespace.
func reexec() int {
	again := exec.Command("/proc/self/exe", os.Args[1:]...) //nolint:gosec // itself
	again.Env = append(os.Environ(), inside+"=1")
	again.Stdout, again.Stderr = os.Stdout, os.Stderr
	again.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if os.Getuid() != 0 {
		again.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		again.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		again.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	err := again.Run()
	if again.ProcessState != nil && err != nil {
		return again.ProcessState.ExitCode()
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "a network namespace: %v; run as root, or where users may make namespaces\n", err)
		return 1
	}
	return 0
}
