package pglog

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/omnirelay/leadership/core"
)

// defaultTimeout is for calls that come without one.
const defaultTimeout = 10 * time.Second

// Do makes one call. It never returns nil, and returns by c.Timeout or the end of
// ctx. It may be called from several goroutines.
func (s *Store) Do(ctx context.Context, c *core.StoreCall) *core.StoreReply {
	timeout := c.Timeout
	if timeout <= 0 {
		timeout = defaultTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	defer context.AfterFunc(s.life, cancel)()
	r, err := s.do(ctx, c)
	if err == nil {
		err = s.check(r.Lead)
	}
	if err != nil {
		status, text := judge(err, s.options.Schema)
		r = &core.StoreReply{Status: status, Text: text}
	}
	r.ID = c.ID
	return r
}

func (s *Store) do(ctx context.Context, c *core.StoreCall) (*core.StoreReply, error) {
	switch {
	case c.Append != nil:
		return s.append(ctx, c.Append)
	case c.Confirm != nil:
		return s.confirm(ctx, c.Confirm)
	case c.Fetch != nil:
		return s.fetch(ctx, c.Fetch)
	case c.Publish != nil:
		return s.publish(ctx, c.Publish)
	case c.Checkpoint != nil:
		return s.checkpoint(ctx, c.Checkpoint)
	case c.Attest != nil:
		return s.attest(ctx, c.Attest)
	case c.Close != nil:
		return s.shut(ctx, c.Close)
	case c.Replace != nil:
		return s.replace(ctx, c.Replace)
	case c.Trail != nil:
		return s.trail(ctx, c.Trail)
	}
	return nil, fmt.Errorf("call %d asks for nothing", c.ID)
}

// check refuses a log of a newer layout. Another cluster's is refused by the server.
func (s *Store) check(l *core.Lead) error {
	if l != nil && l.Schema > core.StoreSchema {
		return unfit("schema %s holds layout %d, newer than %d: use a newer leaderd", s.options.Schema, l.Schema, core.StoreSchema)
	}
	return nil
}

// own refuses a lead record that would make the log another cluster's.
func (s *Store) own(l *core.Lead) error {
	if l.GetClusterId() != s.options.ClusterID {
		return unfit("the lead record to be written is of cluster %q, this store is opened for %q", l.GetClusterId(), s.options.ClusterID)
	}
	return nil
}

// columns are what every function answers with; what it answers besides follows.
const columns = `a.refused, a.answered_by, (a.standing).present, (a.standing).schema, (a.standing).cluster_id, (a.standing).term,
	(a.standing).holder, (a.standing).last, (a.standing).chain, (a.standing).append_id, (a.standing).beat, (a.standing).identity,
	(a.standing).generation, (a.standing).closed, (a.standing).round`

// leadRow is the lead record as it lies in its table. Numbers are kept as the signed
// ones with the same bits.
type leadRow struct {
	present                                             bool
	schema, term, holder, last, beat, generation, round int64
	clusterID, identity, closed                         string
	chain, appendID                                     []byte
}

func (l *leadRow) targets() []any {
	return []any{&l.present, &l.schema, &l.clusterID, &l.term, &l.holder, &l.last, &l.chain, &l.appendID, &l.beat, &l.identity, &l.generation, &l.closed, &l.round}
}

func (l *leadRow) lead() *core.Lead {
	if !l.present {
		return nil
	}
	return &core.Lead{
		Schema: uint32(l.schema), ClusterId: l.clusterID, Term: uint64(l.term), Holder: uint64(l.holder), Last: uint64(l.last),
		Chain: l.chain, AppendId: l.appendID, Beat: uint64(l.beat), Identity: l.identity, Generation: uint64(l.generation), Closed: l.closed,
		Round: uint64(l.round),
	}
}

// call runs a function for the cluster with args, and reads the columns named in
// more into targets.
func (s *Store) call(ctx context.Context, function string, args []any, more string, targets ...any) (*core.StoreReply, error) {
	row, err := s.ask(ctx, s.calling(function, columns+more, args))
	if err != nil {
		return nil, err
	}
	var l leadRow
	var refused *string
	r := &core.StoreReply{Status: core.StoreOK}
	if err := row.scan(slices.Concat([]any{&refused, &r.Identity}, l.targets(), targets)...); err != nil {
		return nil, err
	}
	r.Lead = l.lead()
	if refused != nil {
		r.Status, r.Text = core.StoreRefused, *refused
	}
	return r, nil
}

// calling is the statement that calls a function.
func (s *Store) calling(function, columns string, args []any) statement {
	sql := fmt.Sprintf(`SELECT %s FROM "%s".%s($1`, columns, s.options.Schema, function)
	for i := range args {
		sql += fmt.Sprintf(", $%d", i+2)
	}
	return statement{sql: sql + ") AS a", args: append([]any{s.options.ClusterID}, args...)}
}

func (s *Store) append(ctx context.Context, a *core.StoreAppend) (*core.StoreReply, error) {
	if err := s.own(a.Lead); err != nil {
		return nil, err
	}
	if last := a.Guard.Last + uint64(len(a.Entries)); len(a.Entries) == 0 || a.Lead.Last != last {
		return nil, fmt.Errorf("malformed append: %d entries behind %d, but the lead record ends at %d", len(a.Entries), a.Guard.Last, a.Lead.Last)
	}
	var terms []int64
	var datas, chains [][]byte
	for i, e := range a.Entries {
		if e.Index != a.Guard.Last+1+uint64(i) {
			return nil, fmt.Errorf("malformed append: entry %d, want %d", e.Index, a.Guard.Last+1+uint64(i))
		}
		terms, datas, chains = append(terms, int64(e.Term)), append(datas, full(e.Data)), append(chains, full(e.Chain))
	}
	voters := make([]int64, len(a.Voters))
	for i, v := range a.Voters {
		voters[i] = int64(v)
	}
	l := a.Lead
	return s.call(ctx, "log_append", []any{int64(a.Guard.Term), int64(a.Guard.Last), a.Adopt, voters,
		int64(l.Schema), int64(l.Term), int64(l.Holder), int64(l.Last), full(l.Chain), full(l.AppendId), l.Identity, int64(l.Generation), l.Closed, int64(l.Round),
		terms, datas, chains}, "")
}

// full is b, and never NULL.
func full(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

// signed is v where the order of places matters: no place lies above it.
func signed(v uint64) int64 { return int64(min(v, math.MaxInt64)) }

func (s *Store) confirm(ctx context.Context, c *core.StoreConfirm) (*core.StoreReply, error) {
	return s.call(ctx, "log_confirm", []any{int64(c.Term), c.Beat}, "")
}

func (s *Store) attest(ctx context.Context, a *core.StoreAttest) (*core.StoreReply, error) {
	return s.call(ctx, "log_attest", []any{a.Identity, int64(a.Node), int64(a.Round)}, "")
}

func (s *Store) shut(ctx context.Context, c *core.StoreClose) (*core.StoreReply, error) {
	var g core.Position
	if c.Guard != nil {
		g = *c.Guard
	}
	return s.call(ctx, "log_close", []any{c.Guard != nil, int64(g.Term), int64(g.Last), c.Identity, c.Reason}, "")
}

func (s *Store) replace(ctx context.Context, p *core.StoreReplace) (*core.StoreReply, error) {
	if err := s.own(p.Lead); err != nil {
		return nil, err
	}
	l, snap := p.Lead, p.Snapshot
	return s.call(ctx, "log_replace", []any{int64(p.Guard.Term), int64(p.Guard.Last), signed(p.Published),
		int64(l.Schema), int64(l.Term), int64(l.Holder), int64(l.Last), full(l.Chain), full(l.AppendId), int64(l.Beat), l.Identity, int64(l.Generation), l.Closed, int64(l.Round),
		int64(snap.GetIndex()), int64(snap.GetTerm()), full(snap.GetChain()), full(snap.GetData())}, "")
}
