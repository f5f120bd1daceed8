package wire

import (
	"fmt"
	"slices"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/omnirelay/leadership/core"
)

// travels holds the kinds of raft message that go between nodes. Most others are
// what a raft instance tells itself; from outside they could make it campaign or
// believe its log durable. MsgProp is not here because commands travel as Proposal,
// and MsgTransferLeader because only the registrar hands its own office over (and a
// node that would forward one panics in raft).
var travels = map[raftpb.MessageType]bool{
	raftpb.MsgApp: true, raftpb.MsgAppResp: true,
	raftpb.MsgVote: true, raftpb.MsgVoteResp: true,
	raftpb.MsgPreVote: true, raftpb.MsgPreVoteResp: true,
	raftpb.MsgHeartbeat: true, raftpb.MsgHeartbeatResp: true,
	raftpb.MsgReadIndex: true, raftpb.MsgReadIndexResp: true,
	raftpb.MsgTimeoutNow: true, raftpb.MsgSnap: true,
}

// checkRaft refuses what raft would panic on or misread. It knows the message, not
// the log it meets: a well-formed lie of a node of the cluster is not its business.
func checkRaft(m *raftpb.Message, from, to core.NodeID) error {
	switch {
	case !travels[m.GetType()]:
		return malformed("raft.type", "%s does not travel between nodes", m.GetType())
	case m.GetFrom() != uint64(from):
		return malformed("raft.from", "is %d in a message from node %d", m.GetFrom(), from)
	case m.GetTo() != uint64(to):
		return malformed("raft.to", "is %d in a message to node %d", m.GetTo(), to)
	case len(m.GetResponses()) > 0:
		return malformed("raft.responses", "never travel between nodes")
	}
	if err := checkTerm(m); err != nil {
		return err
	}
	if err := checkContext(m); err != nil {
		return err
	}
	if err := checkEntries(m); err != nil {
		return err
	}
	return checkSnapshot(m)
}

// checkTerm: to raft a message without a term is its own, exempt from every check of
// terms; only a MsgReadIndex comes so, and raft panics when it forwards one with a term.
func checkTerm(m *raftpb.Message) error {
	local := m.GetType() == raftpb.MsgReadIndex
	if local && m.GetTerm() != 0 {
		return malformed("raft.term", "of MsgReadIndex is %d, want none", m.GetTerm())
	}
	if !local && m.GetTerm() == 0 {
		return malformed("raft.term", "of %s is 0, terms count from 1", m.GetType())
	}
	return nil
}

// checkContext: raft reads eight bytes out of the context of a heartbeat's answer
// without looking how many there are.
func checkContext(m *raftpb.Message) error {
	n := len(m.GetContext())
	beat := m.GetType() == raftpb.MsgHeartbeat || m.GetType() == raftpb.MsgHeartbeatResp
	if beat && n != 0 && n != 8 {
		return malformed("raft.context", "of %s has %d bytes, want none or 8", m.GetType(), n)
	}
	if n > MaxRaftContext {
		return malformed("raft.context", "has %d bytes, at most %d are allowed", n, MaxRaftContext)
	}
	return nil
}

func checkEntries(m *raftpb.Message) error {
	n := len(m.GetEntries())
	switch m.GetType() {
	case raftpb.MsgApp:
		if n > MaxRaftEntries {
			return malformed("raft.entries", "are %d, at most %d are allowed", n, MaxRaftEntries)
		}
		return checkConsecutive(m)
	case raftpb.MsgReadIndex, raftpb.MsgReadIndexResp:
		if n != 1 {
			return malformed("raft.entries", "of %s are %d, want exactly one", m.GetType(), n)
		}
	default:
		if n != 0 {
			return malformed("raft.entries", "of %s are %d, want none", m.GetType(), n)
		}
	}
	return nil
}

// checkConsecutive: entries follow the place the message names, one index each,
// in terms that never go back and never pass the sender's own.
func checkConsecutive(m *raftpb.Message) error {
	index, term := m.GetIndex(), max(m.GetLogTerm(), 1)
	for i, e := range m.GetEntries() {
		index++
		if index == 0 || e.GetIndex() != index {
			return malformed(fmt.Sprintf("raft.entries[%d].index", i), "is %d, want %d", e.GetIndex(), index)
		}
		if e.GetTerm() < term || e.GetTerm() > m.GetTerm() {
			return malformed(fmt.Sprintf("raft.entries[%d].term", i), "is %d, want %d to %d", e.GetTerm(), term, m.GetTerm())
		}
		term = e.GetTerm()
	}
	return nil
}

