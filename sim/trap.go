package sim

import (
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
)

// trap plays one rare schedule to its end: a registrar's cancel of a note and its
// next note for the same session are committed late and together, just when the
// member is heard again, and the cancel of that second note is lost with the
// registrar's office. Chance meets it once in thousands of runs.
type trap struct {
	stage     trapStage
	registrar *replica
	session   core.SessionID
	noteAt    uint64   // index of the second note
	held      []func() // answers to the registrar's appends, kept back
}

type trapStage uint8

const (
	trapOff    trapStage = iota
	trapLaid             // waits for a cancel to be sent
	trapNote             // keeps answers back until a second note is sent
	trapCancel           // and until that note's cancel is sent
	trapLost             // the second cancel vanishes
)

// spring lets the trap see a message; true: it is taken off the network.
func (t *trap) spring(n *nemesis, r *replica, m *core.Message) bool {
	switch {
	case t.stage == trapOff:
		return false
	case t.stage == trapLaid:
		t.catch(n, r, m.Raft)
		return false
	case m.To == t.registrar.id && m.Raft.GetType() == raftpb.MsgAppResp && t.stage != trapLost:
		t.keepBack(n, r, *m)
		return true
	case r != t.registrar:
		return false
	}
	if t.stage == trapNote {
		if index, ok := decisionFor(m.Raft, logpb.KeeperDecision_KIND_NOTE, t.session); ok {
			t.stage, t.noteAt = trapCancel, index
		}
	}
	if index, ok := decisionFor(m.Raft, logpb.KeeperDecision_KIND_CANCEL, t.session); ok && t.stage == trapCancel && index > t.noteAt {
		t.lose(n)
	}
	return t.stage == trapLost && lastIndex(m.Raft) > t.noteAt
}

// catch begins at a registrar's cancel: its member is silenced until just after
// the next note is due.
func (t *trap) catch(n *nemesis, r *replica, m *raftpb.Message) {
	for _, member := range n.w.members {
		if !member.up || member.session == 0 {
			continue
		}
		if _, ok := decisionFor(m, logpb.KeeperDecision_KIND_CANCEL, member.session); ok {
			*t = trap{stage: trapNote, registrar: r, session: member.session}
			n.w.tracef(r.name, "the trap closes on session %d", t.session)
			n.pause(&member.process, core.NoteAfter(n.w.scenario.TTL.D())+time.Duration(10+n.rng.IntN(60))*ms)
			n.w.after(n.w.scenario.TTL.D(), func() { t.end() })
			return
		}
	}
}

func (t *trap) keepBack(n *nemesis, from *replica, m core.Message) {
	to := t.registrar
	t.held = append(t.held, func() {
		n.w.network.send(from.at, to.at, func() { to.receive(core.Input{Message: &m}) })
	})
}

// lose lets the answers through when a quorum has confirmed the office once more,
// and then ends the office and the member.
func (t *trap) lose(n *nemesis) {
	t.stage = trapLost
	registrar, session := t.registrar, t.session
	n.w.tracef(registrar.name, "the trap: the second cancel is lost")
	n.w.after(15*ms, t.release)
	n.w.after(200*ms, func() {
		if n.over {
			return
		}
		n.isolate(registrar, 2*sec)
		for _, m := range n.w.members {
			if m.up && m.session == session {
				n.cutLinks(n.linksOf(m), 3*sec)
			}
		}
	})
}

func (t *trap) release() {
	for _, deliver := range t.held {
		deliver()
	}
	t.held = nil
}

func (t *trap) end() {
	t.release()
	*t = trap{}
}

// decisionFor finds a keeper's decision on a session in an append, and its index.
func decisionFor(m *raftpb.Message, kind logpb.KeeperDecision_Kind, id core.SessionID) (index uint64, ok bool) {
	if m.GetType() != raftpb.MsgApp {
		return 0, false
	}
	for _, e := range m.GetEntries() {
		d := new(logpb.Entry)
		if e.GetType() != raftpb.EntryNormal || proto.Unmarshal(e.GetData(), d) != nil {
			continue
		}
		for _, c := range d.Commands {
			if k := c.GetKeeper(); k.GetKind() == kind && core.SessionID(k.GetSession()) == id {
				return e.GetIndex(), true
			}
		}
	}
	return 0, false
}

func lastIndex(m *raftpb.Message) uint64 {
	if n := len(m.GetEntries()); n > 0 {
		return m.GetEntries()[n-1].GetIndex()
	}
	return 0
}
