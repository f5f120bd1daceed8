package host

import (
	"fmt"
	"sync"

	"github.com/omnirelay/leadership/core"
)

// Limits of what members outside of this process may take of the loop. They leave
// three quarters of the inbox to the other replicas and to this node's own callers.
const (
	// MaxAttachments bounds the attachments of one host: twice the sessions that a
	// replica tends as a door, since a call that renews once has one of its own.
	MaxAttachments = 2 * core.MaxAttached
	// maxWaiting bounds what one attachment may have waiting for the loop.
	maxWaiting = 64
	// maxAllWaiting bounds what all attachments together may.
	maxAllWaiting = maxInbox / 4
)

// Attachment is a member's connection to this host's replica.
type Attachment struct {
	host    *Host
	conn    core.ConnID
	deliver func(core.ReplicaMessage)
	waiting int  // inputs that the loop has not taken yet
	ended   bool // by Detach or Break
}

// attachments are the attachments of one host.
type attachments struct {
	mu   sync.Mutex
	next core.ConnID
	// byConn holds an attachment until the loop has taken note of its end: were the
	// place free before, a loop that hangs could be left any number of ends to take.
	byConn  map[core.ConnID]*Attachment
	waiting int // inputs of all
}

// init begins counting at a random place: an acknowledgement that was under way to a
// former life of this node finds nobody.
func (a *attachments) init() {
	a.next = core.ConnID(1<<32 + randomSeed()>>1)
	a.byConn = map[core.ConnID]*Attachment{}
}

// Attach connects a member to the replica. deliver is called, one message at a time, on
// the host's loop: it must not block, and must not call the host or the attachment.
// After Detach or Break has returned it is not called any more. The error is a *core.Error.
func (h *Host) Attach(deliver func(core.ReplicaMessage)) (*Attachment, error) {
	select {
	case <-h.done:
		return nil, errStopped
	default:
	}
	a := &h.attachments
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.byConn) >= MaxAttachments {
		return nil, &core.Error{Code: core.CodeOverloaded, Message: fmt.Sprintf("%d members are attached to this node; attach to another", MaxAttachments)}
	}
	a.next++
	at := &Attachment{host: h, conn: a.next, deliver: deliver}
	a.byConn[at.conn] = at
	return at, nil
}

// Send hands a message of the member to the replica. False when too much of this
// attachment, or of all, waits for the loop already, or after Detach: the message is
// dropped, and the member repeats what matters.
func (at *Attachment) Send(m core.MemberMessage) bool {
	a := &at.host.attachments
	a.mu.Lock()
	defer a.mu.Unlock()
	if at.ended || at.waiting >= maxWaiting || a.waiting >= maxAllWaiting {
		return false
	}
	// Within the lock: the loop may take the input at once, and then counts it back.
	if !at.host.inbox.offer(core.Input{Member: &core.MemberInput{Conn: at.conn, Message: m}}) {
		return false
	}
	at.waiting++
	a.waiting++
	return true
}

// Break ends the attachment as a connection that broke off: neither side wished it. If the
// member is not heard of by another soon, its sessions are noted silent before their time.
func (at *Attachment) Break() { at.end(core.Input{Broken: at.conn}) }

// Detach ends the attachment. The sessions that used it live on until they are silent
// for their TTL, or use another. It may be called more than once.
func (at *Attachment) Detach() { at.end(core.Input{Detached: at.conn}) }

// end ends the attachment, once.
func (at *Attachment) end(in core.Input) {
	a := &at.host.attachments
	a.mu.Lock()
	defer a.mu.Unlock()
	if at.ended {
		return
	}
	at.ended = true
	// Not to be lost, or the replica would keep a place for nobody.
	at.host.inbox.force(in)
}

// give hands a message of the replica to the attachment it is for, if there is one.
func (a *attachments) give(out core.MemberOutput) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if at := a.byConn[out.Conn]; at != nil && !at.ended {
		at.deliver(out.Message)
	}
}

// taken counts back what the loop took out of the inbox.
func (a *attachments) taken(inputs []core.Input) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := range inputs {
		switch in := &inputs[i]; {
		case in.Detached != 0:
			delete(a.byConn, in.Detached)
		case in.Broken != 0:
			delete(a.byConn, in.Broken)
		case in.Member != nil && in.Member.Conn != ownConn:
			a.waiting--
			a.byConn[in.Member.Conn].waiting-- // its end comes after all it sent
		}
	}
}
