package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/omnirelay/leadership/adapters/gossip"
	"github.com/omnirelay/leadership/adapters/signing"
	"github.com/omnirelay/leadership/adapters/transport"
	"github.com/omnirelay/leadership/core"
)

// devClusterID names the clusters of leaderd dev.
const devClusterID = "dev"

// manifestName is where a cluster that is ready tells tools where everything is.
const manifestName = "cluster.json"

// devCluster is the set of processes that leaderd dev runs.
type devCluster struct {
	dir   string
	store *devStore
	nodes []*devNode
}

// devNode is one of them.
type devNode struct {
	id               string
	http, grpc, peer string // addresses
	gossip           string // address
	config, data     string // paths
	log              string
	process          *exec.Cmd
	ended            bool
}

// lockDevFolder takes the folder for this process, until the file is closed. A second
// leaderd dev would write other ports into the configurations of a cluster that runs,
// and remove its cluster.json.
func lockDevFolder(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(filepath.Join(dir, "dev.lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("another leaderd dev runs the cluster in %s (%w); stop it, or give this one a folder of its own with --dir and ports of its own with --base-port", dir, err)
	}
	return file, nil
}

// newDevCluster lays out the folder: certificates, one configuration per node. What
// is there already, data above all, is kept.
func newDevCluster(o *devOptions, store *devStore) (*devCluster, error) {
	dir, err := filepath.Abs(o.dir)
	if err != nil {
		return nil, err
	}
	c := &devCluster{dir: dir, store: store}
	if err := os.MkdirAll(filepath.Join(dir, "tls"), 0o700); err != nil {
		return nil, err
	}
	for i := 1; i <= o.nodes; i++ {
		n, err := c.layNode(i, o.basePort)
		if err != nil {
			return nil, err
		}
		c.nodes = append(c.nodes, n)
	}
	if err := c.issueCertificates(); err != nil {
		return nil, err
	}
	for _, n := range c.nodes {
		if err := transport.WriteFile(n.config, []byte(c.configOf(n)), 0o600); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func (c *devCluster) layNode(i, basePort int) (*devNode, error) {
	id := fmt.Sprintf("node-%d", i)
	n := &devNode{
		id: id, config: filepath.Join(c.dir, id+".yaml"), data: filepath.Join(c.dir, id), log: filepath.Join(c.dir, id+".log"),
	}
	for j, address := range []*string{&n.http, &n.grpc, &n.peer, &n.gossip} {
		port := basePort + 10*i + j + 1
		if basePort == 0 {
			var err error
			if port, err = freePort(); err != nil {
				return nil, err
			}
		}
		*address = fmt.Sprintf("127.0.0.1:%d", port)
	}
	return n, nil
}

// freePort returns a port that nobody listened on just now, on TCP and UDP.
func freePort() (int, error) {
	l, err := transport.ListenDual("127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	return l.Port(), l.Close()
}

func (c *devCluster) tls(name string) string { return filepath.Join(c.dir, "tls", name) }

func (c *devCluster) manifest() string { return filepath.Join(c.dir, manifestName) }

// issueCertificates makes an authority once, and fresh certificates every time.
func (c *devCluster) issueCertificates() error {
	ca, err := transport.LoadAuthority(c.tls("ca.pem"), c.tls("ca-key.pem"))
	if errors.Is(err, os.ErrNotExist) {
		if ca, err = transport.NewAuthority(devClusterID); err == nil {
			err = ca.Save(c.tls("ca.pem"), c.tls("ca-key.pem"))
		}
	}
	if err != nil {
		return err
	}
	if err := errors.Join(c.makeSigningKeys(), c.makeGossipKeys()); err != nil {
		return err
	}
	issue := func(name string, pair transport.Pair, err error) error {
		if err != nil {
			return err
		}
		return pair.Save(c.tls(name+".pem"), c.tls(name+"-key.pem"))
	}
	for _, n := range c.nodes {
		pair, err := ca.IssueNode(n.id)
		if err := issue(n.id, pair, err); err != nil {
			return err
		}
	}
	for _, role := range devRoles {
		pair, err := ca.IssueClient(role)
		if err := issue(string(role), pair, err); err != nil {
			return err
		}
	}
	pair, err := ca.IssueMember(devMemberID)
	return issue(devMember, pair, err)
}

// makeSigningKeys makes the keys that sign tokens, once. All nodes share them.
func (c *devCluster) makeSigningKeys() error {
	path := c.tls(devSigningKeys)
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	set, err := signing.NewKeySet(time.Now())
	if err != nil {
		return err
	}
	return signing.CreateKeyFile(path, set)
}

// makeGossipKeys makes the keys that gossip is encrypted with, once.
func (c *devCluster) makeGossipKeys() error {
	path := c.tls(devGossipKeys)
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	_, err := gossip.CreateKeyFile(path)
	return err
}

const (
	devSigningKeys = "signing.json"
	devGossipKeys  = "gossip.keys"
	// devMember is the name, in cluster.json, of the certificate for the member devMemberID.
	devMember   = "member"
	devMemberID = "member-1"
)

var devRoles = []transport.Role{transport.RoleAdmin, transport.RoleOperate, transport.RoleRead}

// configOf writes the configuration of one node.
func (c *devCluster) configOf(n *devNode) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Written by leaderd dev, anew at every start.\nmesh:\n  leadership:\n    nodeId: %s\n    clusterId: %s\n    dataDir: %q\n", n.id, devClusterID, n.data)
	fmt.Fprintf(&b, "    listeners:\n      http: %s\n      grpc: %s\n      peer: %s\n", n.http, n.grpc, n.peer)
	fmt.Fprintf(&b, "    tls:\n      cert: %q\n      key: %q\n      ca: %q\n", c.tls(n.id+".pem"), c.tls(n.id+"-key.pem"), c.tls("ca.pem"))
	b.WriteString("    peers:\n")
	for _, p := range c.nodes {
		fmt.Fprintf(&b, "      - {id: %s, address: %q, http: %q, grpc: %q}\n", p.id, p.peer, p.http, p.grpc)
	}
	fmt.Fprintf(&b, "    tokens: {keys: %q}\n", c.tls(devSigningKeys))
	fmt.Fprintf(&b, "    access:\n      grants:\n        - {match: \"spiffe://%s/member/*\", scopes: [{kind: %s}, {kind: %s}], maxPriority: 100}\n",
		devClusterID, core.KindShard, core.KindCustom)
	b.WriteString(c.store.registry())
	b.WriteString("    scopes:\n      - global-control\n    shards:\n      - {namespace: mesh.demo, from: \"00\", to: \"63\"}\n")
	fmt.Fprintf(&b, "  gossip:\n    listen: %s\n    keyFile: %q\n    seeds:\n", n.gossip, c.tls(devGossipKeys))
	for _, p := range c.nodes {
		fmt.Fprintf(&b, "      - %q\n", p.gossip)
	}
	return b.String()
}

func (n *devNode) pid() int {
	if n.process == nil || n.process.Process == nil {
		return 0
	}
	return n.process.Process.Pid
}

func (n *devNode) state() string {
	if n.process.ProcessState == nil {
		return "unknown"
	}
	return n.process.ProcessState.String()
}

// start runs the node's process and reports on exits when it ends.
func (n *devNode) start(exits chan<- *devNode) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	log, err := os.OpenFile(n.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	n.process = exec.Command(self, "serve", "--config", n.config)
	n.process.Stdout, n.process.Stderr = log, log
	// A group of its own: Ctrl-C at the terminal reaches leaderd dev, which then
	// stops its nodes in order.
	n.process.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := n.process.Start(); err != nil {
		return fmt.Errorf("starting %s: %w", n.id, err)
	}
	go func() {
		_ = n.process.Wait() // its state is reported
		exits <- n
	}()
	return nil
}

func (c *devCluster) running() int {
	running := 0
	for _, n := range c.nodes {
		if n.process != nil && n.process.Process != nil && !n.ended {
			running++
		}
	}
	return running
}

// awaitReady waits until every node says that it is ready; false: ctx ended before.
func (c *devCluster) awaitReady(ctx context.Context, exits <-chan *devNode) (bool, error) {
	deadline := time.After(devReadyWithin)
	certificates, err := transport.LoadCertificates(transport.Files{
		CA: c.tls("ca.pem"), Cert: c.tls("read.pem"), Key: c.tls("read-key.pem"),
	}, nil)
	if err != nil {
		return false, err
	}
	probe := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{TLSClientConfig: certificates.Client(""), DisableKeepAlives: true}}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for i := 0; i < len(c.nodes); {
		if ready(ctx, probe, c.nodes[i]) {
			i++
			continue
		}
		select {
		case n := <-exits:
			n.ended = true
			return false, fmt.Errorf("%s ended before it was ready (%s):\n%s", n.id, n.state(), tail(n.log))
		case <-ctx.Done():
			return false, nil
		case <-deadline:
			return false, fmt.Errorf("%s is not ready after %v; see %s", c.nodes[i].id, devReadyWithin, c.nodes[i].log)
		case <-tick.C:
		}
	}
	c.awaitLeaders(ctx, probe)
	return true, nil
}

// awaitLeaders waits until the first node knows a leader, for as long as a formation
// may take, so that who looks at once sees something.
func (c *devCluster) awaitLeaders(ctx context.Context, probe *http.Client) {
	ctx, cancel := context.WithTimeout(ctx, core.DefaultMaxElectionWindow)
	defer cancel()
	for ctx.Err() == nil && !answers(ctx, probe, "https://"+c.nodes[0].http+"/control/leaders?scope="+core.GlobalControl, "leaderId") {
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func ready(ctx context.Context, probe *http.Client, n *devNode) bool {
	return answers(ctx, probe, "https://"+n.http+"/readyz", "")
}

// answers reports whether a URL answers with 200 and a text that holds what is given.
func answers(ctx context.Context, probe *http.Client, url, what string) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	resp, err := probe.Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	return err == nil && resp.StatusCode == http.StatusOK && strings.Contains(string(text), what)
}

// tail returns the last lines of a log.
func tail(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-10):], "\n")
}

