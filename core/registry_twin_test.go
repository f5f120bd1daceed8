package core

import (
	"cmp"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/omnirelay/leadership/core/logpb"
)

// twin is the registry as one would write it on a napkin: lists, no indexes, every
// question answered by looking at everything and sorting. The registry must agree
// with it after every entry.
type twin struct {
	nextFence, nextSession    uint64
	sessions                  []*twinSession // by id
	scopes                    []*twinScope   // by name
	cordoned, draining        []string
	observed                  map[string]Observation
	kept                      []twinReply
	limit                     int
	horizon                   uint64
	revision                  uint64
	keeperTerm, keeperNumber  uint64
	bootstrapped, forming     bool
	formation, formationCount int
	voters                    []uint64
	announced                 map[uint64]uint32
	version                   uint32
}

type twinSession struct {
	id     uint64
	member string
	weight int
	stands []*logpb.Stand
	noted  bool
	age    int64
	wish   uint64
}

type twinScope struct {
	spec       *logpb.ScopeSpec
	term       int
	leader     uint64 // session, 0: vacant
	fence      uint64
	resignedBy uint64
	ask        *Ask
	fast       bool // what the holder was promised
}

type twinReply struct {
	id    string
	index uint64
	twinResult
}

type twinResult struct {
	code    Code
	session uint64
	fence   uint64
}

func newTwin(limit int) *twin {
	return &twin{nextFence: 1, nextSession: 1, forming: true, formation: 1, limit: limit, version: 1, announced: map[uint64]uint32{}, observed: map[string]Observation{}}
}

func (w *twin) apply(index, term uint64, e *logpb.Entry) (results []twinResult) {
	w.revision = index
	for _, c := range e.Commands {
		results = append(results, w.execute(c, term))
	}
	return results
}

func (w *twin) execute(c *logpb.Command, term uint64) twinResult {
	if k := c.GetKeeper(); k != nil {
		w.decide(k, term)
		return twinResult{}
	}
	for _, r := range w.kept {
		if r.id == c.RequestId {
			return r.twinResult
		}
	}
	if c.Base < w.horizon {
		return twinResult{code: CodeTooOld}
	}
	r := w.dispatch(c)
	w.kept = append(w.kept, twinReply{c.RequestId, w.revision, r})
	for len(w.kept) > w.limit {
		w.horizon = w.kept[0].index
		w.kept = w.kept[1:]
	}
	return r
}

func (w *twin) decide(k *logpb.KeeperDecision, term uint64) {
	if k.Term != term || k.Term < w.keeperTerm || (k.Term == w.keeperTerm && k.Number <= w.keeperNumber) {
		return
	}
	w.keeperTerm, w.keeperNumber = k.Term, k.Number
	s := w.session(k.Session)
	if s == nil {
		return
	}
	switch k.Kind {
	case logpb.KeeperDecision_KIND_NOTE:
		s.noted, s.age = true, k.AgeNs
		for _, sc := range w.scopes {
			if sc.leader == s.id && sc.fast && !sc.retiring() && !w.forming {
				if best := w.ranked(sc); len(best) > 0 && !best[0].noted {
					sc.leader, sc.ask = 0, nil
					w.elect(sc, best[0])
				}
			}
		}
	case logpb.KeeperDecision_KIND_CANCEL:
		s.noted, s.age = false, 0
	case logpb.KeeperDecision_KIND_EXPIRE:
		w.end(s)
	}
}

