package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/omnirelay/leadership/adapters/client"
	"github.com/omnirelay/leadership/adapters/transport"
)

// candidate is who stands, and where.
type candidate struct {
	clusterPath string
	grpc        []string
	files       transport.Files
	memberID    string

	cluster *cluster // nil: there is no cluster file
	id      string   // the member's, by flag or certificate
}

func (c *candidate) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&c.clusterPath, "cluster", "", "cluster file with addresses and certificates, or its folder (default $"+clusterVariable+", or "+defaultCluster+")")
	f.StringSliceVar(&c.grpc, "grpc-url", nil, "gRPC addresses of nodes, like 127.0.0.1:7412, instead of those in the cluster file")
	f.StringVar(&c.files.CA, "ca", "", "file with the cluster's authority, instead of the cluster file's")
	f.StringVar(&c.files.Cert, "cert", "", "the member's certificate, instead of clients.member in the cluster file")
	f.StringVar(&c.files.Key, "key", "", "the key of --cert")
	f.StringVar(&c.memberID, "member-id", "", "the member to stand as (default the one that the certificate names)")
}

// find completes what the flags leave out from the cluster file.
func (c *candidate) find() error {
	if (c.files.Cert == "") != (c.files.Key == "") {
		return errors.New("--cert and --key: give both or none")
	}
	var err error
	if c.cluster, err = findCluster(c.clusterPath); err != nil {
		return err
	}
	if c.cluster != nil {
		c.fill()
	}
	switch {
	case len(c.grpc) == 0:
		return fmt.Errorf("no cluster to stand in: give --cluster, or set %s, or give --grpc-url, --ca, --cert and --key", clusterVariable)
	case c.files.CA == "":
		return errors.New("no authority to trust: give --ca, or name one under ca in the cluster file")
	case c.files.Cert == "":
		return errors.New("no certificate to stand with: `omnirelay cert issue member NAME` issues one; give it as --cert and --key, or name it under clients.member in the cluster file")
	}
	return c.identify()
}

func (c *candidate) fill() {
	if len(c.grpc) == 0 {
		for _, n := range c.cluster.Nodes {
			c.grpc = append(c.grpc, n.GRPC)
		}
	}
	if c.files.CA == "" && c.cluster.CA != "" {
		c.files.CA = c.cluster.resolve(c.cluster.CA)
	}
	if own := c.cluster.Clients["member"]; own != nil && c.files.Cert == "" {
		c.files.Cert, c.files.Key = c.cluster.resolve(own.Cert), c.cluster.resolve(own.Key)
	}
}

// identify reads who the certificate is for.
func (c *candidate) identify() error {
	pair, err := tls.LoadX509KeyPair(c.files.Cert, c.files.Key)
	if err != nil {
		return fmt.Errorf("the member's certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return fmt.Errorf("the member's certificate: %s: %w", c.files.Cert, err)
	}
	c.id = c.memberID
	who, err := transport.IdentityOf(leaf)
	switch {
	case err != nil || who.Kind != transport.KindMember:
		if c.id == "" {
			return fmt.Errorf("the certificate in %s names no member: give --member-id, if the cluster grants it one, or issue another with `omnirelay cert issue member NAME`", c.files.Cert)
		}
	case c.id == "":
		c.id = who.Name
	case c.id != who.Name:
		return fmt.Errorf("--member-id %s: the certificate in %s is for the member %s", c.id, c.files.Cert, who.Name)
	}
	return nil
}

func (c *candidate) options() client.Options {
	return client.Options{Endpoints: c.grpc, TLS: c.files, MemberID: c.id}
}

// administrator is the certificate to declare scopes with: the cluster file's, or else
// the member's own, which some cluster may let do so.
func (c *candidate) administrator() transport.Files {
	if c.cluster != nil {
		if admin := c.cluster.Clients["admin"]; admin != nil {
			files := transport.Files{CA: c.files.CA, Cert: c.cluster.resolve(admin.Cert), Key: c.cluster.resolve(admin.Key)}
			if _, err := os.Stat(files.Key); err == nil {
				return files
			}
		}
	}
	return c.files
}
