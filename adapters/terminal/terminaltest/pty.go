// Package terminaltest has a terminal for tests: the kernel's own, with a test at the
// other end of the line.
package terminaltest

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// within bounds every wait of a test.
const within = 20 * time.Second

// Terminal is a terminal: a program has one end, the test types and reads at the other.
type Terminal struct {
	// File is what the program takes for its terminal.
	File *os.File

	tb      testing.TB
	control *os.File

	mu   sync.Mutex
	said strings.Builder
}

// Open opens a terminal of so many columns and rows. It is closed when the test ends.
func Open(tb testing.TB, columns, rows int) *Terminal {
	tb.Helper()
	control, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		tb.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(control.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		tb.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(control.Fd()), unix.TIOCGPTN)
	if err != nil {
		tb.Fatal(err)
	}
	file, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		tb.Fatal(err)
	}
	t := &Terminal{File: file, tb: tb, control: control}
	t.Resize(columns, rows)
	done := make(chan struct{})
	go t.read(done)
	tb.Cleanup(func() {
		_ = file.Close() // the last one: the reader's read fails then
		<-done
		_ = control.Close()
	})
	return t
}

func (t *Terminal) read(done chan<- struct{}) {
	defer close(done)
	buffer := make([]byte, 4096)
	for {
		n, err := t.control.Read(buffer)
		t.mu.Lock()
		t.said.Write(buffer[:n])
		t.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// Resize changes the size. The program is told by whoever runs it: it has no session of
// its own.
func (t *Terminal) Resize(columns, rows int) {
	t.tb.Helper()
	size := &unix.Winsize{Col: uint16(columns), Row: uint16(rows)}
	if err := unix.IoctlSetWinsize(int(t.control.Fd()), unix.TIOCSWINSZ, size); err != nil {
		t.tb.Fatal(err)
	}
}

// Type types text.
func (t *Terminal) Type(text string) {
	t.tb.Helper()
	if _, err := t.control.WriteString(text); err != nil {
		t.tb.Fatal(err)
	}
}

// Said is all that was written to the terminal so far.
func (t *Terminal) Said() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.said.String()
}

// Await waits until what was written behind from contains text, and returns where that
// ends.
func (t *Terminal) Await(from int, text string) (end int) {
	t.tb.Helper()
	for deadline := time.Now().Add(within); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if i := strings.Index(t.Said()[from:], text); i >= 0 {
			return from + i + len(text)
		}
	}
	t.tb.Fatalf("the terminal never showed %q:\n%q", text, t.Said()[from:])
	return 0
}
