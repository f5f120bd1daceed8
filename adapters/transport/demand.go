package transport

import (
	"encoding/binary"
	"errors"
	"io"
	"sync"

	"google.golang.org/grpc"
)

// readAhead is how many messages of a stream are taken from the network before
// anyone asks: the one that the handler is about to want, and the next or the end.
const readAhead = 2

const messagePrefix = 5 // bytes before a grpc message: one flag, four of length

var errCallOver = errors.New("body closed by handler") // the words grpc looks for

// account is what the request messages of one connection hold of memory while
// nobody has asked for them.
type account struct {
	max int

	mu      sync.Mutex
	changed sync.Cond // a payment, or the end of a call
	used    int
}

func newAccount(maxBytes int) *account {
	a := &account{max: maxBytes}
	a.changed.L = &a.mu
	return a
}

// demand is a request body that is read no faster than its handler consumes it.
//
// grpc's ServeHTTP reads a body as fast as it comes, into a list without bound, and
// so takes from QUIC the back pressure that it has. Here a message is read when the
// handler wants it, or will next, and when the connection's account has room for it.
// The end of a stream is noticed through the context of its request.
type demand struct {
	body       io.ReadCloser
	account    *account
	maxMessage int

	// Below: under account.mu.
	closed   bool
	oversize bool  // what follows is a message that will not be read
	credit   int   // messages that may yet be begun
	held     []int // sizes of those begun and not consumed, oldest first

	// Below: owned by the reader.
	prefix [messagePrefix]byte
	have   int // of prefix
	left   int // bytes of the message under way
}

func newDemand(body io.ReadCloser, a *account, maxMessage int) *demand {
	return &demand{body: body, account: a, maxMessage: maxMessage, credit: readAhead}
}

// Read blocks until someone wants a message.
func (d *demand) Read(p []byte) (int, error) {
	if d.left > 0 {
		n, err := d.body.Read(p[:min(len(p), d.left)])
		d.left -= n
		return n, err
	}
	if d.have == 0 {
		if err := d.begin(); err != nil {
			return 0, err
		}
	}
	n, err := d.body.Read(p[:min(len(p), messagePrefix-d.have)])
	copy(d.prefix[d.have:], p[:n])
	d.have += n
	if d.have == messagePrefix {
		d.have = 0
		if err := d.hold(binary.BigEndian.Uint32(d.prefix[1:])); err != nil {
			return n, err
		}
	}
	return n, err
}

// begin waits for credit.
func (d *demand) begin() error {
	d.account.mu.Lock()
	defer d.account.mu.Unlock()
	for (d.credit == 0 || d.oversize) && !d.closed {
		d.account.changed.Wait()
	}
	if d.closed {
		return errCallOver
	}
	d.credit--
	return nil
}

// hold waits until the account has room for the message whose prefix was read. A
// message that is larger than grpc will take is not read: grpc has its length, and
// ends the call.
func (d *demand) hold(size uint32) error {
	a := d.account
	a.mu.Lock()
	defer a.mu.Unlock()
	if int64(size) > int64(d.maxMessage) {
		d.oversize = true
		return nil
	}
	for a.used > 0 && a.used+int(size) > a.max && !d.closed {
		a.changed.Wait()
	}
	if d.closed {
		return errCallOver
	}
	d.left = int(size)
	d.held = append(d.held, d.left)
	a.used += d.left
	return nil
}

// consumed tells that the handler has taken one message.
func (d *demand) consumed() {
	a := d.account
	a.mu.Lock()
	defer a.mu.Unlock()
	if d.closed || len(d.held) == 0 {
		return
	}
	a.used -= d.held[0]
	d.held = d.held[1:]
	d.credit++
	a.changed.Broadcast()
}

// Close ends the body and pays back what it holds.
func (d *demand) Close() error {
	d.end()
	return d.body.Close()
}

func (d *demand) end() {
	a := d.account
	a.mu.Lock()
	defer a.mu.Unlock()
	d.closed = true
	for _, size := range d.held {
		a.used -= size
	}
	d.held = nil
	a.changed.Broadcast()
}

// demanding tells a body what its handler takes.
type demanding struct {
	grpc.ServerStream
	demand *demand
}

func (s *demanding) RecvMsg(m any) error {
	err := s.ServerStream.RecvMsg(m)
	if err == nil {
		s.demand.consumed()
	}
	return err
}
