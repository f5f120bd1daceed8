package transport

import (
	"encoding/binary"
	"errors"
	"io"
	"sync"

	"google.golang.org/grpc"
)

const messagePrefix = 5 // bytes before a grpc message: one flag, four of length

var errCallOver = errors.New("body closed by handler") // the words grpc looks for

// demand is a request body that is read no faster than its handler consumes it.
//
// grpc's ServeHTTP reads a body as fast as it comes, into a list without bound, and
// so takes from QUIC the back pressure that it has. Here a message is read only when
// the one before it was taken by the handler; of the next no more than its prefix is
// read, or the end of the stream. So a stream holds one message of the allowed size
// at most, and QUIC's windows hold back the rest. There is no common limit for the
// streams of a connection beyond those windows: streams that wait for one while their
// bytes fill the connection's window would stop those that it has let through.
type demand struct {
	body       io.ReadCloser
	maxMessage int

	mu       sync.Mutex
	changed  sync.Cond
	closed   bool
	oversize bool // what follows is a message that will not be read
	credit   int  // messages that may yet be read

	// Below: owned by the reader.
	prefix [messagePrefix]byte
	have   int  // of prefix
	left   int  // bytes of the message under way
	owed   bool // it has not been given its credit yet
}

func newDemand(body io.ReadCloser, maxMessage int) *demand {
	d := &demand{body: body, maxMessage: maxMessage, credit: 1}
	d.changed.L = &d.mu
	return d
}

// Read blocks until someone wants a message.
func (d *demand) Read(p []byte) (int, error) {
	if d.left > 0 {
		return d.readMessage(p)
	}
	n, err := d.body.Read(p[:min(len(p), messagePrefix-d.have)])
	copy(d.prefix[d.have:], p[:n])
	if d.have += n; d.have == messagePrefix {
		d.have, d.owed = 0, true
		if err := d.announce(binary.BigEndian.Uint32(d.prefix[1:])); err != nil {
			return n, err
		}
	}
	return n, err
}

func (d *demand) readMessage(p []byte) (int, error) {
	if d.owed {
		if err := d.await(); err != nil {
			return 0, err
		}
	}
	n, err := d.body.Read(p[:min(len(p), d.left)])
	d.left -= n
	return n, err
}

// announce takes the size of the next message. A message that is larger than grpc
// will take is not read: grpc has its length by then, and ends the call. An empty
// one is paid for here, since nothing of it is read.
func (d *demand) announce(size uint32) error {
	if int64(size) > int64(d.maxMessage) {
		d.mu.Lock()
		d.oversize = true
		d.mu.Unlock()
		d.left = 1 // never read: await does not return before the end
		return nil
	}
	d.left = int(size)
	if size == 0 {
		return d.await()
	}
	return nil
}

// await waits for credit and takes it.
func (d *demand) await() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for (d.credit == 0 || d.oversize) && !d.closed {
		d.changed.Wait()
	}
	if d.closed {
		return errCallOver
	}
	d.credit--
	d.owed = false
	return nil
}

// consumed tells that the handler has taken one message.
func (d *demand) consumed() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.credit++
	d.changed.Broadcast()
}

// Close ends the body, whoever waits in it.
func (d *demand) Close() error {
	d.mu.Lock()
	d.closed = true
	d.changed.Broadcast()
	d.mu.Unlock()
	return d.body.Close()
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
