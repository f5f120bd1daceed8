package core

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/omnirelay/leadership/core/plant"
)

// step takes an answer of the store.
func (j *storeJournal) step(in *Input) {
	reply := in.Store
	if reply == nil {
		return
	}
	kind := slices.IndexFunc(j.slots[:], func(s storeSlot) bool { return s.id != 0 && s.id == reply.ID })
	if kind < 0 {
		return
	}
	s := j.slots[kind]
	j.slots[kind] = storeSlot{}
	switch {
	case kind == callFetch && j.holding:
		// Of before the office. What it says is older than what the office rests on.
	case reply.Status == StoreUnfit:
		j.r.Halt(fmt.Errorf("the store must not be used: %s", reply.Text))
	case reply.Status == StoreFailed:
		if kind == callFetch && j.r.now.Sub(s.sentAt) > j.r.cfg.ElectionTimeout {
			j.timeouts++
		}
		j.failed(kind, "the store does not answer: "+reply.Text)
	case reply.absurd():
		j.r.Halt(errors.New("the store answered what no log can hold: its data is damaged"))
	case j.superseded(reply) != "":
		j.failed(kind, j.superseded(reply))
	case !j.believes(kind, &s, reply):
		j.failed(kind, "")
	default:
		j.take(reply)
		j.resolve(&s)
		j.answered(kind, &s, reply)
	}
}

// superseded says why an answer comes from a server that is not to be believed any
// more: the log was accepted there in a round in which this replica had given its word
// to another, or in an earlier one. Such an answer is none. Empty: it is not superseded.
func (j *storeJournal) superseded(reply *StoreReply) string {
	own, lead, same := j.mark.Identity, reply.Lead, j.mark.Identity == reply.Identity
	switch {
	case own == "" || lead.GetGeneration() > j.mark.Generation || j.plants(plant.SupersededBelieved):
	case lead == nil && !same && j.mark.Witness:
		return fmt.Sprintf("the server that answers (%s) holds no log, and this node has seen one: it is another server, or everything was lost (then restore a backup and jump the fence: leaderd fence jump)", reply.Identity)
	case lead == nil || lead.Identity != reply.Identity: // it proves nothing, and may be attested
	case lead.Round < j.mark.Round || lead.Round == j.mark.Round && !same:
		return fmt.Sprintf("the server that answers (%s) was superseded: the log was accepted there in round %d, and this node has vouched for %s in round %d since; it waits for that one or a later one (if there is none: leaderd fence jump)",
			reply.Identity, lead.Round, own, j.mark.Round)
	}
	return ""
}

// failed makes the call again, or one like it, after a pause.
func (j *storeJournal) failed(kind int, text string) {
	pause := j.r.cfg.HeartbeatInterval / 4
	again := j.r.now.Add(pause + jitter(j.r.rng, pause))
	j.slots[kind].notBefore = again
	switch kind {
	case callFetch:
		j.failing = text
	case callAppend:
		if !j.holding && j.attempt != nil {
			j.standAt = again
		}
	case callConfirm:
		j.checkWanted = max(j.checkWanted, j.checkAsked)
		j.readsWanted = append(j.readsAsked, j.readsWanted...)
		j.checkAsked, j.readsAsked = 0, nil
		j.touched = again.Add(-j.r.cfg.HeartbeatInterval)
	case callPublish:
		j.publishAfter = again
	case callCheckpoint:
		j.slots[kind].notBefore = j.r.now.Add(2 * j.r.cfg.ElectionTimeout)
	}
}

func jitter(rng *rand.Rand, most time.Duration) time.Duration {
	return time.Duration(rng.Int64N(int64(most) + 1))
}

// absurd reports numbers that no log reaches, or nothing where an entry should be.
func (r *StoreReply) absurd() bool {
	const most = 1 << 62
	l := r.Lead
	return l.GetTerm() > most || l.GetLast() > most || l.GetGeneration() > most || l.GetRound() > most || r.First > most || r.Published > most ||
		slices.Contains(r.Entries, nil) || slices.ContainsFunc(sortedKeys(r.Attested), func(n NodeID) bool { return r.Attested[n] > most })
}

