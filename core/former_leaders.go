package core

// formerLeaders are the leaderships that ended, the latest MaxFormerLeaders of them: a
// claim under their fence is old, and how they ended says what to make of it. They
// follow from the records.
type formerLeaders struct {
	byFence map[uint64]formerLeader
	order   []uint64 // fences, in the order in which they ended
}

// formerLeader is a leadership that ended.
type formerLeader struct {
	scope, member string
	session       SessionID
	end           leaderEnd
}

// leaderEnd is how a leadership ended, as far as it matters to claims.
type leaderEnd uint8

const (
	endUnknown   leaderEnd = iota
	endGivenUp             // by its holder, which had stopped: a claim is old news
	endRunOut              // its lease had surely run out
	endSuspected           // the holder may still believe
)

func newFormerLeaders() formerLeaders { return formerLeaders{byFence: map[uint64]formerLeader{}} }

// follow takes a record in.
func (f *formerLeaders) follow(r *Record) {
	if !EventKind(r.Kind).EndsLeadership() {
		return
	}
	if _, known := f.byFence[r.Fence]; known {
		return
	}
	if len(f.order) == MaxFormerLeaders {
		delete(f.byFence, f.order[0])
		f.order = f.order[1:]
	}
	f.order = append(f.order, r.Fence)
	f.byFence[r.Fence] = formerLeader{scope: r.Scope, member: r.MemberId, session: SessionID(r.Session), end: endOf(r.Reason)}
}

func endOf(reason string) leaderEnd {
	switch reason {
	case ReasonSuspected:
		return endSuspected
	case ReasonExpired, ReasonMoved:
		return endRunOut
	}
	return endGivenUp
}

// how says how a claimed leadership ended.
func (f *formerLeaders) how(member string, c Claim) leaderEnd {
	if l, ok := f.byFence[c.Fence]; ok && l.scope == c.Scope && l.member == member {
		return l.end
	}
	return endUnknown
}

// memberOf names who a claim of a session that has ended is from, empty when nobody knows.
func (f *formerLeaders) memberOf(id SessionID, claims []Claim) string {
	for _, c := range claims {
		if l, ok := f.byFence[c.Fence]; ok && l.session == id {
			return l.member
		}
	}
	return ""
}
