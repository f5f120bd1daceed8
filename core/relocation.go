package core

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/raft/v3/confchange"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/core/logpb"
)

// JumpAhead is what an operator's jump adds to every number that must not be given
// twice: far more than a store can have forgotten, and little beside the 2^53 that
// JSON can carry.
const JumpAhead uint64 = 1 << 32

// Relocation says how a registry goes on in another log: after a loss, or in a migration.
type Relocation struct {
	// Ahead is added to the next fence, the next session id and the revision:
	// JumpAhead when entries may be missing, 0 when the log is known to be whole.
	Ahead uint64
	// LongestTTL is the longest TTL that a session may have had of which this
	// registry does not know; 0: it knows all.
	LongestTTL time.Duration
	// Voters are the replicas that go on; nil: those of before.
	Voters []NodeID
	// Actor and CorrelationID go into the audit trail, WallNs too: Unix nanoseconds.
	Actor, CorrelationID string
	WallNs               int64
}

// beyond is n, or what lies beyond all that may have been given, when something may
// be missing. The wall clock counts too: a backup of before an earlier jump would
// else be lifted to what that jump has given already. 2^20 numbers a second are more
// than any registry gives, and stay below 2^53 until the year 2242.
func (m *Relocation) beyond(n uint64) uint64 {
	if m.Ahead == 0 {
		return n
	}
	return max(n+m.Ahead, uint64(max(m.WallNs, 0))/1_000_000_000<<20)
}

// Relocate makes the registry ready to go on in another log, at a revision of its own.
// Every session ends, since its keeper and its notes stay behind, and elections
// wait for as long as the members of before may believe that they lead. Fences,
// terms of scopes, kept replies and the audit chain go on. It returns the records
// of what ended.
func (g *Registry) Relocate(m Relocation) []*Record {
	g.revision = m.beyond(g.revision) + 1
	g.nextFence = m.beyond(g.nextFence)
	g.nextSession = SessionID(m.beyond(uint64(g.nextSession)))
	g.entry = &logpb.Entry{WallNs: m.WallNs}
	g.command = &logpb.Command{CorrelationId: m.CorrelationID, Actor: m.Actor}
	g.ordinal, g.outcome = 0, &Outcome{Revision: g.revision}
	g.wait = max(g.wait, g.longestTTL, int64(m.LongestTTL))
	g.forming = true
	g.formation++
	for _, id := range sortedKeys(g.sessions) {
		g.end(g.sessions[id], EventExpired, ReasonMoved)
	}
	clear(g.observed) // by the gossip of before
	// The other log counts terms of its own.
	g.keeperTerm, g.keeperNumber = 0, 0
	if m.Voters != nil {
		g.voters = slices.Clone(m.Voters)
		clear(g.versions)
	}
	g.relocateNodes()
	if m.Ahead > 0 {
		// A stream may have told of what was lost: it begins anew.
		g.history.floor = Cursor{Revision: g.revision}
	}
	records := g.outcome.Records
	g.entry, g.command, g.outcome = nil, nil, nil
	return records
}

// StoredLog is the registry as the whole content of an external store: what
// StoreReplace writes there.
func (g *Registry) StoredLog(term, generation uint64, identity string) (*Lead, *StoredSnapshot, error) {
	data, err := marshalSnapshot(g.Snapshot())
	if err != nil {
		return nil, nil, err
	}
	chain := ChainEntry(nil, g.revision, term, data)
	lead := &Lead{
		Schema: StoreSchema, ClusterId: g.clusterID, Term: term, Last: g.revision, Chain: chain, Identity: identity, Generation: generation,
	}
	return lead, &StoredSnapshot{Index: g.revision, Term: term, Chain: chain, Data: data}, nil
}

// RaftLog is the registry as what every one of voters starts a raft log from.
func (g *Registry) RaftLog(voters []NodeID) (*raftpb.Snapshot, error) {
	data, err := marshalSnapshot(g.Snapshot())
	if err != nil {
		return nil, err
	}
	return FirstRaftSnapshot(voters, g.revision, data), nil
}

// LogReader rebuilds a registry from an external store, fetch by fetch.
type LogReader struct {
	registry *Registry
	end      place
	lead     *Lead
	identity string
}

// NewLogReader returns a reader that has read nothing.
func NewLogReader() *LogReader { return &LogReader{registry: NewRegistry(0)} }

// Next is the call to make.
func (l *LogReader) Next() *StoreFetch {
	return &StoreFetch{After: l.end.index, MaxBytes: MaxFetchBytes}
}

