package api

import (
	"context"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
)

// maxWeighed is how many pairs of a session and a scope may be looked at while the node
// waits: a few milliseconds' worth.
const maxWeighed = 1 << 16

// weigh calls f with the registry, for questions that look at every session for every
// scope. With a thousand members that takes a second, in which the node would keep no
// leases: a large registry is copied for it, one at a time.
func (s *Service) weigh(ctx context.Context, f func(g *core.Registry, st core.Status)) error {
	var err error
	var large bool
	s.o.Source.View(func(g *core.Registry, st core.Status) {
		if err = vouch(&st); err != nil {
			return
		}
		if large = len(g.Sessions())*len(g.Scopes()) > s.maxWeighed; !large {
			f(g, st)
		}
	})
	if err != nil || !large {
		return err
	}
	select {
	case s.weighing <- struct{}{}:
	case <-ctx.Done():
		return outcome(ctx, ctx.Err())
	}
	defer func() { <-s.weighing }()
	var snapshot *logpb.Snapshot
	var status core.Status
	s.o.Source.View(func(g *core.Registry, st core.Status) {
		if err = vouch(&st); err == nil {
			snapshot, status = g.Snapshot(), st
		}
	})
	if err != nil {
		return err
	}
	g, err := core.Restore(snapshot, 0)
	if err == nil {
		f(g, status)
	}
	return err
}