func (w *twin) dispatch(c *logpb.Command) twinResult {
	switch k := c.Kind.(type) {
	case *logpb.Command_Bootstrap:
		return w.bootstrap(k.Bootstrap)
	case *logpb.Command_AnnounceVersion:
		return w.announce(k.AnnounceVersion)
	case *logpb.Command_OpenSession:
		return w.open(k.OpenSession)
	case *logpb.Command_CloseSession:
		return w.withSession(k.CloseSession.Session, w.end)
	case *logpb.Command_Stand:
		return w.withSession(k.Stand.Session, func(s *twinSession) { w.stand(s, k.Stand) })
	case *logpb.Command_Withdraw:
		return w.withdraw(k.Withdraw)
	case *logpb.Command_Resign:
		return w.resign(k.Resign)
	case *logpb.Command_Transfer:
		return w.transfer(k.Transfer)
	case *logpb.Command_CancelTransfer:
		return w.cancelTransfer(k.CancelTransfer)
	case *logpb.Command_DeclareScopes:
		return w.declare(k.DeclareScopes)
	case *logpb.Command_RetireScopes:
		return w.retire(k.RetireScopes)
	case *logpb.Command_Cordon:
		return w.cordon(k.Cordon)
	case *logpb.Command_ObserveMembers:
		return w.observe(k.ObserveMembers)
	case *logpb.Command_ReportSplitBrain:
		if w.version < 3 {
			return twinResult{code: CodeUnsupported}
		}
	case *logpb.Command_EndFormation:
		if w.forming && uint64(w.formation) == k.EndFormation.Formation {
			w.forming = false
			w.settle()
		}
	}
	return twinResult{}
}

func (w *twin) bootstrap(b *logpb.Bootstrap) twinResult {
	if w.bootstrapped {
		return twinResult{code: CodeAlreadyStarted}
	}
	w.bootstrapped, w.formationCount, w.voters = true, int(b.FormationMembers), b.Voters
	w.raise()
	return twinResult{}
}

func (w *twin) announce(a *logpb.AnnounceVersion) twinResult {
	if a.MaxVersion < w.version {
		return twinResult{code: CodeUnsupported}
	}
	w.announced[a.Replica] = a.MaxVersion
	w.raise()
	return twinResult{}
}

func (w *twin) raise() {
	for v := w.version + 1; ; v++ {
		for _, n := range w.voters {
			if w.announced[n] < v {
				return
			}
		}
		if len(w.voters) == 0 {
			return
		}
		w.version = v
	}
}

func (w *twin) session(id uint64) *twinSession {
	for _, s := range w.sessions {
		if s.id == id {
			return s
		}
	}
	return nil
}

func (w *twin) scope(id string) *twinScope {
	for _, sc := range w.scopes {
		if sc.spec.Id == id {
			return sc
		}
	}
	return nil
}

func (w *twin) withSession(id uint64, do func(*twinSession)) twinResult {
	s := w.session(id)
	switch {
	case s != nil:
		do(s)
		return twinResult{}
	case id >= w.nextSession:
		return twinResult{code: CodeNotFound}
	}
	return twinResult{code: CodeSessionEnded}
}

func (w *twin) open(o *logpb.OpenSession) twinResult {
	replaced := false
	if old := w.session(o.Replaces); old != nil {
		if old.member != o.MemberId {
			return twinResult{code: CodeInvalid}
		}
		w.take(old)
		w.settle()
		replaced = true
	}
	s := &twinSession{id: w.nextSession, member: o.MemberId, weight: int(o.Weight), stands: slices.Clone(o.Stands)}
	w.nextSession++
	w.sessions = append(w.sessions, s)
	w.believe(Observation{MemberID: s.member, Health: HealthAlive, Unsupported: w.observed[s.member].Unsupported})
	if replaced {
		w.reform()
	}
	w.stood()
	return twinResult{session: s.id}
}

func (w *twin) end(s *twinSession) {
	w.take(s)
	w.reform()
	w.settle()
}

// take a session and its leaderships away.
func (w *twin) take(s *twinSession) {
	w.sessions = slices.DeleteFunc(w.sessions, func(x *twinSession) bool { return x == s })
	w.scopes = slices.DeleteFunc(w.scopes, func(sc *twinScope) bool {
		if sc.leader != s.id {
			return false
		}
		if sc.retiring() {
			return true
		}
		sc.leader, sc.ask = 0, nil
		return false
	})
}

func (w *twin) standing() int {
	var members []string
	for _, s := range w.sessions {
		if len(s.stands) > 0 && !slices.Contains(members, s.member) {
			members = append(members, s.member)
		}
	}
	return len(members)
}

func (w *twin) reform() {
	if !w.forming && w.formationCount > 1 && w.standing() == 0 {
		w.forming = true
		w.formation++
	}
}

