package terminal

import (
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/term"
)

// progressEvery is how often a line of progress is written where it cannot be written
// over: a log of a thousand lines tells no more than one of ten.
const progressEvery = time.Second

// Progress tells how far something is: by one line that is written over on a terminal,
// by lines elsewhere. It is not safe for use by several goroutines.
type Progress struct {
	out     io.Writer
	live    *os.File // nil: no terminal
	said    string   // what was told last
	shown   bool     // it is written
	next    time.Time
	painted bool // there is a line to be written over
}

// NewProgress returns one that writes to out.
func NewProgress(out io.Writer) *Progress {
	p := &Progress{out: out}
	if Is(out) && os.Getenv("TERM") != "dumb" {
		p.live = out.(*os.File)
	}
	return p
}

// Tell says how far it is now. To say the same again writes nothing.
func (p *Progress) Tell(format string, args ...any) {
	text := Clean(fmt.Sprintf(format, args...))
	if text == p.said && p.shown {
		return
	}
	p.said, p.shown = text, false
	if p.live != nil {
		width := 80
		if w, _, err := term.GetSize(int(p.live.Fd())); err == nil && w > 0 {
			width = w
		}
		fmt.Fprint(p.out, "\r"+clip(text, width)+"\x1b[K")
		p.shown, p.painted = true, true
		return
	}
	if now := time.Now(); !now.Before(p.next) {
		p.next = now.Add(progressEvery)
		p.flush()
	}
}

func (p *Progress) flush() {
	if p.said != "" && !p.shown {
		fmt.Fprintln(p.out, p.said)
		p.shown = true
	}
}

// Done clears the line on a terminal, and elsewhere writes what was told last.
func (p *Progress) Done() {
	if p.live == nil {
		p.flush()
		return
	}
	if p.painted {
		fmt.Fprint(p.out, "\r\x1b[K")
		p.painted, p.shown = false, false
	}
}
