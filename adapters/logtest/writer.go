package logtest

import (
	"bytes"
	"crypto/rand"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/core"
)

// writer is a replica as a store sees it, when it holds the office.
type writer struct {
	*client
	node     core.NodeID
	identity string     // of the server
	lead     *core.Lead // as this writer last saw it
}

func newWriter(c *client, node core.NodeID) *writer { return &writer{client: c, node: node} }

// look reads where the log stands.
func (w *writer) look() error {
	r, err := w.must(&core.StoreCall{Confirm: &core.StoreConfirm{}})
	if err == nil {
		w.saw(r)
	}
	return err
}

func (w *writer) saw(r *core.StoreReply) { w.identity, w.lead = r.Identity, r.Lead }

func (w *writer) position() core.Position {
	return core.Position{Term: w.lead.GetTerm(), Last: w.lead.GetLast()}
}

// compose makes an append of entries with that data behind what the writer knows, of
// its office or, if takeOver, of a new one.
func (w *writer) compose(takeOver bool, datas ...[]byte) *core.StoreAppend {
	lead := proto.CloneOf(w.lead)
	if lead == nil {
		lead = &core.Lead{Schema: core.StoreSchema, ClusterId: w.b.cluster}
	}
	if takeOver {
		lead.Term++
		lead.Holder = uint64(w.node)
		datas = append([][]byte{nil}, datas...)
	}
	lead.Identity, lead.AppendId = w.identity, []byte(rand.Text())
	a := &core.StoreAppend{Guard: w.position(), Lead: lead}
	for _, data := range datas {
		lead.Last++
		lead.Chain = core.ChainEntry(lead.Chain, lead.Last, lead.Term, data)
		a.Entries = append(a.Entries, &core.StoredEntry{Index: lead.Last, Term: lead.Term, Data: data, Chain: lead.Chain})
	}
	return a
}

// try makes an append and, if it took effect, checks and takes over the lead record.
func (w *writer) try(a *core.StoreAppend) (*core.StoreReply, error) {
	r, err := w.call(&core.StoreCall{Append: a})
	if err != nil || r.Status != core.StoreOK {
		return r, err
	}
	want := proto.CloneOf(a.Lead)
	want.Beat = r.Lead.GetBeat()
	if !proto.Equal(r.Lead, want) {
		return r, fmt.Errorf("append behind %d.%d: the lead record is\n%v, want\n%v", a.Guard.Term, a.Guard.Last, r.Lead, want)
	}
	w.saw(r)
	return r, nil
}

// append makes an append that has to take effect.
func (w *writer) append(a *core.StoreAppend) error {
	r, err := w.try(a)
	if err == nil && r.Status != core.StoreOK {
		err = fmt.Errorf("append behind %d.%d: %s, want OK", a.Guard.Term, a.Guard.Last, describe(r))
	}
	return err
}

// write appends entries in the writer's office.
func (w *writer) write(datas ...string) error {
	var all [][]byte
	for _, d := range datas {
		all = append(all, []byte(d))
	}
	return w.append(w.compose(false, all...))
}

// takeOver looks and takes the office.
func (w *writer) takeOver() error {
	if err := w.look(); err != nil {
		return err
	}
	return w.append(w.compose(true))
}

// refuse makes an append that has to be refused, and checks that the reply says where
// the log stands.
func (w *writer) refuse(a *core.StoreAppend) error {
	r, err := w.want(core.StoreRefused, &core.StoreCall{Append: a})
	if err == nil && a.Guard != (core.Position{}) && r.Lead == nil {
		err = fmt.Errorf("append behind %d.%d: refused without the lead record", a.Guard.Term, a.Guard.Last)
	}
	return err
}

// inOffice opens the log and takes the office in it.
func (b *bench) inOffice(node core.NodeID, open func() (*client, error)) (*writer, error) {
	c, err := open()
	if err != nil {
		return nil, err
	}
	w := newWriter(c, node)
	return w, w.takeOver()
}

// reader follows a log and checks the chain of what it is given.
type reader struct {
	*client
	after    uint64
	term     uint64
	chain    []byte
	entries  []*core.StoredEntry // all it saw, from the latest snapshot on
	snapshot *core.StoredSnapshot
	last     *core.StoreReply
}

// read makes one fetch and takes it in.
func (r *reader) read(f core.StoreFetch) (*core.StoreReply, error) {
	f.After = r.after
	if f.MaxBytes == 0 {
		f.MaxBytes = core.MaxFetchBytes
	}
	reply, err := r.must(&core.StoreCall{Timeout: f.Wait + callTimeout, Fetch: &f})
	if err != nil {
		return reply, err
	}
	r.last = reply
	if s := reply.Snapshot; s != nil {
		r.after, r.term, r.chain, r.snapshot, r.entries = s.Index, s.Term, s.Chain, s, nil
	}
	for _, e := range reply.Entries {
		if e.Term < r.term || !bytes.Equal(e.Chain, core.ChainEntry(r.chain, e.Index, e.Term, e.Data)) {
			return reply, fmt.Errorf("entry %d of term %d does not follow the one before (term %d)", e.Index, e.Term, r.term)
		}
		r.after, r.term, r.chain = e.Index, e.Term, e.Chain
		r.entries = append(r.entries, e)
	}
	l := reply.Lead
	if r.after == l.GetLast() && !bytes.Equal(r.chain, l.GetChain()) {
		return reply, fmt.Errorf("the chain at %d is not that of the lead record", r.after)
	}
	return reply, nil
}

// readAll reads the log from where the reader is to its end.
func (r *reader) readAll() error {
	for {
		reply, err := r.read(core.StoreFetch{})
		if err != nil || r.after >= reply.Lead.GetLast() {
			return err
		}
	}
}

// wholeLog reads the log from its beginning.
func wholeLog(c *client) (*reader, error) {
	r := &reader{client: c}
	return r, r.readAll()
}

// datas are what the entries hold, those of take-overs left out.
func (r *reader) datas() []string {
	var all []string
	for _, e := range r.entries {
		if len(e.Data) > 0 {
			all = append(all, string(e.Data))
		}
	}
	return all
}