// late reports whether a wish comes after a newer one took effect.
func (s *twinSession) late(number uint64) bool {
	if number != 0 && number <= s.wish {
		return true
	}
	s.wish = max(s.wish, number)
	return false
}

func (w *twin) stand(s *twinSession, st *logpb.Stand) {
	if s.late(st.Number) {
		return
	}
	for i, old := range s.stands {
		if sameSelector(old.Selector, st.Selector) {
			s.stands[i] = st
			return
		}
	}
	s.stands = append(s.stands, st)
	w.stood()
}

func (w *twin) stood() {
	if w.forming && w.bootstrapped && w.standing() > 0 && w.standing() >= w.formationCount {
		w.forming = false
	}
	w.settle()
}

func (w *twin) withdraw(c *logpb.Withdraw) (r twinResult) {
	code := w.withSession(c.Session, func(s *twinSession) {
		if s.late(c.Number) {
			return
		}
		n := len(s.stands)
		s.stands = slices.DeleteFunc(s.stands, func(st *logpb.Stand) bool { return sameSelector(st.Selector, c.Selector) })
		if len(s.stands) == n {
			r = twinResult{code: CodeNotFound}
			return
		}
		w.reform()
	})
	if code.code != "" {
		return code
	}
	return r
}

func (sc *twinScope) retiring() bool { return sc.ask != nil && sc.ask.Reason == AskRetire }

func (w *twin) resign(c *logpb.Resign) twinResult {
	sc := w.scope(c.Scope)
	if sc == nil || sc.leader == 0 || sc.leader != c.Session || sc.fence != c.Fence {
		return twinResult{code: CodeNotLeader}
	}
	asked := sc.ask
	sc.leader, sc.ask, sc.resignedBy = 0, nil, c.Session
	if asked != nil && asked.Reason == AskRetire {
		w.drop(sc)
		return twinResult{}
	}
	if asked != nil && asked.To != "" && !w.forming {
		for _, s := range w.ranked(sc) {
			if s.member == asked.To {
				w.elect(sc, s)
				break
			}
		}
	}
	w.settle()
	if sc.leader != 0 && asked != nil {
		sc.resignedBy = 0
	}
	if asked != nil && asked.Reason == AskDrain {
		w.drainOn(c.Session, c.Scope)
	}
	if sc.leader == 0 {
		return twinResult{}
	}
	return twinResult{fence: sc.fence}
}

// drainOn asks a draining session for what lies behind all that it was asked for.
func (w *twin) drainOn(session uint64, behind string) {
	s := w.session(session)
	if s == nil || !slices.Contains(w.draining, s.member) {
		return
	}
	for _, sc := range w.scopes {
		if sc.leader == session && sc.ask != nil && sc.ask.Reason == AskDrain {
			behind = max(behind, sc.spec.Id)
		}
	}
	for _, sc := range w.scopes {
		if sc.leader == session && sc.ask == nil && sc.spec.Id > behind && w.movable(sc) {
			sc.ask = &Ask{Reason: AskDrain}
		}
	}
}

func (w *twin) drop(sc *twinScope) {
	w.scopes = slices.DeleteFunc(w.scopes, func(x *twinScope) bool { return x == sc })
}

func (w *twin) transfer(c *logpb.Transfer) twinResult {
	sc := w.scope(c.Scope)
	switch {
	case sc == nil:
		return twinResult{code: CodeNotFound}
	case sc.retiring():
		return twinResult{code: CodeRetiring}
	case c.Fence != 0 && c.Fence != sc.fence, sc.leader == 0:
		return twinResult{code: CodeConflict}
	}
	if c.ToMember != "" && !slices.ContainsFunc(w.sessions, func(s *twinSession) bool { return s.member == c.ToMember && w.eligible(s, sc) }) {
		return twinResult{code: CodeConflict}
	}
	if w.session(sc.leader).member != c.ToMember {
		sc.ask = &Ask{Reason: c.Reason, To: c.ToMember}
	}
	return twinResult{fence: sc.fence}
}

