//go:build !linux

package transport

import (
	"net"
	"net/netip"
)

// hearRefusals is for Linux. Elsewhere a server without HTTP/3 costs the head start.
func hearRefusals(*net.UDPConn, netip.Addr, bool) {}
