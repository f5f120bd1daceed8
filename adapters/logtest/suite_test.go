package logtest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/core"
)

// memory is the model as a store: the suite must find nothing wrong with it, and
// something with each of its mutants.
type memory struct {
	mu      sync.Mutex
	changed chan struct{}
	model   *core.StoreModel
	cluster string
	mutate  mutation
}

// mutation breaks a store: it may change the call before or the reply after, or make
// both up.
type mutation func(m *core.StoreModel, c *core.StoreCall, do func(*core.StoreCall) *core.StoreReply) *core.StoreReply

func newMemory(mutate mutation) *memory {
	return &memory{changed: make(chan struct{}), model: core.NewStoreModel(), mutate: mutate}
}

func (m *memory) Close() error { return nil }

func (m *memory) Do(ctx context.Context, c *core.StoreCall) *core.StoreReply {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	wait := time.Now()
	if c.Fetch != nil {
		wait = wait.Add(c.Fetch.Wait)
	}
	for {
		r, changed := m.once(c)
		left := time.Until(wait)
		if c.Fetch == nil || left <= 0 || r.Lead.GetLast() > c.Fetch.After {
			return r
		}
		select {
		case <-changed:
		case <-time.After(left):
		case <-ctx.Done():
			return &core.StoreReply{ID: c.ID, Status: core.StoreFailed, Text: "too late"}
		}
	}
}

func (m *memory) once(c *core.StoreCall) (*core.StoreReply, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	do := func(c *core.StoreCall) *core.StoreReply { return m.model.Do("memory", cloneCall(c)) }
	before := m.model.Position()
	var r *core.StoreReply
	if m.mutate != nil {
		r = m.mutate(m.model, c, do)
	} else {
		r = do(c)
	}
	if m.model.Position() != before {
		close(m.changed)
		m.changed = make(chan struct{})
	}
	return r, m.changed
}

// onMemory runs the cases that need no server, and returns what they found; of a mutant,
// what the first one found.
func onMemory(t *testing.T, mutate mutation) map[string]error {
	found := map[string]error{}
	for i, c := range tests {
		if c.server {
			continue
		}
		places := map[string]*memory{}
		b := &bench{cluster: "memory", place: "p", seed: uint64(i), patience: 2 * time.Second, logf: t.Logf}
		if mutate != nil {
			b.logf = func(string, ...any) {}
		}
		b.open = func(context.Context, bool) (LogStore, error) {
			b.mu.Lock()
			defer b.mu.Unlock()
			m := places[b.place]
			if m == nil {
				m = newMemory(mutate)
				m.cluster = b.cluster
				places[b.place] = m
			}
			if m.cluster != b.cluster {
				return nil, fmt.Errorf("it is of cluster %q", m.cluster)
			}
			return m, nil
		}
		if err := b.perform(t.Context(), c.run); err != nil {
			found[c.name] = err
			if mutate != nil {
				break
			}
		}
	}
	return found
}

func TestModelConforms(t *testing.T) {
	for name, err := range onMemory(t, nil) {
		t.Errorf("%s: %v", name, err)
	}
}

type doing = func(*core.StoreCall) *core.StoreReply

