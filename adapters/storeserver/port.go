package storeserver

import (
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
)

// Ports are chosen below those that the kernel gives to outgoing connections
// (32768 and up on Linux): one of these could take the port while its server is
// down for a restart.
const (
	firstPort = 15_000
	lastPort  = 32_000
)

// freePort finds a port on loopback that nobody listens on.
func freePort() (int, error) {
	for range 100 {
		port := firstPort + rand.IntN(lastPort-firstPort)
		l, err := net.Listen("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err == nil {
			l.Close()
			return port, nil
		}
	}
	return 0, errors.New("storeserver: found no free port between 15000 and 32000 on loopback")
}