// believes reports whether an answer may be taken for what it says. It is where a
// store that forgot, or is another than it was, is noticed.
func (j *storeJournal) believes(kind int, s *storeSlot, reply *StoreReply) bool {
	lead, end := reply.Lead, s.end
	if reply.Identity != lead.GetIdentity() {
		// What was acknowledged since the call was made, another server acknowledged: it is
		// missing from this one, however old the answer.
		end = j.end.index
	}
	switch {
	case lead.GetSchema() > StoreSchema:
		j.r.Halt(fmt.Errorf("the store has layout %d, written by a newer version; this one reads up to %d", lead.Schema, StoreSchema))
		return false
	case lead != nil && lead.ClusterId != j.r.cfg.ClusterID:
		j.r.Halt(fmt.Errorf("the store holds the registry of cluster %q, this node is configured for %q", lead.ClusterId, j.r.cfg.ClusterID))
		return false
	case lead.GetGeneration() > j.mark.Generation:
		j.renew(lead)
		return kind == callFetch && s.end == 0
	case kind == callClose:
		return true
	case j.plants(plant.AttestUnseen) && reply.Identity != j.mark.Identity && lead.GetLast() < max(end, j.floor.index):
		j.plantForget()
		return false
	case lead.GetGeneration() < j.mark.Generation || lead.GetLast() < max(end, j.floor.index) || lead.GetTerm() < s.term:
		j.lost(fmt.Sprintf("the store forgot: it ends at entry %d of term %d and generation %d, and this node has seen entry %d of term %d and generation %d",
			lead.GetLast(), lead.GetTerm(), lead.GetGeneration(), max(end, j.floor.index), max(s.term, j.mark.Term), j.mark.Generation), reply)
		return false
	}
	return j.trusts(kind, reply)
}

// trusts reports whether the answer comes from a server that this replica believes.
func (j *storeJournal) trusts(kind int, reply *StoreReply) bool {
	switch {
	case kind == callFetch || kind == callAttest:
		return true
	case reply.Lead != nil && reply.Lead.Identity != reply.Identity:
		// Nothing said by a server on which the log was not accepted proves anything.
		j.giveUp()
		return false
	}
	return true
}

// plantForget takes what a server holds for all there ever was.
func (j *storeJournal) plantForget() {
	j.setMark(func(m *StoreMark) { m.Index, m.Chain, m.NextFence, m.NextSession = 0, nil, 0, 0 })
	j.floor, j.end, j.read, j.staged, j.restored, j.attempt = place{}, place{}, false, nil, nil, nil
	j.r.adopt(NewRegistry(j.r.cfg.MaxVersion))
}

// lost stops this replica's part in the log, and, when it is seen again, the log for
// everybody, until an operator has jumped the fence. It is closed where the loss was
// seen, on that server and in that term: elsewhere it is another log, or one that an
// operator has put in its place.
func (j *storeJournal) lost(reason string, reply *StoreReply) {
	j.giveUp()
	j.closing = j.loss != "" && j.lostOn == reply.Identity
	j.loss, j.lostAt, j.lostOn = reason, reply.Lead, reply.Identity
	j.trouble = j.loss + "; nothing is served until an operator jumps the fence (leaderd fence jump)"
}

// renew begins anew on a log that an operator replaced. What must not be given
// twice is still known from the mark.
func (j *storeJournal) renew(lead *Lead) {
	j.giveUp()
	j.slots = [storeCalls]storeSlot{} // what was asked before tells of the log before
	j.setMark(func(m *StoreMark) {
		m.Generation, m.Identity, m.Round, m.Index, m.Chain = lead.Generation, "", 0, 0, nil
	})
	j.floor, j.end, j.verified, j.read = place{}, place{}, false, false
	j.staged, j.restored, j.attempt, j.lead = nil, nil, nil, nil
	j.loss, j.lostAt, j.closing = "", nil, false
	j.trouble = "the log was replaced and is being read"
	j.standAt, j.bootTerm, j.lastHeld, j.vacated = Never, 0, 0, 0
}