// Take takes the answer, and reports whether that was the end of the log.
func (l *LogReader) Take(reply *StoreReply) (done bool, err error) {
	if reply.Status != StoreOK {
		return false, fmt.Errorf("the store does not answer: %s", reply.Text)
	}
	if reply.Lead == nil {
		return false, errors.New("the store holds no registry")
	}
	l.lead, l.identity = reply.Lead, reply.Identity
	if s := reply.Snapshot; s != nil && s.Index > l.end.index {
		snap := &logpb.Snapshot{}
		if err := proto.Unmarshal(s.Data, snap); err != nil {
			return false, fmt.Errorf("the snapshot at entry %d does not decode: %w", s.Index, err)
		}
		if l.registry, err = Restore(snap, 0); err != nil {
			return false, err
		}
		l.end = place{index: s.Index, term: s.Term, chain: s.Chain}
	}
	for _, e := range reply.Entries {
		if e.Index != l.end.index+1 || string(e.Chain) != string(ChainEntry(l.end.chain, e.Index, e.Term, e.Data)) {
			return false, fmt.Errorf("entry %d does not follow entry %d: entries are missing or were changed", e.Index, l.end.index)
		}
		if _, err := l.registry.Apply(e.Index, e.Term, e.Data); err != nil {
			return false, fmt.Errorf("entry %d: %w", e.Index, err)
		}
		l.end = place{index: e.Index, term: e.Term, chain: e.Chain}
	}
	if len(reply.Entries) == 0 && l.end.index < l.lead.Last {
		return false, fmt.Errorf("the store says that it ends at entry %d and holds none after %d", l.lead.Last, l.end.index)
	}
	return l.end.index == l.lead.Last, nil
}

// Registry is what was read, the lead record it was read under, and the server.
func (l *LogReader) Registry() (g *Registry, lead *Lead, identity string) {
	return l.registry, l.lead, l.identity
}

// Position is where the log ended when it was last read.
func (l *LogReader) Position() Position { return positionOf(l.lead) }

// ReadRaftLog rebuilds a registry from what one replica's raft log holds, with the
// entries that it does not know to be committed: of a majority of replicas, the
// one whose log reaches furthest (last term, then last index) holds everything
// that was acknowledged (Ongaro 2014, section 3.6.1).
func ReadRaftLog(boot Boot) (g *Registry, lastTerm, lastIndex uint64, err error) {
	g = NewRegistry(0)
	if data := boot.Snapshot.GetData(); len(data) > 0 {
		snap := &logpb.Snapshot{}
		if err := proto.Unmarshal(data, snap); err != nil {
			return nil, 0, 0, fmt.Errorf("the snapshot does not decode: %w", err)
		}
		if g, err = Restore(snap, 0); err != nil {
			return nil, 0, 0, err
		}
	}
	lastTerm, lastIndex = boot.Snapshot.GetMetadata().GetTerm(), boot.Snapshot.GetMetadata().GetIndex()
	members := boot.Snapshot.GetMetadata().GetConfState()
	for _, e := range boot.Entries {
		if e.GetIndex() <= lastIndex {
			continue
		}
		if members.GetVoters() == nil && len(g.voters) > 0 { // the log began without a snapshot
			members = FirstRaftSnapshot(g.voters, firstIndex, nil).GetMetadata().GetConfState()
		}
		if e.GetType() == raftpb.EntryConfChangeV2 {
			members, err = g.readChange(members, e)
		} else {
			_, err = g.Apply(e.GetIndex(), e.GetTerm(), e.GetData())
		}
		if err != nil {
			return nil, 0, 0, fmt.Errorf("entry %d: %w", e.GetIndex(), err)
		}
		lastTerm, lastIndex = e.GetTerm(), e.GetIndex()
	}
	return g, lastTerm, lastIndex, nil
}

// readChange applies an entry that changes the members of a raft log, where no raft runs.
func (g *Registry) readChange(members *raftpb.ConfState, e *raftpb.Entry) (*raftpb.ConfState, error) {
	change := &raftpb.ConfChangeV2{}
	if err := proto.Unmarshal(e.GetData(), change); err != nil {
		return nil, err
	}
	made := tracker.MakeProgressTracker(1, 0)
	config, progress, err := confchange.Restore(confchange.Changer{Tracker: made}, raftpb.EnsureConfState(members))
	if err != nil {
		return nil, err
	}
	made.Config, made.Progress = config, progress
	changer := confchange.Changer{Tracker: made}
	if change.LeaveJoint() {
		config, _, err = changer.LeaveJoint()
	} else if autoLeave, joint := change.EnterJoint(); joint {
		config, _, err = changer.EnterJoint(autoLeave, change.GetChanges()...)
	} else {
		config, _, err = changer.Simple(change.GetChanges()...)
	}
	if err != nil {
		return nil, err
	}
	made.Config = config
	members = made.ConfState()
	_, err = g.ApplyMembers(e.GetIndex(), change.GetContext(), membersOf(members))
	g.outgoing = len(members.GetVotersOutgoing()) > 0
	return members, err
}

// ChangingVoters reports whether the log that the registry was read from is amid a step in
// which two majorities decide.
func (g *Registry) ChangingVoters() bool { return g.outgoing }
