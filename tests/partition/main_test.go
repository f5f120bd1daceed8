// Package partition_test cuts a node of a real cluster off from the others while gossip
// still flows. It runs in network namespaces of its own, which end with its processes:
// nothing of the machine's network is touched, and root is not needed where users may
// make namespaces.
package partition_test

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/omnirelay/leadership/tests/cluster/harness"
)

const inside = "PARTITION_TEST_NAMESPACE"

// Addresses of the two namespaces; the nodes that stay together live in the first.
const (
	together = "10.77.0.1"
	apart    = "10.77.0.2"
)

func TestMain(m *testing.M) {
	if os.Getenv(inside) == "" {
		os.Exit(reexec())
	}
	harness.Main(m)
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

// neighbour makes a second namespace, joined to this one by a pair of interfaces, and
// returns its path. It lasts as long as the test.
func neighbour(t *testing.T) (path string) {
	t.Helper()
	keeper := exec.Command("sleep", "infinity")
	keeper.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := keeper.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = keeper.Process.Kill()
		_ = keeper.Wait()
	})
	pid := strconv.Itoa(keeper.Process.Pid)
	path = "/proc/" + pid + "/ns/net"
	run(t, "ip link set lo up")
	run(t, "ip link add here type veth peer name there netns "+pid)
	run(t, "ip address add "+together+"/24 dev here")
	run(t, "ip link set here up")
	within := "nsenter --net=" + path + " "
	run(t, within+"ip link set lo up")
	run(t, within+"ip address add "+apart+"/24 dev there")
	run(t, within+"ip link set there up")
	return path
}

func run(t *testing.T, command string) {
	t.Helper()
	words := strings.Fields(command)
	if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil { //nolint:gosec // of this test
		t.Fatalf("%s: %v: %s", command, err, out)
	}
}

// nft carries out a script.
func nft(t *testing.T, script string) {
	t.Helper()
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("nft: %v: %s", err, out)
	}
}
