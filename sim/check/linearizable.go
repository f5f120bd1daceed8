package check

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
)

// Linearizable: commands and linearizable reads of the clients took effect in one
// order, each at an instant between its call and its return.
//
// Intuition: what happens to one scope is a chain of steps, each made by a client's
// command or by the registry itself (an expiry, a rebalance). A step cannot have
// happened before somebody first held it on a disk or in a store, and has happened
// once anybody outside was told of it. Everything else that a client learnt, by a
// read or by the outcome of a command that changed nothing, is an observation: some
// place of the chain within its call and return must look like that. Whether there
// is an order that fits them all is what porcupine finds out, scope by scope.
//
// Of the numbers that the service claims, only the order of the steps of one scope
// is believed (Agreement sees to that) and, in a history of its own, that what was
// called after an answer is not answered with a smaller revision.
type Linearizable struct {
	report   Report
	timeout  time.Duration
	proposed map[place]int64 // when an entry was first written anywhere
	scopes   map[string]*chain
	claims   []operation // of revisions
	since    int64       // operations called before this are left out
}

// place names one entry of the log, be it committed or not.
type place struct{ index, term uint64 }

// ScopeView is what a reader sees of a scope. The zero view is that of one that
// is not declared.
type ScopeView struct {
	Declared bool
	Fence    uint64 // 0: vacant
	// Ask is the correlation id of the standing request to the holder, empty for none.
	Ask      string
	Retiring bool
}

// chain is what happened to one scope.
type chain struct {
	steps        []*step
	observations []operation
	byCommand    map[string]*step
}

// step is what one command, or the registry, did to a scope within one entry.
type step struct {
	revision    uint64
	correlation string
	view        ScopeView // afterwards
	passing     bool      // the same entry went on: no reader sees this view
	call, told  int64
	text        string
}

// operation is one element of a history that porcupine orders.
type operation struct {
	call, back int64
	step       int // it is this step of the chain, from 1; 0: an observation
	reader     bool
	such       func(ScopeView) bool // of an observation
	revision   uint64               // of a claim
	text       string
}

// NewLinearizable gives porcupine the time-out for each scope's history: what it
// cannot decide by then is unknown, and no pass.
func NewLinearizable(report Report, timeout time.Duration) *Linearizable {
	return &Linearizable{report: report, timeout: timeout, proposed: map[place]int64{}, scopes: map[string]*chain{}}
}

// Proposed tells that an entry is being written somewhere: it cannot have taken
// effect before.
func (c *Linearizable) Proposed(at int64, index, term uint64) {
	p := place{index, term}
	if _, ok := c.proposed[p]; !ok {
		c.proposed[p] = at
	}
}

func (c *Linearizable) chainOf(scope string) *chain {
	h := c.scopes[scope]
	if h == nil {
		h = &chain{byCommand: map[string]*step{}}
		c.scopes[scope] = h
	}
	return h
}

// Told takes a record that the outside is told for the first time, in order. term
// is that of its entry.
func (c *Linearizable) Told(at int64, r *core.Record, term uint64) {
	if r.Scope == "" {
		return // of a member or a node
	}
	h := c.chainOf(r.Scope)
	view := ScopeView{}
	if n := len(h.steps); n > 0 {
		last := h.steps[n-1]
		view = last.view.after(r)
		if last.revision == r.Revision && last.correlation == r.CorrelationId {
			last.view = view
			last.text += " " + describeRecord(r)
			return
		}
		last.passing = last.revision == r.Revision
	} else {
		view = view.after(r)
	}
	s := &step{revision: r.Revision, correlation: r.CorrelationId, view: view, told: at, call: min(c.proposed[place{r.Revision, term}], at), text: describeRecord(r)}
	h.steps = append(h.steps, s)
	if h.byCommand[s.correlation] == nil {
		h.byCommand[s.correlation] = s
	}
}

