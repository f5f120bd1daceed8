package client

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"time"

	"github.com/omnirelay/leadership/adapters/transport"
	"github.com/omnirelay/leadership/core"
)

// MaxEndpoints bounds Options.Endpoints.
const MaxEndpoints = 64

// Options settle a Client.
type Options struct {
	// Endpoints are the grpc listeners of the cluster's nodes, as host:port; 1 to
	// MaxEndpoints. One that can be reached is enough; all of them survive more.
	Endpoints []string
	// Cluster is the id of the cluster. Another is refused. Empty: that of the first node
	// that answers, from then on no other.
	Cluster string
	// TLS names the PEM files of the authorities and of this member's certificate. They
	// are read again when they change. Without Cert and Key the caller proves itself by
	// Bearer.
	TLS transport.Files
	// Bearer gives the token that goes with every call, empty for none. It is asked for
	// every call, so it should keep what it has until that grows old. nil: none.
	Bearer func(ctx context.Context) (string, error)

	// Prefer says which protocols to use; the zero value tries HTTP/3 first.
	Prefer transport.Preference

	// MemberID is who this process is; see core.CheckMemberID. Two processes with one id
	// are two candidates that cannot be told apart in the audit trail. Empty: a client
	// that stands for nothing, for Events.
	MemberID string
	Labels   map[string]string
	// Weight is the share of this member when scopes are balanced; 0: 1.
	Weight uint32
	// TTL of the session, core.MinTTL to core.MaxTTL; 0: core.DefaultTTL. It bounds how
	// long a dead leader's scope waits for its successor.
	TTL time.Duration
	// Margin is how long before the end of the lease a context of Run ends, so that work
	// under way can stop in time; below half the TTL. 0: TTL/10.
	Margin time.Duration
	// ClockDrift is by how many parts per thousand clocks may be wrong; below 500. What
	// the cluster reckons with counts when it is more. 0: core.DefaultEpsilon.
	ClockDrift core.Epsilon
	// UnsignedTokens leaves out signed tokens; else one is fetched for every scope that
	// Run leads, where the cluster signs them.
	UnsignedTokens bool

	// Dial connects to an endpoint; nil: over TLS as the options above say.
	Dial Dialer
	// Logger is told of sessions, connections and refusals; nil: nobody is.
	Logger *slog.Logger
}

// complete fills in what was left out, in a copy that shares nothing with the caller.
func (o Options) complete() Options {
	o.Endpoints, o.Labels = slices.Clone(o.Endpoints), maps.Clone(o.Labels)
	if o.TTL == 0 {
		o.TTL = core.DefaultTTL
	}
	if o.Margin == 0 {
		o.Margin = o.TTL / 10
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// validate reports all that is wrong and not looked at by core.NewMember.
func (o *Options) validate() error {
	var all []error
	if n := len(o.Endpoints); n == 0 || n > MaxEndpoints {
		all = append(all, fmt.Errorf("endpoints: %d of them, want 1 to %d like 127.0.0.1:7412", n, MaxEndpoints))
	}
	for _, e := range o.Endpoints {
		if err := checkEndpoint(e); err != nil {
			all = append(all, fmt.Errorf("endpoints: %w", err))
		}
	}
	if o.Margin < 0 || o.Margin >= o.TTL/2 {
		all = append(all, fmt.Errorf("margin: %v, want above 0 and less than half the TTL of %v", o.Margin, o.TTL))
	}
	return errors.Join(all...)
}

func checkEndpoint(address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil || host == "" || port == "" || len(address) > 300 {
		return fmt.Errorf("%.300q, want host:port like 127.0.0.1:7412", address)
	}
	return nil
}

func (o *Options) newMember(now core.Time) (*core.Member, error) {
	id := o.MemberID
	if id == "" {
		id = "nobody" // never told to anyone: it does not stand
	}
	return core.NewMember(core.MemberConfig{
		MemberID: id, Labels: o.Labels, Weight: o.Weight, TTL: o.TTL, Epsilon: o.ClockDrift,
		Instance: newInstance(), Manual: true,
	}, now)
}

// newInstance names this life of the process.
func newInstance() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand ends the program instead
	return hex.EncodeToString(b[:])
}
