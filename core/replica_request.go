package core

import (
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/core/logpb"
	"github.com/omnirelay/leadership/core/plant"
)

// requestTable holds the commands that this replica's callers wait for, and, on
// the registrar, those that are on their way into the log. A command is handed to
// the registrar again and again, under its one request id, until its reply comes
// back from the log or its time is over. Keeper decisions are not in it: nothing
// below the keeper may repeat them.
type requestTable struct {
	byID     map[string]*pendingRequest
	queue    []*logpb.Command // to be proposed by this registrar
	queued   map[string]bool  // by request id: in queue, or in the log and not applied
	retryDue Time
}

type pendingRequest struct {
	command *logpb.Command
	waiters []waiter
	retryAt Time
	giveUp  Time
}

// waiter is who gets the reply: a local caller or a member's connection.
type waiter struct {
	tag    uint64
	conn   ConnID
	member bool
}

func newRequestTable() requestTable {
	return requestTable{byID: map[string]*pendingRequest{}, queued: map[string]bool{}, retryDue: Never}
}

func (t *requestTable) deadline() Time {
	if len(t.queue) > 0 {
		return minTime
	}
	return t.retryDue
}

// retryNow hands everything that waits to the new registrar at once.
func (t *requestTable) retryNow(now Time) {
	for _, id := range sortedKeys(t.byID) {
		t.byID[id].retryAt = now
	}
	if len(t.byID) > 0 {
		t.retryDue = now
	}
}

// officeEnded forgets what was on its way; its senders will send it again.
func (t *requestTable) officeEnded() {
	t.queue = nil
	clear(t.queued)
}

// enqueue takes a command for the next log entry, once.
func (t *requestTable) enqueue(c *logpb.Command) {
	if t.queued[c.RequestId] || len(t.queue) >= MaxPending {
		return
	}
	t.queued[c.RequestId] = true
	t.queue = append(t.queue, c)
}

// request takes a command of a local caller.
func (r *Replica) request(in *RequestInput) {
	r.accept(in.Command, waiter{tag: in.Tag})
}

// accept validates a command and makes it pending, or answers at once.
func (r *Replica) accept(c *logpb.Command, w waiter) {
	if err := r.prepare(c); err != nil {
		r.reply(w, c.RequestId, errorResult(err))
		return
	}
	if kept := r.registry.replies.lookup(c.RequestId, c.Base); kept != nil && !r.journal.doubtful() && !r.cfg.Plants.Has(plant.ReplyCacheLost) {
		r.reply(w, c.RequestId, kept)
		return
	}
	if p := r.requests.byID[c.RequestId]; p != nil {
		r.join(p, w)
		return
	}
	if len(r.requests.byID) >= MaxPending {
		r.reply(w, c.RequestId, errorResult(refuse(CodeOverloaded, "%d requests are pending on this node; nothing was done, retry later", MaxPending)))
		return
	}
	r.requests.byID[c.RequestId] = &pendingRequest{
		command: c, waiters: []waiter{w}, retryAt: r.now, giveUp: r.now.Add(r.cfg.MaxElectionWindow),
	}
	r.requests.retryDue = r.now
}

// join lets one more caller wait for a pending request. A member that tells its
// request again waits already.
func (r *Replica) join(p *pendingRequest, w waiter) {
	switch {
	case w.member && slices.Contains(p.waiters, w):
	case len(p.waiters) >= MaxInFlight:
		r.reply(w, p.command.RequestId, errorResult(refuse(CodeOverloaded, "%d callers wait for this request already; retry later", MaxInFlight)))
	default:
		p.waiters = append(p.waiters, w)
	}
}

func (r *Replica) prepare(c *logpb.Command) error {
	if err := CompleteCommand(c); err != nil {
		return err
	}
	if c.CorrelationId == "" {
		c.CorrelationId = r.mintID()
	}
	if err := ValidateCommand(c); err != nil {
		return err
	}
	if r.registry.Version() < whyVersion {
		c.Why = "" // some replica could not read it; what is asked matters more than why
	}
	if err := r.nodesFixed(c); err != nil {
		return err
	}
	return r.gate(c)
}

// gate refuses what some replica may not understand: in the log it would stop that
// replica for good. The version only rises, so a copy that is behind refuses too much.
func (r *Replica) gate(c *logpb.Command) error {
	if v := commandVersion(c); v > r.registry.Version() {
		return refuse(CodeUnsupported, "needs protocol version %d; the registry is at %d until every replica announced more", v, r.registry.Version())
	}
	return nil
}

func errorResult(err error) *Result {
	if e, ok := err.(*Error); ok {
		return &Result{Code: string(e.Code), Field: e.Field, Message: e.Message}
	}
	return &Result{Code: string(CodeInvalid), Message: err.Error()}
}

// receiveProposal takes commands that another replica hands to the registrar.
func (r *Replica) receiveProposal(p *Proposal) {
	if !r.leading {
		return
	}
	for _, c := range p.Commands {
		if k := c.GetKeeper(); k != nil {
			if r.cfg.Plants.Has(plant.DeposedExpiryCounts) {
				r.requests.queue = append(r.requests.queue, c)
			}
			continue
		}
		if r.gate(c) == nil && r.nodesFixed(c) == nil && (c.GetAnnounceVersion() != nil || ValidateCommand(c) == nil) {
			r.requests.enqueue(r.stamped(c))
		}
	}
}

