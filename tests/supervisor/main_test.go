// Package supervisor_test holds `omnirelay mesh run` to its promise: nothing of a
// predecessor's command acts once a successor's does, whatever is cut, stopped or killed.
// It runs in a network namespace of its own, where a network can be cut for one process.
package supervisor_test

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/omnirelay/leadership/tests/cluster/harness"
)

const inside = "SUPERVISOR_TEST_NAMESPACE"

func TestMain(m *testing.M) {
	if os.Getenv(actorEnv) != "" {
		act() // does not return
	}
	if os.Getenv(inside) == "" {
		os.Exit(reexec())
	}
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "ip link set lo up: %v: %s\n", err, out)
		os.Exit(1)
	}
	harness.Main(m)
}

// reexec runs this program again, in a new network namespace.
func reexec() int {
	again := exec.Command("/proc/self/exe", os.Args[1:]...) //nolint:gosec // itself
	again.Env = append(os.Environ(), inside+"=1")
	again.Stdout, again.Stderr = os.Stdout, os.Stderr
	again.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	err := again.Run()
	if again.ProcessState != nil && err != nil {
		return again.ProcessState.ExitCode()
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "a network namespace: %v; these tests are run as root\n", err)
		return 1
	}
	return 0
}
