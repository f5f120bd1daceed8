package core

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"
)

// StoreModel is the contract of store.go as a program: a store in memory that does
// exactly what a real one must. The simulator puts it behind a faulty network, and
// adapters/logtest compares real stores with it, call by call.
type StoreModel struct {
	lead      *Lead
	snapshot  *StoredSnapshot
	entries   []*StoredEntry
	attested  map[string]map[NodeID]uint64 // the round, by identity
	published []*Record
}

// NewStoreModel returns a store that holds no log yet.
func NewStoreModel() *StoreModel {
	return &StoreModel{attested: map[string]map[NodeID]uint64{}}
}

// Clone returns a copy that shares what is never modified.
func (m *StoreModel) Clone() *StoreModel {
	c := *m
	c.lead = proto.CloneOf(m.lead)
	c.entries = slices.Clone(m.entries)
	c.published = slices.Clone(m.published)
	c.attested = map[string]map[NodeID]uint64{}
	for _, id := range sortedKeys(m.attested) {
		c.attested[id] = maps.Clone(m.attested[id])
	}
	return &c
}

// Position is where the log stands.
func (m *StoreModel) Position() Position { return positionOf(m.lead) }

func positionOf(l *Lead) Position { return Position{Term: l.GetTerm(), Last: l.GetLast()} }

// Do makes one call on the server that is known as identity. It never fails: the
// caller decides whether the call or the reply is lost.
func (m *StoreModel) Do(identity string, c *StoreCall) *StoreReply {
	r := &StoreReply{ID: c.ID, Identity: identity, Status: StoreOK}
	switch {
	case c.Append != nil:
		m.append(r, c.Append)
	case c.Confirm != nil:
		if c.Confirm.Beat && m.lead != nil && m.lead.Term == c.Confirm.Term {
			m.lead.Beat++
		}
	case c.Fetch != nil:
		m.fetch(r, c.Fetch)
	case c.Publish != nil:
		m.publish(r, c.Publish)
	case c.Checkpoint != nil:
		m.checkpoint(r, c.Checkpoint)
	case c.Attest != nil:
		m.attest(r, c.Attest)
	case c.Close != nil:
		m.close(r, c.Close)
	case c.Replace != nil:
		m.replace(r, c.Replace)
	case c.Trail != nil:
		m.trail(r, c.Trail)
	}
	r.Lead = proto.CloneOf(m.lead)
	return r
}

func (r *StoreReply) refuse(text string) { r.Status, r.Text = StoreRefused, text }

func (m *StoreModel) append(r *StoreReply, a *StoreAppend) {
	l := m.lead
	switch {
	case l != nil && l.Term == a.Lead.Term && bytes.Equal(l.AppendId, a.Lead.AppendId) && l.Identity == r.Identity:
		return // an earlier attempt took effect
	case positionOf(l) != a.Guard:
		r.refuse("the log stands elsewhere")
		return
	case l.GetClosed() != "":
		r.refuse("the log is closed: " + l.GetClosed())
		return
	case a.Lead.Identity != r.Identity:
		r.refuse("the server is another than the caller knows")
		return
	case l != nil && l.Identity != r.Identity && (!a.Adopt || !m.attestedBy(r.Identity, a.Lead.Round, a.Voters)):
		r.refuse("the log was accepted on another server")
		return
	}
	beat := l.GetBeat()
	m.lead = proto.CloneOf(a.Lead)
	m.lead.Beat = beat
	m.entries = append(m.entries, a.Entries...)
}

func (m *StoreModel) attestedBy(identity string, round uint64, voters []NodeID) bool {
	for _, v := range voters {
		if r, ok := m.attested[identity][v]; !ok || r != round {
			return false
		}
	}
	return len(voters) > 0
}

