package core

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"

	"github.com/omnirelay/leadership/core/plant"
)

// Who leads the log: when this replica stands, and what it appends while in office.

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

// round is the one in which this replica attests the server: the latest in which a
// replica attested it, and one in which this replica attested no other server.
func (j *storeJournal) round() uint64 {
	if j.plants(plant.OneRound) {
		return 1
	}
	r := j.mark.Round
	if j.mark.Identity != j.identity {
		r++
	}
	for _, v := range j.r.cfg.Voters {
		r = max(r, j.attested[v])
	}
	return r
}

// attestedNow reports whether a replica has found its mark on this server, and has
// attested no other one since.
func (j *storeJournal) attestedNow(v NodeID) bool {
	_, ok := j.attested[v]
	return ok && j.attested[v] == j.round()
}

// everyoneAttested reports whether every replica has found its mark on this server,
// and none has gone on to another one since.
func (j *storeJournal) everyoneAttested() bool {
	if j.plants(plant.AdoptedBySome) {
		return len(j.attested) > 0
	}
	return !slices.ContainsFunc(j.r.cfg.Voters, func(v NodeID) bool { return !j.attestedNow(v) })
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

// handOver vacates the office by an append under the next term that names nobody:
// the others need not wait for silence.
func (j *storeJournal) handOver() { j.leaving = j.leaving || j.holding }

// handOverTo vacates the office; who takes it next is not in this replica's hand.
func (j *storeJournal) handOverTo(NodeID) { j.handOver() }

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
	case j.unknown() && !j.everyoneAttested(): // what was to be repeated, likewise
		j.attempt, j.standAt = nil, Never
		return nil
	default:
		j.r.status.campaigns++
		j.timer.Reset(j.r.now)
		j.standAt = Never
		j.attempt = j.nextAppend(j.lead.GetTerm()+1, j.r.cfg.ID, [][]byte{nil})
		j.attempt.Adopt = j.estranged()
		j.attempt.Voters = slices.Clone(j.r.cfg.Voters)
		if j.unknown() {
			j.attempt.Lead.Round = j.round()
		}
		if j.plants(plant.AdoptedBySome) {
			j.attempt.Voters = slices.DeleteFunc(j.attempt.Voters, func(v NodeID) bool { return !j.attestedNow(v) })
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
		AppendId: id, Identity: j.identity, Generation: j.lead.GetGeneration(), Round: j.lead.GetRound(),
	}
	return a
}
