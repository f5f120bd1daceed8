package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const (
	clusterVariable = "OMNIRELAY_CLUSTER"
	clusterName     = "cluster.json"
	defaultCluster  = ".dev/" + clusterName
	maxClusterFile  = 1 << 20
)

// cluster is what a cluster file tells: where the nodes are, and with which
// certificates they are called.
type cluster struct {
	Nodes   []clusterNode           `json:"nodes"`
	CA      string                  `json:"ca"`
	Clients map[string]*certificate `json:"clients"`

	path string
}

type clusterNode struct {
	ID   string `json:"id"`
	HTTP string `json:"http"`
	GRPC string `json:"grpc"`
}

// certificate names PEM files; relative paths start at the cluster file's folder.
type certificate struct {
	Cert string `json:"cert"`
	Key  string `json:"key"`
}

// findCluster reads the file that the flag, the environment or the default names; of a
// folder, the file cluster.json in it. nil without error: there is none and none was
// asked for.
func findCluster(flag string) (*cluster, error) {
	path := flag
	if path == "" {
		path = os.Getenv(clusterVariable)
	}
	asked := path != ""
	if !asked {
		path = defaultCluster
	}
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		path = filepath.Join(path, clusterName)
	}
	c, err := readCluster(path)
	if !asked && errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cluster file: %w; `leaderd dev` writes one, and --cluster or %s says where it is", err, clusterVariable)
	}
	return c, nil
}

func readCluster(path string) (*cluster, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxClusterFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxClusterFile {
		return nil, fmt.Errorf("%s has more than %d bytes", path, maxClusterFile)
	}
	c := &cluster{path: path}
	if err := json.Unmarshal(data, c); err != nil {
		return nil, fmt.Errorf("%s is not JSON as leaderd writes it: %w", path, err)
	}
	if len(c.Nodes) == 0 {
		return nil, fmt.Errorf("%s names no nodes", path)
	}
	return c, nil
}

// resolve lets a relative path start at the cluster file's folder.
func (c *cluster) resolve(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(filepath.Dir(c.path), path)
}

// Roles of certificates that will do for a call: the least of them comes first.
var (
	readRoles    = []string{"read", "operate", "admin", "member"}
	operateRoles = []string{"operate", "admin"}
	adminRoles   = []string{"admin"}
)

// tlsConfig trusts the cluster's authority and presents the certificate of the first
// role that the file has. Without a file it trusts what the system trusts.
func (c *cluster) tlsConfig(roles []string) (config *tls.Config, presented string, err error) {
	config = &tls.Config{MinVersion: tls.VersionTLS13}
	if c == nil {
		return config, "", nil
	}
	if c.CA != "" {
		pem, err := os.ReadFile(c.resolve(c.CA))
		if err != nil {
			return nil, "", fmt.Errorf("authority named by %s: %w", c.path, err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, "", fmt.Errorf("authority named by %s: %s holds no PEM certificate", c.path, c.CA)
		}
	}
	if len(c.Clients) == 0 {
		return config, "", nil
	}
	role, err := c.pick(roles)
	if err != nil {
		return nil, "", err
	}
	client := c.Clients[role]
	pair, err := tls.LoadX509KeyPair(c.resolve(client.Cert), c.resolve(client.Key))
	if err != nil {
		return nil, "", fmt.Errorf("certificate of role %s named by %s: %w", role, c.path, err)
	}
	config.Certificates = []tls.Certificate{pair}
	return config, role, nil
}

// pick finds the first of roles that the file has a certificate for.
func (c *cluster) pick(roles []string) (string, error) {
	for _, role := range roles {
		if c.Clients[role] != nil {
			return role, nil
		}
	}
	return "", fmt.Errorf("this takes a certificate of the role %s, and %s has only %s; %s",
		roles[0], c.path, strings.Join(slices.Sorted(maps.Keys(c.Clients)), ", "), howToIssue(roles[0]))
}

// howToIssue says how to come by a certificate of a role.
func howToIssue(role string) string {
	return fmt.Sprintf("`omnirelay cert issue client %s` issues one; name it under clients.%s in the cluster file", role, role)
}
