// Package config reads leaderd's settings: a YAML file, overridden by the
// environment, checked as a whole. Every problem is reported, each with its line,
// its key and what would be right; nothing that was written is ever silently
// replaced by a default.
package config

import (
	"time"

	"github.com/omnirelay/leadership/core"
)

// Config is what stands under mesh.leadership. Default fills it, Load reads it and
// Validate judges it; none of them does the work of another.
type Config struct {
	// Enabled lets this node's own member stand for the scopes. Without it the node
	// is a replica only: it votes, keeps the registry and serves reads.
	Enabled bool `koanf:"enabled"`
	// NodeID names this node among the peers and its member in tokens.
	NodeID string `koanf:"nodeId"`
	// ClusterID names the cluster; a data directory of another one is refused.
	ClusterID string `koanf:"clusterId"`
	// DataDir holds the log. A relative path starts at the folder of the file.
	DataDir string `koanf:"dataDir"`
	// Labels describe this node's member to selectors and people.
	Labels map[string]string `koanf:"labels"`
	// Weight is this node's share when scopes are balanced, 1 to core.MaxWeight.
	Weight uint32 `koanf:"weight"`

	// LeaseDuration is the TTL of this node's session.
	LeaseDuration time.Duration `koanf:"leaseDuration"`
	// RenewalLeadTime is the time before the end of a lease at which a keepalive
	// must have been sent. Not written: 4/5 of LeaseDuration.
	RenewalLeadTime time.Duration `koanf:"renewalLeadTime"`
	// EvaluationInterval is the longest a check may lag behind its deadline. Not
	// written: 1/20 of LeaseDuration.
	EvaluationInterval time.Duration `koanf:"evaluationInterval"`
	// MaxElectionWindow is the longest a scope may stay unled, and the longest a
	// call waits for a leader.
	MaxElectionWindow time.Duration `koanf:"maxElectionWindow"`
	// ElectionBackoff is the pause before a lost session is reopened, at least 1ms.
	ElectionBackoff time.Duration `koanf:"electionBackoff"`
	// ElectionTimeout is the silence of the registrar after which a replica
	// campaigns: at random between one and two of it. Not written: 600ms, and 1s with
	// an external store.
	ElectionTimeout time.Duration `koanf:"electionTimeout"`
	// HeartbeatInterval is how often the registrar tells the others it is there. Not
	// written: 100ms, and 200ms with an external store.
	HeartbeatInterval time.Duration `koanf:"heartbeatInterval"`
	// ClockDrift bounds every clock's rate error against true time.
	ClockDrift core.Epsilon `koanf:"clockDrift"`

	// FormationMembers is how many members the first elections wait for, 0 and 1
	// both meaning that nothing is waited for. Not written: one for each peer.
	FormationMembers uint32 `koanf:"formationMembers"`
	// FormationWindow is how long the first elections wait at most.
	FormationWindow time.Duration `koanf:"formationWindow"`
	// RebalanceInterval is the pause between two moves that even out the load.
	RebalanceInterval Interval `koanf:"rebalanceInterval"`
	// SnapshotEntries is how many log entries are kept before a snapshot is taken.
	SnapshotEntries uint64 `koanf:"snapshotEntries"`

	Registry  Registry  `koanf:"registry"`
	Listeners Listeners `koanf:"listeners"`
	TLS       TLS       `koanf:"tls"`
	// Peers are all replicas, this node among them, the same on each. Not written:
	// this node alone.
	Peers []Peer `koanf:"peers"`
	// Join starts a node that is added to a cluster which runs already: with nothing, and
	// without a vote until it was let in. Peers then name this node and at least one of
	// the others. It counts only while the data directory is new.
	Join bool `koanf:"join"`
	// Scopes and Shards are declared by this node and stood for by its member.
	Scopes []Scope `koanf:"scopes"`
	Shards []Shard `koanf:"shards"`

	Access  Access  `koanf:"access"`
	Limits  Limits  `koanf:"limits"`
	Tokens  Tokens  `koanf:"tokens"`
	Control Control `koanf:"control"`
	Streams Streams `koanf:"streams"`
	Metrics Metrics `koanf:"metrics"`
	Log     Log     `koanf:"log"`

	// Gossip is what stands beside this, under mesh.gossip.
	Gossip Gossip `koanf:"-"`
}

// Listeners are the addresses this node listens on, each host:port.
type Listeners struct {
	HTTP string `koanf:"http"` // JSON, SSE, metrics and probes
	GRPC string `koanf:"grpc"` // members and Subscribe
	Peer string `koanf:"peer"` // other replicas
	// HTTP3 lets http and grpc listen on UDP too, at the same port.
	HTTP3 bool `koanf:"http3"`
}

// TLS names PEM files. A relative path starts at the folder of the file.
type TLS struct {
	Cert string `koanf:"cert"`
	Key  string `koanf:"key"`
	CA   string `koanf:"ca"`
}

// Peer is one replica.
type Peer struct {
	ID      string `koanf:"id"`
	Address string `koanf:"address"` // host:port at which its peer listener is reached
	// HTTP and GRPC are host:port at which callers reach its public listeners, for the
	// hint where else to ask. Empty: no hint.
	HTTP string `koanf:"http"`
	GRPC string `koanf:"grpc"`
}

