package core

import "time"

// readTable holds the local reads that wait until this copy holds everything that
// was acknowledged before they were asked for. The registrar confirms its office
// with a quorum and names an index; the read is served once that is applied
// (Ongaro 2014, section 6.4).
type readTable struct {
	waiting map[uint64]*localRead // by the id of the latest attempt
	next    uint64
	life    uint64 // of the process: sets its attempts apart from those of an earlier one
	dueAt   Time
	failed  []ReadDone
}

type localRead struct {
	tags    []uint64
	retryAt Time
	giveUp  Time
	index   uint64 // 0: not confirmed
}

func newReadTable(life uint64) readTable {
	return readTable{waiting: map[uint64]*localRead{}, life: life, dueAt: Never}
}

// add takes a read. Reads that arrive before the next confirmation is begun share it.
func (t *readTable) add(now Time, tag uint64, window time.Duration) {
	if len(t.waiting) >= MaxPending {
		t.failed = append(t.failed, ReadDone{Tag: tag, Err: refuse(CodeOverloaded, "%d reads are pending on this node; retry later", MaxPending)})
		return
	}
	t.next++
	t.waiting[t.next] = &localRead{tags: []uint64{tag}, retryAt: now, giveUp: now.Add(window)}
	t.dueAt = now
}

func (t *readTable) deadline() Time {
	if len(t.failed) > 0 {
		return minTime
	}
	return t.dueAt
}

func (t *readTable) retryNow(now Time) {
	for _, id := range sortedKeys(t.waiting) {
		if t.waiting[id].index == 0 {
			t.waiting[id].retryAt = now
			t.dueAt = now
		}
	}
}

// due gives up on reads whose time is over, and returns one id under which to
// confirm all that are to be tried now.
func (t *readTable) due(now Time, again time.Duration) []uint64 {
	if now < t.dueAt {
		return nil
	}
	t.dueAt = Never
	var batch *localRead
	for _, id := range sortedKeys(t.waiting) {
		w := t.waiting[id]
		switch {
		case now >= w.giveUp:
			delete(t.waiting, id)
			for _, tag := range w.tags {
				t.failed = append(t.failed, ReadDone{Tag: tag, Err: refuse(CodeUnavailable, "no registrar confirmed its office in time")})
			}
			continue
		case w.index == 0 && now >= w.retryAt:
			delete(t.waiting, id)
			if batch == nil {
				batch = &localRead{retryAt: now.Add(again), giveUp: w.giveUp}
			}
			batch.tags = append(batch.tags, w.tags...)
			batch.giveUp = min(batch.giveUp, w.giveUp)
			continue
		case w.index == 0:
			t.dueAt = min(t.dueAt, w.retryAt)
		}
		t.dueAt = min(t.dueAt, w.giveUp)
	}
	if batch == nil {
		return nil
	}
	t.next++
	t.waiting[t.next] = batch
	t.dueAt = min(t.dueAt, batch.retryAt, batch.giveUp)
	return []uint64{t.next}
}

// confirmed takes the index that a registrar named for an attempt.
func (t *readTable) confirmed(id, index uint64) {
	if w := t.waiting[id]; w != nil && w.index == 0 {
		w.index = index
	}
}

// ready returns the reads that can be answered now that applied is applied.
func (t *readTable) ready(applied uint64) []ReadDone {
	done := t.failed
	t.failed = nil
	for _, id := range sortedKeys(t.waiting) {
		if w := t.waiting[id]; w.index != 0 && w.index <= applied {
			delete(t.waiting, id)
			for _, tag := range w.tags {
				done = append(done, ReadDone{Tag: tag})
			}
		}
	}
	return done
}

func (t *readTable) hasFailed() bool { return len(t.failed) > 0 }
