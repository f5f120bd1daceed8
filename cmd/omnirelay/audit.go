package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/omnirelay/leadership/adapters/terminal"
	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/wire"
)

// auditBatch is how many records one request asks for at most.
const auditBatch = 1000

// auditCommand is `mesh leaders audit`.
type auditCommand struct {
	asker
	scope          string
	after          int64 // negative: the newest records
	limit          int
	follow, verify bool

	shown  int
	widths []int
	prev   *core.Record // the last one that was verified
	first  uint64       // its number, of the first one
	count  int          // of those verified
}

func newAuditCommand() *cobra.Command {
	c := &auditCommand{}
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Show who led what when, who asked for it, and why",
		Long: "Shows records of the audit trail, newest last: every change of leadership, of members and of nodes, with\n" +
			"who asked for it and why.\n\n" +
			"With --verify each record is hashed anew: one whose content was changed, or that does not follow the one\n" +
			"before it, ends the command with exit code 1. That shows that the records which are printed are\n" +
			"whole and in order; what came before the first of them it does not show.",
		Example: "  omnirelay mesh leaders audit --scope global-control --limit 20\n  omnirelay mesh leaders audit --follow --verify",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return c.run(cmd) },
	}
	c.flags(cmd, 10*time.Second, "the longest wait for an answer")
	f := cmd.Flags()
	f.StringVar(&c.scope, "scope", "", "only records of this scope")
	f.Int64Var(&c.after, "after", -1, "the records that follow this number (default the newest ones)")
	f.IntVar(&c.limit, "limit", 100, "how many to look at, 1 to 100000; the newest are at most 1000")
	f.BoolVar(&c.follow, "follow", false, "go on with what is recorded from now on")
	f.BoolVar(&c.verify, "verify", false, "check the chain of hashes")
	complete(cmd, "scope", c.completeScopes)
	return cmd
}

func (c *auditCommand) run(cmd *cobra.Command) error {
	if c.scope != "" {
		if err := checkScope("--scope", c.scope); err != nil {
			return err
		}
	}
	if c.limit < 1 || c.limit > 100_000 {
		return fmt.Errorf("--limit %d: want 1 to 100000", c.limit)
	}
	if err := c.open(cmd, readRoles); err != nil {
		return err
	}
	if err := c.print(cmd.Context()); err != nil {
		return err
	}
	if c.follow {
		if err := c.goOn(cmd.Context()); err != nil {
			return err
		}
	}
	if c.verify && !c.follow {
		return c.report()
	}
	return nil
}

// page is a part of the trail.
type page struct {
	records []wire.AuditRecord
	raw     []json.RawMessage // the same, as the node wrote them
	last    int64             // the number of the last record that was looked at; -1: none
}

// print shows what was asked for.
func (c *auditCommand) print(ctx context.Context) error {
	after, left := c.after, c.limit
	all := page{last: after}
	for left > 0 {
		p, err := c.page(ctx, after, min(left, auditBatch))
		if err != nil {
			return err
		}
		all.records, all.raw = append(all.records, p.records...), append(all.raw, p.raw...)
		left -= len(p.raw)
		newest := after < 0
		if p.last >= 0 {
			after, all.last = p.last, p.last
		}
		if newest || len(p.raw) < auditBatch {
			break
		}
	}
	c.after = all.last
	if c.follow && c.format.data() && len(all.records) == 0 {
		return nil
	}
	return c.show(all)
}

// goOn shows what is recorded, as it is.
func (c *auditCommand) goOn(ctx context.Context) error {
	heard := time.Now()
	for ctx.Err() == nil { // an interrupt is how it ends
		p, err := c.page(ctx, max(c.after, 0), auditBatch)
		var no *refusal
		switch {
		case ctx.Err() != nil:
			continue
		case errors.As(err, &no), errors.Is(err, errChain):
			return err
		case err != nil && time.Since(heard) > c.timeout:
			return fmt.Errorf("%w; nobody answered for %v: %w", errTimedOut, c.timeout, err)
		case err != nil:
			note(c.notes, "%s; asking on", oneLine(err))
		case len(p.raw) > 0:
			heard = time.Now()
			c.after = p.last
			if err := c.show(p); err != nil {
				return err
			}
			continue
		default:
			heard = time.Now()
		}
		select {
		case <-ctx.Done():
		case <-time.After(pollEvery):
		}
	}
	return nil
}

// page asks for records behind after, or for the newest. To be verified all are asked
// for: the chain goes through those of other scopes.
func (c *auditCommand) page(ctx context.Context, after int64, limit int) (p page, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	query := url.Values{"limit": {strconv.Itoa(limit)}}
	if after >= 0 {
		query.Set("after", strconv.FormatInt(after, 10))
	}
	if c.scope != "" && !c.verify {
		query.Set("scope", c.scope)
	}
	raw, err := c.client.fetch(ctx, "/control/audit", query)
	if err != nil {
		return p, c.advised(err)
	}
	return c.read(raw)
}

func (c *auditCommand) read(raw []byte) (p page, err error) {
	var answer struct{ Records []json.RawMessage }
	if err := json.Unmarshal(raw, &answer); err != nil {
		return p, fmt.Errorf("the node's answer is no audit trail: %w", err)
	}
	p.last = -1
	var chain []*core.Record
	for _, text := range answer.Records {
		var r wire.AuditRecord
		if err := json.Unmarshal(text, &r); err != nil {
			return p, fmt.Errorf("the node's answer has what is no audit record: %w", err)
		}
		p.last = int64(r.Seq)
		p.raw = append(p.raw, text)
		if c.verify {
			record, err := recordOf(&r)
			if err != nil {
				return p, err
			}
			chain = append(chain, record)
		}
		if c.scope == "" || r.Scope == c.scope {
			p.records = append(p.records, r)
		}
	}
	return p, c.check(chain)
}

