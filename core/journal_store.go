package core

import (
	"errors"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/core/plant"
)

// storeJournal is a log in an external store: the pure part of it. It never waits;
// it makes calls and takes their answers (store.go says what it relies on).
//
// Intuition: whoever last wrote a higher term into the lead record is the
// registrar. It appends, each time exactly behind what it knows, and beats. The
// others read the tail; one that has seen nothing move for an election timeout
// takes over, by an append under the next term. Two may try, the guard lets one.
// A registrar that was deposed learns it from the first call it makes, and until it
// makes one it acknowledges nothing, since every acknowledgement needs a call that
// was begun after the keepalive came.
//
// What a store may do to us besides failing is to forget. So a mark of what this
// replica has seen is durable on its own disk before anything that rests on it is
// shown, and a server that is not the one the log was accepted on is believed only
// when every replica has found its mark in it.
type storeJournal struct {
	r     *Replica
	timer electionTimer
	slots [storeCalls]storeSlot
	calls []StoreCall // to be made
	next  uint64      // id of the latest call

	// mark is what is durable, or will be by the next batch when dirty.
	mark     *StoreMark
	dirty    bool
	floor    place  // the mark as it was at the start: the log must hold it
	verified bool   // it does
	shownTo  uint64 // records up to here were shown by an earlier life

	// What the store said last.
	lead       *Lead
	leadOn     string            // the server that lead was read on
	identity   string            // of the server that answered the last fetch
	attested   map[NodeID]uint64 // the round in which each replica attested it last
	first      uint64            // oldest entry kept
	published  uint64            // newest published audit record
	read       bool              // the log was read since the start, or since its last replacement
	answeredAt Time
	timeouts   int    // of fetches, in a row
	failing    string // what the last failed fetch said, until one succeeds
	trouble    string // why nothing may be done with this log
	// A loss that was seen: what it was, and where. Seen twice in a row it closes the
	// log: once may have been a glimpse of another server.
	loss    string
	lostAt  *Lead
	lostOn  string // the server
	closing bool

	// end is the newest entry that was fetched or appended; staged are those of them
	// that are not durable in the mark yet, applying those that are being made so.
	end               place
	fetchedTo         place // where the log ended on the server that answered the last fetch
	applied           place
	staged, applying  []*StoredEntry
	restored, adopted *Registry
	restoredAt        place
	logBytes          int // of the entries applied since the last checkpoint

	// Of the office.
	holding  bool
	term     uint64
	lastHeld uint64 // the latest term held in this life
	vacated  uint64 // the latest term by which this replica gave the office up
	bootTerm uint64 // the term found at the start, that an earlier life may have held
	provenAt Time   // when the latest call was made that proved the office
	touched  Time   // when the lead record was last moved by this replica
	standAt  Time   // when to stand without having waited for silence; Never: not
	leaving  bool   // the office is being handed over
	attempt  *StoreAppend
	queue    [][]byte
	queued   int // bytes

	checkWanted  uint64
	readsWanted  []uint64
	checkAsked   uint64 // of the confirm under way
	readsAsked   []uint64
	publishAfter Time
	// backlog holds the applied records that are not known to be published.
	backlog []*Record
	blocked Time // since when the backlog is full; Never: it is not

	markAt Time // when to bring the mark up to what was applied
}

// place is an entry of the log, by its index, term and chain.
type place struct {
	index, term uint64
	chain       []byte
}

func newStoreJournal(r *Replica, boot Boot) (*storeJournal, error) {
	if boot.HardState != nil || boot.Snapshot != nil || len(boot.Entries) > 0 {
		return nil, errors.New("this replica kept a raft log; its registry must be migrated to the external store")
	}
	j := &storeJournal{r: r, timer: electionTimer{timeout: r.cfg.ElectionTimeout, rng: r.rng}, mark: &StoreMark{}, standAt: Never, publishAfter: Never, answeredAt: minTime, blocked: Never, markAt: Never}
	if boot.Mark != nil {
		j.mark = proto.CloneOf(boot.Mark)
		if j.mark.ClusterId != r.cfg.ClusterID {
			return nil, fmt.Errorf("this replica's mark is of cluster %q, it is configured for %q", j.mark.ClusterId, r.cfg.ClusterID)
		}
	}
	j.mark.ClusterId = r.cfg.ClusterID
	j.floor = place{index: j.mark.Index, chain: j.mark.Chain}
	j.shownTo = j.mark.Shown
	j.timer.Reset(r.now)
	r.adopt(NewRegistry(r.cfg.MaxVersion))
	return j, nil
}

func (j *storeJournal) committed() uint64 { return j.end.index }

func (j *storeJournal) notReady() string {
	switch {
	case j.failing != "" && !j.holding:
		return j.failing
	case j.trouble != "":
		return j.trouble
	case j.blocked != Never && j.r.now.Sub(j.blocked) > j.r.cfg.ElectionTimeout:
		return "the audit trail cannot be published, so nothing more can be decided"
	case !j.read:
		return "the log has not been read yet"
	case j.r.lead == 0:
		return "no registrar: the last one fell silent, and another is about to take over"
	}
	return ""
}

