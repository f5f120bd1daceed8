package config

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/omnirelay/leadership/core"
)

// Bounds of settings beside those of core.
const (
	MinElectionTimeout = 50 * time.Millisecond
	MaxElectionTimeout = time.Minute
	MinHeartbeat       = 5 * time.Millisecond
	MinClockDrift      = core.Epsilon(1)
	MaxClockDrift      = core.Epsilon(100)
	MaxWindow          = time.Hour
	MinSnapshotEntries = 100
	MaxSnapshotEntries = 10_000_000
	MaxStreams         = 10_000
	MinRebalance       = 10 * time.Millisecond
)

// Validate reports every problem of c, as Problems. It changes nothing.
func (c *Config) Validate() error { return c.problems().orNil() }

// judge collects problems with settings of one configuration.
type judge struct {
	root  string // where the settings stand; empty: rootKey
	found Problems
}

func (j *judge) refuse(key, what, want string) {
	j.found = append(j.found, Problem{Key: cmp.Or(j.root, rootKey) + "." + key, What: what, Want: want})
}

func (j *judge) refuseError(key string, err error) {
	if err == nil {
		return
	}
	text := err.Error()
	if e, ok := err.(*core.Error); ok {
		text = e.Message
	}
	what, want, _ := strings.Cut(text, "; ")
	j.refuse(key, what, want)
}

func (j *judge) duration(key string, d, low, high time.Duration) (ok bool) {
	if d < low || d > high {
		j.refuse(key, fmt.Sprintf("%v is out of bounds", d), fmt.Sprintf("from %v to %v is right", low, high))
		return false
	}
	return true
}

func (j *judge) number(key string, n, low, high int64) {
	if n < low || n > high {
		j.refuse(key, fmt.Sprintf("%d is out of bounds", n), fmt.Sprintf("from %d to %d is right", low, high))
	}
}

func (j *judge) required(key, value, want string) bool {
	if value == "" {
		j.refuse(key, "is missing", want)
	}
	return value != ""
}

func (j *judge) oneOf(key, value string, allowed ...string) {
	if !slices.Contains(allowed, value) {
		j.refuse(key, fmt.Sprintf("%q is unknown", clip(value)), "one of "+strings.Join(allowed, ", "))
	}
}

// pattern is what a certificate can name.
type pattern struct {
	allowed *regexp.Regexp
	words   string
}

var (
	nodeName    = pattern{regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]{0,61}[A-Za-z0-9])?$`), "1 to 63 letters, digits, dots and dashes, as in a host name, are right"}
	clusterName = pattern{regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,127}$`), "1 to 128 of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit, are right"}
)

func (j *judge) name(key, value string, p pattern, missing string) {
	if j.required(key, value, missing) && !p.allowed.MatchString(value) {
		j.refuse(key, fmt.Sprintf("%q is no name that a certificate can hold", clip(value)), p.words)
	}
}

func (c *Config) problems() Problems {
	var j judge
	c.judgeIdentity(&j)
	c.judgeTimes(&j)
	c.judgeListeners(&j)
	c.judgePeers(&j)
	c.judgeRegistry(&j)
	c.judgeAccess(&j)
	c.judgeOperation(&j)
	c.judgeScopes(&j)
	if len(j.found) == 0 {
		c.judgeTiming(&j)
	}
	return append(j.found, c.gossipProblems()...)
}

func (c *Config) judgeIdentity(j *judge) {
	j.name("nodeId", c.NodeID, nodeName, "name this node, one of the ids under peers")
	j.name("clusterId", c.ClusterID, clusterName, "name the cluster, the same on every node")
	j.required("dataDir", c.DataDir, "name the folder that holds this node's log")
	j.number("weight", int64(c.Weight), 1, core.MaxWeight)
	j.labels("labels", c.Labels)
	j.required("tls.cert", c.TLS.Cert, "name the PEM file of this node's certificate")
	j.required("tls.key", c.TLS.Key, "name the PEM file of this node's key")
	j.required("tls.ca", c.TLS.CA, "name the PEM file of the authority that signed every node and client")
}

// judgeTimes holds a setting against another only where that one is right itself.
func (c *Config) judgeTimes(j *judge) {
	if j.duration("leaseDuration", c.LeaseDuration, core.MinTTL, core.MaxTTL) {
		j.duration("renewalLeadTime", c.RenewalLeadTime, time.Millisecond, c.ClockDrift.Shrink(c.LeaseDuration)*19/20)
		j.duration("evaluationInterval", c.EvaluationInterval, time.Millisecond, core.KeepaliveInterval(c.LeaseDuration))
	}
	if j.duration("maxElectionWindow", c.MaxElectionWindow, core.MinTTL, MaxWindow) {
		j.duration("electionBackoff", c.ElectionBackoff, time.Millisecond, c.MaxElectionWindow)
		j.duration("formationWindow", c.FormationWindow, MinElectionTimeout, c.MaxElectionWindow)
	}
	j.duration("electionTimeout", c.ElectionTimeout, MinElectionTimeout, MaxElectionTimeout)
	j.duration("heartbeatInterval", c.HeartbeatInterval, MinHeartbeat, MaxElectionTimeout)
	if c.ClockDrift < MinClockDrift || c.ClockDrift > MaxClockDrift {
		j.refuse("clockDrift", fmt.Sprintf("%d permille is out of bounds", c.ClockDrift), "from 0.1% to 10% is right, and 1% for most")
	}
	j.number("formationMembers", int64(c.FormationMembers), 0, core.MaxSessions)
	if r := time.Duration(c.RebalanceInterval); c.RebalanceInterval != Off && (r < MinRebalance || r > MaxWindow) {
		j.refuse("rebalanceInterval", fmt.Sprintf("%v is out of bounds", r), fmt.Sprintf("from %v to %v is right, or off", MinRebalance, MaxWindow))
	}
}

