package logtest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/omnirelay/leadership/adapters/storeserver"
	"github.com/omnirelay/leadership/core"
)

// storm: several registrars take the office from one another while their networks
// fail one by one and the server is paused and killed. Each repeats an append until it
// knows, as core does. Afterwards everything acknowledged is in the log once and in
// order, and nothing refused is.
func storm(b *bench) error {
	const many = 3
	var rivals []*rival
	var proxies []*storeserver.Proxy
	for i := range many {
		p, err := storeserver.NewProxy(b.server.Address())
		if err != nil {
			return err
		}
		defer p.Close()
		proxies = append(proxies, p)
		site := b.site(false)
		site.Address = p.Address()
		c, err := b.at(site)
		if err != nil {
			return err
		}
		rivals = append(rivals, &rival{writer: newWriter(c, core.NodeID(i+1))})
	}
	rng := b.rng()
	over, end := context.WithTimeout(b.ctx, time.Duration(max(scale(6), 3))*time.Second)
	defer end()
	g := newGroup()
	for _, r := range rivals {
		seed := rng.Uint64()
		g.do(func() error { return r.weather(over, rand.New(rand.NewPCG(seed, 1)), many) })
	}
	faults := map[string]int{}
	g.do(func() error { return b.makeWeather(over, rng, proxies, faults) })
	if err := g.end(); err != nil {
		return err
	}
	past, err := b.direct()
	if err != nil {
		return err
	}
	log, err := wholeLog(past)
	if err != nil {
		return err
	}
	b.logf("%v", faults)
	offices, _, err := judgeRivals(b, log, rivals)
	if err == nil && (offices < 2 || uint64(offices) > log.term) {
		err = fmt.Errorf("%d offices won, the log ends in term %d: nobody contended", offices, log.term)
	}
	return err
}

// makeWeather makes one fault after another and mends each.
func (b *bench) makeWeather(over context.Context, rng *rand.Rand, proxies []*storeserver.Proxy, faults map[string]int) error {
	for over.Err() == nil {
		p, n := proxies[rng.IntN(len(proxies))], rng.IntN(12)
		pause := time.Duration(50+rng.IntN(400)) * time.Millisecond
		switch {
		case n < 3:
			faults["cut"]++
			p.Cut()
		case n < 6:
			faults["hold"]++
			p.Hold(true)
		case n < 9:
			faults["swallow"]++
			p.Swallow(true)
		case n < 11:
			faults["pause"]++
			b.server.Pause()
		default:
			faults["kill"]++
			b.server.Kill()
			if err := b.server.Restart(b.ctx); err != nil {
				return err
			}
		}
		rest(over, pause)
		b.server.Resume()
		p.Clear()
		rest(over, pause)
	}
	return nil
}

// rest waits, but not beyond the end of over.
func rest(over context.Context, d time.Duration) {
	select {
	case <-over.Done():
	case <-time.After(d):
	}
}

// weather contends for the office until over, and repeats what failed until it knows.
func (r *rival) weather(over context.Context, rng *rand.Rand, voters int) error {
	for n := 0; over.Err() == nil; n++ {
		if r.lead == nil || r.identity != r.lead.Identity {
			if err := r.meet(); err != nil {
				return err
			}
		}
		name := fmt.Sprintf("%d/%d", r.node, n)
		takeOver := r.lead == nil || core.NodeID(r.lead.Holder) != r.node || r.identity != r.lead.Identity
		if takeOver {
			rest(over, time.Duration(rng.IntN(60))*time.Millisecond) // as after some silence
		}
		a := r.compose(takeOver, []byte(name))
		for v := range voters {
			a.Voters = append(a.Voters, core.NodeID(v+1))
		}
		a.Adopt = r.lead != nil && r.identity != r.lead.Identity
		if err := r.insist(a, name, takeOver); err != nil {
			return err
		}
	}
	return nil
}

// meet reads where the log stands and attests a server that is new. Here a server
// loses nothing; that is what is judged in the end.
func (r *rival) meet() error {
	reply, err := r.recovered()
	if err != nil {
		return err
	}
	r.saw(reply)
	if r.lead == nil || r.identity == r.lead.Identity {
		return nil
	}
	_, err = r.call(&core.StoreCall{Timeout: shortCall, Attest: &core.StoreAttest{Identity: r.identity, Node: r.node}})
	return err
}

// insist repeats an append until it is answered, and keeps what became of it. What was
// refused after it had failed may be in the log.
func (r *rival) insist(a *core.StoreAppend, name string, takeOver bool) error {
	for failed := false; ; failed = true {
		reply, err := r.call(&core.StoreCall{Timeout: shortCall, Append: a})
		if err != nil {
			return err
		}
		switch reply.Status {
		case core.StoreOK:
			r.acknowledged = append(r.acknowledged, name)
			if takeOver {
				r.offices++
			}
			r.saw(reply)
			return nil
		case core.StoreRefused:
			if !failed {
				r.refused = append(r.refused, name)
			}
			r.saw(reply)
			return nil
		case core.StoreUnfit:
			return fmt.Errorf("append %s: %s", name, describe(reply))
		}
	}
}