// tick lets time pass: an office that the store has not confirmed for an election
// timeout is given up, and a silent one is no longer believed in.
func (j *storeJournal) tick() {
	now := j.r.now
	if j.holding {
		if now.Sub(j.provenAt) > j.r.cfg.ElectionTimeout {
			j.giveUp()
		}
		if j.blocked != Never && now.Sub(j.blocked) > 2*j.r.cfg.ElectionTimeout {
			j.handOver() // another may be able to publish
		}
		return
	}
	j.timer.Forgotten(now)
	if _, wanted := j.appendDue(); now >= j.timer.stand && !wanted {
		j.timer.stand = now.Add(j.r.cfg.HeartbeatInterval) // there may be news of the store by then
	}
}

func (j *storeJournal) deadline() Time {
	d := j.markAt
	if j.holding && j.blocked != Never {
		d = min(d, max(j.r.now+1, j.blocked.Add(2*j.r.cfg.ElectionTimeout+1)))
	}
	for kind := range j.slots {
		if at, wanted := j.due(kind); wanted && j.slots[kind].id == 0 {
			d = min(d, max(at, j.slots[kind].notBefore))
		}
	}
	if j.holding {
		return min(d, j.provenAt.Add(j.r.cfg.ElectionTimeout+1))
	}
	if j.timer.stand > j.r.now {
		d = min(d, j.timer.stand)
	}
	return min(d, j.timer.forget)
}

func (j *storeJournal) doubtful() bool {
	return j.loss != "" || (!j.read && j.r.registry.Revision() > 0)
}

func (j *storeJournal) confirmOffice(check uint64) { j.checkWanted = check }

func (j *storeJournal) confirmRead(id uint64) { j.readsWanted = append(j.readsWanted, id) }

func (j *storeJournal) hasReady() bool {
	j.plan()
	if j.r.now >= j.markAt {
		j.markAt, j.dirty = Never, true
	}
	return len(j.calls) > 0 || len(j.staged) > 0 || j.restored != nil || j.dirty
}

// setMark changes the mark; it is made durable before the calls planned with it.
func (j *storeJournal) setMark(change func(*StoreMark)) {
	had := proto.CloneOf(j.mark)
	change(j.mark)
	j.dirty = j.dirty || !proto.Equal(had, j.mark)
}

func (j *storeJournal) plants(p plant.Plant) bool { return j.r.cfg.Plants.Has(p) }

func (j *storeJournal) ready(rd *Ready) {
	rd.Calls, j.calls = j.calls, nil
	if len(j.staged) > 0 || j.restored != nil || j.dirty {
		j.setMark(func(m *StoreMark) {
			m.Generation = max(m.Generation, j.lead.GetGeneration())
			if j.verified {
				m.Index, m.Chain = j.end.index, j.end.chain
			}
			m.Shown = max(m.Shown, j.applied.index)
			m.Term = max(m.Term, j.lead.GetTerm())
			// What the entries being applied raise is covered by their index; the jump that
			// would follow a loss leaves far more room than they can take.
			m.NextFence = max(m.NextFence, j.r.registry.nextFence)
			m.NextSession = max(m.NextSession, uint64(j.r.registry.nextSession))
		})
		rd.Batch.Mark = proto.CloneOf(j.mark)
		j.dirty = false
	}
	j.applying, j.staged = j.staged, nil
	j.adopted, j.restored = j.restored, nil
}

// advance applies what the mark now covers.
func (j *storeJournal) advance() error {
	j.r.watchOffice()
	if g := j.adopted; g != nil {
		j.adopted = nil
		j.load(g)
	}
	for _, e := range j.applying {
		j.logBytes += len(e.Data)
		j.applied = place{index: e.Index, term: e.Term, chain: e.Chain}
		if err := j.r.apply(logEntry{index: e.Index, term: e.Term, data: e.Data}, false); err != nil {
			return fmt.Errorf("entry %d: %w", e.Index, err)
		}
	}
	j.applying = nil
	j.settleBacklog()
	if j.holding && len(j.backlog) > 0 && j.publishAfter == Never && j.slots[callPublish].id == 0 {
		j.publishAfter = j.r.now.Add(j.r.cfg.HeartbeatInterval / 2)
	}
	if g := j.r.registry; j.markAt == Never && (g.nextFence > j.mark.NextFence || uint64(g.nextSession) > j.mark.NextSession) {
		j.markAt = j.r.now.Add(j.r.cfg.HeartbeatInterval)
	}
	return nil
}

// load makes the registry of a fetched snapshot this replica's.
func (j *storeJournal) load(g *Registry) {
	j.applied, j.logBytes, j.backlog = j.restoredAt, 0, slices.Clone(g.history.records)
	j.settleBacklog()
	if j.r.registry.Revision() > 0 {
		j.r.install(g)
		return
	}
	// The first of this life: what is older than the mark was shown by an earlier one,
	// and all of it was before this replica when there is no mark.
	if j.shownTo == 0 {
		j.shownTo = g.Revision()
	}
	j.r.adopt(g)
	for _, rec := range g.History().records {
		if rec.Revision > j.shownTo {
			j.r.out.Records = append(j.r.out.Records, rec)
		}
	}
	j.r.attached.markAll()
	j.r.requests.answerKept(&j.r.out, &g.replies)
}

// recorded shows the records of an applied entry, once. Who keeps them is the
// store: the registrar publishes them.
func (j *storeJournal) recorded(out *Outcome) error {
	j.backlog = append(j.backlog, out.Records...)
	if out.Revision > j.shownTo {
		j.r.out.Records = append(j.r.out.Records, out.Records...)
	}
	return nil
}
