package terminal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

const (
	// drawEvery bounds how often a screen is drawn: more than an eye takes in.
	drawEvery = 50 * time.Millisecond

	enterScreen = "\x1b[?1049h\x1b[?25l" // the alternate screen, without a cursor
	leaveScreen = "\x1b[?25h\x1b[?1049l"
)

// Frame is what a screen shows: a head that stays, and a body that can be scrolled.
// Lines have no control characters but those of Style.
type Frame struct {
	Head, Body []string
}

// Screen is the alternate screen of a terminal, drawn anew in place.
type Screen struct {
	in, out *os.File
	before  *term.State
	changed chan struct{}
	offset  int // first line of the body that is shown
}

// OpenScreen takes the terminal over: keys are read from in without echo, and what was
// on it is back after Close.
func OpenScreen(in, out *os.File) (*Screen, error) {
	before, err := term.MakeRaw(int(in.Fd()))
	if err != nil {
		return nil, fmt.Errorf("the terminal gives no single keys: %w", err)
	}
	if _, err := out.WriteString(enterScreen); err != nil {
		return nil, errors.Join(err, term.Restore(int(in.Fd()), before))
	}
	return &Screen{in: in, out: out, before: before, changed: make(chan struct{}, 1)}, nil
}

// Close gives the terminal back.
func (s *Screen) Close() error {
	_, err := s.out.WriteString(leaveScreen)
	return errors.Join(err, term.Restore(int(s.in.Fd()), s.before))
}

// Changed has the frame drawn again, soon. Any goroutine may call it.
func (s *Screen) Changed() {
	select {
	case s.changed <- struct{}{}:
	default: // it will be anyway
	}
}

// Run shows what frame returns until ctx ends or its reader leaves: by q, Escape or
// Ctrl-C. Arrows, Page Up and Down, Home and End scroll. frame is called by this
// goroutine only.
func (s *Screen) Run(ctx context.Context, frame func() Frame) error {
	keys, stop, err := readKeys(s.in)
	if err != nil {
		return err
	}
	defer stop()
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, syscall.SIGWINCH)
	defer signal.Stop(resized)
	now := frame()
	if err := s.draw(now); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case key, open := <-keys:
			if !open || key == "q" || key == "Q" || key == "\x1b" || key == "\x03" {
				return nil
			}
			s.scroll(key)
		case <-resized:
		case <-s.changed:
			now = frame()
			pause(ctx, drawEvery) // what changes meanwhile is in the next frame
		}
		if err := s.draw(now); err != nil {
			return err
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// scroll moves the body; draw corrects what goes beyond its ends.
func (s *Screen) scroll(key string) {
	_, height := s.size()
	switch key {
	case "\x1b[A", "\x1bOA", "k":
		s.offset--
	case "\x1b[B", "\x1bOB", "j":
		s.offset++
	case "\x1b[5~", "b":
		s.offset -= height / 2
	case "\x1b[6~", " ":
		s.offset += height / 2
	case "\x1b[H", "\x1bOH", "\x1b[1~", "g":
		s.offset = 0
	case "\x1b[F", "\x1bOF", "\x1b[4~", "G":
		s.offset = 1 << 30
	}
}

func (s *Screen) size() (width, height int) {
	width, height, err := term.GetSize(int(s.out.Fd()))
	if err != nil || width < 1 || height < 1 {
		return 80, 24
	}
	return width, height
}

// draw writes all lines that there is room for, in one go.
func (s *Screen) draw(f Frame) error {
	width, height := s.size()
	head := f.Head[:min(len(f.Head), height)]
	room := height - len(head)
	s.offset = max(0, min(s.offset, len(f.Body)-room))
	body := f.Body[s.offset:min(len(f.Body), s.offset+room)]
	var b strings.Builder
	b.WriteString("\x1b[H")
	for i, line := range append(head[:len(head):len(head)], body...) {
		if i > 0 {
			b.WriteString("\r\n")
		}
		b.WriteString(clip(line, width))
		b.WriteString("\x1b[K")
	}
	b.WriteString("\x1b[J")
	_, err := s.out.WriteString(b.String())
	return err
}

// readKeys reads keys until stop is called, which leaves nothing behind: a read of its
// own would take the next key from whoever reads after us.
func readKeys(in *os.File) (keys <-chan string, stop func(), err error) {
	woken, wake, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	all, done := make(chan string), make(chan struct{})
	quit := make(chan struct{})
	go func() {
		defer close(done)
		defer close(all)
		for {
			fds := []unix.PollFd{{Fd: int32(in.Fd()), Events: unix.POLLIN}, {Fd: int32(woken.Fd()), Events: unix.POLLIN}}
			if _, err := unix.Poll(fds, -1); errors.Is(err, unix.EINTR) {
				continue
			} else if err != nil || fds[1].Revents != 0 {
				return
			}
			buffer := make([]byte, 64)
			n, err := in.Read(buffer)
			if err != nil || n == 0 {
				return
			}
			for _, key := range splitKeys(buffer[:n]) {
				select {
				case all <- key:
				case <-quit:
					return
				}
			}
		}
	}()
	return all, func() {
		close(quit)
		_ = wake.Close() // wakes the poll
		<-done
		_ = woken.Close()
	}, nil
}

// splitKeys takes what was read apart: a key is a byte or one escape sequence.
func splitKeys(data []byte) (keys []string) {
	for len(data) > 0 {
		n := 1
		if data[0] == 0x1b && len(data) > 2 && (data[1] == '[' || data[1] == 'O') {
			n = 3
			if end := bytes.IndexFunc(data[2:], func(r rune) bool { return r >= 0x40 && r <= 0x7e }); end >= 0 {
				n = end + 3
			}
		}
		keys = append(keys, string(data[:n]))
		data = data[n:]
	}
	return keys
}
