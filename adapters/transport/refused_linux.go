package transport

import (
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// hearRefusals makes the kernel tell the owner of an unconnected socket that nobody
// has the port it sends to. While a connection is being made that is an answer worth
// having: the server has no HTTP/3. Later it must be off: anybody on the way can send
// such messages, and QUIC is not to end for one.
func hearRefusals(conn *net.UDPConn, to netip.Addr, on bool) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return
	}
	value := 0
	if on {
		value = 1
	}
	// What the kernel does not do costs no more than the head start.
	_ = raw.Control(func(fd uintptr) {
		if to.Is4() {
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_RECVERR, value)
		} else {
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVERR, value)
		}
	})
}
