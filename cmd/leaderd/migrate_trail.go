package main

import (
	"bytes"
	"context"
	"fmt"

	"github.com/omnirelay/leadership/core"
)

// trail is the whole audit trail of a registry: what its end keeps, and behind that
// what only the registry itself remembers.
type trail struct {
	page    func(ctx context.Context, after uint64) ([]*core.Record, error)
	history *core.History
}

// summary is what is told of a trail that was found whole.
type summary struct {
	first, last uint64 // numbers of its records; 0: there are none
	hash        []byte // of the last one
}

func (s summary) String() string {
	if s.last == 0 {
		return "no records"
	}
	return fmt.Sprintf("%d records, %d to %d, the last with hash %x", s.last-s.first+1, s.first, s.last, s.hash)
}

// each visits the trail from its first record to its last, in order, at most
// trailPage records at once. It checks the chain end to end, and that it ends where the
// registry says.
func (t *trail) each(ctx context.Context, visit func([]*core.Record) error) (s summary, err error) {
	var last *core.Record
	for {
		records, err := t.next(ctx, s.last)
		if err != nil || len(records) == 0 {
			return s, t.orEnd(s, err)
		}
		if err := core.VerifyChain(last, records); err != nil {
			return s, err
		}
		if s.first == 0 {
			s.first = records[0].Seq
		}
		last = records[len(records)-1]
		s.last, s.hash = last.Seq, last.Hash
		if err := visit(records); err != nil {
			return s, err
		}
	}
}

func (t *trail) next(ctx context.Context, after uint64) ([]*core.Record, error) {
	records, err := t.page(ctx, after)
	if err != nil || len(records) > 0 {
		return records, err
	}
	records, kept := t.history.AfterSeq(after, trailPage)
	if !kept && after > 0 {
		return nil, fmt.Errorf("the audit trail ends at record %d, and the log remembers none before %d", after, t.history.First().GetSeq())
	}
	if !kept { // nothing is published: what the log remembers is all there is
		records, _ = t.history.AfterSeq(t.history.First().GetSeq()-1, trailPage)
	}
	return records, nil
}

// orEnd returns err, or what is wrong with the end of the trail.
func (t *trail) orEnd(s summary, err error) error {
	head, hash := t.history.Head()
	if err == nil && (s.last != head || !bytes.Equal(s.hash, hash)) {
		err = fmt.Errorf("the audit trail ends with record %d (%x), and the registry made %d (%x)", s.last, s.hash, head, hash)
	}
	return err
}

// whole checks the trail and says what it found.
func (t *trail) whole(ctx context.Context) (summary, error) {
	return t.each(ctx, func([]*core.Record) error { return nil })
}
