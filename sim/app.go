package sim

import (
	"time"

	"github.com/omnirelay/leadership/core"
)

// app is what a member does with its leadership. It acts on guarded resources,
// at times long after it checked that it leads; a careless one does not check.
type app struct {
	m     *member
	seq   uint64
	known []core.Token // every grant it once had, newest last: what a careless app acts on
}

// maxKnown is how many grants the application remembers for careless acts.
const maxKnown = 16

func (a *app) reset() { a.known = nil }

// begin sets the application's own clockwork going, for this incarnation.
func (a *app) begin() {
	wl := &a.m.w.scenario.Workload
	a.every(wl.EffectEvery.D(), a.effect)
	a.every(wl.ResignEvery.D(), a.resign)
	a.every(wl.CloseEvery.D(), a.close)
}

// every runs act at random moments, on average each interval, while this
// incarnation lives. 0: never.
func (a *app) every(interval time.Duration, act func(now core.Time)) {
	if interval <= 0 {
		return
	}
	m, life := a.m, a.m.incarnation
	var again func()
	again = func() {
		m.w.after(spread(m.w.workload.rng, interval), func() {
			if m.up && m.incarnation == life && !m.closing {
				m.act(act)
				again()
			}
		})
	}
	again()
}

// changed is told what changed for the member.
func (a *app) changed(c *core.MemberChange) {
	m := a.m
	switch c.Kind {
	case core.ChangeGained:
		m.w.tracef(c.Token.Scope, "%s gains %s under fence %d", m.processName(), c.Token.Scope, c.Token.Fence)
		a.known = append(a.known, c.Token)
		if len(a.known) > maxKnown {
			a.known = a.known[1:]
		}
	case core.ChangeLost:
		m.w.tracef(c.Token.Scope, "%s loses %s under fence %d: %s", m.processName(), c.Token.Scope, c.Token.Fence, c.Reason)
	case core.ChangeSessionLost:
		m.w.sessionLost(m, c)
	case core.ChangeAsked:
		m.w.tracef(c.Token.Scope, "%s is asked for %s under fence %d", m.processName(), c.Token.Scope, c.Token.Fence)
		a.finish(c.Token)
	}
}

// finish gives a scope up after the time it takes to bring the work to an end.
func (a *app) finish(t core.Token) {
	m, life := a.m, a.m.incarnation
	m.w.after(time.Duration(m.w.workload.rng.Int64N(int64(m.w.scenario.Workload.FinishMax.D())+1)), func() {
		if m.up && m.incarnation == life {
			m.act(func(core.Time) { a.giveUp(t) })
		}
	})
}

func (a *app) giveUp(t core.Token) {
	a.m.w.tracef(t.Scope, "%s gives %s up under fence %d", a.m.processName(), t.Scope, t.Fence)
	a.m.core.GiveUp(t.Scope, t.Fence)
}

// effect acts on the resource of a scope that the member believes it leads.
func (a *app) effect(now core.Time) {
	m, rng := a.m, a.m.w.workload.rng
	t, ok := a.choose(now)
	if !ok {
		return
	}
	a.seq++
	e := effect{scope: t.Scope, fence: t.Fence, seq: a.seq}
	if rng.IntN(4) > 0 {
		a.send(e)
		return
	}
	// It checked, and then something took its time: the effect may come late.
	life := m.incarnation
	m.w.after(time.Duration(rng.Int64N(int64(2*m.w.scenario.TTL.D()))), func() {
		if m.up && m.incarnation == life {
			m.act(func(core.Time) { a.send(e) })
		}
	})
}

// choose picks a scope to act on. One act in sixteen is careless: under a grant
// that may be long gone.
func (a *app) choose(now core.Time) (core.Token, bool) {
	rng := a.m.w.workload.rng
	if len(a.known) > 0 && rng.IntN(16) == 0 {
		return a.known[rng.IntN(len(a.known))], true
	}
	held := a.m.core.Held(now)
	if len(held) == 0 {
		return core.Token{}, false
	}
	return held[rng.IntN(len(held))].Token, true
}

func (a *app) send(e effect) {
	w := a.m.w
	r := w.resourceOf(e.scope)
	w.network.send(a.m.at, r.at, func() { r.receive(e) })
}

// resign gives up one scope of its own accord.
func (a *app) resign(now core.Time) {
	held := a.m.core.Held(now)
	if len(held) == 0 {
		return
	}
	a.m.w.stats.Resignations++
	a.giveUp(held[a.m.w.workload.rng.IntN(len(held))].Token)
}

// close ends the session in an orderly way. The process ends when that is
// acknowledged, or, like one that is killed after its grace period, a while later.
func (a *app) close(core.Time) {
	m, life := a.m, a.m.incarnation
	m.w.tracef(m.member, "%s closes", m.processName())
	m.closing = true
	m.w.stats.Closes++
	m.core.Close()
	m.w.after(3*m.w.scenario.TTL.D(), func() {
		if m.up && m.incarnation == life {
			m.kill()
		}
	})
}
