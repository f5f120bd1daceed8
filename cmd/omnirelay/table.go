package main

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/term"

	"github.com/omnirelay/leadership/wire"
)

// table is text in aligned columns. Colours are used on a terminal only.
type table struct {
	out     io.Writer
	colours bool
	heads   []string
	rows    [][]string
}

const (
	bold  = "\x1b[1m"
	faint = "\x1b[2m"
	plain = "\x1b[0m"
)

func wantsColours(out io.Writer) bool {
	f, ok := out.(*os.File)
	return ok && os.Getenv("NO_COLOR") == "" && term.IsTerminal(int(f.Fd()))
}

func newTable(out io.Writer, heads ...string) *table {
	return &table{out: out, colours: wantsColours(out), heads: heads}
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

// print writes everything at once: widths are known at the end.
func (t *table) print() error {
	widths := make([]int, len(t.heads))
	for _, row := range append([][]string{t.heads}, t.rows...) {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	b.WriteString(t.paint(bold, aligned(t.heads, widths)) + "\n")
	for _, row := range t.rows {
		b.WriteString(aligned(row, widths) + "\n")
	}
	_, err := io.WriteString(t.out, b.String())
	return err
}

func (t *table) paint(style, text string) string {
	if !t.colours {
		return text
	}
	return style + text + plain
}

func aligned(cells []string, widths []int) string {
	var b strings.Builder
	for i, cell := range cells {
		b.WriteString(cell)
		if i < len(cells)-1 {
			b.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+2))
		}
	}
	return strings.TrimRight(b.String(), " ")
}

// leadersTable shows who leads what.
func leadersTable(out io.Writer, leaders wire.LeadersResponse) error {
	t := newTable(out, "SCOPE", "LEADER", "TERM", "FENCE", "SINCE")
	for _, token := range leaders.Tokens {
		t.add(token.Scope, token.LeaderID, number(token.Term), number(token.FenceToken), clock(token.IssuedAt))
	}
	return t.print()
}

// eventWidths align the lines of a stream, whose widest cell is not known.
var eventWidths = []int{24, 14, 24, 12, 6, 8, 0}

func eventHeads(out io.Writer) error {
	t := newTable(out)
	_, err := fmt.Fprintln(out, t.paint(bold, aligned([]string{"TIME", "EVENT", "SCOPE", "LEADER", "TERM", "FENCE", "REASON"}, padded())))
	return err
}

// eventLine shows one event.
func eventLine(out io.Writer, e wire.Event) error {
	cells := []string{clock(e.OccurredAt), e.Kind, dash(e.Scope), dash(e.LeaderID), "-", "-", e.Reason}
	if e.Token != nil {
		cells[4], cells[5] = number(e.Token.Term), number(e.Token.FenceToken)
	}
	widths := padded()
	for i, cell := range cells {
		widths[i] = max(widths[i], utf8.RuneCountInString(cell))
	}
	line := aligned(cells, widths)
	if e.Scope == "" {
		line = newTable(out).paint(faint, line) // a mark of the stream itself
	}
	_, err := fmt.Fprintln(out, line)
	return err
}

func padded() []int { return append([]int(nil), eventWidths...) }

func number(n uint64) string { return strconv.FormatUint(n, 10) }

func dash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

// clock is a time in UTC, to the millisecond.
func clock(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02T15:04:05.000Z")
}
