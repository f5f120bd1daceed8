package harness

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/omnirelay/leadership/adapters/gossip"
	"github.com/omnirelay/leadership/adapters/transport"
)

// Manifest is DIR/cluster.json, as CONTRACT says leaderd dev writes it.
type Manifest struct {
	Nodes   []ManifestNode            `json:"nodes"`
	Store   *ManifestStore            `json:"store"` // nil: raft
	CA      string                    `json:"ca"`
	Clients map[string]ManifestClient `json:"clients"`
}

// ManifestNode is one node of a Manifest.
type ManifestNode struct {
	ID      string `json:"id"`
	PID     int    `json:"pid"`
	HTTP    string `json:"http"` // URL
	GRPC    string `json:"grpc"` // host:port
	Config  string `json:"config"`
	DataDir string `json:"dataDir"`
	Log     string `json:"log"`
}

// ManifestStore is the server that keeps the registry.
type ManifestStore struct {
	Kind    string `json:"kind"`
	Address string `json:"address"`
	PID     int    `json:"pid"`
}

// Running reports whether the server is there.
func (s *ManifestStore) Running() bool { return syscall.Kill(s.PID, 0) == nil }

// ManifestClient names the PEM files of one role.
type ManifestClient struct {
	Cert string `json:"cert"`
	Key  string `json:"key"`
}

// ReadManifest reads cluster.json.
func ReadManifest(path string) (*Manifest, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	m := &Manifest{}
	return m, json.Unmarshal(data, m)
}

const (
	clusterID  = "cluster-test"
	gossipKeys = "gossip.keys"
)

// layOut writes certificates, one configuration per node, and cluster.json.
func layOut(t testing.TB, dir string, o Options) *Cluster {
	t.Helper()
	authority, err := transport.NewAuthority(clusterID)
	must(t, err)
	c := &Cluster{t: t, dir: dir, Authority: authority, host: loopback(), given: map[string]bool{}}
	if len(o.Hosts) > 0 {
		c.host = o.Hosts[0]
	}
	must(t, os.Mkdir(filepath.Join(dir, "tls"), 0o700))
	must(t, authority.Save(c.tls("ca.pem"), c.tls("ca-key.pem")))
	manifest := &Manifest{CA: c.tls("ca.pem"), Clients: map[string]ManifestClient{}}
	for _, role := range []transport.Role{transport.RoleAdmin, transport.RoleOperate, transport.RoleRead} {
		pair, err := authority.IssueClient(role)
		must(t, err)
		manifest.Clients[string(role)] = c.save(string(role), pair)
	}
	for i := 1; i <= o.Nodes; i++ {
		n := c.layNode(fmt.Sprintf("node-%d", i), o.hostOf(i-1))
		manifest.Nodes = append(manifest.Nodes, ManifestNode{ID: n.ID, HTTP: n.URL, GRPC: n.GRPC, Config: n.Config, DataDir: n.DataDir, Log: n.Log})
	}
	if o.Gossip {
		_, err := gossip.CreateKeyFile(c.tls(gossipKeys))
		must(t, err)
	}
	for _, n := range c.Nodes {
		must(t, os.WriteFile(n.Config, []byte(c.configOf(n, o)), 0o600))
	}
	data, err := json.Marshal(manifest)
	must(t, err)
	must(t, os.WriteFile(c.ManifestPath(), data, 0o600))
	return c
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// loopback picks an address of this machine for one cluster. Connections are made
// from 127.0.0.1, so none of them can take a port while its node is being restarted.
func loopback() string {
	return fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(254), rand.IntN(256), 1+rand.IntN(254))
}

// hostOf is the address of a node, counted from 0; empty: that of the cluster.
func (o *Options) hostOf(i int) string {
	if i < len(o.Hosts) {
		return o.Hosts[i]
	}
	return ""
}

func (c *Cluster) layNode(id, host string) *Node {
	c.t.Helper()
	if host == "" {
		host = c.host
	}
	pair, err := c.Authority.IssueNode(id, host)
	must(c.t, err)
	c.save(id, pair)
	// A port that is free here is free in a network namespace where nothing runs yet.
	free := func() string { return net.JoinHostPort(host, portOf(c.FreeAddress())) }
	n := &Node{
		ID: id, cluster: c, Config: filepath.Join(c.dir, id+".yaml"), DataDir: filepath.Join(c.dir, id), Log: filepath.Join(c.dir, id+".log"),
		HTTP: free(), GRPC: free(), Peer: free(), Gossip: free(),
	}
	n.URL = "https://" + n.HTTP
	c.Nodes = append(c.Nodes, n)
	return n
}

