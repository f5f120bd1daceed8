package gossip

import (
	"context"
	"slices"
	"sync"
	"time"
)

const (
	// MaxWatched is how many members are probed in one period; more take turns.
	MaxWatched = 64
	// Suspects that nobody asked to watch are probed too, so that it is noticed when they
	// answer: this many in one period, and each of them so often. Where everything is
	// slow all seem suspect, and haste would only make it slower.
	maxSuspects  = 4
	suspectPause = time.Second
	// watchRefresh is how often it is asked whom to watch.
	watchRefresh = 500 * time.Millisecond
)

// prober asks the members that matter, again and again, whether they are there. Who
// misses several probes in a row is suspect. A round in which this process was late, or
// did not hear even itself, says nothing of others.
type prober struct {
	period time.Duration
	misses int
	self   target
	watch  func() []string
	roster *roster
	counts *counters
	// ping returns once the member has answered, or an error after a while.
	ping func(target) error
	// report is told of changes.
	report func(id string, suspect bool, missed int)

	running sync.WaitGroup
	mu      sync.Mutex
	probed  map[string]*probed
}

// probed is what is known of one target.
type probed struct {
	answeredAt time.Time
	asked      bool // in the last round
	askedAt    time.Time
	missed     int // rounds in a row without an answer
	waiting    int // probes without an answer yet
}

// waitingMost bounds the probes of one member that wait for an answer.
const waitingMost = 8

// run probes until ctx ends.
func (p *prober) run(ctx context.Context) {
	p.probed = map[string]*probed{}
	defer p.running.Wait()
	tick := time.NewTicker(p.period)
	defer tick.Stop()
	var wanted []string
	var asked, last time.Time
	turn := 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := time.Now()
		if now.Sub(asked) >= watchRefresh {
			wanted, asked = p.watch(), now
		}
		p.judge(last, now)
		watched, suspects := p.roster.targets(wanted)
		watched = slices.DeleteFunc(watched, func(t target) bool { return t.id == p.self.id })
		p.counts.watched.Store(int64(len(watched)))
		p.forget(slices.Concat(watched, suspects))
		if len(watched) > MaxWatched {
			turn = (turn + MaxWatched) % len(watched)
			watched = slices.Concat(watched[turn:], watched[:turn])[:MaxWatched]
		}
		if len(watched) > 0 {
			watched = append(watched, p.self)
		}
		p.ask(append(watched, p.due(suspects, now)...))
		last = now
	}
}

// due are the suspects that are to be probed now.
func (p *prober) due(suspects []target, now time.Time) (found []target) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range suspects {
		if s := p.probed[t.id]; len(found) < maxSuspects && (s == nil || now.Sub(s.askedAt) >= suspectPause) {
			found = append(found, t)
		}
	}
	return found
}

// ask sends one probe to each target.
func (p *prober) ask(targets []target) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range targets {
		s := p.probed[t.id]
		if s == nil {
			s = &probed{}
			p.probed[t.id] = s
		}
		if s.asked = s.waiting < waitingMost; !s.asked {
			continue
		}
		s.waiting++
		s.askedAt = time.Now()
		p.running.Go(func() {
			err := p.ping(t)
			p.mu.Lock()
			s.waiting--
			if err == nil {
				s.answeredAt = time.Now()
			}
			p.mu.Unlock()
			if err == nil && t != p.self {
				p.answered(t.id)
			}
		})
	}
}

func (p *prober) answered(id string) {
	p.counts.probesAnswered.Add(1)
	if p.roster.answered(id) {
		p.counts.recoveries.Add(1)
		p.report(id, false, 0)
	}
}

// judge looks at what became of the round that began at last.
func (p *prober) judge(last, now time.Time) {
	var suspects []string
	p.mu.Lock()
	own := p.probed[p.self.id]
	late := now.Sub(last) > p.period+p.period/2
	// Where a node's own address does not lead back to it, its own answers never come,
	// and do not count.
	deaf := own != nil && own.asked && !own.answeredAt.IsZero() && own.answeredAt.Before(last)
	for id, s := range p.probed {
		switch {
		case id == p.self.id || !s.asked:
			continue
		case !s.answeredAt.Before(last):
			s.missed = 0
		case late || deaf:
			p.counts.probesUnsure.Add(1)
		default:
			p.counts.probesMissed.Add(1)
			if s.missed++; s.missed == p.misses {
				suspects = append(suspects, id)
			}
		}
		s.asked = false
	}
	p.mu.Unlock()
	for _, id := range suspects {
		if p.roster.suspect(id) {
			p.counts.suspicions.Add(1)
			p.report(id, true, p.misses)
		}
	}
}

// forget drops what is known of members that are no longer probed.
func (p *prober) forget(targets []target) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, s := range p.probed {
		if s.waiting == 0 && id != p.self.id && !slices.ContainsFunc(targets, func(t target) bool { return t.id == id }) {
			delete(p.probed, id)
		}
	}
}
