package logtest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/core"
)

// begin starts a call beside the case.
func begin(c *client, call *core.StoreCall) <-chan answer {
	ch := make(chan answer, 1)
	go func() {
		r, err := c.call(call)
		ch <- answer{r, err}
	}()
	return ch
}

type answer struct {
	reply *core.StoreReply
	err   error
}

// seen waits until a reader past the proxy sees the data in the log.
func (b *bench) seen(past *client, data string) error {
	return b.poll("entry "+data, func() (bool, error) {
		log, err := wholeLog(past)
		return err == nil && slices.Contains(log.datas(), data), err
	})
}

// holds checks that the log holds exactly this.
func holds(c *client, want ...string) error {
	log, err := wholeLog(c)
	if err == nil && !slices.Equal(log.datas(), want) {
		err = fmt.Errorf("the log holds %v, want %v", log.datas(), want)
	}
	return err
}

// farAndNear opens the log through the proxy, in office, and past it.
func (b *bench) farAndNear() (far *writer, near *client, err error) {
	if near, err = b.direct(); err != nil {
		return nil, nil, err
	}
	far, err = b.inOffice(1, b.through)
	return far, near, err
}

// answerLost: appends, beats, publications and checkpoints are carried out and their
// answers swallowed; made again, each is there once.
func answerLost(b *bench) error {
	w, near, err := b.farAndNear()
	if err != nil {
		return err
	}
	for i := range scale(3) {
		a := w.compose(false, fmt.Appendf(nil, "%d", i))
		b.proxy.Swallow(true)
		lost := begin(w.client, &core.StoreCall{Append: a, Timeout: shortCall})
		if err := b.seen(near, fmt.Sprint(i)); err != nil {
			return err
		}
		if got := <-lost; got.err != nil || got.reply.Status != core.StoreFailed {
			return fmt.Errorf("an append whose answer was lost: %+v", got)
		}
		b.proxy.Clear()
		if _, err := w.recovered(); err != nil {
			return err
		}
		if err := w.append(a); err != nil {
			return fmt.Errorf("made again: %w", err)
		}
	}
	if err := publicationLost(b, w, near); err != nil {
		return err
	}
	log, err := wholeLog(near)
	if err == nil && len(log.datas()) != scale(3) {
		err = fmt.Errorf("the log holds %v, want each of %d once", log.datas(), scale(3))
	}
	return err
}

func publicationLost(b *bench, w *writer, near *client) error {
	t := newTrail(w, 1)
	for range scale(3) {
		p := t.compose(3)
		b.proxy.Swallow(true)
		lost := begin(w.client, &core.StoreCall{Publish: p, Timeout: shortCall})
		err := b.poll("the publication", func() (bool, error) {
			r, err := near.must(&core.StoreCall{Fetch: &core.StoreFetch{After: w.lead.Last}})
			return err == nil && r.Published == p.After+3, err
		})
		if err != nil {
			return err
		}
		if got := <-lost; got.err != nil || got.reply.Status != core.StoreFailed {
			return fmt.Errorf("a publication whose answer was lost: %+v", got)
		}
		b.proxy.Clear()
		if _, err := w.recovered(); err != nil {
			return err
		}
		if _, err := w.want(core.StoreRefused, &core.StoreCall{Publish: p}); err != nil {
			return fmt.Errorf("made again: %w", err)
		}
		t.published(p)
	}
	got, err := readTrail(near, 100)
	if err == nil {
		err = sameRecords(got, t.sent)
	}
	return err
}

// connectionCut: the connection breaks at any moment around an append. Whether it took
// effect or not, made again it is in the log once.
func connectionCut(b *bench) error {
	w, near, err := b.farAndNear()
	if err != nil {
		return err
	}
	rng := b.rng()
	var want []string
	effect := 0
	for i := range scale(24) {
		data := fmt.Sprint(i)
		a := w.compose(false, []byte(data))
		going, err := b.cutAround(w, a, near, i%3, time.Duration(rng.IntN(6000))*time.Microsecond)
		if err != nil {
			return err
		}
		got := <-going
		if got.err != nil {
			return got.err
		}
		if got.reply.Status == core.StoreRefused {
			return fmt.Errorf("append %d was cut off and then refused: %s", i, got.reply.Text)
		}
		if _, err := w.recovered(); err != nil {
			return err
		}
		log, err := wholeLog(near)
		if err != nil {
			return err
		}
		if slices.Contains(log.datas(), data) {
			effect++
		}
		if err := w.append(a); err != nil {
			return fmt.Errorf("append %d, made again: %w", i, err)
		}
		want = append(want, data)
	}
	b.logf("%d of %d appends had taken effect when they were made again", effect, len(want))
	return holds(near, want...)
}

