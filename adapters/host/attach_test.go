package host

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
)

// door is what an attachment was told.
type door struct {
	mu   sync.Mutex
	told []core.ReplicaMessage
}

func (d *door) deliver(m core.ReplicaMessage) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.told = append(d.told, m)
}

func (d *door) find(want func(core.ReplicaMessage) bool) (found core.ReplicaMessage, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if i := slices.IndexFunc(d.told, want); i >= 0 {
		return d.told[i], true
	}
	return found, false
}

func (d *door) attach(t *testing.T, h *Host) *Attachment {
	t.Helper()
	at, err := h.Attach(d.deliver)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(at.Detach)
	return at
}

// open opens a session of member over at.
func (d *door) open(t *testing.T, h *Host, at *Attachment, member string) core.SessionID {
	t.Helper()
	id := "open/" + member
	sent := at.Send(core.MemberMessage{Command: &logpb.Command{RequestId: id, Kind: &logpb.Command_OpenSession{OpenSession: &logpb.OpenSession{
		MemberId: member, TtlNs: int64(time.Minute), Stands: []*logpb.Stand{{Selector: &logpb.Selector{}}}}}}})
	if !sent {
		t.Fatal("the opening was not taken")
	}
	var reply core.ReplicaMessage
	until(t, h, "the session is open", func() (ok bool) {
		reply, ok = d.find(func(m core.ReplicaMessage) bool { return m.Reply != nil && m.Reply.RequestID == id })
		return ok
	})
	if reply.Reply.Result.Code != "" {
		t.Fatalf("refused: %v", reply.Reply.Result)
	}
	return core.SessionID(reply.Reply.Result.Session)
}

func acked(session core.SessionID, number uint64) func(core.ReplicaMessage) bool {
	return func(m core.ReplicaMessage) bool {
		return m.Ack != nil && m.Ack.Session == session && m.Ack.Number == number
	}
}

func keepalive(session core.SessionID, number uint64) core.MemberMessage {
	return core.MemberMessage{Keepalive: &core.Keepalive{Session: session, Number: number}}
}

func registryOnly(o *Options) { o.Member, o.Stands, o.Core.FormationMembers = nil, nil, 0 }

func TestAttachedMemberLeads(t *testing.T) {
	all := cluster(t, 3, registryOnly)
	declare(t, all[0].Host, "a/b")
	first, second := &door{}, &door{}
	at := first.attach(t, all[0].Host)
	session := first.open(t, all[0].Host, at, "outside")
	at.Send(keepalive(session, 1))
	until(t, all[0].Host, "the keepalive is acknowledged", func() bool { _, ok := first.find(acked(session, 1)); return ok })
	until(t, all[0].Host, "the grant is shown", func() bool {
		_, ok := first.find(func(m core.ReplicaMessage) bool { return m.View != nil && len(m.View.Grants) == 1 })
		return ok
	})
	at.Detach()
	// The session goes on at another node.
	other := second.attach(t, all[1].Host)
	other.Send(keepalive(session, 2))
	until(t, all[1].Host, "the keepalive is acknowledged elsewhere", func() bool { _, ok := second.find(acked(session, 2)); return ok })
	if _, ok := first.find(acked(session, 2)); ok {
		t.Error("an acknowledgement came to the wrong node")
	}
	if token, led := all[1].Token("a/b"); !led || token.Term != 1 || token.Session != session {
		t.Errorf("token %+v", token)
	}
}

func TestAttachmentsAreKeptApart(t *testing.T) {
	h := cluster(t, 1, registryOnly)[0]
	var doors [8]door
	var wait sync.WaitGroup
	for i := range doors {
		wait.Go(func() {
			d := &doors[i]
			at := d.attach(t, h.Host)
			session := d.open(t, h.Host, at, fmt.Sprintf("m%d", i))
			for n := uint64(1); n <= 20; n++ {
				at.Send(keepalive(session, n))
				until(t, h.Host, "an acknowledgement", func() bool { _, ok := d.find(acked(session, n)); return ok })
			}
			at.Detach()
		})
	}
	wait.Wait()
	for i := range doors {
		session := core.SessionID(0)
		for _, m := range doors[i].told {
			switch {
			case m.Reply != nil:
				session = core.SessionID(m.Reply.Result.Session)
			case m.Ack != nil && m.Ack.Session != session, m.View != nil && m.View.Session != session:
				t.Errorf("door %d of session %d was told %+v", i, session, m)
			}
		}
	}
	until(t, h.Host, "all places are free", func() bool {
		h.attachments.mu.Lock()
		defer h.attachments.mu.Unlock()
		return len(h.attachments.byConn) == 0 && h.attachments.waiting == 0
	})
	var attached int
	h.View(func(_ *core.Registry, s core.Status) { attached = s.AttachedMembers })
	if attached != 0 {
		t.Errorf("the replica still has %d members attached", attached)
	}
}

