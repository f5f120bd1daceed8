package api

import (
	"sync"
	"testing"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/wire/controlpb"
)

// endings counts how attachments end.
type endings struct {
	mu               sync.Mutex
	broken, detached int
}

// watchedAttachment is an attachment whose first ending is counted.
type watchedAttachment struct {
	Attachment
	endings *endings
	once    sync.Once
}

func (a *watchedAttachment) Break() {
	a.Attachment.Break()
	a.ended(func(e *endings) { e.broken++ })
}

func (a *watchedAttachment) Detach() {
	a.Attachment.Detach()
	a.ended(func(e *endings) { e.detached++ })
}

func (a *watchedAttachment) ended(count func(*endings)) {
	a.once.Do(func() {
		a.endings.mu.Lock()
		defer a.endings.mu.Unlock()
		count(a.endings)
	})
}

func (e *endings) watch(s settings) {
	attach := s.options.Attach
	s.options.Attach = func(deliver func(core.ReplicaMessage)) (Attachment, error) {
		at, err := attach(deliver)
		if err != nil {
			return nil, err
		}
		return &watchedAttachment{Attachment: at, endings: e}, nil
	}
}

func (e *endings) are(broken, detached int) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.broken == broken && e.detached == detached
}

// Only a stream that neither side wished to end is a reason to suspect its member.
func TestHowAStreamEnds(t *testing.T) {
	t.Parallel()
	for label, tc := range map[string]struct {
		end    func(*world, *raw)
		broken bool
	}{
		"the connection breaks":       {func(_ *world, r *raw) { r.stop() }, true},
		"the member leaves":           {func(_ *world, r *raw) { _ = r.stream.CloseSend() }, false},
		"the node says farewell":      {func(w *world, _ *raw) { w.nodes[0].service.EndStreams() }, false},
		"the member breaks the rules": {func(_ *world, r *raw) { _ = r.stream.Send(&controlpb.AttachRequest{}) }, false},
	} {
		t.Run(label, func(t *testing.T) {
			t.Parallel()
			var e endings
			w := newWorld(t, 1, e.watch)
			r := w.nodes[0].member("worker-1").attach()
			r.next(func(m *controlpb.AttachResponse) bool { return m.GetWelcome() != nil })
			tc.end(w, r)
			_ = r.end()
			want := map[bool][2]int{true: {1, 0}, false: {0, 1}}[tc.broken]
			w.until("the attachment has ended as it should", func() bool { return e.are(want[0], want[1]) })
		})
	}
}

// A member whose stream broke off is noted long before its silence would be; one that is
// heard of by then is not.
func TestABrokenStreamIsNoted(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	c := w.nodes[0].member("worker-1")
	session := c.open("worker-1", "job")
	r := c.attach()
	if err := r.keepalive(session, 1); err != nil {
		t.Fatal(err)
	}
	r.ack(session, 1)
	r.stop()
	if err := r.end(); err == nil {
		t.Fatal("the stream goes on")
	}
	w.until("the session is noted", func() bool { return w.noted(session) })
	again := c.attach()
	if err := again.keepalive(session, 2); err != nil {
		t.Fatal(err)
	}
	again.ack(session, 2)
	if w.noted(session) {
		t.Error("the note stands although the member is heard of")
	}
}

func (w *world) noted(session uint64) (noted bool) {
	w.nodes[0].View(func(g *core.Registry, _ core.Status) {
		s, _ := g.Session(core.SessionID(session))
		noted = s.Noted
	})
	return noted
}