// Replica is the number of this peer in the log: the FNV-1a hash of its id, so that
// it depends neither on the order of the peers nor on how many there are. Never 0.
func (p Peer) Replica() core.NodeID {
	return core.NodeIDOf(p.ID)
}

// Scope is a scope written by its id. A list may hold the bare id instead.
type Scope struct {
	ID        string            `koanf:"id"`
	Kind      string            `koanf:"kind"` // empty: what the id implies
	Labels    map[string]string `koanf:"labels"`
	Preferred string            `koanf:"preferred"` // the member elected whenever it stands
	Priority  int32             `koanf:"priority"`  // of this node's member; higher is preferred
	Failover  string            `koanf:"failover"`  // lease (when empty) or fast
}

// Shard is a family of scopes shard/<namespace>/<id>: either ids, or from and to,
// decimal and equally wide, both included.
type Shard struct {
	Namespace string            `koanf:"namespace"`
	IDs       []string          `koanf:"ids"`
	From      string            `koanf:"from"`
	To        string            `koanf:"to"`
	Labels    map[string]string `koanf:"labels"`
	Preferred string            `koanf:"preferred"`
	Priority  int32             `koanf:"priority"`
	Failover  string            `koanf:"failover"`
}

// Control settles who may read over HTTP.
type Control struct {
	// Open lists what needs no certificate beside healthz and readyz: held, leaders,
	// events, audit, metrics.
	Open []string `koanf:"open"`
}

// Streams bounds the event streams of this node, HTTP and gRPC each.
type Streams struct {
	Max          int           `koanf:"max"`          // at the same time
	WriteTimeout time.Duration `koanf:"writeTimeout"` // a reader slower than this is cut
	Heartbeat    time.Duration `koanf:"heartbeat"`    // comment on a silent SSE stream
}

// Metrics bounds what /metrics tells.
type Metrics struct {
	// LeaderSeries is the most series of mesh_leadership_leader. 0: none.
	LeaderSeries int `koanf:"leaderSeries"`
}

// Log settles what is logged and how.
type Log struct {
	Level  string `koanf:"level"`  // debug, info, warn or error
	Format string `koanf:"format"` // text, json, or auto: text on a terminal
}

// Interval is a duration that may be written "off".
type Interval time.Duration

// Off is the Interval that never comes.
const Off Interval = -1

// Default is the configuration of a file that says nothing. It lacks what has no
// default: nodeId, clusterId, dataDir, the listeners' addresses and tls.
func Default() Config {
	return Config{
		Enabled:            true,
		Weight:             1,
		LeaseDuration:      core.DefaultTTL,
		RenewalLeadTime:    renewalLead(core.DefaultTTL),
		EvaluationInterval: evaluation(core.DefaultTTL),
		MaxElectionWindow:  core.DefaultMaxElectionWindow,
		ElectionBackoff:    200 * time.Millisecond,
		ElectionTimeout:    core.DefaultElectionTimeout,
		HeartbeatInterval:  core.DefaultHeartbeatInterval,
		ClockDrift:         core.DefaultEpsilon,
		FormationMembers:   1,
		FormationWindow:    core.DefaultFormationWindow,
		RebalanceInterval:  Interval(core.DefaultRebalanceInterval),
		SnapshotEntries:    core.DefaultSnapshotEntries,
		Registry:           Registry{Store: StoreRaft},
		Listeners:          Listeners{HTTP3: true},
		Limits:             defaultLimits(),
		Tokens:             Tokens{Lifetime: time.Hour},
		Streams:            Streams{Max: 256, WriteTimeout: 5 * time.Second, Heartbeat: 10 * time.Second},
		Metrics:            Metrics{LeaderSeries: 1000},
		Log:                Log{Level: "info", Format: "auto"},
		Gossip:             defaultGossip(),
	}
}

// renewalLead is the lead time that follows from a TTL: keepalives every TTL/5.
func renewalLead(ttl time.Duration) time.Duration { return ttl - core.KeepaliveInterval(ttl) }

// evaluation is the interval that follows from a TTL: a quarter of a keepalive's.
func evaluation(ttl time.Duration) time.Duration { return ttl / 20 }

// derive sets what follows from other settings and was not written itself.
func (c *Config) derive(written func(key string) bool) {
	if !written("renewalLeadTime") {
		c.RenewalLeadTime = renewalLead(c.LeaseDuration)
	}
	if !written("evaluationInterval") {
		c.EvaluationInterval = evaluation(c.LeaseDuration)
	}
	if c.Registry.External() && !written("heartbeatInterval") {
		c.HeartbeatInterval = storeHeartbeat
	}
	if c.Registry.External() && !written("electionTimeout") {
		c.ElectionTimeout = storeElectionTimeout
	}
	c.Registry.derive(c.ClusterID, written)
	c.Access.Bearer.derive(c.ClusterID, written)
	if !written("peers") {
		c.Peers = []Peer{{ID: c.NodeID, Address: c.Listeners.Peer}}
	}
	if !written("formationMembers") {
		c.FormationMembers = uint32(len(c.Peers))
	}
}
