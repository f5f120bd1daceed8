package etcdlog

import (
	"bytes"
	"context"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/core"
)

const (
	// maxRequest is what a transaction of ours may hold. etcd's default limit, keys
	// and framing included, is 1.5 MiB.
	maxRequest = 1<<20 + 256<<10 // bytes
	// maxOps is how many entries or records a transaction of ours may hold beside the
	// few keys of the head. etcd's default limit is 128 operations.
	maxOps = 100
)

// append needs one round trip: the guard says all that must hold of the lead record,
// and an attempt that finds another gets the record in the same answer. Whatever
// repeats such a transaction, and however late, it takes effect at most once: what it
// writes makes its own guard fail.
//
// It is only sent to the server that the caller believes to talk to, or to none.
func (s *Store) append(ctx context.Context, a *core.StoreAppend) (*core.StoreReply, error) {
	then, wrong := s.appendOps(a)
	if at, ok := s.pinned(ctx, a.Lead.Identity); ok && wrong == nil {
		got, err := s.commit(at, []clientv3.Cmp{s.standsAt(a)}, then...)
		switch {
		case err != nil && !(untouched(err) && s.connections.moved(at)):
			return nil, err
		case err == nil && got.took:
			return s.appended(a, got), nil
		case err == nil:
			if reply := s.judge(a, got.head); reply != nil {
				return reply, nil
			}
		}
	}
	return s.appendAfterLook(ctx, a, then, wrong)
}

// appendAfterLook is for an append on a connection that is new, or one that is not as
// simple as most.
func (s *Store) appendAfterLook(ctx context.Context, a *core.StoreAppend, then []clientv3.Op, wrong error) (*core.StoreReply, error) {
	var tried *head // the latest head that an attempt was guarded by
	for {
		before, err := s.look(ctx)
		if err != nil {
			return nil, err
		}
		if reply := s.judge(a, before.head); reply != nil {
			return reply, nil
		}
		if wrong != nil {
			return nil, wrong
		}
		if tried != nil && tried.changed[nameLead] == before.changed[nameLead] {
			return before.refuse("the log was accepted on another server, %s, and not all voters attested this one", before.lead.GetIdentity()), nil
		}
		at, ok := s.pinned(ctx, a.Lead.Identity)
		if !ok {
			continue // connected anew
		}
		got, err := s.commit(at, append(s.same(before.head, nameLead), s.attested(a, before.head)...), then...)
		switch {
		case err != nil && untouched(err) && s.connections.moved(at):
			continue
		case err != nil:
			return nil, err
		case got.took:
			return s.appended(a, got), nil
		}
		tried = before.head
	}
}

// appended answers an append that took effect.
func (s *Store) appended(a *core.StoreAppend, got *answer) *core.StoreReply {
	if got.identity != a.Lead.Identity {
		return got.refuse("another server answered than the caller knows; it took the append as if it were that one")
	}
	return got.reply()
}

// standsAt is the guard of an append on the server that the log was accepted on.
func (s *Store) standsAt(a *core.StoreAppend) clientv3.Cmp {
	key := s.keys.head(nameGuard)
	if a.Guard == (core.Position{}) {
		return clientv3.Compare(clientv3.CreateRevision(key), "=", 0)
	}
	return clientv3.Compare(clientv3.Value(key), "=", guard(a.Guard, false, a.Lead.Identity))
}

// judge answers an append from a head. nil: it may be tried as long as the lead
// record stays as it is there.
func (s *Store) judge(a *core.StoreAppend, h *head) *core.StoreReply {
	l := h.lead
	switch {
	case l != nil && l.Term == a.Lead.Term && bytes.Equal(l.AppendId, a.Lead.AppendId) && l.Identity == h.identity:
		return h.reply() // an earlier attempt took effect
	case h.position() != a.Guard:
		return h.refuse("the log stands at term %d, entry %d", l.GetTerm(), l.GetLast())
	case l.GetClosed() != "":
		return h.refuse("the log is closed: %s", l.Closed)
	case a.Lead.Identity != h.identity:
		return h.refuse("the server is %s, not %.100q", h.identity, a.Lead.Identity)
	case l != nil && l.Identity != h.identity && (!a.Adopt || len(a.Voters) == 0):
		return h.refuse("the log was accepted on another server, %s", l.Identity)
	}
	return nil
}

