package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"github.com/omnirelay/leadership/adapters/terminal"
	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/wire"
	"github.com/omnirelay/leadership/wire/controlpb"
)

// statusCommand is `mesh leaders status`: who leads what, now or as it changes.
type statusCommand struct {
	asker
	grpcURL, scope string
	watch          bool
}

func newStatusCommand() *cobra.Command {
	s := &statusCommand{}
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the leader of every scope, or of one",
		Long: "Shows the leader of every scope as one node of the cluster has it; nodes are tried in turn.\n" +
			"With --watch it follows every change and reconnects by itself, missing none: on a terminal as\n" +
			"a screen that q leaves, elsewhere as a line for each event.",
		Example: "  omnirelay mesh leaders status\n  omnirelay mesh leaders status --scope global-control -o json\n  omnirelay mesh leaders status --watch --grpc-url 127.0.0.1:7412",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := s.open(cmd, readRoles); err != nil {
				return err
			}
			return s.run(cmd)
		},
	}
	s.flags(cmd, 10*time.Second, "the longest wait for an answer, or with --watch without a stream")
	f := cmd.Flags()
	f.StringVar(&s.grpcURL, "grpc-url", "", "ask this node over gRPC, like 127.0.0.1:7412")
	f.StringVar(&s.scope, "scope", "", "only this scope")
	f.BoolVar(&s.watch, "watch", false, "follow every change")
	complete(cmd, "scope", s.completeScopes)
	return cmd
}

// check refuses flags that make no sense before anybody is asked.
func (s *statusCommand) check() error {
	if s.url != "" && s.grpcURL != "" {
		return errors.New("--url and --grpc-url: give one of them")
	}
	if s.scope == "" {
		return nil
	}
	return checkScope("--scope", s.scope)
}

// checkScope refuses what cannot be the id of a scope.
func checkScope(flag, scope string) error {
	var e *core.Error
	if err := core.ParseScopeID(scope); errors.As(err, &e) {
		return fmt.Errorf("%s: %s", flag, e.Message)
	}
	return nil
}

// open is asker's, but over gRPC there is a node to ask without a cluster file.
func (s *statusCommand) open(cmd *cobra.Command, roles []string) error {
	if err := s.check(); err != nil {
		return err
	}
	if s.grpcURL == "" {
		return s.asker.open(cmd, roles)
	}
	s.url = "https://" + s.grpcURL // names the node; gRPC is spoken to it
	return s.asker.open(cmd, roles)
}

// source is one API of a cluster.
type source struct {
	nodes   []string
	leaders func(ctx context.Context) ([]byte, *controlpb.ListLeadersResponse, error)
	follow  follower
}

// follower reads the event stream of one node behind cursor until it ends. It calls
// open once the node has admitted it, and show for each event.
type follower func(ctx context.Context, node, scope, cursor string, open func(), show func(item) error) error

func (s *statusCommand) run(cmd *cobra.Command) error {
	src := s.source()
	if s.watch {
		return s.follow(cmd.Context(), src)
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), s.timeout)
	defer cancel()
	raw, leaders, err := src.leaders(ctx)
	if err != nil {
		return s.scopeHint(ctx, s.scope, s.advised(err))
	}
	if len(leaders.GetTokens()) == 0 && !s.format.data() {
		fmt.Fprintln(s.notes, "nothing is led right now; --watch shows the next election")
	}
	return s.print(raw, func(wide bool) *terminal.Table { return leadersTable(leaders, wide) })
}

// source finds the nodes to ask and how.
func (s *statusCommand) source() *source {
	if s.grpcURL != "" {
		sub := &subscriber{tls: s.client.tls()}
		nodes := []string{s.grpcURL}
		return &source{nodes, func(ctx context.Context) ([]byte, *controlpb.ListLeadersResponse, error) {
			return sub.leaders(ctx, nodes, s.scope)
		}, sub.follow}
	}
	return &source{s.client.nodes, func(ctx context.Context) ([]byte, *controlpb.ListLeadersResponse, error) {
		answer, query := &controlpb.ListLeadersResponse{}, url.Values{}
		if s.scope != "" {
			query.Set("scope", s.scope)
		}
		raw, err := s.ask(ctx, "/control/leaders", query, answer)
		return raw, answer, err
	}, s.client.follow}
}

// reconnectPause keeps a cluster that refuses everybody from being asked without end.
const reconnectPause = 250 * time.Millisecond

