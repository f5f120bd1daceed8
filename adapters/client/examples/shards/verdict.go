package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"
)

// successorWithin is how long after a kill the next leader of a shard may take until an
// assignment of it is accepted.
const successorWithin = 5 * time.Second

// evidence is all that the processes of a play wrote.
type evidence struct {
	accepted []assignment // in the order they took effect
	refused  []refusal
	journals map[string][]attempt // by member
	deeds    []deed
	careless map[string]bool // members
	shards   []string        // scopes
}

// verdict is what the evidence shows.
type verdict struct {
	Accepted     int           `json:"accepted"`
	Acknowledged int           `json:"acknowledged"`
	Stale        int           `json:"stale"`    // attempts of deposed leaders, refused by the guard
	HeldBack     int           `json:"heldBack"` // leaderships that careful members ended by their own clock
	Kills        int           `json:"kills"`
	Pauses       int           `json:"pauses"`
	Restarts     int           `json:"resourceRestarts"`
	Successions  int           `json:"successions"` // of shards after a kill or a pause
	Slowest      time.Duration `json:"slowestSuccessionNs"`
	Problems     []string      `json:"problems"` // empty: all holds
}

func (v *verdict) problem(format string, args ...any) {
	const limit = 20
	if len(v.Problems) < limit {
		v.Problems = append(v.Problems, fmt.Sprintf(format, args...))
	}
}

// collect reads the files of a play.
func collect(dir string, e *evidence) (err error) {
	if e.accepted, err = readAll[assignment](filepath.Join(dir, acceptedFile)); err != nil {
		return err
	}
	if e.refused, err = readAll[refusal](filepath.Join(dir, refusedFile)); err != nil {
		return err
	}
	if e.deeds, err = readAll[deed](filepath.Join(dir, deedsFile)); err != nil {
		return err
	}
	paths, err := filepath.Glob(filepath.Join(dir, "member-*.jsonl"))
	if err != nil {
		return err
	}
	e.journals = map[string][]attempt{}
	for _, path := range paths {
		member := strings.TrimSuffix(filepath.Base(path), ".jsonl")
		if e.journals[member], err = readAll[attempt](path); err != nil {
			return err
		}
	}
	return nil
}

// judge looks at the evidence as a stranger would.
func judge(e *evidence) *verdict {
	v := &verdict{Accepted: len(e.accepted), Stale: len(e.refused)}
	v.oneLeader(e)
	v.nothingLost(e)
	v.everyStaleAttemptCounted(e)
	v.successions(e)
	v.wokenRefused(e)
	return v
}

// oneLeader: per shard the fences of what took effect never decrease, and one fence is
// one leader's.
func (v *verdict) oneLeader(e *evidence) {
	type leadership struct{ scope, leader string }
	highest, holder, seen := map[string]uint64{}, map[uint64]leadership{}, map[string]bool{}
	for _, a := range e.accepted {
		if a.Fence < highest[a.Scope] {
			v.problem("%s: %s was accepted under fence %d after one under %d", a.Scope, a.ID, a.Fence, highest[a.Scope])
		}
		highest[a.Scope] = max(highest[a.Scope], a.Fence)
		this := leadership{a.Scope, a.Leader}
		if other, known := holder[a.Fence]; known && other != this {
			v.problem("fence %d was used by %v and %v", a.Fence, other, this)
		}
		holder[a.Fence] = this
		if seen[a.ID] {
			v.problem("%s took effect twice", a.ID)
		}
		seen[a.ID] = true
	}
	for _, s := range e.shards {
		if highest[s] == 0 {
			v.problem("%s: nothing was accepted", s)
		}
	}
}

// nothingLost: what was acknowledged is there, as it was asked for.
func (v *verdict) nothingLost(e *evidence) {
	byID := map[string]assignment{}
	for _, a := range e.accepted {
		byID[a.ID] = a
	}
	for member, attempts := range e.journals {
		for _, a := range attempts {
			switch a.What {
			case acknowledged:
				v.Acknowledged++
				if got, ok := byID[a.ID]; !ok || got.Scope != a.Scope || got.Fence != a.Fence || got.Leader != member {
					v.problem("%s was acknowledged to %s and is not in the resource's log as that: %+v", a.ID, member, got)
				}
			case heldBack:
				v.HeldBack++
			}
		}
	}
	if v.Acknowledged == 0 {
		v.problem("nothing was acknowledged")
	}
}