// Each mutant breaks one line of the contract.
var mutants = map[string]mutation{
	"an append overtakes the guard": func(m *core.StoreModel, c *core.StoreCall, do doing) *core.StoreReply {
		if a := c.Append; a != nil && a.Guard.Term == m.Position().Term && a.Guard.Last > m.Position().Last {
			b := *a
			b.Guard = m.Position()
			return do(&core.StoreCall{ID: c.ID, Append: &b})
		}
		return do(c)
	},
	"the term is no guard": func(m *core.StoreModel, c *core.StoreCall, do doing) *core.StoreReply {
		if a := c.Append; a != nil && a.Guard.Last == m.Position().Last {
			b := *a
			b.Guard = m.Position()
			return do(&core.StoreCall{ID: c.ID, Append: &b})
		}
		return do(c)
	},
	"a repeated append is refused": func(_ *core.StoreModel, c *core.StoreCall, do doing) *core.StoreReply {
		r := do(c)
		if c.Append != nil && r.Status == core.StoreOK && c.Append.Guard.Last+uint64(len(c.Append.Entries)) == r.Lead.Last && seenBefore(c) {
			r.Status, r.Text = core.StoreRefused, "again"
		}
		return r
	},
	"a fetch leaves one out": func(_ *core.StoreModel, c *core.StoreCall, do doing) *core.StoreReply {
		r := do(c)
		if c.Fetch != nil && len(r.Entries) > 3 {
			r.Entries = append(r.Entries[:1:1], r.Entries[2:]...)
		}
		return r
	},
	"a fetch forgets the newest": func(_ *core.StoreModel, c *core.StoreCall, do doing) *core.StoreReply {
		r := do(c)
		if n := len(r.Entries); c.Fetch != nil && n == 1 {
			r.Entries = nil
		}
		return r
	},
	"a fetch knows no limit": func(_ *core.StoreModel, c *core.StoreCall, do doing) *core.StoreReply {
		if c.Fetch != nil {
			return do(&core.StoreCall{ID: c.ID, Fetch: &core.StoreFetch{After: c.Fetch.After, MaxBytes: 1 << 40}})
		}
		return do(c)
	},
	"an append resets the beat": func(_ *core.StoreModel, c *core.StoreCall, do doing) *core.StoreReply {
		r := do(c)
		if c.Append != nil && r.Status == core.StoreOK {
			r.Lead.Beat = 0
		}
		return r
	},
	"a beat of another term counts": func(m *core.StoreModel, c *core.StoreCall, do doing) *core.StoreReply {
		if f := c.Confirm; f != nil && f.Beat {
			return do(&core.StoreCall{ID: c.ID, Confirm: &core.StoreConfirm{Term: m.Position().Term, Beat: true}})
		}
		return do(c)
	},
	"records are published twice": func(_ *core.StoreModel, c *core.StoreCall, do doing) *core.StoreReply {
		r := do(c)
		if c.Publish != nil && r.Status == core.StoreRefused && c.Publish.Term == r.Lead.GetTerm() {
			r.Status = core.StoreOK
		}
		return r
	},
	"anybody publishes": func(m *core.StoreModel, c *core.StoreCall, do doing) *core.StoreReply {
		if p := c.Publish; p != nil {
			q := *p
			q.Term = m.Position().Term
			return do(&core.StoreCall{ID: c.ID, Publish: &q})
		}
		return do(c)
	},
	"one voter is enough": func(_ *core.StoreModel, c *core.StoreCall, do doing) *core.StoreReply {
		if a := c.Append; a != nil && a.Adopt && len(a.Voters) > 1 {
			b := *a
			b.Voters = a.Voters[:1]
			return do(&core.StoreCall{ID: c.ID, Append: &b})
		}
		return do(c)
	},
	"whoever is attested": func(_ *core.StoreModel, c *core.StoreCall, do doing) *core.StoreReply {
		if a := c.Attest; a != nil {
			return do(&core.StoreCall{ID: c.ID, Attest: &core.StoreAttest{Identity: "memory", Node: a.Node, Round: a.Round}})
		}
		return do(c)
	},
	"attested once is attested in every round": func(m *core.StoreModel, c *core.StoreCall, do doing) *core.StoreReply {
		if a := c.Append; a != nil && a.Adopt {
			trial := m.Clone()
			for _, v := range a.Voters {
				if _, ok := do(&core.StoreCall{Fetch: &core.StoreFetch{}}).Attested[v]; ok {
					trial.Do("memory", &core.StoreCall{Attest: &core.StoreAttest{Identity: "memory", Node: v, Round: a.Lead.Round}})
				}
			}
			if r := trial.Do("memory", c); r.Status == core.StoreOK {
				*m = *trial
				return r
			}
		}
		return do(c)
	},
	"a replacement keeps attestations": func(_ *core.StoreModel, c *core.StoreCall, do doing) *core.StoreReply {
		if c.Replace == nil {
			return do(c)
		}
		kept := do(&core.StoreCall{Fetch: &core.StoreFetch{}}).Attested
		r := do(c)
		for v, round := range kept {
			do(&core.StoreCall{Attest: &core.StoreAttest{Identity: "memory", Node: v, Round: round}})
		}
		return r
	},
	"a closed log is closed again": func(_ *core.StoreModel, c *core.StoreCall, do doing) *core.StoreReply {
		if c.Close != nil && c.Close.Reason != "" {
			do(&core.StoreCall{Close: &core.StoreClose{Guard: c.Close.Guard}})
		}
		return do(c)
	},
	"a replacement keeps records": func(_ *core.StoreModel, c *core.StoreCall, do doing) *core.StoreReply {
		if p := c.Replace; p != nil {
			q := *p
			q.Published = 1 << 40
			return do(&core.StoreCall{ID: c.ID, Replace: &q})
		}
		return do(c)
	},
	"an older checkpoint is taken": func(_ *core.StoreModel, c *core.StoreCall, do doing) *core.StoreReply {
		r := do(c)
		if c.Checkpoint != nil && c.Checkpoint.Term == r.Lead.GetTerm() {
			r.Status = core.StoreOK
		}
		return r
	},
	"trimming goes too far": func(_ *core.StoreModel, c *core.StoreCall, do doing) *core.StoreReply {
		if p := c.Checkpoint; p != nil {
			q := *p
			q.TrimTo = p.Snapshot.Index + 2
			return do(&core.StoreCall{ID: c.ID, Checkpoint: &q})
		}
		return do(c)
	},
	"nothing is trimmed": func(_ *core.StoreModel, c *core.StoreCall, do doing) *core.StoreReply {
		if p := c.Checkpoint; p != nil {
			q := *p
			q.TrimTo = 0
			return do(&core.StoreCall{ID: c.ID, Checkpoint: &q})
		}
		return do(c)
	},
	"a snapshot is cut short": func(_ *core.StoreModel, c *core.StoreCall, do doing) *core.StoreReply {
		r := do(c)
		if s := r.Snapshot; s != nil && len(s.Data) > 1<<20 {
			r.Snapshot = proto.CloneOf(s)
			r.Snapshot.Data = s.Data[:1<<20]
		}
		return r
	},
	"an append tears": func() mutation {
		var half *core.StoreCall
		return func(_ *core.StoreModel, c *core.StoreCall, do doing) *core.StoreReply {
			r := do(c)
			switch {
			case c.Append != nil && r.Status == core.StoreOK && len(c.Append.Entries) > 3:
				half = c
			case c.Fetch != nil && half != nil && len(r.Entries) > 3 && c.Fetch.After == 0:
				r.Entries = r.Entries[:len(r.Entries)-2] // seen before the rest is there
				r.Lead.Last -= 2
				r.Lead.Chain = r.Entries[len(r.Entries)-1].Chain
				half = nil
			}
			return r
		}
	}(),
	"the reply is another's": func(_ *core.StoreModel, c *core.StoreCall, do doing) *core.StoreReply {
		r := do(c)
		r.ID++
		return r
	},
	"nobody is refused an empty log": func(m *core.StoreModel, c *core.StoreCall, do doing) *core.StoreReply {
		if a := c.Append; a != nil && a.Guard == (core.Position{}) && m.Position() != a.Guard {
			r := do(&core.StoreCall{ID: c.ID, Confirm: &core.StoreConfirm{}})
			r.Lead = proto.CloneOf(a.Lead)
			return r
		}
		return do(c)
	},
}

// seenBefore tells a call that was made already by its entries' addresses.
func seenBefore(c *core.StoreCall) bool {
	seenMu.Lock()
	defer seenMu.Unlock()
	e := c.Append.Entries[0]
	defer func() { seen[e] = true }()
	return seen[e]
}

var (
	seenMu sync.Mutex
	seen   = map[*core.StoredEntry]bool{}
)

func TestMutantsAreFound(t *testing.T) {
	for name, mutate := range mutants {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			found := onMemory(t, mutate)
			if len(found) == 0 {
				t.Fatal("no case finds it")
			}
			t.Logf("found: %v", found)
		})
	}
}

func TestRaftReplicas(t *testing.T) { RaftReplicas(t) }