func (c *Config) judgeListeners(j *judge) {
	taken := map[string]string{}
	for _, l := range []struct{ key, address string }{
		{"listeners.http", c.Listeners.HTTP}, {"listeners.grpc", c.Listeners.GRPC}, {"listeners.peer", c.Listeners.Peer},
	} {
		if !j.required(l.key, l.address, "write host:port, like 127.0.0.1:7411") {
			continue
		}
		port := j.address(l.key, l.address, true)
		if other := taken[l.address]; other != "" && port != "0" {
			j.refuse(l.key, fmt.Sprintf("%s is the address of %s too", clip(l.address), other), "give each listener a port of its own")
		}
		taken[l.address] = l.key
	}
}

// address checks host:port and returns the port. A listener may leave the host
// empty for all interfaces and ask for any port by 0.
func (j *judge) address(key, address string, listener bool) string {
	host, port, err := net.SplitHostPort(address)
	n, portErr := strconv.ParseUint(port, 10, 16)
	if err != nil || portErr != nil || len(host) > 253 || strings.ContainsAny(host, " /") {
		j.refuse(key, fmt.Sprintf("%q is no address", clip(address)), "write host:port, like 127.0.0.1:7411")
		return ""
	}
	if !listener && (host == "" || n == 0) {
		j.refuse(key, fmt.Sprintf("%q cannot be reached", clip(address)), "write the host and port that other nodes connect to")
	}
	return port
}

func (c *Config) judgePeers(j *judge) {
	switch {
	case c.Join && c.Registry.External():
		j.refuse("join", "is for a registry that the nodes keep themselves, and registry.store is "+clip(c.Registry.Store), "leave it out, and write every node under peers")
	case c.Join && len(c.Peers) < 2:
		j.refuse("join", "there is nobody to join", "write under peers this node and at least one of the cluster")
	}
	if len(c.Peers) == 0 || len(c.Peers) > core.MaxReplicas {
		j.refuse("peers", fmt.Sprintf("%d replicas", len(c.Peers)), fmt.Sprintf("1 to %d are right, 3 or 5 for most", core.MaxReplicas))
	}
	ids, addresses, replicas := map[string]bool{}, map[string]bool{}, map[core.NodeID]string{}
	for i, p := range c.Peers {
		key := fmt.Sprintf("peers[%d]", i)
		p.judgePublic(j, key)
		if alone := len(c.Peers) == 1 && p.ID == c.NodeID && p.Address == c.Listeners.Peer; alone {
			return // nobody else connects: any listener will do
		}
		j.name(key+".id", p.ID, nodeName, "name the replica")
		if j.required(key+".address", p.Address, "write host:port of its peer listener") {
			j.address(key+".address", p.Address, false)
		}
		if ids[p.ID] {
			j.refuse(key+".id", fmt.Sprintf("%q is listed twice", clip(p.ID)), "give each replica an id of its own")
		}
		if addresses[p.Address] {
			j.refuse(key+".address", fmt.Sprintf("%q is listed twice", clip(p.Address)), "give each replica an address of its own")
		}
		if other, taken := replicas[p.Replica()]; taken && other != p.ID {
			j.refuse(key+".id", fmt.Sprintf("%q hashes to the replica number of %q", clip(p.ID), clip(other)), "rename one of them")
		}
		ids[p.ID], addresses[p.Address], replicas[p.Replica()] = true, true, p.ID
	}
	if c.NodeID != "" && len(ids) > 0 && !ids[c.NodeID] {
		j.refuse("nodeId", fmt.Sprintf("%q is not among the peers", clip(c.NodeID)), "one of "+clip(strings.Join(slices.Sorted(maps.Keys(ids)), ", ")))
	}
}

// judgePublic checks where callers are sent to.
func (p Peer) judgePublic(j *judge, key string) {
	if p.HTTP != "" {
		j.address(key+".http", p.HTTP, false)
	}
	if p.GRPC != "" {
		j.address(key+".grpc", p.GRPC, false)
	}
}

func (c *Config) judgeOperation(j *judge) {
	j.number("snapshotEntries", int64(min(c.SnapshotEntries, MaxSnapshotEntries+1)), MinSnapshotEntries, MaxSnapshotEntries)
	for i, open := range c.Control.Open {
		j.oneOf(fmt.Sprintf("control.open[%d]", i), open, "held", "leaders", "events", "audit", "metrics")
	}
	j.number("streams.max", int64(c.Streams.Max), 1, MaxStreams)
	j.duration("streams.writeTimeout", c.Streams.WriteTimeout, 100*time.Millisecond, 5*time.Minute)
	j.duration("streams.heartbeat", c.Streams.Heartbeat, 100*time.Millisecond, 5*time.Minute)
	j.number("metrics.leaderSeries", int64(c.Metrics.LeaderSeries), 0, core.MaxScopes)
	j.oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	j.oneOf("log.format", c.Log.Format, "auto", "text", "json")
}

func (j *judge) labels(key string, labels map[string]string) {
	j.refuseError(key, core.ValidateSelector(labelSelector(labels)))
}
