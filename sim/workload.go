package sim

import (
	"fmt"
	"math/rand/v2"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
	"github.com/omnirelay/leadership/sim/check"
)

// workload is the operators: they declare, retire, transfer and cordon through
// whatever replica, repeat what was not answered, and read.
type workload struct {
	w       *World
	rng     *rand.Rand
	next    uint64
	tags    uint64
	waiting map[uint64]*request
	reads   map[uint64]*read
}

// request is one command of an operator, however often it is sent.
type request struct {
	command *logpb.Command
	tries   int
	done    bool
	sentAt  int64
}

// read is a linearizable read under way.
type read struct {
	scope   string
	askedAt int64
	replica *replica
	life    int
}

// maxTries is how often a request is sent before its client gives up.
const maxTries = 8

func newWorkload(w *World, rng *rand.Rand) *workload {
	return &workload{w: w, rng: rng, waiting: map[uint64]*request{}, reads: map[uint64]*read{}}
}

func (l *workload) begin() {
	s := &l.w.scenario.Workload
	l.declareAll()
	l.every(s.TransferEvery.D(), l.transfer)
	l.every(s.CancelEvery.D(), l.cancel)
	l.every(s.CordonEvery.D(), l.cordon)
	l.every(s.RetireEvery.D(), l.retire)
	l.every(s.ReadEvery.D(), l.read)
}

func (l *workload) every(interval time.Duration, act func()) {
	if interval <= 0 {
		return
	}
	l.w.after(spread(l.rng, interval), func() {
		if !l.w.nemesis.over {
			act()
			l.every(interval, act)
		}
	})
}

// scopeName is the i-th scope of the world.
func scopeName(i int) string {
	switch {
	case i == 0:
		return core.GlobalControl
	case i%3 == 1:
		return fmt.Sprintf("custom/%d", i)
	}
	return fmt.Sprintf("shard/sim/%02d", i)
}

func (l *workload) anyScope() string { return scopeName(l.rng.IntN(l.w.scenario.Scopes)) }

func (l *workload) anyMember() string {
	return l.w.members[l.rng.IntN(len(l.w.members))].member
}

func (l *workload) spec(i int) *logpb.ScopeSpec {
	spec := &logpb.ScopeSpec{Id: scopeName(i)}
	if i%5 == 3 {
		spec.PreferredMember = l.w.members[i%len(l.w.members)].member
	}
	if i < l.w.scenario.Gossip.FastScopes {
		spec.Failover = logpb.ScopeSpec_FAILOVER_FAST
	}
	return spec
}

func (l *workload) declareAll() {
	d := &logpb.DeclareScopes{}
	for i := range l.w.scenario.Scopes {
		d.Scopes = append(d.Scopes, l.spec(i))
	}
	l.submit(&logpb.Command{Kind: &logpb.Command_DeclareScopes{DeclareScopes: d}}, 0)
}

func (l *workload) transfer() {
	to := ""
	if l.rng.IntN(4) > 0 {
		to = l.anyMember()
	}
	l.submit(&logpb.Command{Kind: &logpb.Command_Transfer{Transfer: &logpb.Transfer{Scope: l.anyScope(), ToMember: to, Reason: core.AskTransfer}}}, 0)
}

func (l *workload) cancel() {
	l.submit(&logpb.Command{Kind: &logpb.Command_CancelTransfer{CancelTransfer: &logpb.CancelTransfer{Scope: l.anyScope()}}}, 0)
}

// cordon keeps a member out for a while, and sometimes drains it.
func (l *workload) cordon() {
	member := l.anyMember()
	l.submit(&logpb.Command{Kind: &logpb.Command_Cordon{Cordon: &logpb.Cordon{MemberId: member, Cordoned: true, Drain: l.rng.IntN(2) == 0}}}, 0)
	lift := &logpb.Command{Kind: &logpb.Command_Cordon{Cordon: &logpb.Cordon{MemberId: member}}}
	l.submit(lift, min(spread(l.rng, 3*sec), l.w.nemesis.left()))
}

