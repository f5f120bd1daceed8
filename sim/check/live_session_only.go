package check

import "github.com/omnirelay/leadership/core"

// LiveSessionOnly: whoever is elected has a live session at that revision, and
// a session that ended never lives again.
type LiveSessionOnly struct {
	report Report
	ended  map[core.SessionID]uint64 // revision at which it was first seen to be gone
}

func NewLiveSessionOnly(report Report) *LiveSessionOnly {
	return &LiveSessionOnly{report: report, ended: map[core.SessionID]uint64{}}
}

// Ended tells that a session is gone at a revision.
func (c *LiveSessionOnly) Ended(id core.SessionID, revision uint64) {
	if had, ok := c.ended[id]; !ok || revision < had {
		c.ended[id] = revision
	}
}

// Registry checks one replica's registry, as it stands at a revision.
func (c *LiveSessionOnly) Registry(at int64, replica core.NodeID, revision uint64, leaders []core.Token, live []core.SessionID) {
	alive := make(map[core.SessionID]bool, len(live))
	for _, id := range live {
		alive[id] = true
		if gone, ok := c.ended[id]; ok && revision > gone {
			c.report.session(LiveSessionOnlyProperty, at, id, "session %d lives on replica %d at revision %d and had ended at revision %d", id, replica, revision, gone)
		}
	}
	for i := range leaders {
		if t := &leaders[i]; !alive[t.Session] {
			c.report.scope(LiveSessionOnlyProperty, at, t.Scope, "%s is led by session %d of %s on replica %d at revision %d, which is not live",
				t.Scope, t.Session, t.LeaderID, replica, revision)
		}
	}
}

// Record checks an election against the sessions known to have ended before it.
func (c *LiveSessionOnly) Record(at int64, r *core.Record) {
	if core.EventKind(r.Kind) != core.EventElected {
		return
	}
	id := core.SessionID(r.Session)
	if gone, ok := c.ended[id]; ok && r.Revision > gone {
		c.report.scope(LiveSessionOnlyProperty, at, r.Scope, "%s: session %d elected at revision %d had ended at revision %d", r.Scope, id, r.Revision, gone)
	}
}
