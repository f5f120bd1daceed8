package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/omnirelay/leadership/sim"
)

// bound is a limit on a measured time, like failover.p99<3s.
type bound struct {
	percentile int
	limit      time.Duration
	text       string
}

func parseBounds(texts []string) ([]bound, error) {
	var bounds []bound
	for _, text := range texts {
		b, err := parseBound(text)
		if err != nil {
			return nil, err
		}
		bounds = append(bounds, b)
	}
	return bounds, nil
}

func parseBound(text string) (bound, error) {
	wrong := fmt.Errorf("--sla %q: want failover.pNN<DURATION or failover.max<DURATION, like 'failover.p99<3s'", text)
	what, limit, ok := strings.Cut(text, "<")
	rank, isFailover := strings.CutPrefix(what, "failover.")
	if !ok || !isFailover {
		return bound{}, wrong
	}
	b := bound{percentile: 100, text: text}
	if rank != "max" {
		n, err := strconv.Atoi(strings.TrimPrefix(rank, "p"))
		if err != nil || !strings.HasPrefix(rank, "p") || n < 1 || n > 100 {
			return bound{}, wrong
		}
		b.percentile = n
	}
	var err error
	if b.limit, err = time.ParseDuration(limit); err != nil || b.limit <= 0 {
		return bound{}, wrong
	}
	return b, nil
}

// brokenBounds tells which bounds the measured times do not keep.
func brokenBounds(bounds []bound, s *sim.Stats) []string {
	var broken []string
	for _, b := range bounds {
		if got := s.Failover(b.percentile); got >= b.limit {
			broken = append(broken, fmt.Sprintf("SLA %s is broken: measured %v", b.text, got))
		}
	}
	return broken
}
