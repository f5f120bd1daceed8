package supervisor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// order goes down: from the supervisor through the fuse to init.
type order struct {
	// On CLOCK_BOOTTIME, see schedule. They count for as long as no later order has others;
	// 0: as before.
	TermAt int64 `json:"termAt,omitempty"`
	KillAt int64 `json:"killAt,omitempty"`
	LastAt int64 `json:"lastAt,omitempty"`
	// Start CMD: the supervisor knows by now how to see init's end.
	Start  bool `json:"start,omitempty"`
	Signal int  `json:"signal,omitempty"` // for CMD; 0: none
}

// report goes up: from init, and once from the fuse, to the supervisor.
type report struct {
	Ready  bool   `json:"ready,omitempty"` // init is there; its pidfd comes with this
	Told   bool   `json:"told,omitempty"`  // TermAt has come: CMD was told to end
	Ended  bool   `json:"ended,omitempty"` // CMD has
	Code   int    `json:"code,omitempty"`  // of CMD; 128 + the signal that killed it
	Failed string `json:"failed,omitempty"`
	Note   string `json:"note,omitempty"` // for the user
}

const (
	maxPacket = 16 << 10
	// sendWithin bounds how long a packet waits for a reader that is stopped.
	sendWithin = 10 * time.Millisecond
)

// control is one end of the line between two of the processes. Packets arrive whole.
type control struct{ conn *net.UnixConn }

// newControl returns one end, and the descriptor of the other, which whatever is started
// while it is open inherits, under the same number: one that was free here. A fixed one
// could be among those that the caller opened for CMD (`3<file`).
func newControl() (mine control, other int, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return control{}, -1, fmt.Errorf("socketpair: %w", err)
	}
	other = fds[1]
	if mine, err = controlOf(uintptr(fds[0])); err == nil {
		if _, err = unix.FcntlInt(uintptr(other), unix.F_SETFD, 0); err != nil {
			mine.close()
		}
	}
	if err != nil {
		_ = unix.Close(other)
		return control{}, -1, fmt.Errorf("the line to a helper process: %w", err)
	}
	return mine, other, nil
}

// controlOf takes over a descriptor.
func controlOf(fd uintptr) (control, error) {
	file := os.NewFile(fd, "control")
	defer file.Close()
	conn, err := net.FileConn(file)
	if err != nil {
		return control{}, fmt.Errorf("the line to the supervisor: %w", err)
	}
	line, ok := conn.(*net.UnixConn)
	if !ok {
		_ = conn.Close()
		return control{}, errors.New("the line to the supervisor is no unix socket")
	}
	return control{line}, nil
}

// send gives up when the reader does not read: it is stopped, and what it must do then
// does not depend on it.
func (c control) send(packet any, files ...int) error {
	data, err := json.Marshal(packet)
	if err != nil {
		return err
	}
	if err := c.conn.SetWriteDeadline(time.Now().Add(sendWithin)); err != nil {
		return err
	}
	var rights []byte
	if len(files) > 0 {
		rights = unix.UnixRights(files...)
	}
	_, _, err = c.conn.WriteMsgUnix(data, rights, nil)
	return err
}

// receive waits for a packet. file is the descriptor that came with it, -1: none.
func (c control) receive(packet any) (file int, err error) {
	data, rights := make([]byte, maxPacket), make([]byte, unix.CmsgSpace(4))
	n, m, flags, _, err := c.conn.ReadMsgUnix(data, rights)
	switch {
	case err != nil:
		return -1, err
	case n == 0:
		return -1, io.EOF
	}
	file = passed(rights[:m])
	if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		return file, fmt.Errorf("a packet of more than %d bytes", maxPacket)
	}
	return file, json.Unmarshal(data[:n], packet)
}

func passed(rights []byte) int {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil || len(messages) == 0 {
		return -1
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) == 0 {
		return -1
	}
	unix.CloseOnExec(fds[0])
	return fds[0]
}

func (c control) close() { _ = c.conn.Close() }
