package etcdlog

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
)

// DefaultAuditRecords is how many published audit records are kept when Options
// leave it open.
const DefaultAuditRecords = 100_000

const (
	maxEndpoints    = 16
	maxPrefix       = 256        // bytes
	maxClusterID    = 256        // bytes
	maxAuditRecords = 10_000_000 // about 5 GB: more than an etcd should hold
)

// Options say where the log lies and how it is reached.
type Options struct {
	// Endpoints are URLs of the cluster's members, http or https, all of one kind;
	// at least one, at most 16. One is asked at a time, the next when it fails.
	Endpoints []string
	// Prefix starts every key and ends with a slash. Everything below it belongs to
	// this log alone.
	Prefix string
	// Username and Password are those of an etcd user that may read and write below
	// Prefix; both empty: none is named.
	Username, Password string
	// TLS is used for https endpoints; nil: the system's authorities, no certificate.
	TLS *tls.Config
	// ClusterID is that of the registry. A log of another is refused.
	ClusterID string
	// AuditRecords is how many published audit records are kept, the newest ones;
	// 0: DefaultAuditRecords.
	AuditRecords int
	// Logger is told what an operator should know; nil: nobody is.
	Logger *slog.Logger
}

// Validate reports everything that is wrong, each problem with its field.
func (o *Options) Validate() error {
	var problems []error
	problem := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if n := len(o.Endpoints); n == 0 || n > maxEndpoints {
		problem("Endpoints: %d are named; 1 to %d are right", n, maxEndpoints)
	}
	problems = append(problems, o.endpointProblems()...)
	if len(o.Prefix) < 2 || len(o.Prefix) > maxPrefix || !strings.HasSuffix(o.Prefix, "/") {
		problem("Prefix: %.300q must be 2 to %d bytes and end with a slash, such as /leadership/demo/", o.Prefix, maxPrefix)
	}
	if (o.Username == "") != (o.Password == "") {
		problem("Username: Username and Password go together; give both or neither")
	}
	if o.ClusterID == "" || len(o.ClusterID) > maxClusterID {
		problem("ClusterID: has %d bytes; 1 to %d are right", len(o.ClusterID), maxClusterID)
	}
	if o.AuditRecords < 0 || o.AuditRecords > maxAuditRecords {
		problem("AuditRecords: %d is out of range; 0 to %d are right", o.AuditRecords, maxAuditRecords)
	}
	return errors.Join(problems...)
}

// endpointProblems keeps schemes apart: the client takes the first endpoint's for
// all, and would send a password in the clear to an https one.
func (o *Options) endpointProblems() []error {
	var problems []error
	schemes := map[string]bool{}
	for i, e := range o.Endpoints {
		u, err := url.Parse(e)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || strings.Trim(u.Path, "/") != "" || u.User != nil {
			problems = append(problems, fmt.Errorf("Endpoints[%d]: %.300q is none; write http:// or https://, host and port", i, e))
			continue
		}
		schemes[u.Scheme] = true
	}
	if len(schemes) > 1 {
		problems = append(problems, errors.New("Endpoints: http and https are mixed; use one of them for all"))
	}
	if o.TLS != nil && schemes["http"] {
		problems = append(problems, errors.New("TLS: is set, but the endpoints are http; write https://"))
	}
	return problems
}

func (o *Options) auditRecords() uint64 {
	if o.AuditRecords == 0 {
		return DefaultAuditRecords
	}
	return uint64(o.AuditRecords)
}