// retire takes a scope away and declares it again, at once or a little later.
func (l *workload) retire() {
	i := l.rng.IntN(l.w.scenario.Scopes)
	l.submit(&logpb.Command{Kind: &logpb.Command_RetireScopes{RetireScopes: &logpb.RetireScopes{Scopes: []string{scopeName(i)}}}}, 0)
	for range 3 {
		again := &logpb.Command{Kind: &logpb.Command_DeclareScopes{DeclareScopes: &logpb.DeclareScopes{Scopes: []*logpb.ScopeSpec{l.spec(i)}}}}
		l.submit(again, time.Duration(l.rng.Int64N(int64(2*sec))))
	}
}

// submit sends a command after a while, under a request id of its own, and keeps
// trying until it is answered.
func (l *workload) submit(c *logpb.Command, after time.Duration) {
	l.next++
	c.RequestId = fmt.Sprintf("op-%d", l.next)
	c.CorrelationId, c.Actor = c.RequestId, "operator"
	r := &request{command: c}
	l.w.after(after, func() {
		c.Base = l.w.checks.reference.revision
		r.sentAt = l.w.now
		l.try(r)
		if l.rng.IntN(10) == 0 { // an impatient client asks twice at once
			l.send(r)
		}
		if l.rng.IntN(10) == 0 { // and one that forgot the answer asks much later
			l.w.after(spread(l.rng, 10*sec), func() { l.send(r) })
		}
	})
}

func (l *workload) try(r *request) {
	if r.done || r.tries >= maxTries {
		return
	}
	r.tries++
	l.send(r)
	l.w.after(spread(l.rng, 2*sec), func() { l.try(r) })
}

// send hands the command to some replica that is up.
func (l *workload) send(r *request) {
	running := l.w.running()
	to := running[l.rng.IntN(len(running))]
	if !to.up {
		return
	}
	l.tags++
	l.waiting[l.tags] = r
	to.receive(core.Input{Request: &core.RequestInput{Tag: l.tags, Command: proto.CloneOf(r.command)}})
}

// answered takes a replica's answer.
func (l *workload) answered(from *replica, d *core.RequestDone) {
	r := l.waiting[d.Tag]
	if r == nil {
		return
	}
	delete(l.waiting, d.Tag)
	l.w.digest.words(uint64(l.w.now), d.Tag, d.Result.Revision)
	l.w.checks.answered(l.w.now, r.command.RequestId, d.Result)
	l.w.tracef(aboutRequests, "%s answers %s: %q %s", from.name, r.command.RequestId, d.Result.Code, d.Result.Message)
	switch core.Code(d.Result.Code) {
	case core.CodeUnavailable, core.CodeOverloaded, core.CodeHalted:
		return // the outcome is unknown or nothing was done: it is tried again
	}
	if !r.done {
		r.done = true
		l.w.checks.linearizable.Answered(r.sentAt, l.w.now, r.command, d.Result)
	}
}

func (l *workload) read() {
	running := l.w.running()
	to := running[l.rng.IntN(len(running))]
	if !to.up {
		return
	}
	l.tags++
	l.reads[l.tags] = &read{scope: l.anyScope(), askedAt: l.w.now, replica: to, life: to.incarnation}
	to.receive(core.Input{Read: &core.ReadInput{Tag: l.tags}})
}

// readDone reads the registry at the moment at which it may be read.
func (l *workload) readDone(from *replica, d *core.ReadDone) {
	r := l.reads[d.Tag]
	if r == nil {
		return
	}
	delete(l.reads, d.Tag)
	if d.Err != nil {
		return
	}
	g := from.core.Registry()
	found := viewOf(g, r.scope)
	l.w.stats.Reads++
	l.w.tracef(r.scope, "a client that asked %s at %v reads %s: %+v at revision %d", from.name, time.Duration(r.askedAt), r.scope, found, g.Revision())
	l.w.checks.linearizable.Read(r.askedAt, l.w.now, from.name, r.scope, found, g.Revision())
}

// viewOf is what a reader finds of a scope.
func viewOf(g *core.Registry, scope string) check.ScopeView {
	s, declared := g.Scope(scope)
	v := check.ScopeView{Declared: declared, Fence: s.Leader.Fence, Retiring: s.Retiring}
	if s.Ask != nil {
		v.Ask = s.Ask.CorrelationID
	}
	return v
}
