package transport

import (
	"net"
	"os"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestTheKernelWatchesConnections: a peer whose machine vanished acknowledges
// nothing. The option is what bounds how long that goes unnoticed.
func TestTheKernelWatchesConnections(t *testing.T) {
	nodes := cluster(t, 2)
	nodes[0].sendUntilReceived(nodes[1], 1)
	if got := userTimeouts(t, nodes[1].addr); len(got) == 0 || got[0] != int(deadAfter/time.Millisecond) {
		t.Errorf("TCP_USER_TIMEOUT of the connections to %s: %v, want %v", nodes[1].addr, got, deadAfter)
	}
}

// userTimeouts reads TCP_USER_TIMEOUT, in milliseconds, of this process's
// connections to addr.
func userTimeouts(t *testing.T, addr string) (out []int) {
	t.Helper()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range fds {
		fd, err := strconv.Atoi(entry.Name())
		if err != nil {
			t.Fatal(err)
		}
		remote, err := unix.Getpeername(fd)
		if err != nil {
			continue // not a connected socket
		}
		if in, ok := remote.(*unix.SockaddrInet4); !ok || strconv.Itoa(in.Port) != port {
			continue
		}
		timeout, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, timeout)
	}
	return out
}
