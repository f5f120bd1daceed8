package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"

	"github.com/omnirelay/leadership/adapters/terminal"
	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/wire"
)

// canLive reports whether a screen can be drawn: keys are read where it is shown.
func canLive(out io.Writer) bool {
	return terminal.Is(out) && terminal.Is(os.Stdin) && os.Getenv("TERM") != "dumb"
}

// live shows frame on a screen while follow goes on, until either ends. follow calls
// changed when there is something new; frame is called by another goroutine.
func live(ctx context.Context, colours bool, frame func(colours bool) terminal.Frame, follow func(ctx context.Context, changed func()) error) (err error) {
	screen, err := terminal.OpenScreen(os.Stdin, os.Stdout)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() {
		defer cancel()
		ended <- follow(ctx, screen.Changed)
	}()
	err = screen.Run(ctx, func() terminal.Frame { return frame(colours) })
	cancel()
	followed := <-ended
	return errors.Join(err, screen.Close(), followed)
}

// leaderBoard is who leads what, as a stream of events tells it.
type leaderBoard struct {
	command *statusCommand
	changed func()

	mu     sync.Mutex
	tokens map[string]*wire.Token // nil: nobody leads the scope
	lately []wire.Event
	said   string // of the stream itself
	resync bool   // a snapshot is on its way
}

// latelyShown is how many events a board shows.
const latelyShown = 6

func newLeaderBoard(s *statusCommand) *leaderBoard {
	return &leaderBoard{command: s, changed: func() {}, tokens: map[string]*wire.Token{}, said: "connecting"}
}

// declared adds scopes that nobody may lead: the stream's snapshot tells only of those
// that are led.
func (b *leaderBoard) declared(scopes []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, scope := range scopes {
		if only := b.command.scope; only == "" || only == scope {
			b.tokens[scope] = nil
		}
	}
}

func (b *leaderBoard) note(format string, args ...any) {
	b.mu.Lock()
	b.said = terminal.Clean(fmt.Sprintf(format, args...))
	b.mu.Unlock()
	b.changed()
}

func (b *leaderBoard) show(it item) error {
	b.mu.Lock()
	b.take(it.event)
	b.mu.Unlock()
	b.changed()
	return nil
}

func (b *leaderBoard) take(e wire.Event) {
	switch e.Kind {
	case core.EventSnapshot.String():
		if b.resync {
			clear(b.tokens)
			b.resync = false
		}
		b.tokens[e.Scope] = e.Token
		return
	case core.EventObserved.String():
		b.resync = e.Reason == core.ReasonResync
		return
	case core.EventElected.String(), core.EventRenewed.String():
		b.tokens[e.Scope] = e.Token
	case core.EventScopeDeclared.String(), core.EventLost.String(), core.EventExpired.String(), core.EventSteppedDown.String():
		b.tokens[e.Scope] = nil
	case core.EventScopeRetired.String():
		delete(b.tokens, e.Scope)
	}
	if b.lately = append(b.lately, e); len(b.lately) > latelyShown {
		b.lately = b.lately[1:]
	}
}

// frame is of the loop of a screen.
func (b *leaderBoard) frame(colours bool) terminal.Frame {
	b.mu.Lock()
	defer b.mu.Unlock()
	scopes := make([]string, 0, len(b.tokens))
	led := 0
	for scope, token := range b.tokens {
		if scopes = append(scopes, scope); token != nil {
			led++
		}
	}
	slices.Sort(scopes)
	t := newTable("SCOPE", "LEADER", "TERM", "FENCE", "SINCE")
	for _, scope := range scopes {
		token := b.tokens[scope]
		if token == nil {
			t.Add(terminal.Cell{Text: scope}, terminal.Cell{Text: "nobody", Style: terminal.Red})
			continue
		}
		t.Add(terminal.Text(scope, token.LeaderID, number(token.Term), number(token.FenceToken), clock(token.IssuedAt))...)
	}
	lines := t.Lines(colours)
	f := terminal.Frame{Head: []string{fmt.Sprintf("%d led, %d unled; %s; q leaves", led, len(scopes)-led, b.said), ""}}
	for _, e := range b.lately {
		f.Head = append(f.Head, terminal.Align(eventCells(e, false), eventWidths, colours))
	}
	if len(b.lately) > 0 {
		f.Head = append(f.Head, "")
	}
	f.Head, f.Body = append(f.Head, lines[0]), lines[1:]
	return f
}
