package gossip

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// MaxSeeds is the most addresses that a node tries to join by.
	MaxSeeds = 32
	// maxAddresses is how many addresses of one name are tried.
	maxAddresses = 8
	// A seed that cannot be joined is tried again after pauses that double.
	firstPause = 100 * time.Millisecond
	longPause  = 5 * time.Second
	// lookPause is how often it is looked whether a seed that was joined is a member yet.
	lookPause = time.Second
	// A node that has just started exchanges everything with a few others, after pauses
	// that double from the first of these to the last.
	settleFirst = 500 * time.Millisecond
	settleLast  = 4 * time.Second
	// patience is how long a seed may be away before that is worth a line.
	patience = 5 * time.Second
)

// seeds keeps this node joined to each of its seeds: those that come up later, and those
// that a long partition made both sides forget.
type seeds struct {
	self   netip.AddrPort
	logger *slog.Logger
	counts *counters
	living func() map[string]bool // addresses of members that are there, or left just now
	join   func(address string) error
}

// follow joins one seed whenever it is no member, until ctx ends.
func (s *seeds) follow(ctx context.Context, seed string) {
	pause, good, said := firstPause, time.Now(), false
	for ctx.Err() == nil {
		joined, err := s.try(ctx, seed)
		wait := lookPause
		if err != nil && ctx.Err() == nil {
			if !said && time.Since(good) >= patience {
				s.logger.Warn("a gossip seed cannot be joined; it is tried again and again", "seed", seed, "for", time.Since(good), "error", strings.Join(strings.Fields(err.Error()), " "))
				said = true
			}
			wait, pause = pause, min(2*pause, longPause)
		} else {
			if joined {
				s.logger.Info("gossip joined", "seed", seed)
			}
			pause, good, said = firstPause, time.Now(), false
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait/2 + rand.N(wait)):
		}
	}
}

// settle exchanges everything with others for a while. Where many start at the same time
// word of one passes by another that is not known yet, and full exchanges are rare
// later on.
func (s *seeds) settle(ctx context.Context) {
	for pause := settleFirst; pause <= settleLast; pause *= 2 {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause/2 + rand.N(pause)):
		}
		others := slices.DeleteFunc(slices.Collect(maps.Keys(s.living())), func(a string) bool { return a == s.self.String() })
		if len(others) > 0 {
			_ = s.join(others[rand.N(len(others))]) // another one follows
		}
	}
}

// try joins a seed unless it is a member, or this node. joined: it did.
func (s *seeds) try(ctx context.Context, seed string) (joined bool, err error) {
	addresses, err := resolve(ctx, seed)
	if err != nil {
		return false, err
	}
	living := s.living()
	for _, a := range addresses {
		if a == s.self || living[a.String()] {
			return false, nil
		}
	}
	for _, a := range addresses {
		e := s.join(a.String())
		if e == nil {
			s.counts.joins.Add(1)
			return true, nil
		}
		s.counts.joinsFailed.Add(1)
		err = errors.Join(err, e)
	}
	return false, err
}

// resolve returns the addresses behind host:port.
func resolve(ctx context.Context, seed string) ([]netip.AddrPort, error) {
	host, portText, err := net.SplitHostPort(seed)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("%q: no port", seed)
	}
	ctx, cancel := context.WithTimeout(ctx, streamTimeout)
	defer cancel()
	found, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	var addresses []netip.AddrPort
	for _, a := range found[:min(len(found), maxAddresses)] {
		addresses = append(addresses, netip.AddrPortFrom(a.Unmap(), uint16(port)))
	}
	return addresses, nil
}
