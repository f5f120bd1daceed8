package sim

import (
	"cmp"
	"maps"
	"slices"

	"github.com/omnirelay/leadership/core"
)

// conn is a member's attachment to one incarnation of one replica, over the same
// faulty network as everything else.
type conn struct {
	w       *World
	id      core.ConnID
	member  *member
	life    int // incarnation of the member's process
	replica *replica
	era     int // incarnation of the replica's process
}

// attach connects a member to a replica.
func (w *World) attach(m *member, r *replica) {
	w.conns++
	c := &conn{w: w, id: core.ConnID(w.conns), member: m, life: m.incarnation, replica: r, era: r.incarnation}
	m.conn = c
	if r.up {
		r.conns[c.id] = c
	}
	w.tracef(m.member, "%s attaches to %s", m.processName(), r.name)
	w.after(w.network.delay(), func() {
		if c.current() {
			m.heardAt = w.now
			m.receive(memberInput{attached: true})
		}
	})
}

// current reports whether the member still uses this attachment.
func (c *conn) current() bool {
	return c.member.up && c.member.conn == c && c.member.incarnation == c.life
}

// toReplica carries a member's message.
func (c *conn) toReplica(m core.MemberMessage) {
	c.w.network.send(c.member.at, c.replica.at, func() {
		if !c.replica.up || c.replica.incarnation != c.era {
			return
		}
		d := &c.w.digest
		d.words(uint64(c.w.now), uint64(c.id), 5)
		if m.Keepalive != nil {
			d.words(uint64(m.Keepalive.Session), m.Keepalive.Number)
			c.w.checks.heard(c.w.now, m.Keepalive.Session)
		}
		if m.Command != nil {
			d.text(m.Command.RequestId)
		}
		c.replica.receive(core.Input{Member: &core.MemberInput{Conn: c.id, Message: m}})
	})
}

// toMember carries a replica's message.
func (c *conn) toMember(m core.ReplicaMessage) {
	c.w.network.send(c.replica.at, c.member.at, func() {
		if !c.current() {
			return
		}
		d := &c.w.digest
		d.words(uint64(c.w.now), uint64(c.id), 6)
		if m.View != nil {
			d.words(m.View.Revision, uint64(len(m.View.Grants)))
		}
		if m.Ack != nil {
			d.words(uint64(m.Ack.Session), m.Ack.Number)
		}
		c.member.heardAt = c.w.now
		c.member.receive(memberInput{message: &m})
	})
}

// detach tells the replica that the connection ended. The notice may be lost.
func (c *conn) detach() { c.end(false) }

// end is detach, or, when the member's process took the connection with it, the notice
// that it broke.
func (c *conn) end(broken bool) {
	r := c.replica
	ending := core.Input{Detached: c.id}
	if broken && c.w.gossip.on() {
		ending = core.Input{Broken: c.id}
	}
	c.w.network.send(c.member.at, r.at, func() {
		if r.up && r.incarnation == c.era {
			delete(r.conns, c.id)
			r.receive(ending)
		}
	})
}

// replicaDied tells the member that the other end is gone, when it hears of it.
func (c *conn) replicaDied() {
	if c.w.network.chance(200) {
		return
	}
	c.w.network.send(c.replica.at, c.member.at, func() {
		if c.current() {
			c.member.reconnect()
		}
	})
}

func sortedConns(conns map[core.ConnID]*conn) []*conn {
	return slices.SortedFunc(maps.Values(conns), func(a, b *conn) int { return cmp.Compare(a.id, b.id) })
}