// cutAround makes an append and cuts the connection: 0 before it arrives, 1 after it
// was carried out and before the answer, 2 some time later.
func (b *bench) cutAround(w *writer, a *core.StoreAppend, near *client, when int, later time.Duration) (<-chan answer, error) {
	held := b.proxy.Held()
	switch when {
	case 0:
		b.proxy.Hold(true)
	case 1:
		b.proxy.Swallow(true)
	default:
		b.proxy.Delay(2 * time.Millisecond)
	}
	going := begin(w.client, &core.StoreCall{Append: a, Timeout: shortCall})
	var err error
	switch when {
	case 0:
		err = b.poll("a request on its way", func() (bool, error) { return b.proxy.Held() > held, nil })
	case 1:
		err = b.seen(near, string(a.Entries[0].Data))
	default:
		time.Sleep(later)
	}
	b.proxy.Cut()
	b.proxy.Clear()
	return going, err
}

// lateAppend: an append is held up in the network until its caller has given up and
// another has taken the office. It changes nothing then; one that nobody overtook
// may take effect, once.
func lateAppend(b *bench) error {
	w, near, err := b.farAndNear()
	if err != nil {
		return err
	}
	if err := w.write("a"); err != nil {
		return err
	}
	late, err := b.heldUp(w, "late")
	if err != nil {
		return err
	}
	other := newWriter(near, 2)
	if err := other.takeOver(); err != nil {
		return err
	}
	if err := other.write("b"); err != nil {
		return err
	}
	b.proxy.Clear()
	if _, err := w.recovered(); err != nil {
		return err
	}
	if err := w.refuse(late); err != nil {
		return fmt.Errorf("a deposed registrar's append: %w", err)
	}
	if err := w.takeOver(); err != nil {
		return err
	}
	if late, err = b.heldUp(w, "c"); err != nil {
		return err
	}
	b.proxy.Clear()
	if _, err := w.recovered(); err != nil {
		return err
	}
	if err := w.append(late); err != nil {
		return fmt.Errorf("an append that was held up, made again: %w", err)
	}
	if err := w.write("d"); err != nil {
		return err
	}
	return holds(near, "a", "b", "c", "d")
}

// lateCalls: everything else that only the office may do is held up as well, until
// another has taken over. Nothing of it takes effect then.
func lateCalls(b *bench) error {
	w, near, err := b.farAndNear()
	if err != nil {
		return err
	}
	if err := w.write("a", "b"); err != nil {
		return err
	}
	b.proxy.Hold(true)
	at := w.position()
	var going []<-chan answer
	for _, call := range []*core.StoreCall{
		{Confirm: &core.StoreConfirm{Term: 1, Beat: true}},
		{Publish: newTrail(w, 1).compose(3)},
		{Checkpoint: &core.StoreCheckpoint{Term: 1, Snapshot: &core.StoredSnapshot{Index: 3, Term: 1, Chain: w.lead.Chain, Data: []byte("late")}, TrimTo: 3}},
		{Close: &core.StoreClose{Guard: &at, Reason: "late"}},
	} {
		call.Timeout = shortCall
		going = append(going, begin(w.client, call))
	}
	for _, g := range going {
		if got := <-g; got.err != nil || got.reply.Status != core.StoreFailed {
			return fmt.Errorf("held up: %+v", got)
		}
	}
	other := newWriter(near, 2)
	if err := other.takeOver(); err != nil {
		return err
	}
	before := other.lead
	b.proxy.Clear()
	if _, err := w.recovered(); err != nil {
		return err
	}
	log, err := wholeLog(near)
	if err != nil {
		return err
	}
	if !proto.Equal(log.last.Lead, before) || log.snapshot != nil || log.last.Published != 0 {
		return fmt.Errorf("what came late took effect: lead record\n%v, want\n%v; snapshot of %d, %d published", log.last.Lead, before, log.snapshot.GetIndex(), log.last.Published)
	}
	return holds(near, "a", "b")
}

