package config

import (
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"regexp"
	"time"

	"github.com/omnirelay/leadership/core"
)

// gossipKey is where the settings of gossip stand in the file.
const gossipKey = "mesh.gossip"

// Bounds of the settings of gossip.
const (
	MaxGossipSeeds      = 32
	MaxGossipFanout     = 16
	MaxGossipMultiplier = 32
	MaxWatchMisses      = 100
	MaxGossipRole       = 32  // bytes
	MaxGossipRegion     = 64  // bytes
	MaxGossipMetadata   = 512 // bytes of all that a member says of itself
	MinGossipInterval   = 10 * time.Millisecond
	MaxGossipInterval   = time.Minute
)

// Gossip is what stands under mesh.gossip. Nothing of it needs to be there: without the
// block a node does not gossip.
type Gossip struct {
	// Enabled lets this node gossip. Not written: whether anything else is.
	Enabled bool `koanf:"enabled"`
	// Listen is host:port, on UDP and TCP.
	Listen string `koanf:"listen"`
	// Advertise is host:port at which the others reach this node. Not written: Listen.
	Advertise string `koanf:"advertise"`
	// Seeds are host:port of members to join. This node may be among them.
	Seeds []string `koanf:"seeds"`

	// KeyFile holds the keys that everything is encrypted with. A relative path starts at
	// the folder of the file. Without one only Plaintext, on loopback, lets a node gossip.
	KeyFile   string `koanf:"keyFile"`
	Plaintext bool   `koanf:"plaintext"`

	Interval         time.Duration `koanf:"interval"`         // between two rounds
	Fanout           int           `koanf:"fanout"`           // members told in a round
	ProbeInterval    time.Duration `koanf:"probeInterval"`    // between two probes, of one member after the other
	ProbeTimeout     time.Duration `koanf:"probeTimeout"`     // until others are asked to probe
	Suspicion        int           `koanf:"suspicion"`        // a suspect is dead after this x log10(members) x probeInterval, at least
	Retransmit       int           `koanf:"retransmit"`       // a message is sent this x log10(members) times
	PushPullInterval time.Duration `koanf:"pushPullInterval"` // between two full exchanges
	WatchPeriod      time.Duration `koanf:"watchPeriod"`      // between two probes of each member that leads a fast scope, or may
	WatchMisses      int           `koanf:"watchMisses"`      // probes in a row without an answer that make it suspect

	// What this node says of itself, beside nodeId, clusterId and http3.
	Role        string            `koanf:"role"`
	Region      string            `koanf:"region"`
	MeshVersion string            `koanf:"meshVersion"`
	Labels      map[string]string `koanf:"labels"` // not written: those of mesh.leadership
	// Members of versions outside of these, both included, are not elected. Not written:
	// any version will do.
	MinMeshVersion string `koanf:"minMeshVersion"`
	MaxMeshVersion string `koanf:"maxMeshVersion"`
}

func defaultGossip() Gossip {
	return Gossip{
		Interval: 100 * time.Millisecond, Fanout: 3, ProbeInterval: time.Second, ProbeTimeout: 500 * time.Millisecond,
		Suspicion: 4, Retransmit: 4, PushPullInterval: 15 * time.Second, WatchPeriod: 100 * time.Millisecond, WatchMisses: 3,
		Role: "node", MeshVersion: "1.0.0",
	}
}

// derive sets what follows from other settings and was not written itself.
func (g *Gossip) derive(leadership *Config, anything bool, written func(key string) bool) {
	if !written("enabled") {
		g.Enabled = anything
	}
	if !written("labels") {
		g.Labels = leadership.Labels
	}
}

// anchor lets a relative path start at the folder of the file.
func (g *Gossip) anchor(folder string) {
	if g.KeyFile != "" && !filepath.IsAbs(g.KeyFile) {
		g.KeyFile = filepath.Join(folder, g.KeyFile)
	}
}

// gossipProblems are what is wrong under mesh.gossip.
func (c *Config) gossipProblems() Problems {
	g := &c.Gossip
	if !g.Enabled {
		return nil
	}
	j := judge{root: gossipKey}
	g.judgeAddresses(&j, c.Listeners)
	g.judgeTimes(&j)
	g.judgeWords(&j)
	if size := g.metadataBytes(c.ClusterID); len(j.found) == 0 && size > MaxGossipMetadata {
		j.refuse("labels", fmt.Sprintf("with them this node says %d bytes of itself", size), fmt.Sprintf("at most %d fit into a packet: shorten or drop labels", MaxGossipMetadata))
	}
	return j.found
}

