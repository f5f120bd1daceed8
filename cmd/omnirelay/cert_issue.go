package main

import (
	"fmt"
	"net"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/omnirelay/leadership/adapters/transport"
)

// maxHosts bounds the addresses of one certificate.
const maxHosts = 64

// issueCommand makes a certificate by the authority of the folder.
type issueCommand struct {
	folder
	hosts []string
	name  string
	out   string
	valid validity
}

func newCertIssueCommand() *cobra.Command {
	c := &issueCommand{valid: validity(transport.CertificateValidity)}
	cmd := &cobra.Command{
		Use:   "issue node|client|member NAME",
		Short: "Issue a certificate",
		Long: "Issues a certificate by the authority in --dir, and a key of its own:\n" +
			"  node NAME    for the node with this nodeId; add the addresses it is reached at by --host\n" +
			"  client ROLE  for people and programs: read, operate or admin\n" +
			"  member ID    for a process that leads: it acts as this member, for the scopes that\n" +
			"               mesh.leadership.access.grants gives it",
		Example: "  omnirelay cert issue node node-1 --host 10.0.0.1 --dir tls\n  omnirelay cert issue client operate --name alice --dir tls\n" +
			"  omnirelay cert issue member worker-1 --valid 7d --dir tls",
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.run(cmd, transport.Kind(args[0]), args[1])
		},
	}
	c.flags(cmd)
	cmd.Flags().StringArrayVar(&c.hosts, "host", nil, "node only: a host name or address it is reached at; again for more")
	cmd.Flags().StringVar(&c.name, "name", "", "client only: who it is, for logs and audit")
	cmd.Flags().StringVar(&c.out, "out", "", "name of the files, without .pem (default KIND-NAME)")
	cmd.Flags().Var(&c.valid, "valid", "how long it is good for, like 30d or 12h")
	return cmd
}

func (c *issueCommand) run(cmd *cobra.Command, kind transport.Kind, name string) error {
	id, err := c.identity(kind, name)
	if err != nil {
		return err
	}
	a, err := c.authority()
	if err != nil {
		return err
	}
	until, err := c.valid.within(a)
	if err != nil {
		return err
	}
	pair, err := a.Issue(transport.Request{Identity: id, Hosts: c.hosts, Until: until})
	if err != nil {
		return err
	}
	base := c.out
	if base == "" {
		base = strings.Join(slices.DeleteFunc([]string{string(kind), name, c.name}, func(s string) bool { return s == "" }), "-")
	}
	if err := checkBase(base); err != nil {
		return err
	}
	cert, key := c.path(base+".pem"), c.path(base+"-key.pem")
	if err := c.save(pair, cert, key); err != nil {
		return err
	}
	id.Cluster = a.Cluster()
	fmt.Fprintf(cmd.OutOrStdout(), "%s and %s: %s until %s\n", cert, key, id.URI(), stamp(until))
	return nil
}

// identity refuses what makes no sense before anything is read.
func (c *issueCommand) identity(kind transport.Kind, name string) (transport.Identity, error) {
	id := transport.Identity{Kind: kind, Name: name}
	switch {
	case kind == transport.KindClient:
		id.Name, id.Role = c.name, transport.Role(name)
		if id.Name == "" {
			id.Name = name
		}
	case c.name != "":
		return id, fmt.Errorf("--name is for a client; a %s is %s", kind, name)
	case kind != transport.KindNode && kind != transport.KindMember:
		return id, fmt.Errorf("%q: want node, client or member", string(kind))
	}
	if len(c.hosts) > 0 && kind != transport.KindNode {
		return id, fmt.Errorf("--host is for a node; nobody connects to a %s", kind)
	}
	if len(c.hosts) > maxHosts {
		return id, fmt.Errorf("--host: %d of them; at most %d go into a certificate", len(c.hosts), maxHosts)
	}
	for _, host := range c.hosts {
		if net.ParseIP(host) == nil && !hostName.MatchString(host) {
			return id, fmt.Errorf("--host %q: want a host name or an address, without a port", host)
		}
	}
	return id, nil
}

var (
	hostName = regexp.MustCompile(`^(\*\.)?[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$`)
	baseName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._ @-]{0,199}$`)
)

// checkBase keeps the files in their folder, and the authority's where they are.
func checkBase(base string) error {
	switch {
	case !baseName.MatchString(base):
		return fmt.Errorf("files cannot be named %q; give --out a name of letters, digits, '.', '_' and '-'", base)
	case base+".pem" == caCertFile || base+".pem" == caKeyFile || base+"-key.pem" == caKeyFile:
		return fmt.Errorf("%s and %s are the authority's; give --out another name", caCertFile, caKeyFile)
	}
	return nil
}

// newCertKeyRotateCommand issues a certificate again, with a new key.
func newCertKeyRotateCommand() *cobra.Command {
	f := &folder{force: true}
	var valid validity
	cmd := &cobra.Command{
		Use:   "rotate CERT.pem",
		Short: "Replace a certificate and its key by new ones for the same identity",
		Long: "Replaces CERT.pem and CERT-key.pem in --dir by a certificate for the same identity and hosts,\n" +
			"with a new key. Who serves or calls with these files takes the new ones up by itself.\n" +
			"The old certificate stays good until its end: it cannot be called back.",
		Example: "  omnirelay cert key rotate node-1.pem --dir tls",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return rotate(cmd, f, args[0], valid)
		},
	}
	cmd.Flags().StringVar(&f.dir, "dir", ".", "folder of the certificates and their authority")
	cmd.Flags().Var(&valid, "valid", "how long it is good for, like 30d (default as long as the old one was)")
	return cmd
}

func rotate(cmd *cobra.Command, f *folder, name string, valid validity) error {
	base, ok := strings.CutSuffix(name, ".pem")
	if !ok {
		return fmt.Errorf("%s: want the name of a certificate in --dir, like node-1.pem", name)
	}
	if err := checkBase(base); err != nil {
		return err
	}
	a, err := f.authority()
	if err != nil {
		return err
	}
	certs, err := readCertificates(f.path(name))
	if err != nil {
		return err
	}
	old := certs[0]
	if err := old.CheckSignatureFrom(a.Certificate()); err != nil {
		return fmt.Errorf("%s was not issued by the authority in --dir %s", name, f.dir)
	}
	id, err := transport.IdentityOf(old)
	if err != nil {
		return err
	}
	if valid == 0 {
		valid = validity(min(max(old.NotAfter.Sub(old.NotBefore), time.Minute), maxValidity, time.Until(a.Certificate().NotAfter)))
	}
	until, err := valid.within(a)
	if err != nil {
		return err
	}
	pair, err := a.Issue(transport.Request{Identity: id, Hosts: hostsOf(id, certs[0].DNSNames, certs[0].IPAddresses), Until: until})
	if err != nil {
		return err
	}
	if err := f.save(pair, f.path(name), f.path(base+"-key.pem")); err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s: a new key for %s until %s\n", f.path(name), id.URI(), stamp(until))
	return nil
}

// hostsOf are those of a certificate that Issue does not add by itself.
func hostsOf(id transport.Identity, names []string, addresses []net.IP) (hosts []string) {
	for _, name := range names {
		if name != "localhost" && name != id.Name {
			hosts = append(hosts, name)
		}
	}
	for _, ip := range addresses {
		if !ip.Equal(net.IPv4(127, 0, 0, 1)) && !ip.Equal(net.IPv6loopback) {
			hosts = append(hosts, ip.String())
		}
	}
	return hosts
}
