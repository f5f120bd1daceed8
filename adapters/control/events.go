package control

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/omnirelay/leadership/adapters/telemetry"
	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/wire"
)

const (
	// eventsPerWrite bounds what one look at the registry takes and one deadline covers.
	eventsPerWrite = 256
	// reconnectAfter is what a client is told to wait before it reconnects.
	reconnectAfter = time.Second
)

// stream is one reader of /control/events/leadership.
type stream struct {
	server *Server
	out    http.ResponseWriter
	wire   *http.ResponseController
	sub    *core.Subscription
	proto  string // until the first event has told it
	begun  bool   // the node could vouch for its copy since the stream was opened
	silent int    // heartbeats in a row at which the node could not vouch for its copy
}

// events streams until the reader leaves or stops reading, or the server ends.
func (s *Server) events(w http.ResponseWriter, r *request) error {
	filter, resume, err := s.where(r)
	if err != nil {
		return err
	}
	leave, err := s.enter(r)
	if err != nil {
		return err
	}
	defer leave()
	defer s.options.Metrics.StreamOpened(telemetry.APISSE, r.Proto)()
	logger := s.options.Logger.With("api", telemetry.APISSE, "protocol", r.Proto, "caller", r.caller.Name, "scope", filter.Scope)
	logger.Info("stream opened", "resume", r.Header.Get(cursorHeader))
	st := &stream{server: s, out: w, wire: http.NewResponseController(w), sub: core.NewSubscription(filter, resume), proto: r.Proto}
	err = st.run(r, resume)
	logger.Info("stream closed", "cause", cause(r, err))
	return err
}

// enter takes a slot for a stream, of this node's and of its caller's.
func (s *Server) enter(r *request) (leave func(), err error) {
	select {
	case <-s.closing:
		return nil, later(core.CodeUnavailable, reconnectAfter, "this node is shutting down; connect to another")
	default:
	}
	release, err := s.options.Gate.Limiter.Stream(r.caller)
	if err != nil {
		s.options.Metrics.StreamRefused(telemetry.APISSE)
		return nil, err
	}
	select {
	case s.slots <- struct{}{}:
		return func() { <-s.slots; release() }, nil
	default:
		release()
		s.options.Metrics.StreamRefused(telemetry.APISSE)
		return nil, later(core.CodeOverloaded, 5*time.Second, "%d streams are open here already; connect to another node, or retry", s.options.MaxStreams)
	}
}

const cursorHeader = "Last-Event-ID"

// where reads what is asked for. A scope that was retired is still good for a
// resume: the reader is owed its last events.
func (s *Server) where(r *request) (f core.Filter, resume *core.Cursor, err error) {
	if f.Scope, err = r.scopeParam(); err != nil {
		return f, nil, err
	}
	if text := r.Header.Get(cursorHeader); text != "" {
		c, err := core.ParseCursor(text)
		if err != nil {
			return f, nil, refuse(http.StatusBadRequest, core.CodeInvalid, cursorHeader, "%q is no cursor; send back an id of the stream, like 1042.3, or leave the header out", clip(text))
		}
		resume = &c
	}
	s.options.Source.View(func(g *core.Registry, st core.Status) {
		if !st.Ready || f.Scope == "" || resume != nil {
			return
		}
		if _, known := g.Scope(f.Scope); !known {
			err = unknownScope(f.Scope)
		}
	})
	return f, resume, err
}

func cause(r *request, err error) string {
	switch {
	case r.Context().Err() != nil:
		return "the reader left"
	case err != nil:
		return err.Error()
	case !r.caller.Expires.IsZero() && !time.Now().Before(r.caller.Expires):
		return "the reader's credential has ended"
	}
	return "this node is shutting down"
}