func (w *twin) cancelTransfer(c *logpb.CancelTransfer) twinResult {
	sc := w.scope(c.Scope)
	switch {
	case sc == nil:
		return twinResult{code: CodeNotFound}
	case sc.retiring():
		return twinResult{code: CodeRetiring}
	case sc.ask == nil:
		return twinResult{code: CodeConflict}
	}
	sc.ask = nil
	return twinResult{}
}

func (w *twin) declare(c *logpb.DeclareScopes) twinResult {
	for _, spec := range c.Scopes {
		if old := w.scope(spec.Id); old != nil {
			if old.retiring() {
				return twinResult{code: CodeRetiring}
			}
			if old.spec.Kind != spec.Kind || fmt.Sprint(old.spec.Labels) != fmt.Sprint(spec.Labels) {
				return twinResult{code: CodeConflict}
			}
		}
	}
	for _, spec := range c.Scopes {
		if old := w.scope(spec.Id); old != nil {
			old.spec = spec
		} else {
			w.scopes = append(w.scopes, &twinScope{spec: spec})
		}
	}
	w.settle()
	return twinResult{}
}

func (w *twin) retire(c *logpb.RetireScopes) twinResult {
	for _, id := range c.Scopes {
		if w.scope(id) == nil {
			return twinResult{code: CodeNotFound}
		}
	}
	for _, id := range c.Scopes {
		if sc := w.scope(id); sc != nil && sc.leader == 0 {
			w.drop(sc)
		} else if sc != nil {
			sc.ask = &Ask{Reason: AskRetire}
		}
	}
	return twinResult{}
}

func (w *twin) cordon(c *logpb.Cordon) twinResult {
	if c.Drain && w.version < 2 {
		return twinResult{code: CodeUnsupported}
	}
	other := func(m string) bool { return m == c.MemberId }
	was := slices.ContainsFunc(w.cordoned, other)
	w.cordoned = slices.DeleteFunc(w.cordoned, other)
	if !c.Cordoned {
		for _, sc := range w.scopes {
			if was && w.version >= 3 && sc.ask != nil && sc.ask.Reason == AskDrain && w.session(sc.leader).member == c.MemberId {
				sc.ask = nil
			}
		}
		w.draining = slices.DeleteFunc(w.draining, other)
		w.settle()
		return twinResult{}
	}
	w.cordoned = append(w.cordoned, c.MemberId)
	if c.Drain && w.version >= 3 {
		w.draining = append(slices.DeleteFunc(w.draining, other), c.MemberId)
	}
	for _, sc := range w.scopes {
		if !c.Drain || sc.leader == 0 || w.session(sc.leader).member != c.MemberId || sc.retiring() {
			continue
		}
		if w.version < 3 || sc.ask == nil && w.movable(sc) {
			sc.ask = &Ask{Reason: AskDrain}
		}
	}
	return twinResult{}
}

// movable reports whether another member can lead what is led.
func (w *twin) movable(sc *twinScope) bool {
	return !w.forming && slices.ContainsFunc(w.ranked(sc), func(s *twinSession) bool {
		return s.member != w.session(sc.leader).member && !s.noted
	})
}

func (w *twin) observe(c *logpb.ObserveMembers) twinResult {
	if w.version < 3 {
		return twinResult{code: CodeUnsupported}
	}
	for _, p := range c.Members {
		w.believe(observationOf(p))
	}
	w.settle()
	return twinResult{}
}

func (w *twin) believe(o Observation) {
	delete(w.observed, o.MemberID)
	if o.Unsupported || o.Health != HealthAlive {
		w.observed[o.MemberID] = o
	}
}

// settle fills every vacancy, in the order of names.
func (w *twin) settle() {
	sort.Slice(w.scopes, func(i, j int) bool { return w.scopes[i].spec.Id < w.scopes[j].spec.Id })
	for _, sc := range w.scopes {
		if best := w.ranked(sc); sc.leader == 0 && !w.forming && len(best) > 0 {
			w.elect(sc, best[0])
		}
	}
}

func (w *twin) elect(sc *twinScope, s *twinSession) {
	if sc.resignedBy == s.id {
		sc.resignedBy = 0
	}
	sc.term++
	sc.leader, sc.fence, sc.fast = s.id, w.nextFence, sc.spec.Failover == logpb.ScopeSpec_FAILOVER_FAST
	w.nextFence++
}