// after is the view once r has happened.
func (v ScopeView) after(r *core.Record) ScopeView {
	switch k := core.EventKind(r.Kind); {
	case k == core.EventScopeDeclared:
		return ScopeView{Declared: true}
	case k == core.EventScopeRetired:
		return ScopeView{}
	case k == core.EventElected:
		v.Fence = r.Fence
	case k.EndsLeadership():
		v.Fence = 0
		if !v.Retiring {
			v.Ask = ""
		}
	case k == core.EventDrainRequested:
		v.Ask, v.Retiring = r.CorrelationId, r.Reason == core.AskRetire
	case k == core.EventDrainCancelled:
		v.Ask = ""
	}
	return v
}

func describeRecord(r *core.Record) string {
	return fmt.Sprintf("%s fence %d (%s) at %d.%d", core.EventKind(r.Kind), r.Fence, r.Reason, r.Revision, r.Ordinal)
}

// Answered takes a client's command with its answer. One that was not executed
// says nothing.
func (c *Linearizable) Answered(call, back int64, command *logpb.Command, r *core.Result) {
	if call < c.since || r.Revision == 0 || core.Code(r.Code) == core.CodeTooOld {
		return
	}
	scopes, such := outcome(command, r)
	text := describeAnswer(command, r)
	for _, scope := range scopes {
		h := c.chainOf(scope)
		if s := h.byCommand[command.RequestId]; s != nil {
			s.call, s.told = max(s.call, call), min(s.told, back)
			continue
		}
		h.observations = append(h.observations, operation{call: call, back: back, such: such, text: text})
	}
	c.claims = append(c.claims, operation{call: call, back: back, revision: r.Revision, text: text})
}

// Read takes what a linearizable read found.
func (c *Linearizable) Read(call, back int64, who, scope string, found ScopeView, revision uint64) {
	if call < c.since {
		return
	}
	text := fmt.Sprintf("a read of %s at %s found %+v at revision %d", scope, who, found, revision)
	h := c.chainOf(scope)
	h.observations = append(h.observations, operation{call: call, back: back, reader: true, text: text, such: func(v ScopeView) bool { return v == found }})
	c.claims = append(c.claims, operation{call: call, back: back, revision: revision, text: text})
}

// Check looks for an order of everything up to now.
func (c *Linearizable) Check() {
	for _, scope := range slices.Sorted(maps.Keys(c.scopes)) {
		h := c.scopes[scope]
		c.order(scope, h.model(), h.operations(), knownAt)
	}
	c.order("", claims, c.claims, claimedBy)
}

// Relocated tells that an operator let the log go on from a revision. Everything
// answered until now has an order of its own; after it, what was kept is as it was
// and what came later never was. What is under way may belong to either, and is left
// out.
func (c *Linearizable) Relocated(at int64, kept uint64) {
	c.Check()
	c.claims, c.since = nil, at
	for _, h := range c.scopes {
		h.observations = nil
		h.steps = slices.DeleteFunc(h.steps, func(s *step) bool { return s.revision > kept })
		maps.DeleteFunc(h.byCommand, func(_ string, s *step) bool { return s.revision > kept })
		if n := len(h.steps); n > 0 {
			h.steps[n-1].passing = false
		}
	}
}

// operations are the steps and observations as one history.
func (h *chain) operations() []operation {
	ops := make([]operation, 0, len(h.steps)+len(h.observations))
	for i, s := range h.steps {
		ops = append(ops, operation{call: s.call, back: s.told, step: i + 1, text: s.text})
	}
	return append(ops, h.observations...)
}

// model is the chain as porcupine's sequential object: its state is how many steps
// have been taken.
func (h *chain) model() porcupine.Model {
	return porcupine.Model{
		Init: func() any { return 0 },
		Hash: func(state any) uint64 { return uint64(state.(int)) },
		Step: func(state, input, _ any) (bool, any) {
			at, o := state.(int), input.(*operation)
			if o.step > 0 {
				return o.step == at+1, o.step
			}
			var view ScopeView
			if at > 0 {
				view = h.steps[at-1].view
				if o.reader && h.steps[at-1].passing {
					return false, at
				}
			}
			return o.such(view), at
		},
	}
}