// stop stops every node in order: a request first, force after devStopWithin.
func (c *devCluster) stop(exits <-chan *devNode) error {
	for _, n := range c.nodes {
		if n.pid() != 0 && !n.ended {
			_ = n.process.Process.Signal(syscall.SIGTERM) // it may just have ended
		}
	}
	deadline := time.After(devStopWithin)
	var failed error
	for c.running() > 0 {
		select {
		case n := <-exits:
			n.ended = true
			if !n.process.ProcessState.Success() {
				failed = errors.Join(failed, fmt.Errorf("%s: %s; see %s", n.id, n.state(), n.log))
			}
		case <-deadline:
			for _, n := range c.nodes {
				if n.pid() != 0 && !n.ended {
					_ = n.process.Process.Kill()
				}
			}
			deadline = nil
			failed = errors.Join(failed, fmt.Errorf("nodes were killed: they did not stop within %v", devStopWithin))
		}
	}
	return failed
}

type manifest struct {
	Nodes   []manifestNode            `json:"nodes"`
	Store   *manifestStore            `json:"store,omitempty"` // absent: raft
	CA      string                    `json:"ca"`
	Clients map[string]manifestClient `json:"clients"`
}

type manifestNode struct {
	ID      string `json:"id"`
	PID     int    `json:"pid"`
	HTTP    string `json:"http"`
	GRPC    string `json:"grpc"`
	Gossip  string `json:"gossip"`
	Config  string `json:"config"`
	DataDir string `json:"dataDir"`
	Log     string `json:"log"`
}

type manifestClient struct {
	Cert string `json:"cert"`
	Key  string `json:"key"`
}

// writeManifest tells tools where everything is, whole or not at all.
func (c *devCluster) writeManifest() error {
	m := manifest{Store: c.store.manifest(), CA: c.tls("ca.pem"), Clients: map[string]manifestClient{}}
	for _, n := range c.nodes {
		m.Nodes = append(m.Nodes, manifestNode{
			ID: n.id, PID: n.pid(), HTTP: "https://" + n.http, GRPC: n.grpc, Gossip: n.gossip, Config: n.config, DataDir: n.data, Log: n.log,
		})
	}
	for _, role := range append(slices.Clone(devRoles), devMember) {
		m.Clients[string(role)] = manifestClient{Cert: c.tls(string(role) + ".pem"), Key: c.tls(string(role) + "-key.pem")}
	}
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	return transport.WriteFile(c.manifest(), append(data, '\n'), 0o600)
}