// take keeps the newest lead record seen on the server that answered last.
func (j *storeJournal) take(reply *StoreReply) {
	had, lead := j.lead, reply.Lead
	switch {
	case lead == nil:
		return
	case had != nil && reply.Identity == j.leadOn && (lead.Term < had.Term || lead.Term == had.Term && (lead.Last < had.Last || lead.Last == had.Last && lead.Beat < had.Beat)):
		return // an older answer that came later
	}
	j.lead, j.leadOn = lead, reply.Identity
	if had.GetTerm() != lead.Term || had.GetLast() != lead.Last || had.GetBeat() != lead.Beat {
		j.timer.Reset(j.r.now)
	}
	switch {
	case j.isOurs():
		return // resolve sees to it
	case j.attempt != nil && j.attempt.Guard != j.position():
		j.attempt, j.standAt = nil, Never
		j.giveUp()
	case lead.Term > j.term || lead.Closed != "":
		j.giveUp()
	}
}

// isOurs reports whether the lead record is the one that this replica's append wrote,
// where it was written: a copy of it on a server promoted since gives no office.
func (j *storeJournal) isOurs() bool {
	a := j.attempt
	return a != nil && j.lead != nil && j.leadOn == a.Lead.Identity && j.lead.Term == a.Lead.Term && bytes.Equal(j.lead.AppendId, a.Lead.AppendId)
}

// resolve notices that an append took effect, by its own answer or another's.
func (j *storeJournal) resolve(s *storeSlot) {
	if !j.isOurs() {
		return
	}
	a := j.attempt
	j.attempt = nil
	for _, e := range a.Entries {
		if e.Index > j.end.index {
			j.stage(e)
		}
	}
	switch {
	case a.Lead.Term == a.Guard.Term:
		j.provenAt = max(j.provenAt, s.sentAt)
	case a.Lead.Holder == 0:
		j.vacated = a.Lead.Term
		j.giveUp()
	default:
		j.holding, j.term, j.lastHeld = true, a.Lead.Term, a.Lead.Term
		j.provenAt, j.standAt, j.trouble, j.verified, j.leaving = s.sentAt, Never, "", true, false
		j.identity = a.Lead.Identity
		j.setMark(func(m *StoreMark) { m.Identity, m.Round, m.Witness = a.Lead.Identity, a.Lead.Round, true })
		if j.first == 0 {
			j.first = 1
		}
	}
}

func (j *storeJournal) stage(e *StoredEntry) {
	j.staged = append(j.staged, e)
	j.end = place{index: e.Index, term: e.Term, chain: e.Chain}
}

func (j *storeJournal) answered(kind int, s *storeSlot, reply *StoreReply) {
	switch kind {
	case callFetch:
		j.fetched(s, reply)
	case callAppend:
		if reply.Status == StoreRefused {
			j.attempt = nil
			j.giveUp()
		}
	case callConfirm:
		j.confirmed(s, reply)
	case callPublish:
		if reply.Lead.GetTerm() == j.term {
			j.publishedTo(reply.Published)
		}
		if len(j.backlog) > 0 {
			j.publishAfter = j.r.now
			if reply.Status == StoreRefused {
				j.publishAfter = j.r.now.Add(j.r.cfg.HeartbeatInterval / 4)
			}
		}
	case callCheckpoint:
		// Refused in this very term: an earlier attempt, whose answer was lost, took effect.
		if reply.Status == StoreOK || reply.Lead.GetTerm() == j.term {
			j.first = max(j.first, s.trimTo+1)
			j.r.status.checkpoints++
		} else {
			j.failed(kind, reply.Text)
		}
	case callClose:
		j.closing = false // done, or the log is not where the loss was seen: look again
	case callAttest:
		if reply.Status == StoreOK && reply.Identity == j.identity {
			j.attested[j.r.cfg.ID] = s.round
		}
	}
}

