package gossip

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/omnirelay/leadership/core"
)

const (
	// MaxMembers is the most members a node knows, gone ones among them.
	MaxMembers = core.MaxGossipMembers
	// keepGone is how long one that is gone is remembered.
	keepGone = 10 * time.Minute
	// gossipToGone is how long one that is gone is still told of it, so that it can
	// object. Until then memberlist remembers it too.
	gossipToGone = 15 * time.Second
)

// Status is what a node believes of a member.
type Status string

// All statuses.
const (
	StatusAlive   Status = "alive"
	StatusSuspect Status = "suspect" // it does not answer
	StatusDead    Status = "dead"    // it has not answered for long
	StatusLeft    Status = "left"    // it said farewell
)

// Statuses are all of them.
var Statuses = []Status{StatusAlive, StatusSuspect, StatusDead, StatusLeft}

// health is what the core calls a status.
func (s Status) health() core.Health {
	switch s {
	case StatusAlive:
		return core.HealthAlive
	case StatusSuspect:
		return core.HealthSuspect
	case StatusDead:
		return core.HealthDead
	case StatusLeft:
		return core.HealthLeft
	}
	return core.HealthUnknown
}

// Peer is a member as this node sees it.
type Peer struct {
	ID          string
	Status      Status
	Since       time.Time // when it took that status
	Role        string
	ClusterID   string
	Region      string
	MeshVersion string
	Supported   bool // the mesh works with MeshVersion
	HTTP3       bool
	Labels      map[string]string
	Address     string    // host:port at which it gossips
	LastSeen    time.Time // when this node last heard of it
}

// record is what a node knows of a member.
type record struct {
	Peer
	life   uint64
	raw    []byte // its metadata, as it came
	claims claimSet
	queued bool
	// What was told of it last.
	told            core.Health
	toldUnsupported bool
}

// roster holds what is known of all members and what is still to be told of it.
// memberlist calls it under a lock of its own: the roster never calls memberlist.
type roster struct {
	cluster  string
	versions versionRange
	counts   *counters
	now      func() time.Time
	wake     chan struct{} // something is to be told

	mu      sync.Mutex
	records map[string]*record
	present int      // members that are not gone
	news    []notice // in order; one for each record that is queued, and the forgotten
}

type notice struct {
	id        string
	forgotten bool
}

func newRoster(cluster string, versions versionRange, counts *counters, now func() time.Time) *roster {
	return &roster{cluster: cluster, versions: versions, counts: counts, now: now, wake: make(chan struct{}, 1), records: map[string]*record{}}
}

var (
	errCluster = errors.New("it is of another cluster")
	errFull    = fmt.Errorf("%d members are known already", MaxMembers)
	errEnded   = errors.New("this life of it said farewell")
)

// knows tells whether a member is there, at that address, and said the same of itself.
func (r *roster) knows(id, address string, raw []byte) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	rec := r.records[id]
	return rec != nil && !rec.gone() && rec.Address == address && bytes.Equal(rec.raw, raw)
}

// admit tells whether word of a living member may be believed.
func (r *roster) admit(id string, m Metadata) error {
	if m.ClusterID != r.cluster {
		return errCluster
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	rec, known := r.records[id]
	switch {
	case known && rec.Status == StatusLeft && rec.life == m.Life:
		return errEnded // an old packet: who left does not come back in the same life
	case !known && len(r.records) >= MaxMembers && !r.makeRoom():
		return errFull
	}
	return nil
}

// makeRoom forgets the member that has been gone for longest, if it has been for long.
func (r *roster) makeRoom() bool {
	var oldest *record
	for _, rec := range r.records {
		if rec.gone() && (oldest == nil || rec.Since.Before(oldest.Since)) {
			oldest = rec
		}
	}
	if oldest == nil || r.now().Sub(oldest.Since) < 2*gossipToGone {
		return false
	}
	r.forget(oldest)
	return true
}

// expire forgets who has been gone for long enough.
func (r *roster) expire() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, rec := range r.records {
		if rec.gone() && r.now().Sub(rec.Since) >= keepGone {
			r.forget(rec)
		}
	}
}

func (r *roster) forget(rec *record) {
	delete(r.records, rec.ID)
	r.tell(notice{rec.ID, true})
}

func (rec *record) gone() bool { return rec.Status == StatusDead || rec.Status == StatusLeft }

// joined takes a member that is alive, or one that has changed what it says of itself.
func (r *roster) joined(id, address string, m Metadata, raw []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rec := r.records[id]
	if rec == nil {
		rec = &record{}
		r.records[id] = rec
	}
	if rec.life != m.Life {
		rec.claims = claimSet{}
	}
	rec.life, rec.raw = m.Life, slices.Clone(raw)
	now := r.now()
	status, since := rec.Status, rec.Since
	rec.Peer = Peer{
		ID: id, Status: status, Since: since, Role: m.Role, ClusterID: m.ClusterID, Region: m.Region, MeshVersion: m.MeshVersion,
		Supported: r.versions.holds(m.MeshVersion), HTTP3: m.HTTP3, Labels: m.Labels, Address: address, LastSeen: now,
	}
	r.become(rec, StatusAlive)
	r.queue(rec) // another version may be supported now
}

