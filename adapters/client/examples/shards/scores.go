package main

import (
	"slices"
	"time"

	"github.com/omnirelay/leadership/adapters/clock"
)

// scores are what the resource's files say so far.
type scores struct {
	shards   []string
	latest   map[string]assignment // by shard
	counts   map[string]int        // accepted, by shard
	accepted int
	stale    int
	bySinner map[string]int // stale attempts, by member
}

func newScores(shards []string) scores {
	return scores{shards: shards, latest: map[string]assignment{}, counts: map[string]int{}, bySinner: map[string]int{}}
}

func (s *scores) count(accepted []assignment, refused []refusal) {
	for _, a := range accepted {
		s.latest[a.Scope] = a
		s.counts[a.Scope]++
	}
	s.accepted += len(accepted)
	for _, r := range refused {
		s.bySinner[r.Leader]++
	}
	s.stale += len(refused)
}

// active is how many shards had an assignment accepted.
func (s *scores) active() int { return len(s.latest) }

func (s *scores) settled() bool { return s.active() == len(s.shards) }

// leads is of how many shards a member made the latest assignment, a moment ago.
func (s *scores) leads(member string) int {
	n := 0
	for _, a := range s.latest {
		if a.Leader == member && age(a) < time.Second {
			n++
		}
	}
	return n
}

// age is how long ago an assignment was accepted.
func age(a assignment) time.Duration { return time.Duration(clock.Boottime() - a.At) }

// sinners are the members with stale attempts, sorted.
func (s *scores) sinners() []string {
	var all []string
	for member := range s.bySinner {
		all = append(all, member)
	}
	slices.Sort(all)
	return all
}
