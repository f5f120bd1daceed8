package core

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/omnirelay/leadership/core/logpb"
)

// fieldHash hashes typed fields in a fixed order. Strings carry their length, so
// that no two field lists run together.
type fieldHash struct{ fields []byte }

func newFieldHash() *fieldHash { return &fieldHash{} }

func (f *fieldHash) u64(v uint64) { f.fields = binary.BigEndian.AppendUint64(f.fields, v) }

func (f *fieldHash) i64(v int64) { f.u64(uint64(v)) }

func (f *fieldHash) bool(v bool) {
	if v {
		f.u64(1)
	} else {
		f.u64(0)
	}
}

func (f *fieldHash) str(s string) {
	f.u64(uint64(len(s)))
	f.fields = append(f.fields, s...)
}

func (f *fieldHash) bytes(b []byte) {
	f.u64(uint64(len(b)))
	f.fields = append(f.fields, b...)
}

func (f *fieldHash) sum() [32]byte { return sha256.Sum256(f.fields) }

func (f *fieldHash) labels(m map[string]string) {
	f.u64(uint64(len(m)))
	for _, k := range sortedKeys(m) {
		f.str(k)
		f.str(m[k])
	}
}

func hashRecord(r *Record) []byte {
	f := newFieldHash()
	f.u64(r.Seq)
	f.u64(r.Revision)
	f.u64(uint64(r.Ordinal))
	f.u64(uint64(r.Kind))
	f.str(r.Scope)
	f.str(r.ScopeKind)
	f.labels(r.Labels)
	f.str(r.MemberId)
	f.u64(r.Session)
	f.u64(r.Term)
	f.u64(r.Fence)
	f.str(r.Reason)
	f.str(r.CorrelationId)
	f.str(r.Actor)
	f.i64(r.WallNs)
	f.i64(r.IssuedWallNs)
	f.bytes(r.PrevHash)
	// Absent, they are not hashed: records of before have kept their hashes.
	f.optional("why", r.Why)
	f.optional("subject", r.Subject)
	sum := f.sum()
	return sum[:]
}

// optional hashes a field that was added later, with its name, unless it is empty.
func (f *fieldHash) optional(name, value string) {
	if value != "" {
		f.str(name)
		f.str(value)
	}
}

// advice hashes what was added with protocol version 3, unless there is none of it.
func (f *fieldHash) advice(g *Registry) {
	if len(g.draining) > 0 {
		f.str("draining")
		f.u64(uint64(len(g.draining)))
		for _, m := range sortedKeys(g.draining) {
			f.str(m)
		}
	}
	if len(g.observed) > 0 {
		f.str("observed")
		f.u64(uint64(len(g.observed)))
		for _, m := range sortedKeys(g.observed) {
			f.str(m)
			f.u64(uint64(g.observed[m].Health))
			f.bool(g.observed[m].Unsupported)
		}
	}
}

// Hash covers every field of the state. Equal histories give equal hashes.
func (g *Registry) Hash() [32]byte {
	f := newFieldHash()
	f.str(g.clusterID)
	f.u64(g.revision)
	f.u64(g.nextFence)
	f.u64(uint64(g.nextSession))
	f.u64(g.history.nextSeq)
	f.bytes(g.history.head)
	f.u64(g.history.floor.Revision)
	f.u64(uint64(g.history.floor.Ordinal))
	f.u64(uint64(len(g.history.records)))
	f.u64(uint64(len(g.sessions)))
	for _, id := range sortedKeys(g.sessions) {
		f.session(g.sessions[id])
	}
	f.u64(uint64(len(g.scopes)))
	for _, id := range sortedKeys(g.scopes) {
		f.scope(g.scopes[id])
	}
	f.u64(uint64(len(g.cordoned)))
	for _, m := range sortedKeys(g.cordoned) {
		f.str(m)
	}
	f.u64(g.replies.horizon)
	f.u64(uint64(len(g.replies.order)))
	for _, r := range g.replies.order {
		f.reply(r)
	}
	f.u64(g.keeperTerm)
	f.u64(g.keeperNumber)
	f.u64(uint64(len(g.voters)))
	for _, v := range g.voters {
		f.u64(uint64(v))
	}
	f.u64(uint64(len(g.versions)))
	for _, n := range sortedKeys(g.versions) {
		f.u64(uint64(n))
		f.u64(uint64(g.versions[n]))
	}
	f.u64(uint64(g.activeVersion))
	f.u64(uint64(g.formationMembers))
	f.bool(g.forming)
	f.u64(g.formation)
	f.i64(g.wait)
	f.i64(g.longestTTL)
	f.advice(g)
	f.nodes(g)
	return f.sum()
}

func (f *fieldHash) session(s *session) {
	f.u64(uint64(s.id))
	f.str(s.member)
	f.labels(s.labels)
	f.u64(uint64(s.weight))
	f.i64(s.ttl)
	f.u64(s.openedAt)
	f.u64(s.changedAt)
	f.u64(uint64(len(s.stands)))
	for _, st := range s.stands {
		f.selector(st.Selector)
		f.i64(int64(st.Priority))
	}
	f.u64(s.wish)
	f.bool(s.noted)
	f.i64(s.notedAge)
	f.u64(s.notedAt)
}

func (f *fieldHash) selector(sel *logpb.Selector) {
	f.str(sel.GetKind())
	f.str(sel.GetNamespace())
	f.str(sel.GetId())
	f.labels(sel.GetLabels())
}

func (f *fieldHash) scope(s *scope) {
	f.str(s.spec.Id)
	f.str(s.spec.Kind)
	f.labels(s.spec.Labels)
	f.str(s.spec.PreferredMember)
	f.u64(uint64(s.spec.Failover))
	f.u64(s.term)
	f.bool(s.leader != nil)
	if s.leader != nil {
		f.u64(uint64(s.leader.id))
	}
	f.u64(s.fence)
	f.i64(s.issuedWall)
	f.u64(uint64(s.failover))
	f.u64(uint64(s.resignedBy))
	f.i64(s.vacantSince)
	f.bool(s.ask != nil)
	if s.ask != nil {
		f.str(s.ask.reason)
		f.str(s.ask.to)
		f.str(s.ask.correlationID)
		f.str(s.ask.actor)
		f.optional("why", s.ask.why)
	}
}

func (f *fieldHash) reply(r *keptReply) {
	f.str(r.requestID)
	f.u64(r.index)
	f.str(r.result.Code)
	f.str(r.result.Message)
	f.str(r.result.Field)
	f.u64(r.result.Revision)
	f.u64(r.result.Session)
	f.u64(r.result.Fence)
}
