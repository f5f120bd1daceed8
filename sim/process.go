package sim

import (
	"fmt"
	"iter"
	"math/rand/v2"
	"runtime/debug"
	"time"
)

// process is one operating system process as a coroutine: its code runs until it
// blocks, and blocks only in virtual time. Hand-over is by iter.Pull, so at any
// moment one process runs and there is nothing to race.
//
// A crash ends the coroutine where it is blocked: between persist and send, amid
// a persist, wherever its ports let it wait.
type process struct {
	w     *World
	name  string
	clock *clock
	rng   *rand.Rand

	up          bool
	incarnation int
	next        func() (block, bool)
	stop        func()
	yield       func(block) bool
	blocked     block
	wakeup      uint64 // of the pending wake-up; older ones are void
	wakeAt      int64

	paused     bool
	pausedAt   int64
	owed       bool // a wake-up fell into the pause
	crashAfter int  // port calls until an armed crash; 0: none

	// stall makes port calls wait now and then: one in stallOneIn, up to stallMax.
	stallOneIn int
	stallMax   time.Duration

	// Turns since spinFrom: a process that never sleeps is stopped.
	spinFrom int64
	spins    int

	panicked any
	stack    string
	onEnd    func() // the process is down, for whatever reason
}

// block is what a process waits for.
type block struct {
	until     int64
	forInputs bool // an arriving input ends the wait
}

// crashed unwinds a process's stack when it is killed.
type crashed struct{}

// start runs body as the next incarnation of the process.
func (p *process) start(body func()) {
	p.incarnation++
	p.up, p.paused, p.owed, p.crashAfter = true, false, false, 0
	p.panicked = nil
	p.next, p.stop = iter.Pull(func(yield func(block) bool) {
		p.yield = yield
		defer p.catch()
		body()
	})
	p.resume()
}

func (p *process) catch() {
	if r := recover(); r != nil {
		if _, killed := r.(crashed); !killed {
			p.panicked, p.stack = r, string(debug.Stack())
		}
	}
}

// resume runs the process to its next block.
func (p *process) resume() {
	b, ok := p.next()
	if !ok {
		p.ended()
		return
	}
	p.blocked = b
	p.wakeBy(b.until)
}

// wakeBy sets the pending wake-up.
func (p *process) wakeBy(at int64) {
	p.wakeup++
	p.wakeAt = at
	if at == never {
		return
	}
	id := p.wakeup
	p.w.at(at, func() {
		if id == p.wakeup && p.up {
			p.wake()
		}
	})
}

func (p *process) wake() {
	if p.paused {
		p.owed = true
		return
	}
	p.w.digest.words(uint64(p.w.now), p.id())
	p.resume()
}

func (p *process) id() uint64 { return uint64(len(p.name))<<8 | uint64(p.name[len(p.name)-1]) }

// arrived tells that something is in the inbox.
func (p *process) arrived() {
	if !p.up || !p.blocked.forInputs {
		return
	}
	// A process does not run in the very instant a packet comes in; what comes
	// within the delay is taken in one turn.
	soon := p.w.now + int64(20+p.rng.IntN(180))*int64(time.Microsecond)
	if soon < p.wakeAt {
		p.wakeBy(soon)
	}
}

// wait blocks the running process until an instant of true time, or for inputs.
func (p *process) wait(b block) {
	if !p.up || !p.yield(b) {
		panic(crashed{})
	}
}

// sleep blocks the running process for a stretch of true time.
func (p *process) sleep(d time.Duration) {
	p.wait(block{until: p.w.now + max(int64(d), 1)})
}

// port is passed by every port call of the running process: here it may be
// stalled or die.
func (p *process) port() {
	if !p.up {
		panic(crashed{})
	}
	if p.crashAfter > 0 {
		if p.crashAfter--; p.crashAfter == 0 {
			p.w.stats.Crashes++
			p.w.tracef(p.name, "crashes at a port call")
			panic(crashed{})
		}
	}
	if p.stallOneIn > 0 && p.rng.IntN(p.stallOneIn) == 0 {
		p.sleep(time.Duration(1 + p.rng.Int64N(int64(p.stallMax))))
	}
}

// Of a process that sleeps until its deadline, nobody sees more than maxTurns
// within spinWindow.
const (
	spinWindow = 100 * time.Millisecond
	maxTurns   = 2_000
)

// countTurn notices a process whose deadline stays in the past.
func (p *process) countTurn() {
	if p.w.now-p.spinFrom > int64(spinWindow) {
		p.spinFrom, p.spins = p.w.now, 0
	}
	if p.spins++; p.spins == maxTurns {
		p.w.spun(p)
	}
}

// kill ends a blocked process.
func (p *process) kill() {
	if !p.up {
		return
	}
	p.up = false
	p.stop()
	p.ended()
}

func (p *process) ended() {
	p.up = false
	p.wakeup++
	p.stop()
	if p.panicked != nil {
		p.w.panicked(p, fmt.Sprint(p.panicked), p.stack)
	}
	if p.onEnd != nil {
		p.onEnd()
	}
}

// pause is SIGSTOP: the clock goes on, the process does not.
func (p *process) pause(d time.Duration) {
	if !p.up || p.paused {
		return
	}
	p.paused, p.pausedAt = true, p.w.now
	incarnation := p.incarnation
	p.w.after(d, func() {
		if p.up && p.paused && p.incarnation == incarnation {
			p.paused = false
			if p.owed {
				p.owed = false
				p.wake()
			}
		}
	})
}
