package terminal

import (
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// columnGap is between columns, in spaces.
const columnGap = 2

// Cell is one field of a table.
type Cell struct {
	Text  string // cleaned when it is shown
	Style Style
}

// Text makes plain cells.
func Text(texts ...string) []Cell {
	cells := make([]Cell, len(texts))
	for i, text := range texts {
		cells[i].Text = text
	}
	return cells
}

// Table is text in aligned columns, whose widths are counted in runes.
type Table struct {
	heads []string
	rows  [][]Cell
}

// NewTable returns a table with these headings.
func NewTable(heads ...string) *Table { return &Table{heads: heads} }

// Add adds a row. It has at most as many cells as there are headings.
func (t *Table) Add(cells ...Cell) {
	row := slices.Clone(cells)
	for i := range row {
		row[i].Text = Clean(row[i].Text)
	}
	t.rows = append(t.rows, row)
}

// Lines are the headings and the rows, without ends of lines.
func (t *Table) Lines(colours bool) []string {
	widths := make([]int, len(t.heads))
	heads := make([]Cell, len(t.heads))
	for i, head := range t.heads {
		heads[i] = Cell{Text: head, Style: Bold}
	}
	for _, row := range append([][]Cell{heads}, t.rows...) {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell.Text))
		}
	}
	lines := []string{Align(heads, widths, colours)}
	for _, row := range t.rows {
		lines = append(lines, Align(row, widths, colours))
	}
	return lines
}

// Write writes the table at once: widths are known at the end.
func (t *Table) Write(out io.Writer, colours bool) error {
	_, err := io.WriteString(out, strings.Join(t.Lines(colours), "\n")+"\n")
	return err
}

// Align is one line of cells, each at least as wide as said. A wider cell moves what
// follows.
func Align(cells []Cell, widths []int, colours bool) string {
	var b strings.Builder
	padding := 0 // of the cells so far; written only before another one
	for i, cell := range cells {
		text := Clean(cell.Text)
		if text != "" {
			b.WriteString(strings.Repeat(" ", padding))
			padding = 0
			b.WriteString(paint(cell.Style, text, colours))
		}
		padding += max(0, widths[i]-utf8.RuneCountInString(text)) + columnGap
	}
	return b.String()
}

// clip cuts a line after so many runes; styles take no room.
func clip(line string, width int) string {
	var b strings.Builder
	room, styled := width, false
	for len(line) > 0 {
		if strings.HasPrefix(line, "\x1b[") {
			end := strings.IndexByte(line, 'm') + 1
			if end == 0 {
				break
			}
			b.WriteString(line[:end])
			styled = line[:end] != reset
			line = line[end:]
			continue
		}
		if room == 0 {
			break
		}
		_, size := utf8.DecodeRuneInString(line)
		b.WriteString(line[:size])
		line, room = line[size:], room-1
	}
	if styled {
		b.WriteString(reset)
	}
	return b.String()
}
