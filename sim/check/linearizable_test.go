package check

import (
	"strings"
	"testing"
	"time"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
)

// story is a history of one scope, told to the checker step by step.
type story struct {
	*Linearizable
	c   caught
	seq uint64
}

func newStory() *story {
	s := &story{}
	s.Linearizable = NewLinearizable(s.c.report, 5*time.Second)
	return s
}

// tell lets the outside know of a record at an instant; its entry was written at
// proposed.
func (s *story) tell(proposed, at int64, revision, fence uint64, kind core.EventKind, correlation string) {
	s.seq++
	s.Proposed(proposed, revision, 1)
	s.Told(at, &core.Record{Seq: s.seq, Revision: revision, Ordinal: uint32(s.seq), Kind: uint32(kind), Scope: "a", Fence: fence, CorrelationId: correlation}, 1)
}

// twoElections is the story most tests begin with: the scope is declared, and led
// under fence 1 and from about 30 on under fence 2.
func twoElections() *story {
	s := newStory()
	s.tell(1, 3, 5, 0, core.EventScopeDeclared, "op-1")
	s.tell(10, 12, 6, 1, core.EventElected, "x")
	s.tell(30, 34, 7, 1, core.EventExpired, "")
	s.tell(30, 34, 7, 2, core.EventElected, "")
	return s
}

func led(fence uint64) ScopeView { return ScopeView{Declared: true, Fence: fence} }

func (s *story) read(call, back int64, found ScopeView, revision uint64) {
	s.Read(call, back, "replica-1", "a", found, revision)
}

func transfer(id string) *logpb.Command {
	return &logpb.Command{RequestId: id, Kind: &logpb.Command_Transfer{Transfer: &logpb.Transfer{Scope: "a"}}}
}

func cancelTransfer(id string) *logpb.Command {
	return &logpb.Command{RequestId: id, Kind: &logpb.Command_CancelTransfer{CancelTransfer: &logpb.CancelTransfer{Scope: "a"}}}
}

func TestLinearizableReads(t *testing.T) {
	for name, tt := range map[string]struct {
		play func(s *story)
		want int
	}{
		"of the present":                  {func(s *story) { s.read(35, 36, led(2), 7) }, 0},
		"amid the change, the old":        {func(s *story) { s.read(31, 33, led(1), 6) }, 0},
		"amid the change, the new":        {func(s *story) { s.read(31, 33, led(2), 7) }, 0},
		"called before, answered after":   {func(s *story) { s.read(20, 50, led(1), 6) }, 0},
		"of the past":                     {func(s *story) { s.read(35, 36, led(1), 6) }, 1},
		"of the future":                   {func(s *story) { s.read(27, 29, led(2), 7) }, 1},
		"of what never was":               {func(s *story) { s.read(35, 36, led(9), 7) }, 1},
		"between two changes of an entry": {func(s *story) { s.read(31, 33, ScopeView{Declared: true}, 7) }, 1},
		"new, then old": {func(s *story) {
			s.read(30, 31, led(2), 7)
			s.read(32, 33, led(1), 7)
		}, 1},
		"new and old, side by side": {func(s *story) {
			s.read(31, 33, led(2), 7)
			s.read(31, 33, led(1), 6)
		}, 0},
		"before anything happened":  {func(s *story) { s.read(0, 1, ScopeView{}, 0) }, 0},
		"of nothing, late":          {func(s *story) { s.read(5, 6, ScopeView{}, 6) }, 1},
		"with a revision that fell": {func(s *story) { s.read(35, 36, led(2), 9); s.read(37, 38, led(2), 8) }, 1},
		"with one side by side":     {func(s *story) { s.read(35, 38, led(2), 9); s.read(36, 37, led(2), 8) }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			s := twoElections()
			tt.play(s)
			s.Check()
			s.c.want(t, LinearizableProperty, tt.want)
		})
	}
}

func TestLinearizableCommands(t *testing.T) {
	for name, tt := range map[string]struct {
		play func(s *story)
		want int
	}{
		"its own step": {func(s *story) {
			s.tell(40, 44, 8, 2, core.EventDrainRequested, "op-2")
			s.Answered(39, 45, transfer("op-2"), &core.Result{Revision: 8, Fence: 2})
		}, 0},
		"a step taken before the command was sent": {func(s *story) {
			s.tell(40, 44, 8, 2, core.EventDrainRequested, "op-2")
			s.Answered(50, 51, transfer("op-2"), &core.Result{Revision: 8, Fence: 2})
		}, 1},
		"an answer older than one before": {func(s *story) {
			s.read(35, 36, led(2), 7)
			s.Answered(39, 40, transfer("op-2"), &core.Result{Revision: 6, Fence: 2})
		}, 1},
		"nothing to change, rightly":       {func(s *story) { s.Answered(39, 40, transfer("op-2"), &core.Result{Revision: 8, Fence: 2}) }, 0},
		"nothing to change, under another": {func(s *story) { s.Answered(39, 40, transfer("op-2"), &core.Result{Revision: 8, Fence: 1}) }, 1},
		"not found, although declared": {func(s *story) {
			s.Answered(39, 40, transfer("op-2"), &core.Result{Revision: 8, Code: string(core.CodeNotFound)})
		}, 1},
		"withdrawn without a trace": {func(s *story) { s.Answered(39, 40, cancelTransfer("op-2"), &core.Result{Revision: 8}) }, 1},
		"nothing to withdraw": {func(s *story) {
			s.Answered(39, 40, cancelTransfer("op-2"), &core.Result{Revision: 8, Code: string(core.CodeConflict)})
		}, 0},
		"not executed": {func(s *story) {
			s.Answered(39, 40, transfer("op-2"), &core.Result{Code: string(core.CodeUnavailable)})
			s.Answered(39, 40, transfer("op-2"), &core.Result{Revision: 1, Code: string(core.CodeTooOld)})
		}, 0},
		"an acknowledged request that a later read does not see": {func(s *story) {
			s.tell(40, 60, 8, 2, core.EventDrainRequested, "op-2") // told long after the answer
			s.Answered(39, 45, transfer("op-2"), &core.Result{Revision: 8, Fence: 2})
			s.read(46, 47, led(2), 8)
		}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			s := twoElections()
			tt.play(s)
			s.Check()
			s.c.want(t, LinearizableProperty, tt.want)
		})
	}
}

func TestLinearizableNamesTheCulprit(t *testing.T) {
	s := twoElections()
	s.read(13, 14, led(1), 6)
	s.read(36, 38, led(1), 7) // it is this one
	s.read(40, 41, led(2), 7)
	s.Check()
	s.c.want(t, LinearizableProperty, 1)
	if v := s.c[0]; v.At != 38 || v.Scope != "a" || !strings.Contains(v.Text, "Fence:1") {
		t.Errorf("culprit: %+v", v)
	}
}

// Forty reads side by side and one that fits nowhere: every subset of the forty
// would have to be tried.
func TestLinearizableDoesNotPassWhatItCannotDecide(t *testing.T) {
	s := twoElections()
	s.timeout = 50 * time.Millisecond
	for range 40 {
		s.read(35, 50, led(2), 7)
	}
	s.read(35, 50, led(9), 7)
	s.Check()
	s.c.want(t, LinearizableProperty, 1)
	if !s.c[0].Unknown {
		t.Errorf("want unknown: %v", s.c[0])
	}
}
