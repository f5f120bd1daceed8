package rpc

import (
	"context"
	"log/slog"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/omnirelay/leadership/adapters/access"
	"github.com/omnirelay/leadership/adapters/telemetry"
	"github.com/omnirelay/leadership/adapters/transport"
	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/wire"
	"github.com/omnirelay/leadership/wire/controlpb"
)

// eventsPerBatch bounds what one look at the registry takes and one deadline covers.
const eventsPerBatch = 256

// Subscribe streams until the reader leaves or stops reading, or the server ends.
func (s *Server) Subscribe(req *controlpb.LeadershipSubscribeRequest, out grpc.ServerStreamingServer[controlpb.LeadershipEvent]) error {
	caller, _ := access.CallerFrom(out.Context())
	if err := caller.MayRead(); err != nil {
		return err
	}
	resume, err := s.where(req)
	if err != nil {
		return err
	}
	if err := s.enter(); err != nil {
		return err
	}
	defer func() { <-s.slots }()
	protocol := transport.Protocol(out.Context())
	defer s.options.Metrics.StreamOpened(telemetry.APIGRPC, protocol)()
	// Tells the reader that it is admitted: the first event may be long in coming.
	if err := out.SendHeader(nil); err != nil {
		return err
	}
	logger := s.options.Logger.With("api", telemetry.APIGRPC, "protocol", protocol, "caller", caller.Name, "scope", req.GetScope())
	logger.Info("stream opened", "resume", resume)
	st := &stream{server: s, sub: core.NewSubscription(core.Filter{Scope: req.GetScope()}, resume), scope: req.GetScope(), transport: protocol,
		batches: make(chan []wire.Event), sent: make(chan error, 1)}
	within, cancel := context.WithTimeout(out.Context(), s.options.WriteTimeout)
	s.options.Source.CheckCursor(within, st.sub)
	cancel()
	go st.sender(out)
	defer close(st.batches)
	err = st.run(out, req.GetIncludeRenewals(), caller.Expires)
	logger.Info("stream closed", slog.Any("cause", err))
	return err
}

// where reads what is asked for. A scope that was retired is still good for a
// resume: the reader is owed its last events.
func (s *Server) where(req *controlpb.LeadershipSubscribeRequest) (resume *core.Cursor, err error) {
	if req.GetScope() != "" {
		if err := core.ParseScopeID(req.GetScope()); err != nil {
			return nil, err
		}
	}
	switch {
	case req.GetFromRevision() > 0:
		resume = &core.Cursor{Revision: req.GetFromRevision(), Ordinal: req.GetFromOrdinal()}
	case req.GetFromOrdinal() > 0:
		return nil, &core.Error{Code: core.CodeInvalid, Field: "from_ordinal", Message: "given without from_revision; send both as an event carried them, or neither"}
	}
	s.options.Source.View(func(g *core.Registry, st core.Status) {
		if !st.Ready {
			err = &core.Error{Code: core.CodeUnavailable, Message: st.NotReadyReason}
			return
		}
		if _, known := g.Scope(req.GetScope()); req.GetScope() != "" && resume == nil && !known {
			err = &core.Error{Code: core.CodeNotFound, Field: "scope", Message: "no scope " + req.GetScope() + " is declared"}
		}
	})
	return resume, err
}

// enter takes a slot for a stream.
func (s *Server) enter() error {
	select {
	case <-s.closing:
		return errShutdown
	default:
	}
	select {
	case s.slots <- struct{}{}:
		return nil
	default:
		s.options.Metrics.StreamRefused(telemetry.APIGRPC)
		return &core.Error{Code: core.CodeOverloaded, Message: "too many streams are open here; connect to another node, or retry"}
	}
}

// errExpired ends what rests on a credential that has ended.
var errExpired = &access.Denied{Unauthenticated: true, Want: "a credential that is still good", Have: "an expired one",
	Message: "the credential of this stream has expired; subscribe again with a new one"}

var errShutdown = &core.Error{Code: core.CodeUnavailable, Message: "this node is shutting down; connect to another"}

// stream is one reader. A goroutine of its own sends, since a grpc send has no
// deadline: it waits for a reader that stopped for as long as the call lasts.
type stream struct {
	server    *Server
	sub       *core.Subscription
	scope     string
	transport string // until the first event has told it
	batches   chan []wire.Event
	sent      chan error // one for each batch
	renewed   map[core.SessionID]int64
	silent    int // checks in a row at which the node could not vouch for its copy
}

