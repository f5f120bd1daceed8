package api

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/adapters/access"
	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
	"github.com/omnirelay/leadership/wire"
	"github.com/omnirelay/leadership/wire/controlpb"
)

// Rebalance asks for the fewest moves that restore balance. For operators.
//
// Every move is a transfer of its own, whose request id is made of the caller's and of the
// scope, and those of earlier attempts count: a retry goes on where the first attempt
// stopped, and all attempts together move no more than the limit.
func (s *Service) Rebalance(ctx context.Context, r *controlpb.RebalanceRequest) (*controlpb.RebalanceResponse, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	caller := callerOf(ctx)
	if err := caller.MayOperate(); err != nil {
		return nil, err
	}
	base, limit, err := wire.RebalanceCommands(r)
	if err != nil {
		return nil, asked(err)
	}
	if base.RequestId == "" {
		base.RequestId = s.newID()
	}
	if err := s.barrier(ctx); err != nil { // a plan of a copy that is behind moves what has moved
		return nil, err
	}
	b := balancing{service: s, caller: caller, base: base}
	answer, err := b.plan(ctx, limit)
	if err != nil || r.GetDryRun() {
		return answer, err
	}
	return answer, b.ask(ctx, answer)
}

// balancing is one Rebalance.
type balancing struct {
	service *Service
	caller  access.Caller
	base    *logpb.Command
}

// plan tells what was asked for under this request before, and what is to follow.
func (b *balancing) plan(ctx context.Context, limit int) (*controlpb.RebalanceResponse, error) {
	answer := &controlpb.RebalanceResponse{}
	err := b.service.weigh(ctx, func(g *core.Registry, _ core.Status) {
		answer.Revision, answer.Moves = g.Revision(), b.askedBefore(g, limit)
		moves, _ := g.PlanRebalance(core.MaxScopes)
		next := moves[:min(len(moves), limit-len(answer.Moves))]
		answer.Remaining = uint32(len(moves) - len(next))
		for _, m := range next {
			from, _ := g.Token(m.Scope)
			answer.Moves = append(answer.Moves, &controlpb.Move{Scope: m.Scope, FromMember: from.LeaderID, ToMember: m.To, FenceToken: m.Fence})
		}
	})
	slices.SortStableFunc(answer.Moves, func(x, y *controlpb.Move) int { return strings.Compare(x.Scope, y.Scope) })
	return answer, err
}

// askedBefore lists the moves that an earlier attempt of the same request asked for.
func (b *balancing) askedBefore(g *core.Registry, limit int) (moves []*controlpb.Move) {
	h := g.History()
	first := h.First()
	if first == nil {
		return nil
	}
	records, _ := h.AfterSeq(first.Seq-1, h.Len())
	for _, r := range records {
		ours := core.EventKind(r.Kind) == core.EventDrainRequested && r.Reason == core.AskRebalance && r.Actor == b.caller.Name
		if ours && len(moves) < limit && g.Answered(b.idOf(r.Scope)) {
			moves = append(moves, &controlpb.Move{Scope: r.Scope, FromMember: r.MemberId, ToMember: successor(g, r), FenceToken: r.Fence})
		}
	}
	return moves
}

// successor is who the holder in r was asked for, or who leads now. Empty: neither is known.
func successor(g *core.Registry, r *core.Record) string {
	scope, _ := g.Scope(r.Scope)
	switch {
	case !scope.Led || scope.Leader.Fence != r.Fence:
		return scope.Leader.LeaderID
	case scope.Ask != nil:
		return scope.Ask.To
	}
	return ""
}

// idOf is the request id in the log of the move of one scope. Whereto and under which
// fence are not in it, or another attempt could move the scope once more.
func (b *balancing) idOf(scope string) string {
	return logID(b.caller, &logpb.Command{RequestId: b.base.RequestId,
		Kind: &logpb.Command_Transfer{Transfer: &logpb.Transfer{Scope: scope, Reason: core.AskRebalance}}})
}

// ask has the moves executed, all at once, and writes down how each fared. An error is
// one that a retry may heal.
func (b *balancing) ask(ctx context.Context, answer *controlpb.RebalanceResponse) error {
	failed := make([]error, len(answer.Moves))
	revisions := make([]uint64, len(answer.Moves))
	var wait sync.WaitGroup
	for i, m := range answer.Moves {
		wait.Go(func() {
			revisions[i], failed[i] = b.move(ctx, m)
		})
	}
	wait.Wait()
	for i, m := range answer.Moves {
		answer.Revision = max(answer.Revision, revisions[i])
		code, final := finalCode(failed[i])
		if !final {
			return failed[i]
		}
		m.Code = code
	}
	return nil
}

// move asks the holder of one scope.
func (b *balancing) move(ctx context.Context, m *controlpb.Move) (revision uint64, err error) {
	c := proto.Clone(b.base).(*logpb.Command)
	c.Kind = &logpb.Command_Transfer{Transfer: &logpb.Transfer{
		Scope: m.GetScope(), ToMember: m.GetToMember(), Fence: m.GetFenceToken(), Reason: core.AskRebalance}}
	c.RequestId = b.idOf(m.GetScope())
	b.service.attribute(c, b.caller)
	result, err := b.service.do(ctx, c)
	return result.GetRevision(), err
}

// finalCode is the code of an answer about one scope; final is false for one about the
// node or the request.
func finalCode(err error) (code string, final bool) {
	var refused *core.Error
	switch {
	case err == nil:
		return "", true
	case !errors.As(err, &refused):
		return "", false
	}
	switch refused.Code {
	case core.CodeConflict, core.CodeNotFound, core.CodeRetiring, core.CodeNotLeader:
		return string(refused.Code), true
	}
	return "", false
}