// run writes what is there and then waits for more. A node that cannot vouch for its
// copy yet opens the stream all the same and keeps silent: to an answer other than
// 200 a browser's EventSource never comes back (HTML standard, 9.2.3).
func (st *stream) run(r *request, resume *core.Cursor) error {
	h := st.out.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("X-Accel-Buffering", "no")
	first := fmt.Appendf(nil, "retry: %d\n\n", reconnectAfter.Milliseconds())
	if resume != nil {
		// By the letter of the standard the reader has forgotten its place: a stream
		// that breaks before its first event would be resumed from nowhere.
		first = append(fmt.Appendf(nil, "id: %s\n", resume), first...)
	}
	if err := st.write(first); err != nil {
		return err
	}
	ctx, cancel := lifetime(r)
	defer cancel()
	within, done := context.WithTimeout(ctx, st.server.options.ReadTimeout)
	st.server.options.Source.CheckCursor(within, st.sub)
	done()
	heartbeat := time.NewTicker(st.server.options.Heartbeat)
	defer heartbeat.Stop()
	for ctx.Err() == nil {
		// Before the look: what changes after it closes this very channel.
		changed := st.server.options.Source.Changed()
		text, some := st.poll()
		if !some {
			select {
			case <-changed:
				continue
			case <-heartbeat.C:
				if err := st.vouch(); err != nil {
					return err
				}
				text = []byte(": alive\n\n")
			case <-ctx.Done():
				return nil
			case <-st.server.closing:
				return nil
			}
		}
		if err := st.write(text); err != nil {
			return err
		}
	}
	return nil
}

// lifetime ends with the reader's connection or its credential, whichever is first: a
// stream must not outlast what let its reader in.
func lifetime(r *request) (context.Context, context.CancelFunc) {
	if r.caller.Expires.IsZero() {
		return context.WithCancel(r.Context())
	}
	return context.WithDeadline(r.Context(), r.caller.Expires)
}

// vouch ends a stream whose node has been without the cluster for two heartbeats: its
// reader would go on believing what may long have changed, and another node knows.
func (st *stream) vouch() error {
	var now core.Status
	st.server.options.Source.View(func(_ *core.Registry, s core.Status) { now = s })
	if st.silent++; now.Ready {
		st.silent = 0
	}
	if st.silent < 2 {
		return nil
	}
	return fmt.Errorf("this node cannot vouch for its copy: %s", now.NotReadyReason)
}

// poll takes the next events and writes them down, outside the lock.
func (st *stream) poll() (text []byte, some bool) {
	var items []core.StreamItem
	st.server.options.Source.View(func(g *core.Registry, s core.Status) {
		if st.begun = st.begun || s.Ready; st.begun {
			items = st.sub.Poll(g, eventsPerWrite)
		}
	})
	var b bytes.Buffer
	for _, item := range items {
		event := wire.EventOf(item)
		if item.Token != nil {
			event.Token.ExpiresAt = st.server.expiry(*item.Token)
		}
		if item.Reason == core.ReasonResync && item.Kind == core.EventObserved {
			st.server.options.Metrics.StreamResynced(telemetry.APISSE)
		}
		event.Transport, st.proto = st.proto, ""
		writeEvent(&b, item.Cursor, event)
	}
	return b.Bytes(), len(items) > 0
}

// writeEvent writes one event. Without a cursor there is no id: a reader that
// leaves within a snapshot resumes from before it.
func writeEvent(b *bytes.Buffer, cursor core.Cursor, event wire.Event) {
	if cursor != (core.Cursor{}) {
		fmt.Fprintf(b, "id: %s\n", cursor)
	}
	data, err := json.Marshal(event)
	if err != nil {
		panic(err) // our own types always encode
	}
	fmt.Fprintf(b, "event: %s\ndata: %s\n\n", event.Kind, data)
}

// write hands text to the reader, who is cut when that takes too long. Between
// writes there is no deadline: HTTP/2 would reset an idle stream by it.
func (st *stream) write(text []byte) error {
	if err := st.wire.SetWriteDeadline(time.Now().Add(st.server.options.WriteTimeout)); err != nil {
		return fmt.Errorf("the connection takes no write deadline, so it cannot be served: %w", err)
	}
	_, err := st.out.Write(text)
	if err == nil {
		err = st.wire.Flush()
	}
	if err != nil {
		st.server.options.Metrics.StreamCut(telemetry.APISSE)
		return fmt.Errorf("cut: %w", err)
	}
	return st.wire.SetWriteDeadline(time.Time{})
}
