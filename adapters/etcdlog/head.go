package etcdlog

import (
	"fmt"
	"strconv"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/core"
)

// answer is what a transaction returned.
type answer struct {
	*head
	took   bool // its comparisons held
	ranges []*pb.RangeResponse
}

// head is the state of a log, its entries and records apart, as of one revision.
type head struct {
	identity  string // of the server that answered
	revision  int64
	lead      *core.Lead // nil: there is no log
	beats     uint64     // the version of head/beat
	pointer   *pointer   // nil: there is no snapshot
	published uint64
	changed   map[string]int64 // the revision of each key's latest change, by name
}

func (h *head) reply() *core.StoreReply {
	return &core.StoreReply{Status: core.StoreOK, Identity: h.identity, Lead: h.lead}
}

func (h *head) refuse(format string, args ...any) *core.StoreReply {
	r := h.reply()
	r.Status, r.Text = core.StoreRefused, fmt.Sprintf(format, args...)
	return r
}

func (h *head) position() core.Position {
	return core.Position{Term: h.lead.GetTerm(), Last: h.lead.GetLast()}
}

// same holds as long as the named keys are as they were.
func (s *Store) same(h *head, names ...string) []clientv3.Cmp {
	var cmps []clientv3.Cmp
	for _, name := range names {
		cmps = append(cmps, clientv3.Compare(clientv3.ModRevision(s.keys.head(name)), "=", h.changed[name]))
	}
	return cmps
}

// inOffice holds as long as the lead record's term is term.
func (s *Store) inOffice(term uint64) clientv3.Cmp {
	return clientv3.Compare(clientv3.Value(s.keys.head(nameTerm)), "=", decimal(term))
}

func decimal(n uint64) string { return strconv.FormatUint(n, 10) }

// guard spells out what an append relies on. A lead record is written together with
// the guard that follows from it, and in no other way.
func guard(at core.Position, closed bool, identity string) string {
	state := "open"
	if closed {
		state = "closed"
	}
	return fmt.Sprintf("term=%d last=%d %s identity=%s", at.Term, at.Last, state, identity)
}

func guardOf(l *core.Lead) string {
	return guard(core.Position{Term: l.Term, Last: l.Last}, l.Closed != "", l.Identity)
}

// putLead writes the lead record and what follows from it.
func (s *Store) putLead(l *core.Lead) ([]clientv3.Op, error) {
	stored := proto.CloneOf(l)
	stored.Beat = 0
	value, err := proto.Marshal(stored)
	if err != nil {
		return nil, fail("the lead record cannot be encoded: %v", err)
	}
	return []clientv3.Op{
		clientv3.OpPut(s.keys.head(nameLead), string(value)),
		clientv3.OpPut(s.keys.head(nameGuard), guardOf(l)),
		clientv3.OpPut(s.keys.head(nameLast), number(l.Last)),
	}, nil
}

func (s *Store) putTerm(l *core.Lead) clientv3.Op {
	return clientv3.OpPut(s.keys.head(nameTerm), decimal(l.Term))
}

// read takes a transaction's answer apart. The head is its last range.
func (s *Store) read(response *clientv3.TxnResponse) (*answer, error) {
	a := &answer{took: response.Succeeded}
	for _, r := range response.Responses {
		if r := r.GetResponseRange(); r != nil {
			a.ranges = append(a.ranges, r)
		}
	}
	last := len(a.ranges) - 1
	var err error
	a.head, err = s.readHead(response.Header, a.ranges[last].Kvs)
	a.ranges = a.ranges[:last]
	return a, err
}

func (s *Store) readHead(header *pb.ResponseHeader, kvs []*mvccpb.KeyValue) (*head, error) {
	h := &head{identity: identityOf(header), revision: header.Revision, changed: map[string]int64{}}
	values := map[string]*mvccpb.KeyValue{}
	for _, kv := range kvs {
		name := string(kv.Key[len(s.keys.heads()):])
		values[name], h.changed[name] = kv, kv.ModRevision
	}
	if values[nameLead] == nil {
		return h, s.noLead(kvs)
	}
	if err := s.readLead(h, values); err != nil {
		return h, err
	}
	if err := s.readBeat(h, values[nameBeat]); err != nil {
		return h, err
	}
	var err error
	if kv := values[namePublished]; kv != nil {
		if h.published, err = strconv.ParseUint(string(kv.Value), 10, 64); err != nil {
			return h, damaged(string(kv.Key), "holds %.40q; a decimal number is right", kv.Value)
		}
	}
	if kv := values[nameSnapshot]; kv != nil {
		h.pointer, err = decodePointer(kv)
	}
	return h, err
}

// noLead accepts that there is no log only where there is nothing of one.
func (s *Store) noLead(kvs []*mvccpb.KeyValue) error {
	if len(kvs) > 0 {
		return damaged(s.keys.head(nameLead), "is missing, but %s is there; restore etcd from a backup", kvs[0].Key)
	}
	return nil
}

func (s *Store) readLead(h *head, values map[string]*mvccpb.KeyValue) error {
	key := s.keys.head(nameLead)
	lead := new(core.Lead)
	if err := proto.Unmarshal(values[nameLead].Value, lead); err != nil {
		return damaged(key, "is no lead record: %v; below %s must be nothing but this log", err, s.options.Prefix)
	}
	switch {
	case lead.Schema > core.StoreSchema:
		return damaged(key, "has layout %d; this program knows layouts up to %d: use a newer one", lead.Schema, core.StoreSchema)
	case lead.ClusterId != s.options.ClusterID:
		return damaged(key, "is of cluster %.100q, not %.100q: choose another prefix", lead.ClusterId, s.options.ClusterID)
	}
	h.lead = lead
	for name, want := range map[string]string{nameGuard: guardOf(lead), nameTerm: decimal(lead.Term), nameLast: number(lead.Last)} {
		if kv := values[name]; kv == nil || string(kv.Value) != want {
			return damaged(s.keys.head(name), "holds %.200q; by the lead record %q is right", kv.GetValue(), want)
		}
	}
	return nil
}

func (s *Store) readBeat(h *head, kv *mvccpb.KeyValue) error {
	key := s.keys.head(nameBeat)
	if kv == nil {
		return damaged(key, "is missing, but %s is there; restore etcd from a backup", s.keys.head(nameLead))
	}
	base, err := strconv.ParseUint(string(kv.Value), 10, 64)
	if err != nil {
		return damaged(key, "holds %.40q; a decimal number is right", kv.Value)
	}
	h.beats = uint64(kv.Version)
	h.lead.Beat = base + h.beats - 1
	return nil
}
