package harness

import (
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/wire"
)

// Trail is an audit trail read from a node, oldest first.
type Trail []wire.AuditRecord

// Verify checks that the trail is whole: every record from the first, each hash
// matching its content and chained to the one before, cursors in order, no fence
// used twice, and every leadership begun only after the one before it ended.
func (tr Trail) Verify() error {
	records := make([]*core.Record, 0, len(tr))
	for i := range tr {
		r, err := recordOf(&tr[i])
		if err != nil {
			return err
		}
		records = append(records, r)
	}
	if len(tr) == 0 || tr[0].Seq != 1 || tr[0].PreviousHash != "" {
		return fmt.Errorf("the trail does not begin with the first record")
	}
	if err := core.VerifyChain(nil, records); err != nil {
		return err
	}
	return tr.verifyOrder()
}

func (tr Trail) verifyOrder() error {
	var last core.Cursor
	var fence uint64
	leads := map[string]wire.AuditRecord{}
	terms := map[string]uint64{}
	for _, r := range tr {
		at := core.Cursor{Revision: r.Revision, Ordinal: r.Ordinal}
		if at.Compare(last) <= 0 {
			return fmt.Errorf("record %d at %v comes after %v", r.Seq, at, last)
		}
		last = at
		now, led := leads[r.Scope]
		switch {
		case r.Kind == core.EventElected.String():
			if r.FenceToken <= fence {
				return fmt.Errorf("record %d elects with fence %d after %d was used", r.Seq, r.FenceToken, fence)
			}
			if led || r.Term != terms[r.Scope]+1 {
				return fmt.Errorf("record %d elects %s for term %d of %s after term %d, which had not ended: %t", r.Seq, r.MemberID, r.Term, r.Scope, terms[r.Scope], led)
			}
			fence, terms[r.Scope], leads[r.Scope] = r.FenceToken, r.Term, r
		case EndsLeadership(r.Kind):
			if !led || now.FenceToken != r.FenceToken || now.MemberID != r.MemberID {
				return fmt.Errorf("record %d ends fence %d of %s, which led %s: %t (fence %d)", r.Seq, r.FenceToken, r.MemberID, r.Scope, led, now.FenceToken)
			}
			delete(leads, r.Scope)
		}
	}
	return nil
}

// same compares the hashes, which cover everything.
func (tr Trail) same(other Trail) bool {
	return slices.EqualFunc(tr, other, func(a, b wire.AuditRecord) bool { return a.Hash == b.Hash })
}

// End is the cursor behind the last record.
func (tr Trail) End() core.Cursor {
	last := tr[len(tr)-1]
	return core.Cursor{Revision: last.Revision, Ordinal: last.Ordinal}
}

// LeadersAt replays the trail up to a cursor and returns the led scopes.
func (tr Trail) LeadersAt(c core.Cursor) Leaders {
	l := Leaders{Revision: c.Revision, ByScope: map[string]wire.Token{}}
	for _, r := range tr {
		if (core.Cursor{Revision: r.Revision, Ordinal: r.Ordinal}).Compare(c) > 0 {
			break
		}
		if r.Kind == core.EventElected.String() {
			l.ByScope[r.Scope] = wire.Token{Scope: r.Scope, LeaderID: r.MemberID, Term: r.Term, FenceToken: r.FenceToken}
		} else if EndsLeadership(r.Kind) {
			delete(l.ByScope, r.Scope)
		}
	}
	return l
}

// After are the records behind a cursor.
func (tr Trail) After(c core.Cursor) Trail {
	i := slices.IndexFunc(tr, func(r wire.AuditRecord) bool {
		return core.Cursor{Revision: r.Revision, Ordinal: r.Ordinal}.Compare(c) > 0
	})
	if i < 0 {
		return nil
	}
	return tr[i:]
}

// UpTo are the records up to a cursor.
func (tr Trail) UpTo(c core.Cursor) Trail { return tr[:len(tr)-len(tr.After(c))] }

// EndsLeadership reports whether an event of the kind leaves its scope unled.
func EndsLeadership(kind string) bool {
	k, known := kinds[kind]
	return known && k.EndsLeadership()
}

// kinds are the event kinds by name.
var kinds = func() map[string]core.EventKind {
	byName := map[string]core.EventKind{}
	for k := core.EventSnapshot; k <= core.EventRegistrarMoved; k++ {
		byName[k.String()] = k
	}
	return byName
}()

// recordOf turns what was told in JSON back into the record that was hashed.
func recordOf(a *wire.AuditRecord) (*core.Record, error) {
	kind, known := kinds[a.Kind]
	if !known {
		return nil, fmt.Errorf("audit record %d is of unknown kind %q", a.Seq, a.Kind)
	}
	hash, err := hex.DecodeString(a.Hash)
	if err != nil {
		return nil, fmt.Errorf("audit record %d: hash: %w", a.Seq, err)
	}
	previous, err := hex.DecodeString(a.PreviousHash)
	if err != nil {
		return nil, fmt.Errorf("audit record %d: previousHash: %w", a.Seq, err)
	}
	r := &core.Record{
		Seq: a.Seq, Revision: a.Revision, Ordinal: a.Ordinal, Kind: uint32(kind), Scope: a.Scope, ScopeKind: a.ScopeKind, Labels: a.Labels,
		MemberId: a.MemberID, Session: a.Session, Term: a.Term, Fence: a.FenceToken, Reason: a.Reason, CorrelationId: a.CorrelationID,
		Actor: a.Actor, Why: a.Why, Subject: a.Subject, WallNs: a.OccurredAt.UnixNano(), PrevHash: previous, Hash: hash,
	}
	if !a.IssuedAt.IsZero() {
		r.IssuedWallNs = a.IssuedAt.UnixNano()
	}
	return r, nil
}