// confirmed takes a proof of the office, and of where the log ended.
func (j *storeJournal) confirmed(s *storeSlot, reply *StoreReply) {
	check, reads := j.checkAsked, j.readsAsked
	if j.plants(plant.OldConfirmCounts) {
		check, reads = max(check, j.checkWanted), append(reads, j.readsWanted...)
		j.checkWanted, j.readsWanted = 0, nil
	}
	j.checkAsked, j.readsAsked = 0, nil
	if j.holding && reply.Lead.GetTerm() == j.term {
		j.provenAt = max(j.provenAt, s.sentAt)
		if check != 0 {
			j.r.keeper.Confirmed(check)
		}
	}
	if reply.Lead.GetLast() == j.end.index && !bytes.Equal(reply.Lead.GetChain(), j.end.chain) {
		return // the next fetch finds out
	}
	for _, id := range reads {
		j.r.reads.confirmed(id, reply.Lead.GetLast())
	}
}

// fetched takes the tail of the log.
func (j *storeJournal) fetched(s *storeSlot, reply *StoreReply) {
	j.answeredAt, j.timeouts = j.r.now, 0
	if j.failing != "" {
		j.failing = ""
		j.timer.Reset(j.r.now) // the registrar could not beat either
	}
	j.identity, j.attested, j.first = reply.Identity, maps.Clone(reply.Attested), reply.First
	if j.attested == nil {
		j.attested = map[NodeID]uint64{}
	}
	j.fetchedTo = place{index: reply.Lead.GetLast(), chain: reply.Lead.GetChain()}
	j.publishedTo(reply.Published)
	if !j.extend(s, reply) {
		return
	}
	if !j.read && j.end.index >= reply.Lead.GetLast() {
		j.read, j.bootTerm = true, reply.Lead.GetTerm()
	}
	j.verified = j.verified || j.end.index >= j.floor.index
	j.loss, j.lostAt, j.closing = "", nil, false // what looked like a loss was another server
	j.judge()
	j.considerStanding()
}

// forgetful reports whether this replica has served the log before and has no mark of
// that: its word about the log would be worth nothing.
func (j *storeJournal) forgetful() bool {
	return !j.mark.Witness && j.r.registry.AnnouncedVersion(j.r.cfg.ID) != 0
}

// judge finds out whether anything keeps the log from being used.
func (j *storeJournal) judge() {
	switch {
	case j.lead == nil && !j.everyoneAttested():
		j.trouble = fmt.Sprintf("the store is empty; waiting for %s to confirm that it knows of no older log", j.unattested())
	case j.lead == nil:
		j.trouble = ""
	case j.estranged() && j.forgetful():
		j.trouble = "the store restarted or was replaced, and this node, which served the log before, has lost its mark: it cannot tell whether anything is missing; an operator must jump the fence (leaderd fence jump)"
	case j.lead.Closed != "":
		j.trouble = "the log is closed: " + j.lead.Closed
	case j.estranged():
		j.trouble = fmt.Sprintf("the store restarted or was replaced; waiting for %s to confirm that nothing is missing from it (if one is gone for good: leaderd fence jump)", j.unattested())
	default:
		j.trouble = ""
		if j.verified {
			j.setMark(func(m *StoreMark) { m.Identity, m.Round, m.Witness = j.lead.Identity, j.lead.Round, true })
		}
	}
}

func (j *storeJournal) unattested() string {
	var names []string
	for _, v := range j.r.cfg.Voters {
		if !j.attestedNow(v) {
			names = append(names, j.r.cfg.voterName(v))
		}
	}
	return strings.Join(names, ", ")
}