func (m *StoreModel) fetch(r *StoreReply, f *StoreFetch) {
	after := f.After
	if s := m.snapshot; s != nil && after+1 < m.first() {
		r.Snapshot, after = s, s.Index
	}
	size := 0
	for _, e := range m.entries {
		if e.Index <= after {
			continue
		}
		if size += len(e.Data); len(r.Entries) > 0 && size > f.MaxBytes {
			break
		}
		r.Entries = append(r.Entries, e)
	}
	r.First = m.first()
	r.Attested = maps.Clone(m.attested[r.Identity])
	r.Published = m.newest()
}

func (m *StoreModel) first() uint64 {
	if len(m.entries) > 0 {
		return m.entries[0].Index
	}
	return m.lead.GetLast() + 1
}

func (m *StoreModel) publish(r *StoreReply, p *StorePublish) {
	if m.lead.GetTerm() != p.Term || m.newest() != p.After || newestOf(p.Records) > m.lead.GetLast() {
		r.refuse("another office, another place in the audit trail, or of entries that are not here")
	} else {
		m.published = append(m.published, p.Records...)
	}
	r.Published = m.newest()
}

// newestOf is the revision that the last of records is of.
func newestOf(records []*Record) uint64 {
	if len(records) == 0 {
		return 0
	}
	return records[len(records)-1].Revision
}

// newest is the number of the newest published record.
func (m *StoreModel) newest() uint64 {
	if n := len(m.published); n > 0 {
		return m.published[n-1].Seq
	}
	return 0
}

func (m *StoreModel) checkpoint(r *StoreReply, c *StoreCheckpoint) {
	if m.lead.GetTerm() != c.Term || c.Snapshot.Index > m.lead.GetLast() || c.Snapshot.Index <= m.snapshot.GetIndex() {
		r.refuse("another office, or a newer snapshot is there")
		return
	}
	m.snapshot = c.Snapshot
	for len(m.entries) > 0 && m.entries[0].Index <= c.TrimTo {
		m.entries = m.entries[1:]
	}
}

func (m *StoreModel) attest(r *StoreReply, a *StoreAttest) {
	if a.Identity != r.Identity {
		r.refuse("the server is another than the one attested")
		return
	}
	if m.attested[a.Identity] == nil {
		m.attested[a.Identity] = map[NodeID]uint64{}
	}
	m.attested[a.Identity][a.Node] = a.Round
}

func (m *StoreModel) close(r *StoreReply, c *StoreClose) {
	switch {
	case m.lead == nil:
		r.refuse("there is no log")
	case c.Guard != nil && (c.Guard.Term != m.lead.Term || c.Guard.Last != 0 && c.Guard.Last != m.lead.Last):
		r.refuse("the log stands elsewhere")
	case c.Identity != "" && c.Identity != r.Identity:
		r.refuse("the server is another than the caller means")
	case c.Reason != "" && m.lead.Closed != "":
		r.refuse("the log is closed: " + m.lead.Closed)
	default:
		m.lead.Closed = c.Reason
	}
}

func (m *StoreModel) replace(r *StoreReply, p *StoreReplace) {
	if m.Position() != p.Guard {
		r.refuse("the log stands elsewhere")
		return
	}
	m.lead, m.snapshot, m.entries = proto.CloneOf(p.Lead), p.Snapshot, nil
	m.attested = map[string]map[NodeID]uint64{}
	for len(m.published) > 0 && m.published[len(m.published)-1].Seq > p.Published {
		m.published = m.published[:len(m.published)-1]
	}
}

func (m *StoreModel) trail(r *StoreReply, t *StoreTrail) {
	for _, rec := range m.published {
		if rec.Seq > t.After && len(r.Records) < t.Limit {
			r.Records = append(r.Records, rec)
		}
	}
}

// ChainEntry returns the chain of the entry that follows one with the chain prev.
func ChainEntry(prev []byte, index, term uint64, data []byte) []byte {
	h := sha256.New()
	var n [8]byte
	h.Write(prev)
	for _, v := range []uint64{index, term} {
		binary.BigEndian.PutUint64(n[:], v)
		h.Write(n[:])
	}
	h.Write(data)
	return h.Sum(nil)
}