func portOf(address string) string { return address[strings.LastIndexByte(address, ':')+1:] }

// FreeAddress is an address of the cluster's that nobody listens on, another every
// time: the kernel may offer one again that nobody listens on yet.
func (c *Cluster) FreeAddress() string {
	c.t.Helper()
	for {
		l, err := net.Listen("tcp", c.host+":0")
		must(c.t, err)
		address := l.Addr().String()
		must(c.t, l.Close())
		if !c.given[address] {
			c.given[address] = true
			return address
		}
	}
}

func (c *Cluster) tls(name string) string { return filepath.Join(c.dir, "tls", name) }

// ManifestPath is where the cluster's cluster.json is.
func (c *Cluster) ManifestPath() string { return filepath.Join(c.dir, "cluster.json") }

func (c *Cluster) save(name string, pair transport.Pair) ManifestClient {
	c.t.Helper()
	paths := ManifestClient{Cert: c.tls(name + ".pem"), Key: c.tls(name + "-key.pem")}
	must(c.t, pair.Save(paths.Cert, paths.Key))
	return paths
}

// configOf is the configuration of one node: global-control and 64 shards.
func (c *Cluster) configOf(n *Node, o Options) string {
	var b strings.Builder
	fmt.Fprintf(&b, "mesh:\n  leadership:\n    nodeId: %s\n    clusterId: %s\n    dataDir: %q\n", n.ID, clusterID, n.DataDir)
	fmt.Fprintf(&b, "    listeners: {http: %q, grpc: %q, peer: %q}\n", n.HTTP, n.GRPC, n.Peer)
	fmt.Fprintf(&b, "    tls: {cert: %q, key: %q, ca: %q}\n", c.tls(n.ID+".pem"), c.tls(n.ID+"-key.pem"), c.tls("ca.pem"))
	b.WriteString("    peers:\n")
	for _, p := range c.Nodes {
		fmt.Fprintf(&b, "      - {id: %s, address: %q}\n", p.ID, p.Peer)
	}
	b.WriteString("    scopes: [global-control]\n    shards:\n      - {namespace: mesh.demo, from: \"00\", to: \"63\"}\n")
	for line := range strings.Lines(o.Settings) {
		b.WriteString("    " + line)
	}
	if !o.Gossip {
		return b.String()
	}
	fmt.Fprintf(&b, "  gossip:\n    listen: %q\n    keyFile: %q\n    seeds:\n", n.Gossip, c.tls(gossipKeys))
	for _, p := range c.Nodes {
		fmt.Fprintf(&b, "      - %q\n", p.Gossip)
	}
	for line := range strings.Lines(o.GossipSettings) {
		b.WriteString("    " + line)
	}
	return b.String()
}

// Rewrite writes a copy of the node's configuration with texts replaced, given as
// pairs of old and new, and returns its path.
func (n *Node) Rewrite(pairs ...string) string {
	n.cluster.t.Helper()
	data, err := os.ReadFile(n.Config)
	must(n.cluster.t, err)
	text := string(data)
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(text, pairs[i]) {
			n.cluster.t.Fatalf("%s does not contain %q", n.Config, pairs[i])
		}
		text = strings.ReplaceAll(text, pairs[i], pairs[i+1])
	}
	path := filepath.Join(n.cluster.t.TempDir(), filepath.Base(n.Config))
	must(n.cluster.t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// ClientTLS trusts the cluster's authority and proves itself by the pair; a zero
// pair presents no certificate.
func (c *Cluster) ClientTLS(pair transport.Pair) *tls.Config {
	c.t.Helper()
	config, err := clientTLS(c.Authority.CertPEM(), pair)
	must(c.t, err)
	return config
}

func clientTLS(authority []byte, pair transport.Pair) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: poolOf(authority)}
	if config.RootCAs == nil {
		return nil, errors.New("the authority's file holds no certificate")
	}
	if len(pair.Cert) > 0 {
		cert, err := tls.X509KeyPair(pair.Cert, pair.Key)
		if err != nil {
			return nil, err
		}
		config.Certificates = []tls.Certificate{cert}
	}
	return config, nil
}