// gone takes that memberlist has given a member up, or heard it say farewell: it does
// not tell which.
func (r *roster) gone(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if rec := r.records[id]; rec != nil && rec.Status != StatusLeft {
		r.become(rec, StatusDead)
	}
}

// suspect takes that a member does not answer. It reports whether that is news.
func (r *roster) suspect(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	rec := r.records[id]
	if rec == nil || rec.Status != StatusAlive {
		return false
	}
	r.become(rec, StatusSuspect)
	return true
}

// answered takes that a member answered. It reports whether that is news.
func (r *roster) answered(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	rec := r.records[id]
	if rec == nil || rec.gone() {
		return false // it is memberlist's to say that it is back
	}
	rec.LastSeen = r.now()
	if rec.Status != StatusSuspect {
		return false
	}
	r.become(rec, StatusAlive)
	return true
}

// leaves takes a farewell.
func (r *roster) leaves(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if rec := r.records[id]; rec != nil {
		r.become(rec, StatusLeft)
	}
}

// hear takes a word of a member and says what it is worth.
func (r *roster) hear(w *Word) hearing {
	r.mu.Lock()
	defer r.mu.Unlock()
	rec := r.records[w.Member]
	if rec == nil || rec.life != w.Life || rec.Status == StatusLeft || w.Set < rec.claims.set {
		return heardStale
	}
	now := r.now()
	if !rec.claims.take(w, now) {
		return heardBefore
	}
	rec.LastSeen = now
	if w.Leaving {
		r.become(rec, StatusLeft)
		return heardFresh
	}
	rec.claims.fresh = true
	r.queue(rec)
	return heardFresh
}

// hearing is what a word is worth.
type hearing int

const (
	heardFresh  hearing = iota
	heardBefore         // it came along another way already
	heardStale          // of nobody who is there, of another life of it, or of a set that was given up
)

// become sets the status of a member and what is to be told of it.
func (r *roster) become(rec *record, s Status) {
	if rec.Status == s {
		return
	}
	before := rec.Status != "" && !rec.gone()
	rec.Status, rec.Since = s, r.now()
	if now := !rec.gone(); now && !before {
		r.present++
	} else if before && !now {
		r.present--
	}
	r.queue(rec)
}

func (r *roster) queue(rec *record) {
	if !rec.queued {
		rec.queued = true
		r.tell(notice{id: rec.ID})
	}
}

func (r *roster) tell(n notice) {
	r.news = append(r.news, n)
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// next takes the next piece of news. ok: there was one.
func (r *roster) next() (news core.GossipNews, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.news) > 0 {
		n := r.news[0]
		r.news = r.news[1:]
		if n.forgotten {
			return core.GossipNews{MemberID: n.id}, true
		}
		rec := r.records[n.id]
		if rec == nil || !rec.queued {
			continue // forgotten since
		}
		rec.queued = false
		if news, ok = rec.news(r.now()); ok {
			return news, true
		}
	}
	r.news = nil
	return core.GossipNews{}, false
}

// news is what is to be told of a member that was not told before.
func (rec *record) news(now time.Time) (core.GossipNews, bool) {
	n := core.GossipNews{MemberID: rec.ID, Health: rec.Status.health(), Unsupported: !rec.Supported}
	if rec.claims.fresh && !rec.gone() {
		n.Claims, n.ClaimsFor = rec.claims.now(now)
	}
	rec.claims.fresh = false
	if n.Health == rec.told && n.Unsupported == rec.toldUnsupported && n.ClaimsFor == 0 {
		return n, false
	}
	rec.told, rec.toldUnsupported = n.Health, n.Unsupported
	return n, true
}

// peers returns what is known of all members, sorted.
func (r *roster) peers() []Peer {
	r.mu.Lock()
	defer r.mu.Unlock()
	peers := make([]Peer, 0, len(r.records))
	for _, id := range slices.Sorted(maps.Keys(r.records)) {
		p := r.records[id].Peer
		p.Labels = maps.Clone(p.Labels)
		peers = append(peers, p)
	}
	return peers
}

// justLeft is how long one that left is not called back: its process may still listen.
const justLeft = 5 * time.Second

// living are the addresses of the members that are not gone, or left just now.
func (r *roster) living() map[string]bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	found := map[string]bool{}
	for _, rec := range r.records {
		if !rec.gone() || rec.Status == StatusLeft && r.now().Sub(rec.Since) < justLeft {
			found[rec.Address] = true
		}
	}
	return found
}

// target is a member to be probed.
type target struct{ id, address string }

// targets are those of the wanted members that are not gone, and beside them all who are
// suspect: those are asked until they answer or are given up.
func (r *roster) targets(wanted []string) (watched, suspects []target) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, id := range wanted {
		if rec := r.records[id]; rec != nil && !rec.gone() {
			watched = append(watched, target{id, rec.Address})
		}
	}
	for _, rec := range r.records {
		if rec.Status == StatusSuspect && !slices.Contains(wanted, rec.ID) {
			suspects = append(suspects, target{rec.ID, rec.Address})
		}
	}
	return watched, suspects
}

// census counts the members by status.
func (r *roster) census() map[Status]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	count := map[Status]int{}
	for _, rec := range r.records {
		count[rec.Status]++
	}
	return count
}

// size is how many members are not gone.
func (r *roster) size() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.present
}