// considerStanding finds out whether this replica may stand without having waited
// for silence: on an empty log, for an office that was given up, for one that it
// held itself and nobody holds now, and on a server that all have attested.
func (j *storeJournal) considerStanding() {
	soon := false
	switch l := j.lead; {
	case j.holding:
	case l == nil:
		soon = j.everyoneAttested()
	case l.Closed != "":
	case j.estranged():
		soon = j.everyoneAttested()
		if soon {
			j.trouble = ""
		}
	case l.Holder == 0:
		soon = l.Term != j.vacated
	case NodeID(l.Holder) == j.r.cfg.ID:
		soon = l.Term == j.lastHeld || l.Term == j.bootTerm
	}
	switch {
	case !soon && j.attempt == nil:
		j.standAt = Never
	case soon && j.standAt == Never:
		j.standAt = j.r.now.Add(jitter(j.r.rng, j.r.cfg.HeartbeatInterval))
	}
}

// extend puts what was fetched behind what is known, if it belongs there.
func (j *storeJournal) extend(s *storeSlot, reply *StoreReply) bool {
	if snap := reply.Snapshot; snap != nil && snap.Index > j.end.index && !j.restore(snap, reply) {
		return false
	}
	for _, e := range reply.Entries {
		if e.Index <= j.end.index {
			continue
		}
		if j.plants(plant.GapAccepted) {
			j.stage(e)
			continue
		}
		if e.Index != j.end.index+1 || !bytes.Equal(e.Chain, ChainEntry(j.end.chain, e.Index, e.Term, e.Data)) {
			j.lost(fmt.Sprintf("entry %d of the store does not follow entry %d: entries are missing or were changed", e.Index, j.end.index), reply)
			return false
		}
		if !j.matchesFloor(e.Index, e.Chain, reply) {
			return false
		}
		j.stage(e)
	}
	last := reply.Lead.GetLast()
	switch {
	case j.plants(plant.GapAccepted):
	case len(reply.Entries) == 0 && last > j.end.index && s.end <= j.end.index:
		j.lost(fmt.Sprintf("the store says that it ends at entry %d and holds none after %d", last, j.end.index), reply)
		return false
	case last == j.end.index && !bytes.Equal(reply.Lead.GetChain(), j.end.chain):
		j.lost(fmt.Sprintf("the store holds another entry %d than this node has seen", last), reply)
		return false
	}
	return true
}

// restore takes a snapshot that replaces entries which are no longer kept.
func (j *storeJournal) restore(snap *StoredSnapshot, reply *StoreReply) bool {
	g, err := j.r.registryFrom(snap.Index, snap.Data)
	switch {
	case err != nil: // written by a newer build, perhaps: nothing that others must stop for
		j.r.Halt(fmt.Errorf("the snapshot at entry %d of the store: %w", snap.Index, err))
		return false
	case g.Revision() != snap.Index:
		j.r.Halt(fmt.Errorf("the snapshot at entry %d of the store is of revision %d: it is damaged", snap.Index, g.Revision()))
		return false
	case snap.Index >= j.floor.index && (g.nextFence < j.mark.NextFence || uint64(g.nextSession) < j.mark.NextSession):
		j.lost(fmt.Sprintf("the snapshot at entry %d of the store would give the fence %d again; this node has seen up to %d", snap.Index, g.nextFence, j.mark.NextFence), reply)
		return false
	case !j.matchesFloor(snap.Index, snap.Chain, reply):
		return false
	}
	j.restored, j.staged = g, nil
	j.restoredAt = place{index: snap.Index, term: snap.Term, chain: snap.Chain}
	j.end = j.restoredAt
	return true
}

// matchesFloor compares the entry at the mark with the one that was seen there.
func (j *storeJournal) matchesFloor(index uint64, chain []byte, reply *StoreReply) bool {
	if index == j.floor.index && !bytes.Equal(chain, j.floor.chain) {
		j.lost(fmt.Sprintf("the store holds another entry %d than this node has seen", index), reply)
		return false
	}
	return true
}
