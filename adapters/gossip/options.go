package gossip

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/omnirelay/leadership/core"
)

// Bounds and defaults of Options.
const (
	DefaultInterval         = 100 * time.Millisecond
	DefaultFanout           = 3
	DefaultProbeInterval    = time.Second
	DefaultProbeTimeout     = 500 * time.Millisecond
	DefaultSuspicion        = 4
	DefaultRetransmit       = 4
	DefaultPushPullInterval = 15 * time.Second
	DefaultWatchPeriod      = 100 * time.Millisecond
	DefaultWatchMisses      = 3

	MinInterval    = 10 * time.Millisecond
	MaxInterval    = time.Minute
	MaxFanout      = 16
	MaxMultiplier  = 32
	MaxWatchMisses = 100
)

// wordPeriod is how often this member says what it claims.
const wordPeriod = 500 * time.Millisecond

// Options settle one member's gossip.
type Options struct {
	// Name is the member id.
	Name string
	// Metadata is what the member says of itself. Life is set by New.
	Metadata
	// Listen is host:port of packets (UDP) and full exchanges (TCP); port 0 is any.
	Listen string
	// Advertise is host:port at which the others reach it. Empty: where it listens.
	Advertise string
	// Seeds are host:port of members to join, at most MaxSeeds. This node may be among them.
	Seeds []string

	// KeyFile holds the keys. Empty: nothing is encrypted, which only Plaintext allows,
	// and only on loopback.
	KeyFile   string
	Plaintext bool

	// MinMeshVersion and MaxMeshVersion bound the versions that this mesh works with, both
	// included. Empty: no bound.
	MinMeshVersion, MaxMeshVersion string

	// Zero values take the defaults.
	Interval         time.Duration // between two rounds of gossip
	Fanout           int           // members told in one round
	ProbeInterval    time.Duration // between two probes, of one member after the other
	ProbeTimeout     time.Duration // until others are asked to probe
	Suspicion        int           // a suspect is dead after this x log10(members) x ProbeInterval, at least
	Retransmit       int           // a message is sent this x log10(members) times
	PushPullInterval time.Duration // between two full exchanges
	WatchPeriod      time.Duration // between two probes of each member that Watch names
	WatchMisses      int           // probes in a row without an answer that make it suspect

	// Watch names the members to be probed closely. It is asked twice a second.
	Watch func() []string
	// Claims returns what this process's member holds now and for how long at most. It is
	// asked twice a second.
	Claims func() ([]core.Claim, time.Duration)
	// Deliver takes news, from one goroutine. false: it cannot take any now, and is asked
	// again a little later.
	Deliver func(core.GossipNews) bool
	Logger  *slog.Logger
}

// complete fills in defaults and checks what is there.
func (o *Options) complete() error {
	o.defaults()
	if err := core.CheckMemberID("name", o.Name); err != nil {
		return err
	}
	if len(o.Seeds) > MaxSeeds {
		return fmt.Errorf("seeds: %d; at most %d are right", len(o.Seeds), MaxSeeds)
	}
	for _, d := range []struct {
		name string
		d    time.Duration
	}{{"interval", o.Interval}, {"probeInterval", o.ProbeInterval}, {"probeTimeout", o.ProbeTimeout}, {"pushPullInterval", o.PushPullInterval}, {"watchPeriod", o.WatchPeriod}} {
		if d.d < MinInterval || d.d > MaxInterval {
			return fmt.Errorf("%s: %v is out of bounds; from %v to %v is right", d.name, d.d, MinInterval, MaxInterval)
		}
	}
	for _, n := range []struct {
		name   string
		n, max int
	}{{"fanout", o.Fanout, MaxFanout}, {"suspicion", o.Suspicion, MaxMultiplier}, {"retransmit", o.Retransmit, MaxMultiplier}, {"watchMisses", o.WatchMisses, MaxWatchMisses}} {
		if n.n < 1 || n.n > n.max {
			return fmt.Errorf("%s: %d is out of bounds; from 1 to %d is right", n.name, n.n, n.max)
		}
	}
	if o.ProbeTimeout >= o.ProbeInterval {
		return fmt.Errorf("probeTimeout: %v is not less than the probeInterval of %v", o.ProbeTimeout, o.ProbeInterval)
	}
	return o.checkKeys()
}

func (o *Options) defaults() {
	duration := func(d *time.Duration, value time.Duration) {
		if *d == 0 {
			*d = value
		}
	}
	number := func(n *int, value int) {
		if *n == 0 {
			*n = value
		}
	}
	duration(&o.Interval, DefaultInterval)
	duration(&o.ProbeInterval, DefaultProbeInterval)
	duration(&o.ProbeTimeout, DefaultProbeTimeout)
	duration(&o.PushPullInterval, DefaultPushPullInterval)
	duration(&o.WatchPeriod, DefaultWatchPeriod)
	number(&o.Fanout, DefaultFanout)
	number(&o.Suspicion, DefaultSuspicion)
	number(&o.Retransmit, DefaultRetransmit)
	number(&o.WatchMisses, DefaultWatchMisses)
	if o.MeshVersion == "" {
		o.MeshVersion = MeshVersion
	}
	if o.Watch == nil {
		o.Watch = func() []string { return nil }
	}
	if o.Claims == nil {
		o.Claims = func() ([]core.Claim, time.Duration) { return nil, 0 }
	}
	if o.Deliver == nil {
		o.Deliver = func(core.GossipNews) bool { return true }
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
}

// checkKeys refuses to gossip in the open, but among processes of one machine.
func (o *Options) checkKeys() error {
	switch {
	case o.KeyFile != "" && o.Plaintext:
		return errors.New("plaintext: there is a keyFile too; keep one of them")
	case o.KeyFile != "":
		return nil
	case !o.Plaintext:
		return errors.New("keyFile is missing; make one with: omnirelay keys gossip new FILE")
	}
	at, err := netip.ParseAddrPort(o.Listen)
	if err != nil || !at.Addr().IsLoopback() {
		return fmt.Errorf("plaintext: %q is no loopback address; elsewhere gossip is encrypted: name a keyFile", o.Listen)
	}
	return nil
}
