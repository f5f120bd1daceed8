package check

import (
	"bytes"
	"maps"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/core"
)

// Agreement: at equal index every replica has applied the same entry, has the
// same state and told the same events, also after its restart.
type Agreement struct {
	report    Report
	chronicle *Chronicle
	states    map[uint64]state
}

type state struct {
	hash    [32]byte
	replica core.NodeID
}

func NewAgreement(report Report, chronicle *Chronicle) *Agreement {
	return &Agreement{report: report, chronicle: chronicle, states: map[uint64]state{}}
}

// Relocated tells that what was behind a revision is lost.
func (c *Agreement) Relocated(kept uint64) {
	maps.DeleteFunc(c.states, func(revision uint64, _ state) bool { return revision > kept })
}

// Applied tells that a replica applied an entry.
func (c *Agreement) Applied(at int64, replica core.NodeID, e *raftpb.Entry) {
	had := c.chronicle.enter(e)
	if had == nil || had == e {
		return
	}
	if had.GetTerm() == e.GetTerm() && bytes.Equal(had.GetData(), e.GetData()) {
		return
	}
	c.report.plain(AgreementProperty, at, "replica %d applied at index %d an entry of term %d (%s) where another had applied one of term %d (%s)",
		replica, e.GetIndex(), e.GetTerm(), describe(e), had.GetTerm(), describe(had))
	c.chronicle.contradict(at, c.report, had, e)
}

// State takes the hash of a replica's registry at a revision.
func (c *Agreement) State(at int64, replica core.NodeID, revision uint64, hash [32]byte) {
	had, ok := c.states[revision]
	if !ok {
		c.states[revision] = state{hash, replica}
		return
	}
	if had.hash != hash {
		c.report.plain(AgreementProperty, at, "replica %d has state %x at revision %d where replica %d had %x", replica, hash[:6], revision, had.replica, had.hash[:6])
	}
}

// Record takes a record that a replica told or stored. It reports whether the
// record is new.
func (c *Agreement) Record(at int64, replica core.NodeID, r *core.Record) bool {
	had, fresh := c.chronicle.record(r)
	switch {
	case fresh || had == r:
	case had == nil:
		c.report.plain(AgreementProperty, at, "replica %d told record %d before anybody told record %d", replica, r.Seq, r.Seq-1)
	case !proto.Equal(had, r):
		c.report.scope(AgreementProperty, at, r.Scope, "replica %d told record %d as %s of %s at %d.%d where another told %s of %s at %d.%d", replica, r.Seq,
			core.EventKind(r.Kind), r.Scope, r.Revision, r.Ordinal, core.EventKind(had.Kind), had.Scope, had.Revision, had.Ordinal)
	}
	return fresh
}