// everyStaleAttemptCounted: what a member was refused the resource has counted, and it
// had no effect after it was refused.
func (v *verdict) everyStaleAttemptCounted(e *evidence) {
	refused := map[string]int64{}
	for _, r := range e.refused {
		refused[r.ID] = r.At
		if r.Fence >= r.Required {
			v.problem("%s was refused as stale under fence %d, with %d required", r.ID, r.Fence, r.Required)
		}
	}
	for member, attempts := range e.journals {
		for _, a := range attempts {
			if _, counted := refused[a.ID]; a.What == refusedStale && !counted {
				v.problem("%s was refused to %s, and not counted", a.ID, member)
			}
		}
	}
	for _, a := range e.accepted {
		if at, ok := refused[a.ID]; ok && a.At > at {
			v.problem("%s took effect after it was refused", a.ID)
		}
	}
	if len(e.refused) == 0 {
		v.problem("no stale attempt was made: the play has shown nothing of the guard")
	}
}

// successions: after a kill each shard of that leader is led on in time, after a pause
// at some time: the one that was paused may be elected again.
func (v *verdict) successions(e *evidence) {
	for _, d := range e.deeds {
		switch {
		case d.What == "kill" && d.Whom == resourceName:
			v.Restarts++
			continue
		case d.What == "kill":
			v.Kills++
		case d.What == "pause":
			v.Pauses++
		default:
			continue
		}
		for scope, fence := range ledBy(e.accepted, d.Whom, d.At) {
			took, ok := succession(e.accepted, scope, fence, d.At)
			if !ok || took > successorWithin && d.What == "kill" {
				v.problem("%s: after the %s of %s the next leader had an assignment accepted after %v: %t, want within %v", scope, d.What, d.Whom, took, ok, successorWithin)
				continue
			}
			v.Successions++
			v.Slowest = max(v.Slowest, took)
		}
	}
	if v.Kills == 0 || v.Pauses == 0 || v.Successions == 0 {
		v.problem("%d kills and %d pauses of leaders with %d successions have shown nothing", v.Kills, v.Pauses, v.Successions)
	}
}

// ledBy is what a member led at a moment, with its fences: the shards of which it made
// the latest assignment that was accepted.
func ledBy(accepted []assignment, member string, at int64) map[string]uint64 {
	last := map[string]assignment{}
	for _, a := range accepted {
		if a.At <= at {
			last[a.Scope] = a
		}
	}
	led := map[string]uint64{}
	for scope, a := range last {
		if a.Leader == member {
			led[scope] = a.Fence
		}
	}
	return led
}

// succession is how long after a moment an assignment under a higher fence was accepted.
func succession(accepted []assignment, scope string, fence uint64, at int64) (time.Duration, bool) {
	for _, a := range accepted {
		if a.Scope == scope && a.Fence > fence && a.At > at {
			return time.Duration(a.At - at), true
		}
	}
	return 0, false
}

// wokenRefused: a careless member that was paused while it led, and succeeded, tries
// when it wakes, and is refused. A shard that was led on sooner than a lease ends had
// been handed over just before.
func (v *verdict) wokenRefused(e *evidence) {
	for i, d := range e.deeds {
		if d.What != "pause" || !e.careless[d.Whom] {
			continue
		}
		woke := wakes(e.deeds[i:], d.Whom)
		for scope, fence := range ledBy(e.accepted, d.Whom, d.At) {
			took, succeeded := succession(e.accepted, scope, fence, d.At)
			if !succeeded || took < ttl/2 || woke == 0 || d.At+int64(took) > woke {
				continue
			}
			if !refusedAfter(e.refused, scope, fence, woke) {
				v.problem("%s: %s woke up, and no stale attempt of it under fence %d was refused", scope, d.Whom, fence)
			}
		}
	}
}

func wakes(deeds []deed, member string) int64 {
	for _, d := range deeds {
		if d.What == "resume" && d.Whom == member {
			return d.At
		}
	}
	return 0
}

func refusedAfter(refused []refusal, scope string, fence uint64, at int64) bool {
	for _, r := range refused {
		if r.Scope == scope && r.Fence == fence && r.At >= at {
			return true
		}
	}
	return false
}