// heldUp makes an append that is held up in the network, until it is given up.
func (b *bench) heldUp(w *writer, data string) (*core.StoreAppend, error) {
	a := w.compose(false, []byte(data))
	b.proxy.Hold(true)
	r, err := w.want(core.StoreFailed, &core.StoreCall{Append: a, Timeout: shortCall})
	if err == nil && b.proxy.Held() == 0 {
		err = fmt.Errorf("nothing was sent: %s", describe(r))
	}
	return a, err
}

// slowNetwork: everything takes long, and nothing goes wrong; a call that is too slow
// for its time limit fails by then.
func slowNetwork(b *bench) error {
	w, near, err := b.farAndNear()
	if err != nil {
		return err
	}
	b.proxy.Delay(40 * time.Millisecond)
	b.proxy.Slow(1 << 20)
	for i := range 5 {
		if err := w.write(fmt.Sprint(i), strings.Repeat("x", 50_000)); err != nil {
			return err
		}
	}
	far, err := b.through()
	if err != nil {
		return err
	}
	if _, err := wholeLog(far); err != nil {
		return err
	}
	b.proxy.Slow(20_000)
	a := w.compose(false, []byte(strings.Repeat("y", 200_000)))
	if _, err := w.want(core.StoreFailed, &core.StoreCall{Append: a, Timeout: shortCall}); err != nil {
		return err
	}
	b.proxy.Clear()
	if _, err := w.recovered(); err != nil {
		return err
	}
	if err := w.append(a); err != nil {
		return err
	}
	log, err := wholeLog(near)
	if err == nil && len(log.datas()) != 11 {
		err = fmt.Errorf("%d entries, want 11", len(log.datas()))
	}
	return err
}

// serverPaused: while the server hangs, all calls fail by their time limit; when it
// goes on, what was asked took effect once or not at all.
func serverPaused(b *bench) error {
	w, err := b.inOffice(1, b.through)
	if err != nil {
		return err
	}
	if err := w.write("a"); err != nil {
		return err
	}
	a := w.compose(false, []byte("b"))
	p := newTrail(w, 1).compose(2)
	b.server.Pause()
	defer b.server.Resume()
	var going []<-chan answer
	for _, call := range []*core.StoreCall{
		{Append: a}, {Confirm: &core.StoreConfirm{Term: 1, Beat: true}}, {Fetch: &core.StoreFetch{MaxBytes: 100, Wait: time.Minute}},
		{Publish: p}, {Attest: &core.StoreAttest{Identity: w.identity, Node: 1}}, {Trail: &core.StoreTrail{Limit: 5}},
	} {
		call.Timeout = shortCall
		going = append(going, begin(w.client, call))
	}
	for _, g := range going {
		if got := <-g; got.err != nil || got.reply.Status != core.StoreFailed {
			return fmt.Errorf("on a paused server: %+v", got)
		}
	}
	b.server.Resume()
	r, err := w.recovered()
	if err != nil {
		return err
	}
	if r.Identity != w.identity {
		return fmt.Errorf("the server was paused, and is %q instead of %q", r.Identity, w.identity)
	}
	if err := w.append(a); err != nil {
		return fmt.Errorf("made again: %w", err)
	}
	if r, err := w.call(&core.StoreCall{Publish: p}); err != nil || r.Status > core.StoreRefused {
		return fmt.Errorf("publishing again: %+v, %w", r, err)
	}
	got, err := readTrail(w.client, 10)
	if err == nil {
		err = sameRecords(got, p.Records)
	}
	if err != nil {
		return err
	}
	return holds(w.client, "a", "b")
}

