package redislog

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"regexp"
)

// Bounds of Options.
const (
	MaxClusterID        = 128       // bytes
	MaxPrefix           = 256       // bytes
	MaxCredential       = 1_024     // bytes of a user name or a password
	MaxDB               = 1_023     // the number of a database
	MinAuditRecords     = 1_000     // records kept
	MaxAuditRecords     = 5_000_000 // records kept
	DefaultAuditRecords = 100_000   // records kept
)

// Options says where the log of a cluster lies.
type Options struct {
	// Address is host:port of the primary.
	Address string
	// Username and Password log in; both empty: the server asks for none. A password
	// alone is that of the user named default.
	Username, Password string
	// DB is the number of the database, 0 to MaxDB.
	DB int
	// Prefix starts every key of this cluster: 1 to MaxPrefix printable ASCII
	// characters without space. No other program may use keys that start with it.
	Prefix string
	// TLS turns TLS on; nil: plain TCP. Without a ServerName, the host of Address is used.
	TLS *tls.Config
	// ClusterID is 1 to MaxClusterID bytes. A log of another cluster is refused.
	ClusterID string
	// AuditRecords is how many published audit records are kept, the newest:
	// MinAuditRecords to MaxAuditRecords; 0: DefaultAuditRecords.
	AuditRecords int
	// Logger takes a line when the server becomes unfit, and when it is fit again.
	Logger *slog.Logger
}

var prefixes = regexp.MustCompile(`^[!-~]+$`)

func (o Options) validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	host, port, err := net.SplitHostPort(o.Address)
	check(err == nil && host != "" && port != "", "Address %q is no address: write host:port, like 127.0.0.1:6379", o.Address)
	check(len(o.Username) <= MaxCredential, "Username has %d bytes: want at most %d", len(o.Username), MaxCredential)
	check(len(o.Password) <= MaxCredential, "Password has %d bytes: want at most %d", len(o.Password), MaxCredential)
	check(o.Username == "" || o.Password != "", "Password is empty: want the one of Username")
	check(o.DB >= 0 && o.DB <= MaxDB, "DB is %d: want 0 to %d", o.DB, MaxDB)
	check(len(o.Prefix) <= MaxPrefix && prefixes.MatchString(o.Prefix),
		"Prefix %q is no prefix: want 1 to %d printable ASCII characters without space", o.Prefix, MaxPrefix)
	check(o.ClusterID != "" && len(o.ClusterID) <= MaxClusterID, "ClusterID has %d bytes: want 1 to %d", len(o.ClusterID), MaxClusterID)
	check(o.AuditRecords == 0 || (o.AuditRecords >= MinAuditRecords && o.AuditRecords <= MaxAuditRecords),
		"AuditRecords is %d: want %d to %d, or 0 for %d", o.AuditRecords, MinAuditRecords, MaxAuditRecords, DefaultAuditRecords)
	check(o.Logger != nil, "Logger is missing")
	if err := errors.Join(errs...); err != nil {
		return unfitError(err.Error())
	}
	return nil
}

func (o Options) auditRecords() int {
	if o.AuditRecords == 0 {
		return DefaultAuditRecords
	}
	return o.AuditRecords
}
