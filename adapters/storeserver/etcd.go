package storeserver

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// etcdServer is one member; alone, unless it was started as one of a cluster.
type etcdServer struct {
	options Options
	binary  string
	name    string
	peer    string // its URL
	members string // name=URL of every member
	token   string // makes the cluster's id its own
}

func newEtcd(o Options) (*etcdServer, error) {
	peerPort, err := freePort()
	if err != nil {
		return nil, err
	}
	e := &etcdServer{options: o, name: "m1", peer: fmt.Sprintf("http://127.0.0.1:%d", peerPort), token: rand.Text()}
	e.members = e.name + "=" + e.peer
	if e.binary, err = find(o, "etcd", "etcd-server"); err != nil {
		return nil, err
	}
	return e, nil
}

// find looks for the program of a kind.
func find(o Options, name, pack string) (string, error) {
	if o.Binary != "" {
		name = o.Binary
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", notInstalled(o, name, pack)
	}
	return path, nil
}

func notInstalled(o Options, name, pack string) error {
	if o.Binary != "" {
		return fmt.Errorf("storeserver: %s cannot be run: name the program of a %s server", name, o.Kind)
	}
	return fmt.Errorf("storeserver: %s is not installed: install it with: apt-get install %s", name, pack)
}

func (e *etcdServer) prepare(context.Context) error { return makeData(e.options.Dir) }

func (e *etcdServer) client() string {
	scheme := "http"
	if e.options.TLS != nil {
		scheme = "https"
	}
	return fmt.Sprintf("%s://127.0.0.1:%d", scheme, e.options.Port)
}

func (e *etcdServer) command() command {
	args := []string{
		"--name=" + e.name, "--data-dir=" + filepath.Join(e.options.Dir, "data"),
		"--listen-client-urls=" + e.client(), "--advertise-client-urls=" + e.client(),
		"--listen-peer-urls=" + e.peer, "--initial-advertise-peer-urls=" + e.peer,
		"--initial-cluster=" + e.members, "--initial-cluster-token=" + e.token,
		"--logger=zap", "--log-level=warn",
	}
	if t := e.options.TLS; t != nil {
		args = append(args, "--cert-file="+t.Cert, "--key-file="+t.Key)
		if t.ClientCA != "" {
			args = append(args, "--trusted-ca-file="+t.ClientCA, "--client-cert-auth")
		}
	}
	return command{path: e.binary, args: append(args, e.options.Args...), dir: e.options.Dir, stop: syscall.SIGTERM}
}

// answers asks for its health, which needs a quorum.
func (e *etcdServer) answers(ctx context.Context) error {
	transport, err := e.transport()
	if err != nil {
		return err
	}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, e.client()+"/health", nil)
	if err != nil {
		return err
	}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	var body struct{ Health string }
	if err := json.NewDecoder(http.MaxBytesReader(nil, response.Body, 1<<16)).Decode(&body); err != nil {
		return fmt.Errorf("health: %w", err)
	}
	if !strings.EqualFold(body.Health, "true") {
		return fmt.Errorf("health is %q", body.Health)
	}
	return nil
}

func (e *etcdServer) transport() (*http.Transport, error) {
	t := &http.Transport{DisableKeepAlives: true}
	if e.options.TLS == nil {
		return t, nil
	}
	config, err := selfClient(e.options.TLS)
	if err != nil {
		return nil, err
	}
	t.TLSClientConfig = config
	return t, nil
}

// selfClient is a client of our own server: it shows the server's certificate, and
// trusts whoever holds the port, which awaitAnswer makes sure is our child.
func selfClient(t *TLS) (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(t.Cert, t.Key)
	if err != nil {
		return nil, fmt.Errorf("storeserver: %w", err)
	}
	return &tls.Config{Certificates: []tls.Certificate{cert}, InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}, nil
}
