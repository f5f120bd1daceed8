package transport

import (
	"errors"
	"fmt"
	"time"
)

// Limits bound what callers can take from one listener, TCP and UDP together. A
// zero field stands for its default.
type Limits struct {
	// Connections are open at the same time at most, ConnectionsPerSource of them from
	// one source: an IPv4 address, or a /64 of IPv6. Beyond either a connection is
	// closed at once (TCP) or refused (QUIC). Defaults 4096 and 2048.
	Connections          int
	ConnectionsPerSource int
	// Streams are the calls of one connection at the same time. Default 100.
	Streams int
	// HandshakeTimeout is how long a connection may take to prove itself. Default 5 s.
	HandshakeTimeout time.Duration
	// FreeHandshakes is how many QUIC handshakes a second may begin before callers
	// must first show that they receive at the address they send from. Default 100.
	FreeHandshakes int
	// IdleTimeout is the silence after which the other end of a connection counts as
	// dead. It must be below the TTL of the leases that hang on connections, so that a
	// dead member's stream is gone before its session is. A live end is asked four times
	// within it. QUIC only: on TCP the kernel tells of a process that was killed, and a
	// machine that vanished is asked after some seconds. Default 1.5 s.
	IdleTimeout time.Duration
	// UnusedTimeout is how long a connection may stand without a call. Default 1 min.
	UnusedTimeout time.Duration
	// WriteTimeout is how long a reader may take for one message. Default 5 s.
	WriteTimeout time.Duration
	// MessageBytes is the size of a gRPC request message. Default 64 KiB.
	MessageBytes int
	// HeaderBytes is the size of a request's header. Default 16 KiB.
	HeaderBytes int
}

// withDefaults fills what is zero.
func (l Limits) withDefaults() Limits {
	count := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	span := func(v *time.Duration, d time.Duration) {
		if *v == 0 {
			*v = d
		}
	}
	count(&l.Connections, 4096)
	count(&l.ConnectionsPerSource, min(2048, l.Connections))
	count(&l.Streams, 100)
	count(&l.FreeHandshakes, 100)
	count(&l.MessageBytes, 64<<10)
	count(&l.HeaderBytes, 16<<10)
	span(&l.HandshakeTimeout, 5*time.Second)
	span(&l.IdleTimeout, 1500*time.Millisecond)
	span(&l.UnusedTimeout, time.Minute)
	span(&l.WriteTimeout, 5*time.Second)
	return l
}

// Validate reports all problems together. Zero fields have none.
func (l Limits) Validate() error {
	l = l.withDefaults()
	var errs []error
	within := func(name string, v, low, high int) {
		if v < low || v > high {
			errs = append(errs, fmt.Errorf("%s: %d, want %d to %d", name, v, low, high))
		}
	}
	lasts := func(name string, v, low, high time.Duration) {
		if v < low || v > high {
			errs = append(errs, fmt.Errorf("%s: %v, want %v to %v", name, v, low, high))
		}
	}
	within("Connections", l.Connections, 1, 1<<20)
	within("ConnectionsPerSource", l.ConnectionsPerSource, 1, l.Connections)
	within("Streams", l.Streams, 1, 1<<16)
	within("FreeHandshakes", l.FreeHandshakes, 1, 1<<20)
	within("MessageBytes", l.MessageBytes, 1<<10, 64<<20)
	within("HeaderBytes", l.HeaderBytes, 1<<10, 1<<20)
	lasts("HandshakeTimeout", l.HandshakeTimeout, 100*time.Millisecond, time.Minute)
	lasts("IdleTimeout", l.IdleTimeout, 200*time.Millisecond, time.Minute)
	lasts("UnusedTimeout", l.UnusedTimeout, 100*time.Millisecond, time.Hour)
	lasts("WriteTimeout", l.WriteTimeout, 10*time.Millisecond, time.Minute)
	return errors.Join(errs...)
}