// tickRequests hands pending commands to the registrar and gives up on those
// whose time is over.
func (r *Replica) tickRequests() {
	t := &r.requests
	if r.now < t.retryDue {
		return
	}
	t.retryDue = Never
	var forward []*logpb.Command
	for _, id := range sortedKeys(t.byID) {
		p := t.byID[id]
		if r.now >= p.giveUp {
			delete(t.byID, id)
			r.replyAll(p, errorResult(refuse(CodeUnavailable, "no registrar took the request within %v; whether it was executed is unknown: retry with the same request id", r.cfg.MaxElectionWindow)))
			continue
		}
		if r.now >= p.retryAt {
			p.retryAt = r.now.Add(r.cfg.ElectionTimeout / 2)
			forward = append(forward, p.command)
		}
		t.retryDue = min(t.retryDue, p.retryAt, p.giveUp)
	}
	r.handToRegistrar(forward)
}

func (r *Replica) handToRegistrar(commands []*logpb.Command) {
	if r.leading {
		for _, c := range commands {
			r.requests.enqueue(r.stamped(c))
		}
		return
	}
	for len(commands) > 0 && r.lead != 0 {
		n := batchLength(commands)
		r.out.Messages = append(r.out.Messages, Message{From: r.cfg.ID, To: r.lead, Proposal: &Proposal{Commands: commands[:n]}})
		commands = commands[n:]
	}
}

// batchLength is how many of the commands fit one batch; at least one.
func batchLength(commands []*logpb.Command) int {
	size := 0
	for i, c := range commands {
		size += proto.Size(c)
		if i > 0 && (i == MaxBatch || size > MaxBatchBytes) {
			return i
		}
	}
	return len(commands)
}

// propose puts the queue into the log, a batch an entry.
func (r *Replica) propose(wall int64) {
	if !r.leading {
		r.requests.queue = nil
		return
	}
	for len(r.requests.queue) > 0 {
		n := batchLength(r.requests.queue)
		batch := r.requests.queue[:n]
		r.requests.queue = r.requests.queue[n:]
		data, err := proto.MarshalOptions{Deterministic: true}.Marshal(&logpb.Entry{Proposer: uint64(r.cfg.ID), WallNs: wall, Commands: batch})
		if err == nil {
			err = r.journal.propose(data)
		}
		if err != nil {
			r.dropped(batch)
		}
	}
	r.requests.queue = nil
}

// dropped takes back what the log did not take. Requests come again from those
// who wait for them; the keeper decides anew.
func (r *Replica) dropped(batch []*logpb.Command) {
	for _, c := range batch {
		if k := c.GetKeeper(); k != nil {
			r.keeper.Dropped(r.now, k)
		} else {
			delete(r.requests.queued, c.RequestId)
		}
	}
}

// answer replies to those who wait for the commands of an applied entry.
func (r *Replica) answer(payload []byte, out *Outcome) error {
	if len(out.Results) == 0 || (len(r.requests.byID) == 0 && len(r.requests.queued) == 0) {
		return nil
	}
	entry := &logpb.Entry{}
	if err := proto.Unmarshal(payload, entry); err != nil {
		return err
	}
	for i, c := range entry.Commands {
		delete(r.requests.queued, c.RequestId)
		if p := r.requests.byID[c.RequestId]; p != nil && c.GetKeeper() == nil {
			delete(r.requests.byID, c.RequestId)
			r.replyAll(p, out.Results[i])
		}
	}
	return nil
}

// answerKept replies to those whose command came with an installed snapshot.
func (t *requestTable) answerKept(out *Emission, kept *replyWindow) {
	for _, id := range sortedKeys(t.byID) {
		if k := kept.replies[id]; k != nil {
			p := t.byID[id]
			delete(t.byID, id)
			out.reply(p, k.result)
		}
	}
}

func (r *Replica) replyAll(p *pendingRequest, result *Result) { r.out.reply(p, result) }

func (e *Emission) reply(p *pendingRequest, result *Result) {
	for _, w := range p.waiters {
		e.replyTo(w, p.command.RequestId, result)
	}
}

func (r *Replica) reply(w waiter, requestID string, result *Result) {
	r.out.replyTo(w, requestID, result)
}

func (e *Emission) replyTo(w waiter, requestID string, result *Result) {
	if w.member {
		e.Members = append(e.Members, MemberOutput{Conn: w.conn, Message: ReplicaMessage{Reply: &Reply{RequestID: requestID, Result: result}}})
		return
	}
	e.Requests = append(e.Requests, RequestDone{Tag: w.tag, Result: result})
}

func (e *Emission) empty() bool {
	return len(e.Messages) == 0 && len(e.Members) == 0 && len(e.Records) == 0 && len(e.Requests) == 0 && len(e.Reads) == 0 && len(e.Calls) == 0
}

func durationOf(ns int64) time.Duration { return time.Duration(ns) }
