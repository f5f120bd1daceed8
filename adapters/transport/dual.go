package transport

import (
	"errors"
	"fmt"
	"net"
)

// Dual is one address on TCP and, unless HTTP/3 is not wanted, on UDP.
type Dual struct {
	TCP net.Listener
	UDP *net.UDPConn // nil: no HTTP/3
}

// bindAttempts is how often a free port is looked for that is free on UDP too.
const bindAttempts = 16

// ListenDual binds host:port on both. Port 0 takes one that is free on both.
func ListenDual(address string) (*Dual, error) {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("%q: %w; want host:port", address, err)
	}
	attempts := 1
	if port == "0" {
		attempts = bindAttempts
	}
	for range attempts {
		var d *Dual
		if d, err = listenDual(address); err == nil {
			return d, nil
		}
	}
	return nil, err
}

// ListenTCP binds host:port on TCP alone: no HTTP/3 is served, nor advertised.
func ListenTCP(address string) (*Dual, error) {
	tcp, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	return &Dual{TCP: tcp}, nil
}

func listenDual(address string) (*Dual, error) {
	tcp, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	at, ok := tcp.Addr().(*net.TCPAddr)
	if !ok {
		return nil, errors.Join(fmt.Errorf("%q: is %s, not a TCP address", address, tcp.Addr()), tcp.Close())
	}
	udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: at.IP, Port: at.Port, Zone: at.Zone})
	if err != nil {
		return nil, errors.Join(err, tcp.Close())
	}
	return &Dual{TCP: tcp, UDP: udp}, nil
}

// Addr is the address, the same on both.
func (d *Dual) Addr() string { return d.TCP.Addr().String() }

// Port is the port, the same on both.
func (d *Dual) Port() int {
	_, port, err := net.SplitHostPort(d.Addr())
	if err != nil {
		return 0
	}
	n, err := net.LookupPort("tcp", port)
	if err != nil {
		return 0
	}
	return n
}

// Close closes both. A listener that a front closed already is no error.
func (d *Dual) Close() error {
	err := unlessClosed(d.TCP.Close())
	if d.UDP != nil {
		err = errors.Join(err, unlessClosed(d.UDP.Close()))
	}
	return err
}

func unlessClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
