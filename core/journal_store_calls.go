package core

import (
	"time"
)

// What is asked of the store, and when. Nothing is waited for here: answers are taken
// in journal_store_reply.go.

// The kinds of calls; at most one of each is under way.
const (
	callAppend = iota
	callConfirm
	callFetch
	callPublish
	callCheckpoint
	callAttest
	callClose
	storeCalls
)

// storeSlot is a call under way, and when the next of its kind may be made.
type storeSlot struct {
	id        uint64 // 0: none
	sentAt    Time
	notBefore Time
	// What was known when it was made.
	end, term uint64
	trimTo    uint64 // Checkpoint
	round     uint64 // Attest
}

// checkpointTimeout bounds the writing of a snapshot.
const checkpointTimeout = 30 * time.Second

// due says when a call of a kind is wanted, apart from its slot.
func (j *storeJournal) due(kind int) (at Time, wanted bool) {
	now := j.r.now
	switch kind {
	case callFetch:
		return now, !j.holding
	case callAppend:
		return j.appendDue()
	case callConfirm:
		if j.checkWanted != 0 || len(j.readsWanted) > 0 {
			return now, true
		}
		return j.touched.Add(j.r.cfg.HeartbeatInterval), j.holding
	case callPublish:
		return j.publishAfter, j.publishAfter != Never && j.holding && j.r.officeOpen
	case callCheckpoint:
		return now, j.holding && j.r.officeOpen && j.checkpointDue()
	case callAttest:
		return now, j.unknown() && j.mayAttest() && j.attested[j.r.cfg.ID] != j.round()
	case callClose:
		return now, j.closing && j.lostAt != nil && j.lostAt.Closed == ""
	}
	return Never, false
}

// plan makes the calls that are due.
func (j *storeJournal) plan() {
	for kind := range j.slots {
		s := &j.slots[kind]
		if at, wanted := j.due(kind); wanted && s.id == 0 && j.r.now >= at && j.r.now >= s.notBefore {
			j.makeCall(kind)
		}
	}
}

func (j *storeJournal) makeCall(kind int) {
	c, timeout := StoreCall{}, j.r.cfg.ElectionTimeout
	s := storeSlot{sentAt: j.r.now, end: j.end.index, term: j.lead.GetTerm()}
	switch kind {
	case callAppend:
		c.Append = j.appendCall()
	case callConfirm:
		c.Confirm = &StoreConfirm{Term: j.term, Beat: j.holding}
		j.checkAsked, j.readsAsked = j.checkWanted, j.readsWanted
		j.checkWanted, j.readsWanted = 0, nil
		j.touched = j.r.now
	case callFetch:
		c.Fetch = &StoreFetch{After: j.end.index, MaxBytes: MaxFetchBytes, Wait: j.r.cfg.HeartbeatInterval}
		// What cannot be brought in that time, a large snapshot over a slow link, is given
		// twice as much at each attempt.
		timeout = min((timeout+c.Fetch.Wait)<<j.patience(), checkpointTimeout)
	case callPublish:
		c.Publish = j.publishCall()
		timeout *= 4
	case callCheckpoint:
		c.Checkpoint = j.checkpointCall(&s)
		timeout = checkpointTimeout
	case callAttest:
		s.round = j.round()
		j.setMark(func(m *StoreMark) { m.Identity, m.Round = j.identity, s.round })
		c.Attest = &StoreAttest{Identity: j.identity, Node: j.r.cfg.ID, Round: s.round}
	case callClose:
		c.Close = &StoreClose{Guard: &Position{Term: j.lostAt.Term}, Identity: j.lostOn, Reason: j.loss}
	}
	if c == (StoreCall{}) {
		return
	}
	j.next++
	s.id, c.ID, c.Timeout = j.next, j.next, timeout
	j.slots[kind] = s
	j.calls = append(j.calls, c)
}

// patience is how often the time for a fetch is doubled: at once while nothing was
// read, and for one that is in the middle of it all only when many in a row took
// longer. Not more often than twice: an answer that was lost is waited for as well.
func (j *storeJournal) patience() int {
	if !j.read {
		return min(j.timeouts, 2)
	}
	return min(max(0, j.timeouts-16), 2)
}

// publishCall takes the next audit records, all of a revision or none.
func (j *storeJournal) publishCall() *StorePublish {
	j.publishAfter = Never
	j.settleBacklog()
	records := j.backlog[:min(len(j.backlog), MaxPublishRecords)]
	if len(records) == 0 {
		return nil
	}
	last := records[len(records)-1]
	p := &StorePublish{Term: j.term, After: j.published, Records: records, Revision: j.r.registry.Revision()}
	if len(j.backlog) > len(records) {
		p.Revision = last.Revision - 1
	}
	return p
}

// publishedTo takes in how far the trail reaches in the store. It may reach less far
// than before: a server can have lost the latest publication and no entry.
func (j *storeJournal) publishedTo(seq uint64) {
	if seq < j.published {
		var again []*Record
		for _, rec := range j.r.registry.history.records {
			if rec.Seq > seq && (len(j.backlog) == 0 || rec.Seq < j.backlog[0].Seq) {
				again = append(again, rec)
			}
		}
		j.backlog = append(again, j.backlog...)
	}
	j.published = seq
	j.settleBacklog()
}

// settleBacklog drops what is known to be published.
func (j *storeJournal) settleBacklog() {
	n := 0
	for n < len(j.backlog) && j.backlog[n].Seq <= j.published {
		n++
	}
	j.backlog = j.backlog[n:]
	if len(j.backlog) <= MaxHistory/2 {
		j.blocked = Never
	}
}

// keepEntries is how many entries stay in the log when it is trimmed, for replicas
// that are a little behind.
func (j *storeJournal) keepEntries() uint64 { return j.r.cfg.SnapshotEntries / 2 }

func (j *storeJournal) checkpointDue() bool {
	kept := j.applied.index + 1 - min(j.first, j.applied.index+1)
	// A snapshot must hold what is not published: who starts from it may have to do it.
	return len(j.backlog) <= MaxHistory && (kept >= j.r.cfg.SnapshotEntries+j.keepEntries() || j.logBytes > MaxLogBytes)
}

func (j *storeJournal) checkpointCall(s *storeSlot) *StoreCheckpoint {
	data, err := marshalSnapshot(j.r.registry.Snapshot())
	if err != nil {
		j.r.Halt(err)
		return nil
	}
	s.trimTo = j.applied.index - min(j.keepEntries(), j.applied.index)
	if j.logBytes > MaxLogBytes {
		s.trimTo = j.applied.index
	}
	j.logBytes = 0
	return &StoreCheckpoint{Term: j.term, TrimTo: s.trimTo, Snapshot: &StoredSnapshot{
		Index: j.applied.index, Term: j.applied.term, Chain: j.applied.chain, Data: data,
	}}
}