func checkSnapshot(m *raftpb.Message) error {
	s := m.GetSnapshot()
	meta := s.GetMetadata()
	if m.GetType() != raftpb.MsgSnap {
		if meta.GetIndex() != 0 || len(s.GetData()) > 0 {
			return malformed("raft.snapshot", "of %s is set, want none", m.GetType())
		}
		return nil
	}
	switch {
	case meta.GetIndex() == 0:
		return malformed("raft.snapshot.metadata.index", "is 0, want the last index it covers")
	case meta.GetTerm() == 0 || meta.GetTerm() > m.GetTerm():
		return malformed("raft.snapshot.metadata.term", "is %d, want 1 to %d", meta.GetTerm(), m.GetTerm())
	case len(s.GetData()) > core.MaxSnapshotBytes:
		return malformed("raft.snapshot.data", "has %d bytes, at most %d are allowed", len(s.GetData()), core.MaxSnapshotBytes)
	}
	return checkVoters(meta.GetConfState())
}

func checkVoters(c *raftpb.ConfState) error {
	const field = "raft.snapshot.metadata.conf_state"
	if n := len(c.GetVoters()); n == 0 || n > core.MaxReplicas {
		return malformed(field+".voters", "are %d, want 1 to %d", n, core.MaxReplicas)
	}
	if n := len(c.GetVotersOutgoing()); n > core.MaxReplicas {
		return malformed(field+".voters_outgoing", "are %d, at most %d are allowed", n, core.MaxReplicas)
	}
	if c.GetAutoLeave() && len(c.GetVotersOutgoing()) == 0 {
		return malformed(field+".auto_leave", "is set without outgoing voters")
	}
	if n := len(c.GetLearners()) + len(c.GetLearnersNext()); n > core.MaxNodes {
		return malformed(field+".learners", "are %d, at most %d are allowed", n, core.MaxNodes)
	}
	for _, set := range []struct {
		name string
		ids  []uint64
	}{
		{"voters", c.GetVoters()}, {"voters_outgoing", c.GetVotersOutgoing()},
		{"learners", append(slices.Clone(c.GetVoters()), c.GetLearners()...)},
		{"learners_next", append(slices.Clone(c.GetLearners()), c.GetLearnersNext()...)},
	} {
		if err := checkSet(field+"."+set.name, set.ids); err != nil {
			return err
		}
	}
	return checkLearnersNext(c)
}

// checkSet: no id is 0 or there twice.
func checkSet(field string, ids []uint64) error {
	seen := make(map[uint64]bool, len(ids))
	for i, id := range ids {
		if id == 0 || seen[id] {
			return malformed(fmt.Sprintf("%s[%d]", field, i), "is %d: zero or a repetition", id)
		}
		seen[id] = true
	}
	return nil
}

// checkLearnersNext: who is to become a learner is a voter of before, and of now no more.
func checkLearnersNext(c *raftpb.ConfState) error {
	for i, id := range c.GetLearnersNext() {
		if !slices.Contains(c.GetVotersOutgoing(), id) || slices.Contains(c.GetVoters(), id) {
			return malformed(fmt.Sprintf("raft.snapshot.metadata.conf_state.learners_next[%d]", i), "is %d, which is no outgoing voter", id)
		}
	}
	for i, id := range c.GetLearners() {
		if slices.Contains(c.GetVotersOutgoing(), id) {
			return malformed(fmt.Sprintf("raft.snapshot.metadata.conf_state.learners[%d]", i), "is %d, which is an outgoing voter", id)
		}
	}
	return nil
}

func checkRaftSize(m *raftpb.Message, size int) error {
	limit := MaxRaftMessageBytes
	if m.GetType() == raftpb.MsgSnap {
		limit = MaxMessageBytes
	}
	if size > limit {
		return malformed("raft", "of %s has %d bytes, at most %d are allowed", m.GetType(), size, limit)
	}
	return nil
}
