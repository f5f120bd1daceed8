// Package terminal shows data to people: aligned tables, colours where they help,
// progress, and screens that are drawn anew in place. It knows nothing of what it shows.
package terminal

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/term"
)

// Style is how a piece of text looks on a terminal with colours.
type Style string

// Styles.
const (
	Plain  Style = ""
	Bold   Style = "\x1b[1m"
	Faint  Style = "\x1b[2m"
	Red    Style = "\x1b[31m"
	Green  Style = "\x1b[32m"
	Yellow Style = "\x1b[33m"

	reset = "\x1b[0m"
)

// paint dresses text, which is clean, in a style.
func paint(style Style, text string, colours bool) string {
	if !colours || style == Plain {
		return text
	}
	return string(style) + text + reset
}

// ColourMode says when to use colours. It is a flag; its zero value is ColourAuto.
type ColourMode string

// Modes.
const (
	ColourAuto   ColourMode = "auto" // on a terminal, unless NO_COLOR is set or it is a dumb one
	ColourAlways ColourMode = "always"
	ColourNever  ColourMode = "never"
)

// Set is of the interface of flags.
func (m *ColourMode) Set(text string) error {
	switch ColourMode(text) {
	case ColourAuto, ColourAlways, ColourNever:
		*m = ColourMode(text)
		return nil
	}
	return fmt.Errorf("%q: want auto, always or never", text)
}

// String is of the interface of flags.
func (m ColourMode) String() string {
	if m == "" {
		return string(ColourAuto)
	}
	return string(m)
}

// Type is of the interface of flags.
func (m ColourMode) Type() string { return "when" }

// On reports whether what is written to out may have colours.
func (m ColourMode) On(out io.Writer) bool {
	switch m {
	case ColourAlways:
		return true
	case ColourNever:
		return false
	}
	return os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && Is(out)
}

// Is reports whether stream is a terminal.
func Is(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// Clean writes what a terminal would obey, or what does not show, as an escape: text
// from outside neither moves the cursor nor hides what stands beside it.
func Clean(text string) string {
	if !strings.ContainsFunc(text, hidden) && utf8.ValidString(text) {
		return text
	}
	var b strings.Builder
	for len(text) > 0 {
		r, size := utf8.DecodeRuneInString(text)
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, text[0])
		case hidden(r):
			quoted := strconv.QuoteRuneToASCII(r)
			b.WriteString(quoted[1 : len(quoted)-1])
		default:
			b.WriteRune(r)
		}
		text = text[size:]
	}
	return b.String()
}

func hidden(r rune) bool { return !unicode.IsPrint(r) }
