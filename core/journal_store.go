package core

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

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
	identity   string // of the server
	attested   []NodeID
	first      uint64 // oldest entry kept
	published  uint64 // newest published audit record
	read       bool   // the log was read since the start, or since its last replacement
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
	records   uint64 // Publish: the last one
	trimTo    uint64 // Checkpoint
}

// checkpointTimeout bounds the writing of a snapshot.
const checkpointTimeout = 30 * time.Second

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

func (j *storeJournal) office() (lead NodeID, term uint64, leading bool) {
	switch {
	case j.holding:
		return j.r.cfg.ID, j.term, true
	case j.lead == nil || j.trouble != "" || j.timer.forget == Never || NodeID(j.lead.Holder) == j.r.cfg.ID:
		return 0, j.lead.GetTerm(), false
	}
	return NodeID(j.lead.Holder), j.lead.Term, false
}

func (j *storeJournal) officeBegan() {}

func (j *storeJournal) officeEnded() {
	j.attempt, j.queue, j.queued, j.leaving = nil, nil, 0, false
	j.checkWanted, j.checkAsked = 0, 0
	j.timer.Reset(j.r.now)
}

// giveUp ends the office of this replica.
func (j *storeJournal) giveUp() {
	if j.holding {
		j.holding, j.standAt = false, Never
		j.slots[callFetch].notBefore = j.r.now
		j.r.watchOffice()
	}
}

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
		return now, j.unknown() && j.mayAttest() && !slices.Contains(j.attested, j.r.cfg.ID)
	case callClose:
		return now, j.closing && j.lostAt != nil && j.lostAt.Closed == ""
	}
	return Never, false
}

func (j *storeJournal) appendDue() (Time, bool) {
	switch {
	case j.holding:
		return j.r.now, j.attempt != nil || len(j.queue) > 0 || j.leaving
	case j.trouble != "" || !j.read || !j.caughtUp():
		return Never, false
	case j.standAt != Never:
		return j.standAt, true
	}
	return j.timer.stand, j.silent()
}

// silent reports whether the store answers, and what it says does not move.
func (j *storeJournal) silent() bool {
	return j.lead != nil && j.failing == "" && !j.estranged() && j.r.now.Sub(j.answeredAt) <= j.r.cfg.ElectionTimeout
}

// caughtUp reports whether everything in the log is known here.
func (j *storeJournal) caughtUp() bool { return j.read && j.end.index == j.lead.GetLast() }

// estranged reports whether the log lies on another server than the one that it
// was accepted on.
func (j *storeJournal) estranged() bool { return j.lead != nil && j.lead.Identity != j.identity }

// unknown reports whether every replica must say that it misses nothing: on a server
// that the log was not accepted on, and before a log begins in an empty store.
func (j *storeJournal) unknown() bool { return j.estranged() || (j.lead == nil && j.read) }

// mayAttest reports whether this replica has looked at everything, found its mark, and
// has one.
func (j *storeJournal) mayAttest() bool {
	if j.plants(plant.AttestUnseen) {
		return true
	}
	return j.loss == "" && j.caughtUp() && j.end.index == j.fetchedTo.index && bytes.Equal(j.end.chain, j.fetchedTo.chain) && j.applied.index == j.end.index && !j.forgetful()
}

// everyoneAttested reports whether every replica has found its mark on this server.
func (j *storeJournal) everyoneAttested() bool {
	for _, v := range j.r.cfg.Voters {
		if !slices.Contains(j.attested, v) && !j.plants(plant.AdoptedBySome) {
			return false
		}
	}
	return len(j.attested) > 0
}

func (j *storeJournal) propose(data []byte) error {
	switch {
	case !j.holding || j.leaving:
		return errors.New("this replica does not lead the log")
	case j.queued+len(data) > MaxUncommitted:
		return errors.New("too much is waiting for the store")
	case len(j.backlog) > MaxHistory/2:
		j.blocked = min(j.blocked, j.r.now)
		return errors.New("the audit trail must be published first")
	}
	j.queue = append(j.queue, data)
	j.queued += len(data)
	return nil
}

func (j *storeJournal) doubtful() bool {
	return j.loss != "" || (!j.read && j.r.registry.Revision() > 0)
}

func (j *storeJournal) confirmOffice(check uint64) { j.checkWanted = check }

func (j *storeJournal) confirmRead(id uint64) { j.readsWanted = append(j.readsWanted, id) }

// handOver vacates the office by an append under the next term that names nobody:
// the others need not wait for silence.
func (j *storeJournal) handOver() { j.leaving = j.leaving || j.holding }

