package api

import (
	"context"

	"github.com/omnirelay/leadership/adapters/access"
	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
)

// callerOf is who calls. Without an interceptor that found out, it is nobody.
func callerOf(ctx context.Context) access.Caller {
	c, _ := access.CallerFrom(ctx)
	return c
}

// member is the caller, who must be a member.
func member(ctx context.Context) (access.Caller, error) {
	c := callerOf(ctx)
	if c.Member == "" {
		return c, &access.Denied{Unauthenticated: c.Name == "" || c.Anonymous, Want: string(access.RoleMember), Have: string(c.Role),
			Message: "this is for members; call with a credential that has the role mesh.member and names a member"}
	}
	return c, nil
}

// actAs refuses whoever is not the member. The members of the cluster's own nodes are
// nobody's from outside, whatever a credential says: their process holds them.
func (s *Service) actAs(c access.Caller, memberID string) error {
	node := s.reserved[memberID]
	s.o.Source.View(func(g *core.Registry, _ core.Status) {
		_, added := g.Node(memberID)
		node = node || added
	})
	if node {
		return &access.Denied{Want: "a member id of your own", Have: c.Member, Message: "member " + memberID + " is a node of this cluster, and only that node's own process acts as it"}
	}
	return c.MayActAs(memberID)
}

// mayOpen holds an opening against who asks for it.
func (s *Service) mayOpen(c access.Caller, o *logpb.OpenSession) error {
	if err := core.CheckMemberID("memberId", o.GetMemberId()); err != nil {
		return err
	}
	if err := s.actAs(c, o.GetMemberId()); err != nil {
		return err
	}
	for _, w := range o.GetStands() {
		if err := mayStand(c, w); err != nil {
			return err
		}
	}
	return nil
}

// mayStand says first what is wrong with a wish itself.
func mayStand(c access.Caller, w *logpb.Stand) error {
	if err := core.ValidateSelector(w.GetSelector()); err != nil {
		return err
	}
	return c.MayStand(w.GetSelector(), w.GetPriority())
}
