package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/omnirelay/leadership/adapters/transport"
)

// Files of an authority in its folder.
const (
	caCertFile = "ca.pem"
	caKeyFile  = "ca-key.pem"
)

// maxValidity bounds what a slip of the finger can issue.
const maxValidity = 10 * 365 * 24 * time.Hour

// newCertCommand holds the making of certificates for those who have no authority.
func newCertCommand() *cobra.Command {
	return newGroup("cert", "A small certificate authority for a cluster",
		newCertCACommand(), newCertIssueCommand(), newCertShowCommand(),
		newGroup("key", "The keys of certificates", newCertKeyRotateCommand()))
}

// folder is where certificates are kept, and how they are written there.
type folder struct {
	dir   string
	force bool
}

func (f *folder) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.dir, "dir", ".", "folder of the certificates; made when it is not there")
	cmd.Flags().BoolVar(&f.force, "force", false, "replace files that are there already")
}

func (f *folder) path(name string) string { return filepath.Join(f.dir, name) }

// authority reads the one in the folder.
func (f *folder) authority() (*transport.Authority, error) {
	a, err := transport.LoadAuthority(f.path(caCertFile), f.path(caKeyFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("no authority in --dir %s: %w; `omnirelay cert ca CLUSTER` makes one", f.dir, err)
	}
	return a, err
}

// save writes a certificate and its key, and neither where one would be replaced.
func (f *folder) save(pair transport.Pair, cert, key string) error {
	if err := os.MkdirAll(f.dir, 0o700); err != nil {
		return err
	}
	for _, path := range []string{cert, key} {
		if _, err := os.Lstat(path); err == nil && !f.force {
			return fmt.Errorf("%s is there already; give --force to replace it", path)
		} else if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return pair.Save(cert, key)
}

// validity is a duration that may be written in days.
type validity time.Duration

var daysText = regexp.MustCompile(`^(\d{1,4})d$`)

func (v *validity) Set(text string) error {
	d, err := time.ParseDuration(text)
	if days := daysText.FindStringSubmatch(text); days != nil {
		n, _ := strconv.Atoi(days[1]) // at most four digits
		d, err = time.Duration(n)*24*time.Hour, nil
	}
	if err != nil {
		return errors.New("want days like 30d, or a duration like 12h")
	}
	if d < time.Minute || d > maxValidity {
		return fmt.Errorf("want from 1m to %s", validity(maxValidity))
	}
	*v = validity(d)
	return nil
}

func (v validity) String() string {
	if d := time.Duration(v); d%(24*time.Hour) != 0 {
		return d.String()
	}
	return fmt.Sprintf("%dd", time.Duration(v)/(24*time.Hour))
}

func (v validity) Type() string { return "time" }

// within says when something issued now ends; not after its authority, which would
// promise what verifiers do not keep.
func (v validity) within(a *transport.Authority) (time.Time, error) {
	until, end := time.Now().Add(time.Duration(v)), a.Certificate().NotAfter
	if until.After(end) {
		return time.Time{}, fmt.Errorf("--valid %s: the authority itself ends at %s; want less", v, stamp(end))
	}
	return until, nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func newCertCACommand() *cobra.Command {
	f := &folder{}
	valid := validity(transport.AuthorityValidity)
	cmd := &cobra.Command{
		Use:   "ca CLUSTER",
		Short: "Make an authority for a cluster",
		Long: "Makes an authority: " + caCertFile + ", which nodes and callers trust, and " + caKeyFile + ", which issues.\n" +
			"Whoever has the key can be anybody in the cluster: keep it off the nodes.",
		Example: "  omnirelay cert ca mesh-demo --dir tls",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := transport.NewAuthorityUntil(args[0], time.Now().Add(time.Duration(valid)))
			if err != nil {
				return err
			}
			cert, key := f.path(caCertFile), f.path(caKeyFile)
			if err := f.save(transport.Pair{Cert: a.CertPEM(), Key: a.KeyPEM()}, cert, key); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s and %s: the authority of %s until %s\n", cert, key, a.Cluster(), stamp(a.Certificate().NotAfter))
			return nil
		},
	}
	f.flags(cmd)
	cmd.Flags().Var(&valid, "valid", "how long it is good for, like 365d")
	return cmd
}