// An answer that is ready only after Detach finds nobody, although the loop had taken the
// request before.
func TestNothingIsToldAfterDetach(t *testing.T) {
	h := cluster(t, 1, registryOnly)[0]
	declare(t, h.Host, "a/b")
	d := &door{}
	at := d.attach(t, h.Host)
	goOn := make(chan struct{})
	h.log.set(goOn, nil)
	if !at.Send(core.MemberMessage{Command: &logpb.Command{RequestId: "x", Kind: &logpb.Command_CloseSession{CloseSession: &logpb.CloseSession{Session: 99}}}}) {
		t.Fatal("the request was not taken")
	}
	<-h.log.hung
	at.Detach()
	h.log.set(nil, nil)
	close(goOn)
	declare(t, h.Host, "c/d")
	if _, told := d.find(func(core.ReplicaMessage) bool { return true }); told {
		t.Errorf("told %+v", d.told)
	}
	if at.Send(keepalive(1, 1)) {
		t.Error("a message was taken after Detach")
	}
}

// While the disk hangs nothing is taken: floods must leave room for others.
func TestFloodOfMembersLeavesRoom(t *testing.T) {
	h := cluster(t, 1, registryOnly)[0]
	declare(t, h.Host, "a/b")
	goOn := make(chan struct{})
	h.log.set(goOn, nil)
	done := make(chan error, 1)
	go func() {
		_, err := h.Do(within(t), &logpb.Command{RequestId: "x", Kind: &logpb.Command_Read{Read: &logpb.Read{}}})
		done <- err
	}()
	<-h.log.hung
	d := &door{}
	all := 0
	for {
		at, err := h.Attach(d.deliver)
		if err != nil {
			t.Fatal(err)
		}
		sent := 0
		for at.Send(keepalive(1, 1)) {
			sent++
		}
		all += sent
		at.Detach()
		if sent > maxWaiting {
			t.Fatalf("one attachment has %d inputs waiting", sent)
		}
		if sent == 0 {
			break
		}
	}
	if all != maxAllWaiting {
		t.Errorf("%d inputs wait, want %d", all, maxAllWaiting)
	}
	// Attaching and leaving without end leaves no more behind than there are places.
	var refused *core.Error
	for range 2 * MaxAttachments {
		at, err := h.Attach(d.deliver)
		if err != nil {
			errors.As(err, &refused)
			break
		}
		at.Detach()
	}
	if refused == nil || refused.Code != core.CodeOverloaded {
		t.Errorf("more than %d attachments: %v", MaxAttachments, refused)
	}
	h.inbox.mu.Lock()
	waiting := len(h.inbox.inputs)
	h.inbox.mu.Unlock()
	if waiting > maxAllWaiting+MaxAttachments {
		t.Errorf("%d inputs wait for the loop", waiting)
	}
	h.log.set(nil, nil)
	close(goOn)
	if err := <-done; err != nil {
		t.Errorf("a caller of this node: %v", err)
	}
	until(t, h.Host, "the places are free again", func() bool {
		h.attachments.mu.Lock()
		defer h.attachments.mu.Unlock()
		return len(h.attachments.byConn) == 0 && h.attachments.waiting == 0
	})
}

func TestAttachToAStoppedHost(t *testing.T) {
	h := cluster(t, 1, registryOnly)[0]
	if err := h.end(); err != nil {
		t.Fatal(err)
	}
	_, err := h.Attach(func(core.ReplicaMessage) {})
	var refused *core.Error
	if !errors.As(err, &refused) || refused.Code != core.CodeHalted {
		t.Errorf("got %v", err)
	}
}
