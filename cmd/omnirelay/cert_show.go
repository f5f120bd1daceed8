package main

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/omnirelay/leadership/adapters/access"
)

// Bounds of a file with certificates.
const (
	maxCertFile  = 1 << 20
	maxCertsShow = 64
)

func newCertShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show FILE...",
		Short: "Show whom certificates name and how long they are good for",
		Long: "Shows the certificates of PEM files. match is what mesh.leadership.access.grants names one by:\n" +
			"a SPIFFE id, or the subject of a certificate that has none.",
		Example: "  omnirelay cert show tls/*.pem",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, path := range args {
				certs, err := readCertificates(path)
				if err != nil {
					return err
				}
				for _, cert := range certs {
					showCertificate(cmd.OutOrStdout(), path, cert, time.Now())
				}
			}
			return nil
		},
	}
}

// readCertificates reads all certificates of a file, at least one.
func readCertificates(path string) ([]*x509.Certificate, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxCertFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxCertFile {
		return nil, fmt.Errorf("%s has more than %d bytes", path, maxCertFile)
	}
	var certs []*x509.Certificate
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("%s holds a %s; want certificates only", path, strings.ToLower(block.Type))
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if certs = append(certs, cert); len(certs) > maxCertsShow {
			return nil, fmt.Errorf("%s holds more than %d certificates", path, maxCertsShow)
		}
	}
	if len(certs) == 0 {
		return nil, fmt.Errorf("%s holds no PEM certificate", path)
	}
	return certs, nil
}

func showCertificate(out io.Writer, path string, cert *x509.Certificate, now time.Time) {
	line := func(name, format string, args ...any) {
		fmt.Fprintf(out, "  %-8s "+format+"\n", append([]any{name}, args...)...)
	}
	fmt.Fprintln(out, path)
	match, err := access.MatchOf(cert)
	switch {
	case cert.IsCA:
		line("authority", "%q", cert.Subject.String())
	case err != nil:
		line("match", "none: %v", err)
	default:
		line("match", "%s", match)
	}
	line("issuer", "%q", cert.Issuer.String())
	line("serial", "%x", cert.SerialNumber)
	line("from", "%s", stamp(cert.NotBefore))
	line("until", "%s, %s", stamp(cert.NotAfter), remaining(cert, now))
	if hosts := append(append([]string{}, cert.DNSNames...), addressesOf(cert)...); len(hosts) > 0 {
		line("hosts", "%q", hosts)
	}
}

func addressesOf(cert *x509.Certificate) (all []string) {
	for _, ip := range cert.IPAddresses {
		all = append(all, ip.String())
	}
	return all
}

// remaining says in words whether the certificate is in force.
func remaining(cert *x509.Certificate, now time.Time) string {
	switch left := cert.NotAfter.Sub(now); {
	case now.Before(cert.NotBefore):
		return "not in force yet"
	case left <= 0:
		return "ENDED"
	case left < 48*time.Hour:
		return fmt.Sprintf("%v left", left.Round(time.Minute))
	default:
		return fmt.Sprintf("%d days left", left/(24*time.Hour))
	}
}
