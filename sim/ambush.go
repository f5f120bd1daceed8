package sim

import (
	"slices"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
)

// ambushes are faults that wait for their moment: some rules of the protocol
// matter only in a window of a few milliseconds that random faults hardly meet.
type ambushes struct {
	atDecision time.Duration // black-hole whoever sends a keeper's decision; 0: not laid
	atExpiry   time.Duration // the same, for an expiry
	atCheck    time.Duration // pause whoever asks a quorum whether it still leads; 0: not laid
	atVote     bool          // crash whoever is about to make a vote durable
	atAppend   time.Duration // hold up an append to the store; 0: not laid
	atMembers  time.Duration // split the replicas when a registrar gains or loses voters; 0: not laid
	trap       trap
	hasty      bool // the next process that comes back does so at once
	holes      map[core.NodeID]int
}

// intercept sees every message that a replica sends and reports whether it is
// swallowed.
func (n *nemesis) intercept(r *replica, m *core.Message) bool {
	if m.Raft == nil {
		return false
	}
	if n.splitAtMembers(r, m) || n.trap.spring(n, r, m) {
		return true
	}
	switch {
	case n.atExpiry > 0 && carries(m.Raft, isExpiry):
		d := n.atExpiry
		n.atExpiry = 0
		n.blackHole(r, d)
	case n.atDecision > 0 && carries(m.Raft, isDecision):
		d := n.atDecision
		n.atDecision = 0
		n.blackHole(r, d)
		return n.rng.IntN(2) == 0
	case n.atCheck > 0 && m.Raft.GetType() == raftpb.MsgHeartbeat && len(m.Raft.GetContext()) > 0:
		d := n.atCheck
		n.atCheck = 0
		n.w.after(0, func() { n.pauseAtCheck(r, d) })
	}
	return n.holes[r.id] > 0 && len(m.Raft.GetEntries()) > 0
}

func isDecision(c *logpb.Command) bool { return c.GetKeeper() != nil }

func isExpiry(c *logpb.Command) bool {
	return c.GetKeeper().GetKind() == logpb.KeeperDecision_KIND_EXPIRE
}

// carries reports whether an append carries such a command.
func carries(m *raftpb.Message, such func(*logpb.Command) bool) bool {
	return slices.ContainsFunc(m.GetEntries(), func(e *raftpb.Entry) bool {
		return e.GetType() == raftpb.EntryNormal && dataCarries(e.GetData(), such)
	})
}

func dataCarries(data []byte, such func(*logpb.Command) bool) bool {
	d := new(logpb.Entry)
	return proto.Unmarshal(data, d) == nil && slices.ContainsFunc(d.Commands, such)
}

// blackHole lets a replica's small messages through and none that carries
// entries, as a path with a broken MTU does. Afterwards it is often cut off.
func (n *nemesis) blackHole(r *replica, d time.Duration) {
	n.w.tracef(r.name, "its appends vanish for %v", d)
	// Its heartbeats arrive, so nobody replaces it, and nothing can be elected.
	n.w.health.troubled = max(n.w.health.troubled, n.w.now+int64(d))
	if n.holes == nil {
		n.holes = map[core.NodeID]int{}
	}
	n.holes[r.id]++
	r.slow++
	n.lasting(d, func() {
		n.holes[r.id]--
		r.slow--
		if !n.over && n.rng.IntN(3) > 0 {
			n.isolate(r, time.Duration(500+n.rng.IntN(1500))*ms)
		}
	})
}

// pauseAtCheck stops a registrar that waits for its quorum, lets the answers come
// in, and keeps from it that it was deposed meanwhile.
func (n *nemesis) pauseAtCheck(r *replica, d time.Duration) {
	if n.over {
		return
	}
	n.w.tracef(r.name, "is paused for %v amid a check, and cut off", d)
	n.pause(&r.process, d)
	n.w.after(2*n.w.network.quality.DelayMax, func() {
		if !n.over {
			n.isolateAmongReplicas(r, d+200*ms)
		}
	})
}

// crashAtVote reports whether a replica dies while it makes b durable.
func (n *nemesis) crashAtVote(d *disk, b *core.Batch) bool {
	if !n.atVote || b.HardState == nil || b.HardState.GetVote() == 0 || b.HardState.GetVote() == uint64(d.replica) {
		return false
	}
	if d.hardState != nil && d.hardState.GetVote() == b.HardState.GetVote() && d.hardState.GetTerm() == b.HardState.GetTerm() {
		return false
	}
	n.atVote = false
	n.hasty = true
	n.w.stats.Crashes++
	return true
}
