package gossip

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

const (
	labelPrefix = "omnirelay/" // in front of the cluster's name on every packet
	// packetBytes is what fits through most networks in one piece.
	packetBytes = 1400
	// queueDepth is how many messages wait while one is worked on.
	queueDepth = 1024
	// reclaimAfter is how long a dead member's name is kept from another address.
	reclaimAfter = time.Second
	// expireEvery is how often those that are long gone are forgotten.
	expireEvery = 10 * time.Second
	// deliverPause is how long a receiver that could not take news is left alone.
	deliverPause = 10 * time.Millisecond
)

// Gossip is one member's part in the gossip. All methods may be called at the same time.
type Gossip struct {
	options  Options
	logger   *slog.Logger
	metadata []byte
	counts   *counters
	roster   *roster
	board    *board
	keys     *keyring // nil: nothing is encrypted
	network  *transport
	list     *memberlist.Memberlist
	complain complaints

	mu     sync.Mutex
	left   bool
	closed bool
}

// New listens and is ready to be joined. It joins nobody before Run. The error says when
// an option is wrong, the keys cannot be read or the port is taken.
func New(o Options) (*Gossip, error) {
	if err := o.complete(); err != nil {
		return nil, fmt.Errorf("gossip: %w", err)
	}
	o.Life = newLife()
	g := &Gossip{options: o, logger: o.Logger, counts: &counters{}}
	if err := g.open(); err != nil {
		return nil, fmt.Errorf("gossip: %w", err)
	}
	return g, nil
}

// newLife returns a number that no other process of the member has.
func newLife() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // it never fails
	return max(binary.BigEndian.Uint64(b[:]), 1)
}

func (g *Gossip) open() (err error) {
	o := &g.options
	versions, err := newVersionRange(o.MinMeshVersion, o.MaxMeshVersion)
	if err != nil {
		return err
	}
	if g.metadata, err = o.Encode(); err != nil {
		return err
	}
	if o.KeyFile != "" {
		if g.keys, err = openKeyring(o.KeyFile, g.logger, g.counts); err != nil {
			return fmt.Errorf("keyFile: %w", err)
		}
	}
	g.roster = newRoster(o.ClusterID, versions, g.counts, time.Now)
	g.board = newBoard(o.Name, o.Life, o.Retransmit, time.Now)
	s := seal{label: labelPrefix + o.ClusterID, encrypted: g.keys != nil}
	if g.network, err = listen(o.Listen, o.Advertise, s, g.counts); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	g.list, err = memberlist.Create(g.memberlistConfig(s.label))
	if err != nil {
		_ = g.network.Shutdown()
	}
	return err
}

func (g *Gossip) memberlistConfig(label string) *memberlist.Config {
	o, d := &g.options, delegate{g}
	c := memberlist.DefaultLANConfig()
	c.Name, c.Label, c.Transport = o.Name, label, g.network
	c.TCPTimeout = streamTimeout
	c.GossipInterval, c.GossipNodes, c.RetransmitMult = o.Interval, o.Fanout, o.Retransmit
	c.ProbeInterval, c.ProbeTimeout, c.SuspicionMult = o.ProbeInterval, o.ProbeTimeout, o.Suspicion
	c.PushPullInterval, c.GossipToTheDeadTime, c.DeadNodeReclaimTime = o.PushPullInterval, gossipToGone, reclaimAfter
	c.Delegate, c.Alive, c.Merge, c.Events, c.Conflict, c.Ping = d, d, d, d, d, d
	c.EnableCompression = false // it costs more than it saves on packets this small
	c.UDPBufferSize, c.HandoffQueueDepth = packetBytes, queueDepth
	if g.keys != nil {
		c.Keyring = g.keys.ring
	}
	c.LogOutput = nil
	c.Logger = newMemberlistLog(&memberlistLog{logger: g.logger, counts: g.counts, suspected: g.suspected})
	return c
}

// Run joins the seeds, probes, says what this member claims and delivers news, until ctx
// ends.
func (g *Gossip) Run(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	s := &seeds{self: g.network.advertise, logger: g.logger, counts: g.counts, living: g.roster.living, join: g.join}
	for _, seed := range g.options.Seeds {
		running.Go(func() { s.follow(ctx, seed) })
	}
	running.Go(func() { s.settle(ctx) })
	p := &prober{
		period: g.options.WatchPeriod, misses: g.options.WatchMisses, self: target{g.options.Name, g.Address()}, watch: g.options.Watch,
		roster: g.roster, counts: g.counts, ping: g.ping, report: g.report,
	}
	running.Go(func() { p.run(ctx) })
	if g.keys != nil {
		running.Go(func() { g.keys.follow(ctx) })
	}
	running.Go(func() { g.speak(ctx) })
	g.deliver(ctx)
}