// attested holds when every voter attested the server in that round, if that is needed.
func (s *Store) attested(a *core.StoreAppend, h *head) []clientv3.Cmp {
	if h.lead == nil || h.lead.Identity == h.identity {
		return nil
	}
	var cmps []clientv3.Cmp
	for _, v := range a.Voters {
		cmps = append(cmps, clientv3.Compare(clientv3.Value(s.keys.attest(h.identity, v)), "=", decimal(a.Lead.Round)))
	}
	return cmps
}

func (s *Store) appendOps(a *core.StoreAppend) ([]clientv3.Op, error) {
	if err := s.checkAppend(a); err != nil {
		return nil, err
	}
	ops, err := s.putLead(a.Lead)
	if err != nil {
		return nil, err
	}
	if a.Lead.Term != a.Guard.Term {
		ops = append(ops, s.putTerm(a.Lead))
	}
	if a.Guard == (core.Position{}) {
		ops = append(ops, clientv3.OpPut(s.keys.head(nameBeat), "0"))
	}
	size := 0
	for _, e := range a.Entries {
		value, err := proto.Marshal(e)
		if err != nil {
			return nil, fail("entry %d cannot be encoded: %v", e.Index, err)
		}
		size += len(value)
		ops = append(ops, clientv3.OpPut(s.keys.entry(e.Index), string(value)))
	}
	if size > maxRequest {
		return nil, fail("the entries of an append have %d bytes; at most %d fit into one transaction of etcd", size, maxRequest)
	}
	return ops, nil
}

// checkAppend refuses what would make the log unreadable.
func (s *Store) checkAppend(a *core.StoreAppend) error {
	n := uint64(len(a.Entries))
	switch {
	case n == 0 || n > maxOps:
		return fail("an append has %d entries; 1 to %d are right", n, maxOps)
	case a.Lead.Last != a.Guard.Last+n:
		return fail("an append of %d entries behind %d ends at %d, not at %d", n, a.Guard.Last, a.Guard.Last+n, a.Lead.Last)
	case len(a.Voters) > core.MaxReplicas:
		return fail("an append names %d voters; %d is the limit", len(a.Voters), core.MaxReplicas)
	}
	for i, e := range a.Entries {
		if e.Index != a.Guard.Last+1+uint64(i) {
			return fail("entry %d of an append has index %d; %d is right", i, e.Index, a.Guard.Last+1+uint64(i))
		}
	}
	return s.checkLead(a.Lead)
}

func (s *Store) checkLead(l *core.Lead) error {
	if l.ClusterId != s.options.ClusterID || l.Schema > core.StoreSchema {
		return fail("a lead record of cluster %.100q, layout %d is not for this store: it holds %.100q, layout %d", l.ClusterId, l.Schema, s.options.ClusterID, core.StoreSchema)
	}
	return nil
}

// confirm is a linearizable read (see look), or a write that etcd acknowledges like
// an append.
func (s *Store) confirm(ctx context.Context, c *core.StoreConfirm) (*core.StoreReply, error) {
	if !c.Beat {
		return replyOf(s.look(ctx))
	}
	// The key's version goes up by one with each put: no read is needed to count.
	beat := clientv3.OpPut(s.keys.head(nameBeat), "", clientv3.WithIgnoreValue())
	return replyOf(s.commit(ctx, []clientv3.Cmp{s.inOffice(c.Term)}, beat))
}

func replyOf(a *answer, err error) (*core.StoreReply, error) {
	if err != nil {
		return nil, err
	}
	return a.reply(), nil
}

func (s *Store) attest(ctx context.Context, a *core.StoreAttest) (*core.StoreReply, error) {
	for {
		at, ok := s.pinned(ctx, a.Identity)
		if !ok {
			got, err := s.look(ctx)
			if err != nil {
				return nil, err
			}
			if got.identity != a.Identity {
				return got.refuse("the server is %s, not %.100q", got.identity, a.Identity), nil
			}
			continue
		}
		got, err := s.commit(at, nil, clientv3.OpPut(s.keys.attest(a.Identity, a.Node), decimal(a.Round)))
		switch {
		case err != nil && untouched(err) && s.connections.moved(at):
			continue
		case err != nil:
			return nil, err
		case got.identity != a.Identity:
			return got.refuse("the server is %s, not %.100q", got.identity, a.Identity), nil
		}
		return got.reply(), nil
	}
}
