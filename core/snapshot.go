package core

import (
	"bytes"
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/core/logpb"
	"github.com/omnirelay/leadership/core/plant"
)

// snapshotFormat is raised when a snapshot can no longer be read by older builds.
const snapshotFormat = 1

// Snapshot returns the whole state. It shares immutable records and
// specifications with the registry, and nothing else.
func (g *Registry) Snapshot() *logpb.Snapshot {
	hash := g.Hash()
	s := &logpb.Snapshot{
		Format: snapshotFormat, ClusterId: g.clusterID, Revision: g.revision, NextFence: g.nextFence,
		NextSession: uint64(g.nextSession), NextAuditSeq: g.history.nextSeq, AuditHead: g.history.head,
		Cordoned: sortedKeys(g.cordoned), ReplyHorizon: g.replies.horizon, KeeperTerm: g.keeperTerm,
		KeeperNumber: g.keeperNumber, History: slices.Clone(g.history.records), ActiveVersion: g.activeVersion,
		FormationMembers: g.formationMembers, Forming: g.forming, Formation: g.formation, Hash: hash[:],
		FloorRevision: g.history.floor.Revision, FloorOrdinal: g.history.floor.Ordinal, WaitNs: g.wait,
		LongestTtlNs: g.longestTTL, Draining: sortedKeys(g.draining),
	}
	for _, id := range sortedKeys(g.observed) {
		s.Observed = append(s.Observed, g.observed[id].toProto())
	}
	for _, id := range sortedKeys(g.sessions) {
		s.Sessions = append(s.Sessions, g.sessions[id].toProto())
	}
	for _, id := range sortedKeys(g.scopes) {
		s.Scopes = append(s.Scopes, g.scopes[id].toProto())
	}
	for _, r := range g.replies.order {
		s.Replies = append(s.Replies, &logpb.Snapshot_Reply{RequestId: r.requestID, Index: r.index, Result: r.result})
	}
	for _, v := range g.voters {
		s.Voters = append(s.Voters, uint64(v))
	}
	for _, n := range sortedKeys(g.versions) {
		s.Versions = append(s.Versions, &logpb.AnnounceVersion{Replica: uint64(n), MaxVersion: g.versions[n]})
	}
	g.snapshotNodes(s)
	g.plantSnapshot(s)
	return s
}

func (g *Registry) plantSnapshot(s *logpb.Snapshot) {
	if g.plants.Has(plant.FenceMissingFromSnapshot) {
		s.NextFence = 1
		g.plantRehash(s)
	}
	if g.plants.Has(plant.SnapshotDropsSessions) {
		s.Sessions = nil
		for _, sc := range s.Scopes {
			sc.Leader = 0
		}
		g.plantRehash(s)
	}
}

func (g *Registry) plantRehash(s *logpb.Snapshot) {
	if damaged, err := restore(s, g.maxVersion); err == nil {
		hash := damaged.Hash()
		s.Hash = hash[:]
	}
}

func (s *session) toProto() *logpb.Snapshot_Session {
	p := &logpb.Snapshot_Session{
		Id: uint64(s.id), MemberId: s.member, Labels: s.labels, Weight: s.weight, TtlNs: s.ttl, OpenedAt: s.openedAt,
		ChangedAt: s.changedAt, Noted: s.noted, NotedAgeNs: s.notedAge, NotedAt: s.notedAt, Wish: s.wish,
	}
	for _, st := range s.stands {
		p.Stands = append(p.Stands, &logpb.Stand{Session: st.Session, Selector: st.Selector, Priority: st.Priority})
	}
	return p
}

func (s *scope) toProto() *logpb.Snapshot_Scope {
	p := &logpb.Snapshot_Scope{
		Spec: s.spec, Term: s.term, Fence: s.fence, IssuedWallNs: s.issuedWall, ResignedBy: uint64(s.resignedBy),
		VacantSince: uint64(s.vacantSince), Failover: s.failover,
	}
	if s.leader != nil {
		p.Leader = uint64(s.leader.id)
	}
	if s.ask != nil {
		p.Ask = &logpb.Snapshot_Ask{Reason: s.ask.reason, ToMember: s.ask.to, CorrelationId: s.ask.correlationID, Actor: s.ask.actor, Why: s.ask.why}
	}
	return p
}

// Marshal encodes the snapshot; equal states give equal bytes.
func marshalSnapshot(s *logpb.Snapshot) ([]byte, error) {
	return proto.MarshalOptions{Deterministic: true}.Marshal(s)
}

// Restore returns the registry that a snapshot holds. It fails when the format is
// newer than this build, or when the state does not have the hash it had when
// the snapshot was taken.
func Restore(s *logpb.Snapshot, maxVersion uint32) (*Registry, error) {
	g, err := restore(s, maxVersion)
	if err != nil {
		return nil, err
	}
	if hash := g.Hash(); !bytes.Equal(hash[:], s.Hash) {
		return nil, fmt.Errorf("the snapshot at revision %d does not hash to what it says: it is damaged", s.Revision)
	}
	return g, nil
}

