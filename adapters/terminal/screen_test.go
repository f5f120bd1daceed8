package terminal_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/omnirelay/leadership/adapters/terminal"
	"github.com/omnirelay/leadership/adapters/terminal/terminaltest"
)

// show runs a screen that counts its frames.
func show(t *testing.T, tty *terminaltest.Terminal, ctx context.Context) (s *terminal.Screen, number *atomic.Int64, ended chan error) {
	t.Helper()
	s, err := terminal.OpenScreen(tty.File, tty.File)
	if err != nil {
		t.Fatal(err)
	}
	number, ended = &atomic.Int64{}, make(chan error, 1)
	frame := func() terminal.Frame {
		f := terminal.Frame{Head: []string{fmt.Sprintf("head %d", number.Load())}}
		for i := range 20 {
			f.Body = append(f.Body, fmt.Sprintf("line %02d, which is long", i))
		}
		return f
	}
	go func() {
		err := s.Run(ctx, frame)
		if closed := s.Close(); err == nil {
			err = closed
		}
		ended <- err
	}()
	return s, number, ended
}

func TestScreenIsDrawnInPlace(t *testing.T) {
	tty := terminaltest.Open(t, 12, 4)
	s, number, ended := show(t, tty, t.Context())
	at := tty.Await(0, "\x1b[?1049h\x1b[?25l\x1b[Hhead 0\x1b[K\r\nline 00, whi\x1b[K\r\nline 01, whi\x1b[K\r\nline 02, whi\x1b[K\x1b[J")
	number.Store(1)
	s.Changed()
	at = tty.Await(at, "\x1b[Hhead 1\x1b[K\r\nline 00")
	tty.Type("j")
	at = tty.Await(at, "\x1b[Hhead 1\x1b[K\r\nline 01")
	tty.Type("\x1b[F")
	at = tty.Await(at, "line 19, whi\x1b[K\x1b[J")
	tty.Type("\x1b[B\x1b[A") // nothing is below the end: up by one
	at = tty.Await(at, "\r\nline 18, whi\x1b[K\x1b[J")
	tty.Type("\x1b[H")
	at = tty.Await(at, "\r\nline 00")
	tty.Resize(40, 3)
	if err := syscall.Kill(syscall.Getpid(), syscall.SIGWINCH); err != nil {
		t.Fatal(err)
	}
	at = tty.Await(at, "\x1b[Hhead 1\x1b[K\r\nline 00, which is long\x1b[K\r\nline 01, which is long\x1b[K\x1b[J")
	tty.Type("q")
	tty.Await(at, "\x1b[?25h\x1b[?1049l")
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestScreenIsLeft(t *testing.T) {
	for name, key := range map[string]string{"q": "q", "Escape": "\x1b", "Ctrl-C": "\x03"} {
		t.Run(name, func(t *testing.T) {
			tty := terminaltest.Open(t, 80, 24)
			_, _, ended := show(t, tty, t.Context())
			tty.Await(0, "line 19")
			tty.Type("x" + key)
			if err := <-ended; err != nil {
				t.Error(err)
			}
			// The terminal is as it was: it echoes again.
			from := len(tty.Said())
			tty.Type("echo")
			tty.Await(from, "echo")
		})
	}
	t.Run("its context", func(t *testing.T) {
		tty := terminaltest.Open(t, 80, 24)
		ctx, cancel := context.WithCancel(t.Context())
		_, _, ended := show(t, tty, ctx)
		tty.Await(0, "line 19")
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if !strings.HasSuffix(tty.Said(), "\x1b[?25h\x1b[?1049l") {
			tty.Await(0, "\x1b[?25h\x1b[?1049l")
		}
	})
}

func TestProgressIsWrittenOver(t *testing.T) {
	t.Setenv("TERM", "xterm")
	tty := terminaltest.Open(t, 10, 4)
	p := terminal.NewProgress(tty.File)
	p.Tell("%s of many scopes", "1")
	p.Tell("%s of many scopes", "1")
	p.Tell("\x1b[2J2")
	p.Done()
	p.Done()
	tty.Await(0, "\r\x1b[K")
	if got, want := tty.Said(), "\r1 of many \x1b[K\r\\x1b[2J2\x1b[K\r\x1b[K"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestColoursOfATerminal(t *testing.T) {
	tty := terminaltest.Open(t, 80, 24)
	var auto terminal.ColourMode
	for _, c := range []struct {
		noColour, term string
		want           bool
	}{{"", "xterm", true}, {"1", "xterm", false}, {"", "dumb", false}} {
		t.Setenv("NO_COLOR", c.noColour)
		t.Setenv("TERM", c.term)
		if auto.On(tty.File) != c.want {
			t.Errorf("NO_COLOR=%q TERM=%s: %v", c.noColour, c.term, !c.want)
		}
	}
}