func (st *stream) sender(out grpc.ServerStreamingServer[controlpb.LeadershipEvent]) {
	for batch := range st.batches {
		var err error
		for i := range batch {
			if err = out.Send(batch[i].Proto()); err != nil {
				break
			}
		}
		st.sent <- err
	}
}

// send hands a batch to the sender, which is idle, and waits. The end of the call
// frees a sender that waits for its reader.
func (st *stream) send(batch []wire.Event) error {
	if len(batch) == 0 {
		return nil
	}
	batch[0].Transport, st.transport = st.transport, ""
	st.batches <- batch
	late := time.NewTimer(st.server.options.WriteTimeout)
	defer late.Stop()
	select {
	case err := <-st.sent:
		return err
	case <-late.C:
		st.server.options.Metrics.StreamCut(telemetry.APIGRPC)
		return status.Errorf(codes.DeadlineExceeded, "cut: no event was read for %v; resume by the last one", st.server.options.WriteTimeout)
	}
}

// run sends what is there and then waits for more.
func (st *stream) run(out grpc.ServerStreamingServer[controlpb.LeadershipEvent], renewals bool, until time.Time) error {
	var expired <-chan time.Time
	if !until.IsZero() {
		timer := time.NewTimer(time.Until(until))
		defer timer.Stop()
		expired = timer.C
	}
	var renewal <-chan time.Time
	if renewals {
		ticker := time.NewTicker(st.server.options.RenewalInterval)
		defer ticker.Stop()
		renewal, st.renewed = ticker.C, map[core.SessionID]int64{}
	}
	check := time.NewTicker(st.server.check)
	defer check.Stop()
	for {
		// Before the look: what changes after it closes this very channel.
		changed := st.server.options.Source.Changed()
		if !until.IsZero() && !time.Now().Before(until) {
			return errExpired
		}
		batch := st.poll()
		if len(batch) == 0 {
			select {
			case <-changed:
				continue
			case <-renewal:
				batch = st.renewals()
			case <-check.C:
				if err := st.vouch(); err != nil {
					return err
				}
			case <-out.Context().Done():
				return status.FromContextError(out.Context().Err()).Err()
			case <-st.server.closing:
				return errShutdown
			case <-expired:
				return errExpired
			}
		}
		if err := st.send(batch); err != nil {
			return err
		}
	}
}

// vouch ends a stream whose node has been without the cluster for two checks: its
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
	return &core.Error{Code: core.CodeUnavailable, Message: now.NotReadyReason}
}

// poll takes the next events.
func (st *stream) poll() []wire.Event {
	var items []core.StreamItem
	st.server.options.Source.View(func(g *core.Registry, _ core.Status) { items = st.sub.Poll(g, eventsPerBatch) })
	batch := make([]wire.Event, len(items))
	for i, item := range items {
		batch[i] = wire.EventOf(item)
		if item.Token != nil {
			if wall, ok := st.server.options.Source.ExpiresAt(item.Token.Session); ok {
				batch[i].Token.ExpiresAt = time.Unix(0, wall).UTC()
			}
		}
		if item.Kind == core.EventObserved && item.Reason == core.ReasonResync {
			st.server.options.Metrics.StreamResynced(telemetry.APIGRPC)
		}
	}
	return batch
}

// renewals tells of every leadership whose published bound has moved since the last
// look.
func (st *stream) renewals() []wire.Event {
	var tokens []core.Token
	st.server.options.Source.View(func(g *core.Registry, _ core.Status) {
		if st.scope == "" {
			tokens = g.Tokens()
		} else if t, led := g.Token(st.scope); led {
			tokens = []core.Token{t}
		}
	})
	now := time.Now()
	told := make(map[core.SessionID]int64, len(st.renewed))
	var batch []wire.Event
	for _, t := range tokens {
		wall, ok := st.server.options.Source.ExpiresAt(t.Session)
		if !ok {
			continue
		}
		told[t.Session] = wall
		if wall > st.renewed[t.Session] {
			batch = append(batch, wire.EventOfRenewal(t, now, time.Unix(0, wall)))
		}
	}
	st.renewed = told
	return batch
}