func (g *Gossip) judgeAddresses(j *judge, taken Listeners) {
	if j.required("listen", g.Listen, "write host:port, like 127.0.0.1:7414") {
		if port := j.address("listen", g.Listen, true); port != "" && port != "0" {
			for _, other := range []struct{ key, address string }{{"http", taken.HTTP}, {"grpc", taken.GRPC}, {"peer", taken.Peer}} {
				if other.address == g.Listen {
					j.refuse("listen", fmt.Sprintf("%s is the address of mesh.leadership.listeners.%s too", clip(g.Listen), other.key), "give each listener a port of its own")
				}
			}
		}
		host, _, _ := net.SplitHostPort(g.Listen)
		if ip, err := netip.ParseAddr(host); g.Advertise == "" && (host == "" || err == nil && ip.IsUnspecified()) {
			j.refuse("advertise", "is missing", "write host:port at which the others reach this node: it listens on every address")
		}
	}
	if g.Advertise != "" {
		j.address("advertise", g.Advertise, false)
	}
	if len(g.Seeds) > MaxGossipSeeds {
		j.refuse("seeds", fmt.Sprintf("%d seeds", len(g.Seeds)), fmt.Sprintf("at most %d are right, 3 for most", MaxGossipSeeds))
	}
	for i, seed := range g.Seeds {
		j.address(fmt.Sprintf("seeds[%d]", i), seed, false)
	}
	g.judgeKeys(j)
}

// judgeKeys refuses to gossip in the open, but among processes of one machine.
func (g *Gossip) judgeKeys(j *judge) {
	switch at, err := netip.ParseAddrPort(g.Listen); {
	case g.KeyFile != "" && g.Plaintext:
		j.refuse("plaintext", "is true, but there is a keyFile", "keep one of them")
	case g.KeyFile == "" && !g.Plaintext:
		j.refuse("keyFile", "is missing", "name the file that omnirelay keys gossip new made, the same keys on every node")
	case g.Plaintext && (err != nil || !at.Addr().IsLoopback()):
		j.refuse("plaintext", fmt.Sprintf("is true, but %q is no loopback address", clip(g.Listen)), "name a keyFile: elsewhere gossip is encrypted")
	}
}

func (g *Gossip) judgeTimes(j *judge) {
	j.duration("interval", g.Interval, MinGossipInterval, MaxGossipInterval)
	j.duration("pushPullInterval", g.PushPullInterval, MinGossipInterval, MaxGossipInterval)
	j.duration("watchPeriod", g.WatchPeriod, MinGossipInterval, MaxGossipInterval)
	if j.duration("probeInterval", g.ProbeInterval, MinGossipInterval, MaxGossipInterval) {
		j.duration("probeTimeout", g.ProbeTimeout, MinGossipInterval, g.ProbeInterval-time.Millisecond)
	}
	j.number("fanout", int64(g.Fanout), 1, MaxGossipFanout)
	j.number("suspicion", int64(g.Suspicion), 1, MaxGossipMultiplier)
	j.number("retransmit", int64(g.Retransmit), 1, MaxGossipMultiplier)
	j.number("watchMisses", int64(g.WatchMisses), 1, MaxWatchMisses)
}

var meshVersion = regexp.MustCompile(`^v?\d{1,6}(\.\d{1,6}){0,2}([-+][0-9A-Za-z.+-]*)?$`)

func (g *Gossip) judgeWords(j *judge) {
	j.word("role", g.Role, MaxGossipRole)
	if g.Region != "" {
		j.word("region", g.Region, MaxGossipRegion)
	}
	for _, v := range []struct{ key, text string }{{"meshVersion", g.MeshVersion}, {"minMeshVersion", g.MinMeshVersion}, {"maxMeshVersion", g.MaxMeshVersion}} {
		missing := v.text == "" && v.key != "meshVersion"
		if !missing && (len(v.text) > 32 || !meshVersion.MatchString(v.text)) {
			j.refuse(v.key, fmt.Sprintf("%q is no version", clip(v.text)), "write up to three numbers, like 1.2.3")
		}
	}
	j.labels("labels", g.Labels)
}

// word checks a name that others are shown.
func (j *judge) word(key, value string, limit int) {
	if len(value) > limit {
		j.refuse(key, fmt.Sprintf("%d bytes", len(value)), fmt.Sprintf("at most %d are right", limit))
		return
	}
	j.refuseError(key, core.CheckMemberID(key, value))
}

// metadataBytes is how long gossip's encoding of what this node says of itself is at most.
func (g *Gossip) metadataBytes(clusterID string) int {
	const field = 3 // a key and a length
	size := 1 + 4*field + len(clusterID) + len(g.Role) + len(g.Region) + len(g.MeshVersion) + field + 1 + field + 8
	for name, value := range g.Labels {
		size += field + 1 + len(name) + len(value)
	}
	return size
}
