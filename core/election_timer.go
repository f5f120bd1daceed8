package core

import (
	"math/rand/v2"
	"time"
)

// electionTimer says when a follower that hears nothing from a registrar stops
// believing in it, and when it stands itself.
//
// Intuition: after ET without contact the follower lets others stand; at a random
// moment in [ET, 2ET), drawn anew after every contact, it stands itself, so that
// one of them is usually first. etcd's raft draws that moment from a process-wide
// random source; ours is seeded, so a run can be repeated.
type electionTimer struct {
	timeout time.Duration // ET
	rng     *rand.Rand
	forget  Time
	stand   Time
}

// Reset starts the wait anew: after contact with the registrar, a granted vote,
// or an own attempt.
func (e *electionTimer) Reset(now Time) {
	e.forget = now.Add(e.timeout)
	e.stand = e.forget.Add(time.Duration(e.rng.Int64N(int64(e.timeout))))
}

// Forgotten returns that the wait for the registrar is over, once.
func (e *electionTimer) Forgotten(now Time) bool {
	if now < e.forget {
		return false
	}
	e.forget = Never
	return true
}

// Deadline is when the next of the two moments comes.
func (e *electionTimer) Deadline() Time { return min(e.forget, e.stand) }