// serverKilled: killed in the midst of appends and started again, the server lost
// nothing acknowledged and nothing half, and is known by the identity that its kind
// promises.
func serverKilled(b *bench) error {
	w, err := b.inOffice(1, b.direct)
	if err != nil {
		return err
	}
	reader, err := b.direct()
	if err != nil {
		return err
	}
	var acknowledged []string
	for round := range scale(3) {
		said, err := writeUntilKilled(b, w, round)
		if err != nil {
			return err
		}
		acknowledged = append(acknowledged, said...)
		if err := b.comesBack(w); err != nil {
			return err
		}
		if _, err := reader.recovered(); err != nil {
			return err
		}
		log, err := wholeLog(reader)
		if err != nil {
			return err
		}
		if err := containsInOrder(log.datas(), acknowledged); err != nil {
			return err
		}
		if err := wholePairs(log.datas()); err != nil {
			return err
		}
	}
	b.logf("%d entries acknowledged around %d kills", len(acknowledged), scale(3))
	return w.write("after all")
}

// writeUntilKilled appends pairs while the server is killed, and returns what was
// acknowledged.
func writeUntilKilled(b *bench, w *writer, round int) (acknowledged []string, err error) {
	progress := make(chan struct{}, 1)
	g := newGroup()
	g.do(func() error {
		for i := 0; ; i++ {
			first, second := fmt.Sprintf("%d.%d first", round, i), fmt.Sprintf("%d.%d second", round, i)
			r, err := w.try(w.compose(false, []byte(first), []byte(second)))
			if err != nil {
				return err
			}
			switch r.Status {
			case core.StoreOK:
				acknowledged = append(acknowledged, first, second)
			case core.StoreFailed:
				return nil
			default:
				return fmt.Errorf("around a kill: %s", describe(r))
			}
			if i == 10 {
				progress <- struct{}{}
			}
		}
	})
	select {
	case <-progress:
	case <-g.stop:
	case <-time.After(callTimeout):
	}
	b.server.Kill()
	if err := g.end(); err != nil {
		return nil, err
	}
	if len(acknowledged) == 0 {
		return nil, errors.New("nothing was acknowledged before the kill")
	}
	return acknowledged, b.server.Restart(b.ctx)
}

// comesBack waits until the server, started again, is used, and adopts the log there if its
// identity is another now.
func (b *bench) comesBack(w *writer) error {
	former := w.identity
	r, err := w.recovered()
	if err != nil {
		return err
	}
	w.saw(r)
	if same := w.identity == former; same != b.factory.SameAfterRestart {
		return fmt.Errorf("after a restart the server is %q, it was %q; same after a restart: %v is declared", w.identity, former, b.factory.SameAfterRestart)
	}
	if w.identity == w.lead.Identity {
		return nil
	}
	if err := w.refuse(w.compose(true)); err != nil {
		return fmt.Errorf("on a server that is another now: %w", err)
	}
	if _, err := w.must(&core.StoreCall{Attest: &core.StoreAttest{Identity: w.identity, Node: 1}}); err != nil {
		return err
	}
	a := w.compose(true)
	a.Adopt, a.Voters = true, []core.NodeID{1}
	return w.append(a)
}

func containsInOrder(got, want []string) error {
	i := 0
	for _, data := range got {
		if i < len(want) && data == want[i] {
			i++
		}
	}
	if i < len(want) {
		return fmt.Errorf("%q was acknowledged and is not in the log, or not in order", want[i])
	}
	return nil
}

func wholePairs(datas []string) error {
	for i, data := range datas {
		if first, ok := strings.CutSuffix(data, " first"); ok && (i+1 >= len(datas) || datas[i+1] != first+" second") {
			return fmt.Errorf("%q is in the log without its second half", data)
		}
	}
	return nil
}

// serverFull: while there is no room, nothing is acknowledged that is not there; with
// room again, the log goes on where it stood.
func serverFull(b *bench) error {
	w, err := b.inOffice(1, b.direct)
	if err != nil {
		return err
	}
	if err := w.write("a"); err != nil {
		return err
	}
	makeRoom, err := b.factory.Fill(b.ctx, b.server)
	if err != nil {
		return fmt.Errorf("filling the server: %w", err)
	}
	a, made, err := b.untilFull(w)
	err = errors.Join(err, makeRoom(b.ctx))
	if err != nil {
		return err
	}
	if err := b.afterFull(w); err != nil {
		return err
	}
	log, err := wholeLog(w.client)
	if err != nil {
		return err
	}
	if len(log.datas()) < made+1 {
		return fmt.Errorf("%d entries in the log, %d were acknowledged", len(log.datas()), made+1)
	}
	if w.lead.Term == 1 && w.position() == a.Guard { // the same office goes on with it
		if err := w.append(a); err != nil {
			return fmt.Errorf("with room again: %w", err)
		}
	}
	return w.write("goes on")
}