func restore(s *logpb.Snapshot, maxVersion uint32) (*Registry, error) {
	if s.Format != snapshotFormat {
		return nil, fmt.Errorf("snapshot format %d; this build reads format %d", s.Format, snapshotFormat)
	}
	if hasUnknown(s.ProtoReflect()) {
		return nil, fmt.Errorf("the snapshot at revision %d has fields or values that this build does not know: a newer build wrote it", s.Revision)
	}
	g := NewRegistry(maxVersion)
	g.clusterID, g.revision, g.nextFence, g.nextSession = s.ClusterId, s.Revision, s.NextFence, SessionID(s.NextSession)
	g.keeperTerm, g.keeperNumber, g.activeVersion = s.KeeperTerm, s.KeeperNumber, s.ActiveVersion
	g.formationMembers, g.forming, g.formation = s.FormationMembers, s.Forming, s.Formation
	g.wait, g.longestTTL = s.WaitNs, s.LongestTtlNs
	for _, p := range s.Sessions {
		g.restoreSession(p)
	}
	for _, p := range s.Scopes {
		if err := g.restoreScope(p); err != nil {
			return nil, err
		}
	}
	for _, m := range s.Cordoned {
		g.cordoned[m] = true
	}
	for _, m := range s.Draining {
		g.draining[m] = true
	}
	for _, p := range s.Observed {
		g.observed[p.MemberId] = observationOf(p)
	}
	for _, v := range s.Voters {
		g.voters = append(g.voters, NodeID(v))
	}
	for _, a := range s.Versions {
		g.versions[NodeID(a.Replica)] = a.MaxVersion
	}
	if err := g.restoreNodes(s); err != nil {
		return nil, err
	}
	for _, r := range s.Replies {
		if r.Result == nil {
			return nil, fmt.Errorf("the snapshot at revision %d holds request %q without a reply", s.Revision, r.RequestId)
		}
		g.replies.keep(r.RequestId, r.Index, r.Result)
	}
	g.replies.horizon = s.ReplyHorizon
	if err := g.history.restore(s); err != nil {
		return nil, err
	}
	return g, nil
}

func (g *Registry) restoreSession(p *logpb.Snapshot_Session) {
	s := &session{
		id: SessionID(p.Id), member: p.MemberId, labels: maps.Clone(p.Labels), weight: p.Weight, ttl: p.TtlNs,
		openedAt: p.OpenedAt, changedAt: p.ChangedAt, noted: p.Noted, notedAge: p.NotedAgeNs, notedAt: p.NotedAt, wish: p.Wish,
		leads: map[string]*scope{}, drained: map[string]*scope{},
	}
	for _, st := range p.Stands {
		s.stands = append(s.stands, &logpb.Stand{Session: st.Session, Selector: st.Selector, Priority: st.Priority})
	}
	g.sessions[s.id] = s
	g.enter(s)
}

func (g *Registry) restoreScope(p *logpb.Snapshot_Scope) error {
	if p.Spec == nil {
		return fmt.Errorf("the snapshot holds a scope without its specification")
	}
	sc := &scope{
		spec: p.Spec, term: p.Term, fence: p.Fence, issuedWall: p.IssuedWallNs, resignedBy: SessionID(p.ResignedBy),
		vacantSince: int64(p.VacantSince), failover: p.Failover,
	}
	if p.Ask != nil {
		sc.ask = &ask{reason: p.Ask.Reason, to: p.Ask.ToMember, correlationID: p.Ask.CorrelationId, actor: p.Ask.Actor, why: p.Ask.Why}
	}
	g.scopes[sc.spec.Id] = sc
	if p.Leader == 0 {
		g.vacant[sc.spec.Id] = sc
		return nil
	}
	sc.leader = g.sessions[SessionID(p.Leader)]
	if sc.leader == nil {
		return fmt.Errorf("the snapshot names session %d as leader of %q, but does not hold that session", p.Leader, sc.spec.Id)
	}
	sc.leader.leads[sc.spec.Id] = sc
	sc.leader.countAsk(sc)
	return nil
}

func (h *History) restore(s *logpb.Snapshot) error {
	if err := VerifyChain(nil, s.History); err != nil {
		return err
	}
	h.records, h.nextSeq, h.head = s.History, s.NextAuditSeq, s.AuditHead
	h.floor = Cursor{Revision: s.FloorRevision, Ordinal: s.FloorOrdinal}
	for _, r := range h.records {
		h.index(r)
	}
	if last := h.Last(); last != nil && (!bytes.Equal(last.Hash, h.head) || last.Seq+1 != h.nextSeq) {
		return fmt.Errorf("the snapshot's history does not end at the head it names")
	}
	return nil
}
