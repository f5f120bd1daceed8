package core

import (
	"github.com/omnirelay/leadership/core/logpb"
	"github.com/omnirelay/leadership/core/plant"
)

// attachments are the members that use this replica as their door. A door keeps
// nothing of a keepalive; it passes it to the registrar, passes the answer back,
// and tells the member what it leads from its own copy of the registry.
type attachments struct {
	bySession map[SessionID]*attachment
	pending   map[SessionID]bool // views to look at
	behind    map[SessionID]bool // views that wait until this copy has caught up
}

type attachment struct {
	conn ConnID
	// cursor is the highest revision the member has seen anywhere. Until this copy
	// has caught up with it, the door says nothing about grants.
	cursor uint64
	// seen is the revision of the view that the member says it has, sent that of
	// the latest view sent.
	seen, sent uint64
	lastHeard  Time
	ended      bool // the end of the session was told
}

func newAttachments() attachments {
	return attachments{bySession: map[SessionID]*attachment{}, pending: map[SessionID]bool{}, behind: map[SessionID]bool{}}
}

func (a *attachments) dirty() bool { return len(a.pending) > 0 }

func (a *attachments) mark(id SessionID) {
	if a.bySession[id] != nil {
		a.pending[id] = true
	}
}

func (a *attachments) markAll() {
	for _, id := range sortedKeys(a.bySession) {
		a.pending[id] = true
	}
}

// detach forgets a connection, and returns the sessions that used it.
func (a *attachments) detach(conn ConnID) (sessions []SessionID) {
	for _, id := range sortedKeys(a.bySession) {
		if a.bySession[id].conn == conn {
			delete(a.bySession, id)
			delete(a.pending, id)
			sessions = append(sessions, id)
		}
	}
	return sessions
}

// attach finds or makes the attachment of a session. When all places are taken,
// the one that was silent longest gives way.
func (a *attachments) attach(now Time, id SessionID, conn ConnID) *attachment {
	at := a.bySession[id]
	if at == nil {
		if len(a.bySession) >= MaxAttached {
			a.evict()
		}
		at = &attachment{}
		a.bySession[id] = at
	}
	if at.conn != conn {
		at.conn, at.sent, at.ended = conn, 0, false
	}
	at.lastHeard = now
	return at
}

func (a *attachments) evict() {
	var victim SessionID
	for _, id := range sortedKeys(a.bySession) {
		if victim == 0 || a.bySession[id].lastHeard < a.bySession[victim].lastHeard {
			victim = id
		}
	}
	delete(a.bySession, victim)
	delete(a.pending, victim)
}

// receiveMember takes a message of an attached member.
func (r *Replica) receiveMember(in *MemberInput) {
	switch {
	case in.Message.Keepalive != nil:
		r.receiveKeepalive(in.Conn, in.Message.Keepalive)
	case in.Message.Command != nil:
		r.receiveCommand(in.Conn, in.Message.Command)
	}
}

func (r *Replica) receiveKeepalive(conn ConnID, k *Keepalive) {
	at := r.attached.attach(r.now, k.Session, conn)
	at.cursor = max(at.cursor, k.Cursor)
	at.seen = k.ViewRevision
	if at.sent > at.seen {
		at.sent = at.seen // what was sent may be lost: the member does not have it
	}
	at.ended = false
	r.attached.mark(k.Session)
	forward := &KeepaliveForward{Session: k.Session, Number: k.Number, Conn: conn, Claims: k.Claims}
	switch {
	case r.leading:
		r.receiveForwarded(r.cfg.ID, forward)
	case r.lead != 0:
		r.out.Messages = append(r.out.Messages, Message{From: r.cfg.ID, To: r.lead, Keepalive: forward})
	}
}

// receiveForwarded takes a keepalive as the registrar. A deposed one that still believes
// to be it does no harm by that.
func (r *Replica) receiveForwarded(from NodeID, k *KeepaliveForward) {
	if overtaken := r.keeper.Receive(r.now, from, k); !overtaken {
		r.claimed(k)
	}
}

// receiveCommand takes a command that concerns the member's own session.
func (r *Replica) receiveCommand(conn ConnID, c *logpb.Command) {
	w := waiter{conn: conn, member: true}
	switch c.Kind.(type) {
	case *logpb.Command_OpenSession, *logpb.Command_CloseSession, *logpb.Command_Stand, *logpb.Command_Withdraw, *logpb.Command_Resign:
		r.accept(c, w)
	default:
		r.reply(w, c.RequestId, errorResult(invalid("kind", "%T is not a member's command", c.Kind)))
	}
}

// sendViews tells attached members what changed for them.
func (r *Replica) sendViews() {
	if r.journal.doubtful() {
		clear(r.attached.pending) // all are looked at again when the log was read anew
		return
	}
	for _, id := range sortedKeys(r.attached.pending) {
		at := r.attached.bySession[id]
		if at == nil {
			delete(r.attached.pending, id)
			continue
		}
		if r.registry.Revision() < at.cursor && !r.cfg.Plants.Has(plant.BelieveGivenUp) {
			r.attached.behind[id] = true
			delete(r.attached.pending, id)
			continue
		}
		delete(r.attached.pending, id)
		r.sendView(id, at)
	}
}

// caughtUp looks again at the views that waited, after an entry was applied.
func (a *attachments) caughtUp() {
	for _, id := range sortedKeys(a.behind) {
		a.pending[id] = true
	}
	clear(a.behind)
}

func (r *Replica) sendView(id SessionID, at *attachment) {
	v, known := r.registry.View(id)
	if !known || (!v.Live && at.ended) {
		return
	}
	if v.Live {
		s := r.registry.sessions[id]
		if s.changedAt <= max(at.seen, at.sent) {
			return
		}
	}
	at.sent, at.ended = v.Revision, !v.Live
	r.out.Members = append(r.out.Members, MemberOutput{Conn: at.conn, Message: ReplicaMessage{View: v}})
}