// untilFull appends until it fails; whatever is acknowledged counts.
func (b *bench) untilFull(w *writer) (a *core.StoreAppend, made int, err error) {
	for ; made < 2000; made++ {
		data := make([]byte, 200_000)
		_, _ = rand.Read(data) // nothing that could be compressed; it never fails
		a = w.compose(false, data)
		r, err := w.call(&core.StoreCall{Append: a, Timeout: 3 * time.Second})
		switch {
		case err != nil:
			return a, made, err
		case r.Status == core.StoreFailed:
			b.logf("full after %d appends: %s", made, r.Text)
			return a, made, nil
		case r.Status != core.StoreOK:
			return a, made, fmt.Errorf("on a full server: %s", describe(r))
		}
		w.saw(r)
	}
	return a, made, fmt.Errorf("%d appends, and the server is not full", made)
}

// afterFull waits until the store is used again: making room may have restarted it.
func (b *bench) afterFull(w *writer) error {
	r, err := w.recovered()
	if err != nil {
		return err
	}
	w.saw(r)
	if w.identity == w.lead.Identity {
		return nil
	}
	if _, err := w.must(&core.StoreCall{Attest: &core.StoreAttest{Identity: w.identity, Node: 1}}); err != nil {
		return err
	}
	a := w.compose(true)
	a.Adopt, a.Voters = true, []core.NodeID{1}
	return w.append(a)
}

// olderCopy: the server comes back with data of earlier. A reader with a mark sees
// it: the log ends before the mark, and unless its identity outlives a restart, the server is
// another. What the registrar of before appends is refused.
func olderCopy(b *bench) error {
	w, err := b.inOffice(1, b.direct)
	if err != nil {
		return err
	}
	if err := w.write("a", "b"); err != nil {
		return err
	}
	b.server.Stop()
	copied := filepath.Join(b.dir, "copy")
	if err := b.server.Copy(copied); err != nil {
		return err
	}
	if err := b.server.Restart(b.ctx); err != nil {
		return err
	}
	if err := b.comesBack(w); err != nil {
		return err
	}
	if err := w.write("c", "d"); err != nil {
		return err
	}
	mark, identity := w.position(), w.identity
	b.server.Kill()
	if err := errors.Join(b.server.RestoreFrom(copied), b.server.Restart(b.ctx)); err != nil {
		return err
	}
	r, err := w.recovered()
	if err != nil {
		return err
	}
	if same := r.Identity == identity; same && !b.factory.SameAfterRestart {
		return fmt.Errorf("the server lost what it had acknowledged and is still %q", identity)
	}
	behind := &reader{client: w.client, after: mark.Last}
	reply, err := behind.read(core.StoreFetch{Wait: 100 * time.Millisecond})
	if err != nil {
		return err
	}
	if reply.Lead.Last >= mark.Last || len(reply.Entries) > 0 || reply.Snapshot != nil {
		return fmt.Errorf("behind the mark %d of what was lost: %+v", mark.Last, reply)
	}
	// On the belief of before, nothing is appended to what is left.
	a := w.compose(false, []byte("on a lost entry"))
	a.Lead.Identity = r.Identity
	if err := w.refuse(a); err != nil {
		return err
	}
	return holds(w.client, "a", "b")
}

// damagedData: each kind of damage that a factory declares is found out.
func damagedData(b *bench) error {
	place := b.place
	defer func() { b.place = place }()
	for i, d := range b.factory.Damages {
		b.place = fmt.Sprintf("%sx%d", place, i)
		w, err := b.inOffice(1, b.direct)
		if err != nil {
			return err
		}
		if err := w.write("a", "b", "c"); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(b.ctx, callTimeout)
		err = d.Do(ctx, b.site(false))
		cancel()
		if err != nil {
			return fmt.Errorf("making the damage %s: %w", d.Name, err)
		}
		if err := mustBeUnfit(b, d.Want); err != nil {
			return fmt.Errorf("damage %s: %w", d.Name, err)
		}
	}
	return nil
}