// watch is a stream followed from node to node.
type watch struct {
	command *statusCommand
	source  *source
	viewer  viewer
	cursor  string
	alive   time.Time // when a stream was last open
}

// viewer shows a stream of events. Its errors are errOutput.
type viewer interface {
	show(it item) error
	// note tells of the stream itself.
	note(format string, args ...any)
}

// follow shows the stream on a screen where there is one, else as lines.
func (s *statusCommand) follow(ctx context.Context, src *source) error {
	if !s.format.data() && canLive(s.out) {
		b := newLeaderBoard(s)
		return live(ctx, s.colours, b.frame, func(ctx context.Context, changed func()) error {
			b.changed = changed
			if s.grpcURL == "" {
				if scopes, err := s.scopeNames(ctx); err == nil { // without them unled ones show up as they change
					b.declared(scopes)
				}
			}
			return s.stream(ctx, src, b)
		})
	}
	lines, err := newEventLines(&s.asker)
	if err != nil {
		return err
	}
	return s.stream(ctx, src, lines)
}

// stream shows the stream of one node after another, each from where the last one
// broke off. It gives up when there was no stream for the timeout.
func (s *statusCommand) stream(ctx context.Context, src *source, v viewer) error {
	w := &watch{command: s, source: src, viewer: v, alive: time.Now()}
	for attempt := 0; ctx.Err() == nil; attempt++ { // an interrupt is how a watch ends
		node := src.nodes[attempt%len(src.nodes)]
		err := w.attempt(ctx, node)
		var no *refusal
		var later *busy
		pause := reconnectPause
		switch {
		case ctx.Err() != nil:
			continue
		case errors.As(err, &no):
			return s.scopeHint(ctx, s.scope, s.advised(err))
		case errors.Is(err, errOutput):
			return err
		case time.Since(w.alive) > s.timeout:
			return fmt.Errorf("%w; no node served the stream for %v: %w", errTimedOut, s.timeout, err)
		case errors.As(err, &later) && len(src.nodes) == 1:
			pause = later.after
		}
		v.note("no stream from %s: %s; reconnecting", node, oneLine(err))
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
	return nil
}

// attempt follows one node. Its error is never nil: streams end for a reason.
func (w *watch) attempt(ctx context.Context, node string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	patience := min(perNode, w.command.timeout)
	guard := time.AfterFunc(patience, func() { cancel(fmt.Errorf("it did not answer within %v", patience)) })
	defer guard.Stop()
	opened := false
	err := w.source.follow(ctx, node, w.command.scope, w.cursor, func() { opened = guard.Stop() }, func(it item) error {
		if it.cursor != "" {
			w.cursor = it.cursor
		}
		if it.event.Transport != "" {
			w.viewer.note("watching %s over %s", node, it.event.Transport)
		}
		return w.viewer.show(it)
	})
	if opened {
		w.alive = time.Now()
	}
	switch {
	case err == nil:
		return errEnded
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	return err
}

var errEnded = errors.New("the node ended it")

// eventLines shows a stream as lines, or as the API's own JSON.
type eventLines struct {
	*asker
	widths []int
}

func newEventLines(a *asker) (*eventLines, error) {
	l := &eventLines{asker: a, widths: eventWidths}
	if a.format.data() {
		return l, nil
	}
	heads := eventHeads
	if a.format == formatWide {
		heads = append(heads[:len(heads):len(heads)], "CORRELATION")
	}
	return l, l.line(headCells(heads))
}

func (l *eventLines) note(format string, args ...any) { note(l.notes, format, args...) }

func (l *eventLines) line(cells []terminal.Cell) error {
	if _, err := fmt.Fprintln(l.out, terminal.Align(cells, l.widths, l.colours)); err != nil {
		return fmt.Errorf("%w: %w", errOutput, err)
	}
	return nil
}

func (l *eventLines) show(it item) error {
	switch l.format {
	case formatJSON:
		return l.printData(it.raw)
	case formatYAML:
		if _, err := fmt.Fprintln(l.out, "---"); err != nil {
			return fmt.Errorf("%w: %w", errOutput, err)
		}
		return l.printData(it.raw)
	}
	return l.line(eventCells(it.event, l.format == formatWide))
}

// itemOf makes an item of an event of the gRPC API.
func itemOf(event wire.Event) (item, error) {
	raw, err := json.Marshal(event)
	it := item{event: event, raw: raw}
	if event.Revision != 0 {
		it.cursor = core.Cursor{Revision: event.Revision, Ordinal: event.Ordinal}.String()
	}
	return it, err
}
