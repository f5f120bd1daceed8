package api

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/wire/controlpb"
)

// StatusUnknown is the status of a member that the registry knows and gossip does not.
const StatusUnknown = "unknown"

// Peer is a member as this node's gossip sees it.
type Peer struct {
	ID string
	// Status is alive, suspect, dead or left.
	Status                               string
	Role, ClusterID, Region, MeshVersion string
	HTTP3                                bool
	Labels                               map[string]string
	Address                              string // host:port
	LastSeen                             time.Time
}

func (p *Peer) proto() *controlpb.Peer {
	out := &controlpb.Peer{Id: p.ID, Status: p.Status, Role: p.Role, ClusterId: p.ClusterID, Region: p.Region, MeshVersion: p.MeshVersion,
		Http3Support: p.HTTP3, Labels: maps.Clone(p.Labels), Address: p.Address}
	if !p.LastSeen.IsZero() {
		out.LastSeen = timestamppb.New(p.LastSeen)
	}
	return out
}

// ListPeers tells of members, as gossip and as the registry know them.
func (s *Service) ListPeers(ctx context.Context, r *controlpb.ListPeersRequest) (*controlpb.ListPeersResponse, error) {
	err := callerOf(ctx).MayRead()
	if err == nil && r.GetMemberId() != "" {
		err = core.CheckMemberID("memberId", r.GetMemberId())
	}
	if err != nil {
		return nil, err
	}
	all := peers{}
	for _, p := range s.o.Peers() {
		all[p.ID] = p.proto()
	}
	answer := &controlpb.ListPeersResponse{Self: s.o.NodeID}
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	err = s.weigh(ctx, func(g *core.Registry, _ core.Status) {
		answer.Revision = g.Revision()
		for _, id := range g.KnownMembers() {
			if r.GetMemberId() == "" || r.GetMemberId() == id {
				all.register(g, id)
			}
		}
	})
	if err != nil {
		return nil, err
	}
	return answer, all.list(r.GetMemberId(), answer)
}

// peers are members by their ids.
type peers map[string]*controlpb.Peer

// register adds what the registry says of a member.
func (all peers) register(g *core.Registry, id string) {
	p := all[id]
	if p == nil {
		p = &controlpb.Peer{Id: id, Status: StatusUnknown}
		if session, live := g.SessionOf(id); live {
			status, _ := g.Session(session)
			p.Labels = maps.Clone(status.Labels)
		}
		all[id] = p
	}
	m := g.Member(id)
	p.Cordoned, p.Draining, p.Ineligible = m.Cordoned, m.Draining, m.Ineligible
	p.Sessions, p.Leads, p.HandingOver, p.Stuck = uint32(m.Sessions), uint32(m.Leads), uint32(m.HandingOver), uint32(m.Stuck)
}

// list writes the peers of one id, or all, into answer.
func (all peers) list(id string, answer *controlpb.ListPeersResponse) error {
	size := 0
	for _, p := range slices.SortedFunc(maps.Values(all), func(x, y *controlpb.Peer) int { return strings.Compare(x.Id, y.Id) }) {
		if id != "" && p.Id != id {
			continue
		}
		if size += proto.Size(p); size > MaxAnswerBytes {
			return &core.Error{Code: core.CodeLimit, Field: "memberId", Message: fmt.Sprintf("the answer has more than %d bytes; ask for one member at a time", MaxAnswerBytes)}
		}
		answer.Peers = append(answer.Peers, p)
	}
	if id != "" && len(answer.Peers) == 0 {
		return &core.Error{Code: core.CodeNotFound, Field: "memberId", Message: "neither gossip nor the registry knows member " + id}
	}
	return nil
}
