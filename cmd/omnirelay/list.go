package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/omnirelay/leadership/adapters/terminal"
)

// list is what a listing shows.
type list struct {
	heads    []string
	rows     []row  // sorted by id
	volatile string // a column that changes all the time, which is no change
	foot     string
	empty    string // what to say when there are no rows
}

type row struct {
	id    string
	cells []terminal.Cell
}

func (l *list) table() *terminal.Table {
	t := newTable(l.heads...)
	for _, r := range l.rows {
		t.Add(r.cells...)
	}
	return t
}

// sign is what a row says that counts as a change.
func (l *list) sign(r row) string {
	var texts []string
	for i, cell := range r.cells {
		if l.heads[i] != l.volatile {
			texts = append(texts, cell.Text)
		}
	}
	return strings.Join(texts, "\x00")
}

// listCommand lists something, once or again and again.
type listCommand struct {
	asker
	watch bool
	every time.Duration
}

// look asks once.
type look func(ctx context.Context) (raw []byte, l list, err error)

func (c *listCommand) define(cmd *cobra.Command) {
	c.flags(cmd, 10*time.Second, "the longest wait for an answer")
	cmd.Flags().BoolVar(&c.watch, "watch", false, "show changes: on a terminal as a screen that q leaves, elsewhere as lines")
	cmd.Flags().DurationVar(&c.every, "every", time.Second, "with --watch: how often to look, 100ms or more")
}

func (c *listCommand) run(cmd *cobra.Command, look look) error {
	if c.every < 100*time.Millisecond {
		return fmt.Errorf("--every %v: want 100ms or more", c.every)
	}
	if err := c.open(cmd, readRoles); err != nil {
		return err
	}
	if c.watch {
		return c.follow(cmd.Context(), look)
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), c.timeout)
	defer cancel()
	raw, l, err := look(ctx)
	if err != nil {
		return err
	}
	if !c.format.data() {
		if len(l.rows) == 0 {
			note(c.notes, "%s", l.empty)
		}
		defer func() {
			if l.foot != "" {
				note(c.notes, "%s", l.foot)
			}
		}()
	}
	return c.print(raw, func(bool) *terminal.Table { return l.table() })
}

// follow looks until it is interrupted.
func (c *listCommand) follow(ctx context.Context, look look) error {
	if c.format.data() || !canLive(c.out) {
		w := &changes{asker: &c.asker, known: map[string]string{}}
		return c.each(ctx, look, w.show, func(err error) { note(c.notes, "%s; asking on", oneLine(err)) })
	}
	s := &listScreen{said: "asking"}
	return live(ctx, c.colours, s.frame, func(ctx context.Context, changed func()) error {
		return c.each(ctx, look, func(_ []byte, l list) error {
			s.set(l, "")
			changed()
			return nil
		}, func(err error) {
			s.set(list{}, oneLine(err))
			changed()
		})
	})
}

// each looks again and again. A cluster that does not answer for the timeout is the end.
func (c *listCommand) each(ctx context.Context, look look, show func([]byte, list) error, failed func(error)) error {
	answered := time.Now()
	for ctx.Err() == nil { // an interrupt is how a watch ends
		attempt, cancel := context.WithTimeout(ctx, min(c.timeout, perNode))
		raw, l, err := look(attempt)
		cancel()
		var no *refusal
		switch {
		case ctx.Err() != nil:
			continue
		case errors.As(err, &no):
			return err
		case err == nil:
			answered = time.Now()
			if err := show(raw, l); err != nil {
				return err
			}
		case time.Since(answered) > c.timeout:
			return fmt.Errorf("%w; nobody answered for %v: %w", errTimedOut, c.timeout, err)
		default:
			failed(err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(c.every):
		}
	}
	return nil
}

// changes shows what changed from one look to the next, as lines.
type changes struct {
	*asker
	known  map[string]string // id to sign
	last   string            // all signs, for programs
	widths []int
}

func (w *changes) show(raw []byte, l list) error {
	if w.format.data() {
		var all strings.Builder
		for _, r := range l.rows {
			all.WriteString(l.sign(r) + "\x01")
		}
		if now := all.String() + l.foot; now != w.last {
			w.last = now
			if w.format == formatYAML {
				fmt.Fprintln(w.out, "---")
			}
			return w.printData(raw)
		}
		return nil
	}
	if w.widths == nil {
		if err := w.begin(l); err != nil {
			return err
		}
	}
	now := map[string]string{}
	for _, r := range l.rows {
		now[r.id] = l.sign(r)
		before, there := w.known[r.id]
		if there && before == now[r.id] {
			continue
		}
		if err := w.line(map[bool]string{true: "changed", false: "there"}[there], r.cells); err != nil {
			return err
		}
	}
	var gone []string
	for id := range w.known {
		if _, there := now[id]; !there {
			gone = append(gone, id)
		}
	}
	slices.Sort(gone)
	for _, id := range gone {
		if err := w.line("gone", terminal.Text(id)); err != nil {
			return err
		}
	}
	w.known = now
	return nil
}

// begin writes the headings, as wide as the first rows are.
func (w *changes) begin(l list) error {
	w.widths = []int{24, 7}
	for i, head := range l.heads {
		width := len(head)
		for _, r := range l.rows {
			width = max(width, len([]rune(r.cells[i].Text)))
		}
		w.widths = append(w.widths, width)
	}
	return w.write(headCells(append([]string{"TIME", "CHANGE"}, l.heads...)))
}

func (w *changes) line(what string, cells []terminal.Cell) error {
	return w.write(append(terminal.Text(clock(time.Now()), what), cells...))
}

func (w *changes) write(cells []terminal.Cell) error {
	if _, err := fmt.Fprintln(w.out, terminal.Align(cells, w.widths, w.colours)); err != nil {
		return fmt.Errorf("%w: %w", errOutput, err)
	}
	return nil
}

// listScreen is a list on a screen.
type listScreen struct {
	mu   sync.Mutex
	list list
	said string
	at   time.Time // of the list
}

// set takes a new list, or says why there is none: then the last one stays.
func (s *listScreen) set(l list, said string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.said = terminal.Clean(said); said == "" {
		s.list, s.at = l, time.Now()
	}
}

func (s *listScreen) frame(colours bool) terminal.Frame {
	s.mu.Lock()
	defer s.mu.Unlock()
	lines := s.list.table().Lines(colours)
	f := terminal.Frame{Head: []string{fmt.Sprintf("%d, at %s; q leaves", len(s.list.rows), clock(s.at)), s.said, lines[0]}, Body: lines[1:]}
	if s.list.foot != "" {
		f.Body = append(f.Body, "", terminal.Clean(s.list.foot))
	}
	return f
}