// join exchanges everything with a member at an address.
func (g *Gossip) join(address string) error {
	_, err := g.list.Join([]string{address})
	return err
}

func (g *Gossip) ping(t target) error {
	to, err := netip.ParseAddrPort(t.address)
	if err != nil {
		return err
	}
	_, err = g.list.Ping(t.id, net.UDPAddrFromAddrPort(to))
	return err
}

// answered takes that a member answered memberlist.
func (g *Gossip) answered(id string) {
	if g.roster.answered(id) {
		g.counts.recoveries.Add(1)
		g.report(id, false, 0)
	}
}

// suspected takes that memberlist suspects a member.
func (g *Gossip) suspected(id string) {
	if g.roster.suspect(id) {
		g.counts.suspicions.Add(1)
		g.report(id, true, 1)
	}
}

func (g *Gossip) report(id string, suspect bool, missed int) {
	if suspect {
		g.logger.Warn("a member does not answer", "member", id, "missed", missed)
	} else {
		g.logger.Info("a member answers again", "member", id)
	}
}

// speak says what this member claims, again and again.
func (g *Gossip) speak(ctx context.Context) {
	tick := time.NewTicker(wordPeriod)
	defer tick.Stop()
	for {
		claims, remaining := g.options.Claims()
		g.counts.wordsSent.Add(uint64(g.board.tell(claims, remaining, g.roster.size())))
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// hear takes a word from the network and passes it on when it is fresh.
func (g *Gossip) hear(data []byte) {
	w, err := DecodeWord(data)
	if err != nil {
		g.counts.refuse(refusedMalformed)
		return
	}
	if w.Member == g.options.Name {
		return // our own, come back
	}
	switch g.roster.hear(&w) {
	case heardFresh:
		g.counts.wordsHeard.Add(1)
		g.board.pass(w, g.roster.size())
	case heardBefore:
		g.counts.wordsRepeated.Add(1)
	case heardStale:
		g.counts.refuse(refusedStale)
	}
}

// deliver hands over news as long as ctx lasts.
func (g *Gossip) deliver(ctx context.Context) {
	expire := time.NewTicker(expireEvery)
	defer expire.Stop()
	for {
		for news, ok := g.roster.next(); ok; news, ok = g.roster.next() {
			for !g.options.Deliver(news) {
				select {
				case <-ctx.Done():
					return
				case <-time.After(deliverPause):
				}
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-expire.C:
			g.roster.expire()
		case <-g.roster.wake:
		}
	}
}

// Leave says farewell, so that the others see a member that left and not one that died.
// It is called after the member has given up all that it led. It waits until some others
// have been told, at most for as long as within.
func (g *Gossip) Leave(within time.Duration) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.left || g.closed {
		return nil
	}
	g.left = true
	word := g.board.farewell(g.roster.size())
	g.roster.leaves(g.options.Name)
	for i, n := range g.list.Members() {
		if i > MaxWatched {
			break
		}
		if n.Name != g.options.Name {
			_ = g.list.SendBestEffort(n, word.Encode()) // gossip passes it on besides
		}
	}
	// memberlist waits until others have been told. When they leave at the same time
	// there is nobody to tell.
	if err := g.list.Leave(within); err != nil && g.roster.size() > 0 {
		return fmt.Errorf("gossip: leaving: %w", err)
	}
	return nil
}

// Close ends everything at once. Without Leave before it the others find a member dead.
func (g *Gossip) Close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil
	}
	g.closed = true
	return g.list.Shutdown()
}

// Peers returns all members that are known, this one among them, sorted by id. Those that
// are gone are kept for ten minutes.
func (g *Gossip) Peers() []Peer { return g.roster.peers() }

// Address is host:port at which the others reach this member.
func (g *Gossip) Address() string { return g.network.advertise.String() }

// Stats returns the figures of this moment.
func (g *Gossip) Stats() Stats {
	s := g.counts.stats()
	s.Members, s.HealthScore = g.roster.census(), g.list.GetHealthScore()
	return s
}