// eligible, and with which priority it stands.
func (w *twin) priority(s *twinSession, sc *twinScope) (priority int, eligible bool) {
	for _, st := range s.stands {
		sel := st.Selector
		fits := (sel.GetId() == "" || sel.GetId() == sc.spec.Id) && (sel.GetKind() == "" || sel.GetKind() == sc.spec.Kind) &&
			(sel.GetNamespace() == "" || sel.GetNamespace() == sc.spec.Labels["namespace"])
		for k, v := range sel.GetLabels() {
			fits = fits && sc.spec.Labels[k] == v
		}
		if fits && (!eligible || int(st.Priority) > priority) {
			priority, eligible = int(st.Priority), true
		}
	}
	_, against := w.observed[s.member]
	return priority, eligible && !against && !slices.Contains(w.cordoned, s.member)
}

func (w *twin) eligible(s *twinSession, sc *twinScope) bool {
	_, ok := w.priority(s, sc)
	return ok
}

// ranked sorts all who may lead sc, the best first.
func (w *twin) ranked(sc *twinScope) []*twinSession {
	var all []*twinSession
	for _, s := range w.sessions {
		if w.eligible(s, sc) {
			all = append(all, s)
		}
	}
	last := func(x bool) int {
		if x {
			return 1
		}
		return 0
	}
	slices.SortFunc(all, func(a, b *twinSession) int {
		pa, _ := w.priority(a, sc)
		pb, _ := w.priority(b, sc)
		return cmp.Or(
			cmp.Compare(last(a.id == sc.resignedBy), last(b.id == sc.resignedBy)),
			cmp.Compare(last(a.noted), last(b.noted)),
			cmp.Compare(last(a.member != sc.spec.PreferredMember), last(b.member != sc.spec.PreferredMember)),
			cmp.Compare(pb, pa),
			cmp.Compare((w.led(a)+1)*b.weight, (w.led(b)+1)*a.weight),
			cmp.Compare(rendezvous(sc.spec.Id, b.member), rendezvous(sc.spec.Id, a.member)),
			cmp.Compare(b.id, a.id),
		)
	})
	return all
}

func (w *twin) led(s *twinSession) (n int) {
	for _, sc := range w.scopes {
		if sc.leader == s.id {
			n++
		}
	}
	return n
}

// String writes the state in the words of storyState.
func (w *twin) String() string {
	var b strings.Builder
	if w.forming {
		fmt.Fprintf(&b, "forming, formation %d\n", w.formation)
	}
	sort.Slice(w.scopes, func(i, j int) bool { return w.scopes[i].spec.Id < w.scopes[j].spec.Id })
	for _, sc := range w.scopes {
		led := "vacant"
		if sc.leader != 0 {
			led = fmt.Sprintf("%s#%d term %d fence %d", w.session(sc.leader).member, sc.leader, sc.term, sc.fence)
		}
		fmt.Fprintf(&b, "%s (%s): %s%s\n", sc.spec.Id, sc.spec.Kind, led, storyAsk(sc.ask))
	}
	for _, s := range w.sessions {
		fmt.Fprintf(&b, "%s#%d weight %d stands %d leads %d", s.member, s.id, s.weight, len(s.stands), w.led(s))
		if s.noted {
			fmt.Fprintf(&b, " noted silent for %v", time.Duration(s.age))
		}
		if slices.Contains(w.cordoned, s.member) {
			b.WriteString(" cordoned")
		}
		if slices.Contains(w.draining, s.member) {
			stuck := 0
			for _, sc := range w.scopes {
				if sc.leader != 0 && w.session(sc.leader).member == s.member && !w.movable(sc) {
					stuck++
				}
			}
			fmt.Fprintf(&b, " draining, %d stuck", stuck)
		}
		switch o := w.observed[s.member]; {
		case o.Unsupported:
			b.WriteString(" unsupported")
		case o.Health != HealthUnknown:
			b.WriteString(" " + o.Health.String())
		}
		b.WriteString("\n")
	}
	return b.String()
}
