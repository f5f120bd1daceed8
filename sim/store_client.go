package sim

import (
	"bytes"
	"maps"
	"slices"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/core"
)

// storeClient is a replica's side of its calls on the external store: what a host
// and an adapter are in the real world.
type storeClient struct {
	pending map[uint64]bool // calls that were not answered yet, by id
	// tail is what this process was given of the log and appended, by index.
	tail       tail
	lag        time.Duration // what the tail of the log takes to it on top, and any answer half of
	toOldStore bool          // it still talks to a server that was superseded
}

// call makes a call on the store. It is answered once, by its time-out at the
// latest; what arrives later, or twice, is executed all the same.
func (r *replica) call(c *core.StoreCall) {
	if c.Append != nil {
		for _, e := range c.Append.Entries {
			r.client.tail.add(e)
		}
	}
	visit := storeVisit{call: r.w.carriedCall(c), from: r, life: r.incarnation}
	r.client.pending[c.ID] = true
	r.w.after(c.Timeout+time.Duration(r.rng.Int64N(int64(ms))), func() { r.storeFailed(&visit, "no answer in time") })
	s := r.w.store
	v := s.server(r)
	if r.w.network.chanceOf(s.rng, s.loseCalls) {
		return
	}
	send := func() { r.sendCall(v, &visit) }
	if r.w.nemesis.interceptCall(r, c, send) {
		return
	}
	send()
	if r.w.network.chanceOf(s.rng, s.repeat) {
		send()
	}
}

// sendCall carries a call to a server.
func (r *replica) sendCall(v *storeServer, c *storeVisit) {
	again := *c
	if !r.w.network.call(r.at, v.at, func() { v.arrive(&again) }) && v.s.rng.IntN(4) == 0 {
		r.w.after(ms, func() { r.storeFailed(c, "no route to host") })
	}
}

// carriedCall is a call as the store gets it.
func (w *World) carriedCall(c *core.StoreCall) *core.StoreCall {
	if !w.copies {
		return c
	}
	d := *c
	if a := c.Append; a != nil {
		b := *a
		b.Lead, b.Entries = proto.CloneOf(a.Lead), nil
		for _, e := range a.Entries {
			b.Entries = append(b.Entries, proto.CloneOf(e))
		}
		d.Append = &b
	}
	return &d
}

// storeAnswered hands an answer to the process that asked.
func (r *replica) storeAnswered(c *storeVisit, reply *core.StoreReply) {
	if r.up && r.incarnation == c.life && r.client.pending[c.call.ID] {
		delete(r.client.pending, c.call.ID)
		r.receive(core.Input{Store: r.w.carriedReply(reply)})
	}
}

// storeFailed tells the process that asked that there is no answer.
func (r *replica) storeFailed(c *storeVisit, why string) {
	r.storeAnswered(c, &core.StoreReply{ID: c.call.ID, Status: core.StoreFailed, Text: why})
}

// taken notes what the process learns of the log by the inputs it takes.
func (r *replica) taken(inputs []core.Input) {
	for i := range inputs {
		if s := inputs[i].Store; s != nil {
			if s.Snapshot != nil {
				r.w.stats.SnapshotInstalls++
				r.client.forget(s.Snapshot.Index) // what it appended there may have been refused
			}
			for _, e := range s.Entries {
				r.client.tail.add(e)
			}
		}
	}
}

// entry is the entry at index as this replica has it, nil when it is not known.
func (r *replica) entry(index uint64) *raftpb.Entry {
	if r.w.store == nil {
		return r.disk.entry(index)
	}
	e := r.client.tail.at(index, r.disk.mark)
	if e == nil {
		return nil
	}
	return &raftpb.Entry{Type: raftpb.EntryNormal.Enum(), Index: proto.Uint64(e.Index), Term: proto.Uint64(e.Term), Data: e.Data}
}

// tail is entries by index. There can be several at an index: what a superseded server
// held, or what was appended there, and what the log holds.
type tail map[uint64][]*core.StoredEntry

func (t tail) add(e *core.StoredEntry) {
	if !slices.ContainsFunc(t[e.Index], func(o *core.StoredEntry) bool { return bytes.Equal(o.Chain, e.Chain) }) {
		t[e.Index] = append(t[e.Index], e)
	}
}

// at is the entry at index on the chain that ends at the mark; if there is none on it,
// the latest that was added.
func (t tail) at(index uint64, mark *core.StoreMark) *core.StoredEntry {
	all := t[index]
	if len(all) < 2 {
		return last(all)
	}
	on := t.find(mark.GetIndex(), func(e *core.StoredEntry) bool { return bytes.Equal(e.Chain, mark.GetChain()) })
	for on != nil && on.Index > index {
		next := on
		on = t.find(next.Index-1, func(e *core.StoredEntry) bool {
			return bytes.Equal(next.Chain, core.ChainEntry(e.Chain, next.Index, next.Term, next.Data))
		})
	}
	if on == nil || on.Index != index {
		return last(all)
	}
	return on
}

func (t tail) find(index uint64, is func(*core.StoredEntry) bool) *core.StoredEntry {
	if i := slices.IndexFunc(t[index], is); i >= 0 {
		return t[index][i]
	}
	return nil
}

func last(all []*core.StoredEntry) *core.StoredEntry {
	if len(all) == 0 {
		return nil
	}
	return all[len(all)-1]
}

// forget drops the entries up to an index.
func (c *storeClient) forget(to uint64) {
	maps.DeleteFunc(c.tail, func(i uint64, _ []*core.StoredEntry) bool { return i <= to })
}