// claims orders operations by the revision they were answered with. There is an
// order in which it never falls exactly if the one sorted by revision is one.
var claims = porcupine.Model{
	Init: func() any { return 0 },
	Hash: func(state any) uint64 { return uint64(state.(int)) },
	Step: func(state, input, _ any) (bool, any) {
		o := input.(*operation)
		return o.step == state.(int)+1, o.step
	},
}

// claimedBy are the claims made up to an instant, in that order.
func claimedBy(ops []operation, at int64) []porcupine.Operation {
	var made []*operation
	for i := range ops {
		if ops[i].back <= at {
			made = append(made, &ops[i])
		}
	}
	slices.SortStableFunc(made, func(a, b *operation) int {
		return cmp.Or(cmp.Compare(a.revision, b.revision), cmp.Compare(a.call, b.call))
	})
	all := make([]porcupine.Operation, len(made))
	for i, o := range made {
		o.step = i + 1
		all[i] = porcupine.Operation{Input: o, Call: o.call, Return: o.back}
	}
	return all
}

// knownAt is the history of a scope as it was known at an instant: a step that was
// not told yet may be told whenever, an observation not yet answered is none.
func knownAt(ops []operation, at int64) []porcupine.Operation {
	all := make([]porcupine.Operation, 0, len(ops))
	for i := range ops {
		o := &ops[i]
		switch {
		case o.back <= at:
			all = append(all, porcupine.Operation{Input: o, Call: o.call, Return: o.back})
		case o.step > 0:
			all = append(all, porcupine.Operation{Input: o, Call: o.call, Return: math.MaxInt64})
		}
	}
	return all
}

// order reports a history that has no order, or for which none was found in time.
func (c *Linearizable) order(scope string, m porcupine.Model, ops []operation, known func([]operation, int64) []porcupine.Operation) {
	illegal := func(at int64) bool {
		return porcupine.CheckOperationsTimeout(m, known(ops, at), c.timeout) == porcupine.Illegal
	}
	switch porcupine.CheckOperationsTimeout(m, known(ops, math.MaxInt64), c.timeout) {
	case porcupine.Illegal:
		o := culprit(ops, illegal)
		c.report.scope(LinearizableProperty, o.back, scope, "no order of what clients and registry did fits any more when it is answered at %v, called at %v: %s\n%s",
			time.Duration(o.back), time.Duration(o.call), o.text, around(ops, o))
	case porcupine.Unknown:
		c.report(Violation{Property: LinearizableProperty, Scope: scope, Unknown: true,
			Text: fmt.Sprintf("no order of %d operations was found within %v, nor that there is none", len(ops), c.timeout)})
	}
}

// culprit is the first operation at whose return no order is left.
func culprit(ops []operation, illegal func(at int64) bool) operation {
	back := slices.SortedStableFunc(slices.Values(ops), byReturn)
	i := sort.Search(len(back)-1, func(i int) bool { return illegal(back[i].back) })
	return back[i]
}

func byReturn(a, b operation) int { return cmp.Compare(a.back, b.back) }

// around lists what else had been done when the culprit was answered, the latest
// last.
func around(ops []operation, o operation) string {
	var near []operation
	for i := range ops {
		if ops[i].call <= o.back && ops[i].text != o.text {
			near = append(near, ops[i])
		}
	}
	slices.SortStableFunc(near, byReturn)
	var lines []string
	for _, n := range near[max(0, len(near)-6):] {
		lines = append(lines, fmt.Sprintf("    %v to %v: %s", time.Duration(n.call), time.Duration(n.back), n.text))
	}
	return strings.Join(lines, "\n")
}