// errChain is an audit trail that is not what was recorded.
var errChain = errors.New("the audit trail has been tampered with, or is damaged")

// check verifies records behind those that were verified before.
func (c *auditCommand) check(chain []*core.Record) error {
	if len(chain) == 0 {
		return nil
	}
	if err := core.VerifyChain(c.prev, chain); err != nil {
		return fmt.Errorf("%w: %w; compare with another node by --url", errChain, err)
	}
	if c.prev == nil {
		c.first = chain[0].Seq
	}
	c.prev = chain[len(chain)-1]
	c.count += len(chain)
	return nil
}

// report says what was verified.
func (c *auditCommand) report() error {
	if c.count == 0 {
		note(c.notes, "there was nothing to verify")
		return nil
	}
	note(c.notes, "verified %s, %d to %d: none was changed, none is missing; the last has the hash %s",
		plural(c.count, "record"), c.first, c.prev.Seq, hex.EncodeToString(c.prev.Hash))
	return nil
}

// kindNumbers are those of all kinds of events.
var kindNumbers = func() map[string]uint32 {
	numbers := map[string]uint32{}
	for k := range uint32(64) { // more than there are: others are named by their number
		numbers[core.EventKind(k).String()] = k
	}
	return numbers
}()

// recordOf is the record as it was hashed.
func recordOf(a *wire.AuditRecord) (*core.Record, error) {
	kind, known := kindNumbers[a.Kind]
	if !known {
		return nil, fmt.Errorf("record %d is of the kind %s, which this omnirelay does not know and so cannot verify; use that of the node's version", a.Seq, a.Kind)
	}
	previous, err1 := hex.DecodeString(a.PreviousHash)
	hash, err2 := hex.DecodeString(a.Hash)
	if err := errors.Join(err1, err2); err != nil {
		return nil, fmt.Errorf("%w: record %d has a hash that is none: %w", errChain, a.Seq, err)
	}
	r := &core.Record{Seq: a.Seq, Revision: a.Revision, Ordinal: a.Ordinal, Kind: kind, Scope: a.Scope, ScopeKind: a.ScopeKind, Labels: a.Labels,
		MemberId: a.MemberID, Session: a.Session, Term: a.Term, Fence: a.FenceToken, Reason: a.Reason, CorrelationId: a.CorrelationID,
		Actor: a.Actor, WallNs: a.OccurredAt.UnixNano(), PrevHash: previous, Hash: hash, Why: a.Why, Subject: a.Subject}
	if !a.IssuedAt.IsZero() {
		r.IssuedWallNs = a.IssuedAt.UnixNano()
	}
	return r, nil
}

// show prints a page.
func (c *auditCommand) show(p page) error {
	if c.format.data() {
		return c.showData(p)
	}
	heads := []string{"SEQ", "TIME", "KIND", "ABOUT", "MEMBER", "TERM", "FENCE", "REASON", "ACTOR", "WHY"}
	if c.format == formatWide {
		heads = append(heads, "CORRELATION", "SESSION", "REVISION", "HASH")
	}
	if c.shown == 0 {
		c.widths = auditWidths(p.records, heads)
		c.shown++
		if err := c.line(headCells(heads)); err != nil {
			return err
		}
	}
	for i := range p.records {
		if err := c.line(auditCells(&p.records[i], c.format == formatWide)); err != nil {
			return err
		}
	}
	return nil
}

func (c *auditCommand) line(cells []terminal.Cell) error {
	if _, err := fmt.Fprintln(c.out, terminal.Align(cells, c.widths, c.colours)); err != nil {
		return fmt.Errorf("%w: %w", errOutput, err)
	}
	return nil
}

// showData prints records as the node wrote them: those of one scope only, though all
// were asked for to be verified.
func (c *auditCommand) showData(p page) error {
	out := struct {
		Records []json.RawMessage `json:"records"`
	}{Records: []json.RawMessage{}}
	next := 0
	for _, text := range p.raw {
		var r struct{ Scope string }
		if err := json.Unmarshal(text, &r); err != nil {
			return err
		}
		if c.scope == "" || r.Scope == c.scope {
			out.Records = append(out.Records, text)
			next++
		}
	}
	if c.follow && next == 0 {
		return nil
	}
	raw, err := json.Marshal(out)
	if err != nil {
		return err
	}
	if c.follow && c.format == formatYAML {
		fmt.Fprintln(c.out, "---")
	}
	return c.printData(raw)
}

// auditWidths align what comes later with what is there.
func auditWidths(records []wire.AuditRecord, heads []string) []int {
	widths := make([]int, len(heads))
	for i, head := range heads {
		widths[i] = len(head)
	}
	for i := range records {
		for j, cell := range auditCells(&records[i], len(heads) > 10) {
			widths[j] = max(widths[j], len([]rune(terminal.Clean(cell.Text))))
		}
	}
	return widths
}

// auditCells shows a record.
func auditCells(r *wire.AuditRecord, wide bool) []terminal.Cell {
	about := r.Scope
	if about == "" {
		about = r.Subject
	}
	cells := terminal.Text(number(r.Seq), clock(r.OccurredAt), r.Kind, dash(about), dash(r.MemberID), "-", "-", dash(r.Reason), dash(r.Actor), dash(r.Why))
	cells[2].Style = kindStyle(r.Kind)
	if r.Term != 0 {
		cells[5].Text, cells[6].Text = number(r.Term), number(r.FenceToken)
	}
	if wide {
		cells = append(cells, terminal.Text(r.CorrelationID, number(r.Session), number(r.Revision), r.Hash[:min(len(r.Hash), 12)])...)
	}
	return cells
}