func (j *storeJournal) hasReady() bool {
	j.plan()
	if j.r.now >= j.markAt {
		j.markAt, j.dirty = Never, true
	}
	return len(j.calls) > 0 || len(j.staged) > 0 || j.restored != nil || j.dirty
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
		c.Publish = j.publishCall(&s)
		timeout *= 4
	case callCheckpoint:
		c.Checkpoint = j.checkpointCall(&s)
		timeout = checkpointTimeout
	case callAttest:
		j.setMark(func(m *StoreMark) { m.Identity = j.identity })
		c.Attest = &StoreAttest{Identity: j.identity, Node: j.r.cfg.ID}
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

// setMark changes the mark; it is made durable before the calls planned with it.
func (j *storeJournal) setMark(change func(*StoreMark)) {
	had := proto.CloneOf(j.mark)
	change(j.mark)
	j.dirty = j.dirty || !proto.Equal(had, j.mark)
}

// appendCall is the append that was not answered yet, or the next one.
func (j *storeJournal) appendCall() *StoreAppend {
	if a := j.attempt; a != nil && a.Guard == j.position() && a.Lead.Identity == j.identity {
		return j.plantChanged(a)
	}
	switch {
	case j.holding && len(j.queue) > 0:
		j.attempt = j.nextAppend(j.term, j.r.cfg.ID, j.takeQueue())
	case j.holding && j.leaving:
		j.attempt = j.nextAppend(j.term+1, 0, [][]byte{nil})
	case j.holding: // what was to be repeated was meant for another server
		j.giveUp()
		return nil
	default:
		j.r.status.campaigns++
		j.timer.Reset(j.r.now)
		j.standAt = Never
		j.attempt = j.nextAppend(j.lead.GetTerm()+1, j.r.cfg.ID, [][]byte{nil})
		j.attempt.Adopt = j.estranged()
		j.attempt.Voters = slices.Clone(j.r.cfg.Voters)
		if j.plants(plant.AdoptedBySome) {
			j.attempt.Voters = slices.Clone(j.attested)
		}
	}
	j.touched = j.r.now
	return j.attempt
}

// plantChanged adds to an append whose answer was lost.
func (j *storeJournal) plantChanged(a *StoreAppend) *StoreAppend {
	if !j.plants(plant.AppendChanged) || !j.holding || len(j.queue) == 0 {
		return a
	}
	var data [][]byte
	for _, e := range a.Entries {
		data = append(data, e.Data)
	}
	id := a.Lead.AppendId
	j.attempt = j.nextAppend(j.term, j.r.cfg.ID, append(data, j.takeQueue()...))
	j.attempt.Lead.AppendId = id
	return j.attempt
}

func (j *storeJournal) plants(p plant.Plant) bool { return j.r.cfg.Plants.Has(p) }

func (j *storeJournal) position() Position {
	return Position{Term: j.lead.GetTerm(), Last: j.lead.GetLast()}
}

// takeQueue takes what fits one append.
func (j *storeJournal) takeQueue() [][]byte {
	size, n := 0, 0
	for n < len(j.queue) && n < MaxAppendEntries {
		if size += len(j.queue[n]); n > 0 && size > MaxAppendBytes {
			break
		}
		j.queued -= len(j.queue[n])
		n++
	}
	taken := j.queue[:n:n]
	j.queue = j.queue[n:]
	return taken
}

func (j *storeJournal) nextAppend(term uint64, holder NodeID, data [][]byte) *StoreAppend {
	a := &StoreAppend{Guard: j.position()}
	index, chain := j.end.index, j.end.chain
	for _, d := range data {
		index++
		chain = ChainEntry(chain, index, term, d)
		a.Entries = append(a.Entries, &StoredEntry{Index: index, Term: term, Data: d, Chain: chain})
	}
	id := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, j.r.rng.Uint64()), j.r.rng.Uint64())
	a.Lead = &Lead{
		Schema: StoreSchema, ClusterId: j.r.cfg.ClusterID, Term: term, Holder: uint64(holder), Last: index, Chain: chain,
		AppendId: id, Identity: j.identity, Generation: j.lead.GetGeneration(),
	}
	return a
}

// publishCall takes the next audit records, all of a revision or none.
func (j *storeJournal) publishCall(s *storeSlot) *StorePublish {
	j.publishAfter = Never
	j.settleBacklog()
	records := j.backlog[:min(len(j.backlog), MaxPublishRecords)]
	if len(records) == 0 {
		return nil
	}
	last := records[len(records)-1]
	s.records = last.Seq
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
