package core

import (
	"fmt"
	"time"

	"github.com/omnirelay/leadership/core/logpb"
	"github.com/omnirelay/leadership/core/plant"
)

// rebalanceMoves is how many scopes one round of rebalancing moves at most.
const rebalanceMoves = 4

// rebalanceLooks bounds how many sessions one round weighs for scopes: some 10 ms. With
// more, the next round goes on where it ended.
const rebalanceLooks = 1 << 16

// duties are what a registrar does of its own accord, keepers' decisions aside:
// bootstrap, announce versions, end a formation, rebalance, go on with drains, tell the log
// of gossip. A replica that is no registrar has one duty, to announce its version.
type duties struct {
	announceAt Time
	// announcements of the node's name in a row that had no effect yet
	announcements int
	bootstrapAt   Time
	formAt        Time
	formation     uint64 // that formAt belongs to
	rebalanceAt   Time
	balancedAt    uint64 // the revision at which nothing was to be moved
	// Of the sweep under way: behind which scope it goes on, and the revision at which it
	// began; 0: something was moved since.
	balanceFrom  string
	balanceSince uint64
	drainAt      Time   // when to go on with drains
	drainFrom    string // behind which scope
	nodesAt      Time   // when to look at what is to be done with nodes

	// The office is to be handed on, and was asked to be until then.
	move              *RegistrarMove
	moveAt, moveUntil Time
}

func newDuties() duties {
	return duties{announceAt: minTime, bootstrapAt: Never, formAt: Never, rebalanceAt: Never, drainAt: Never, nodesAt: Never, moveAt: Never}
}

// forget drops what belonged to an office, at its beginning and at its end: a
// deadline that outlived it would never be met, and never let the host sleep.
func (d *duties) forget() {
	d.bootstrapAt, d.formAt, d.rebalanceAt, d.formation = Never, Never, Never, 0
	d.balanceFrom, d.balanceSince = "", 0
	d.drainAt, d.drainFrom, d.nodesAt, d.moveAt, d.move = Never, "", Never, Never, nil
}

func (d *duties) open(now Time, interval time.Duration) {
	d.bootstrapAt, d.nodesAt = now, now
	if interval > 0 {
		d.rebalanceAt = now.Add(interval)
	}
}

func (d *duties) deadline() Time {
	return min(d.announceAt, d.bootstrapAt, d.formAt, d.rebalanceAt, d.drainAt, d.nodesAt, d.moveAt)
}

func (r *Replica) tickDuties() {
	r.announce()
	if !r.officeOpen {
		return
	}
	r.bootstrap()
	r.form()
	r.rebalance()
	r.drainOn()
	r.advise()
	r.changeNodes()
	r.moveRegistrar()
}

// announce tells the registry which protocol version this replica understands, what its
// node is called and where it listens.
func (r *Replica) announce() {
	if r.now < r.duties.announceAt {
		return
	}
	self := r.introduction()
	if r.registry.Version() > r.cfg.MaxVersion || (self == nil && r.registry.AnnouncedVersion(r.cfg.ID) == r.cfg.MaxVersion) {
		r.duties.announceAt, r.duties.announcements = Never, 0
		return
	}
	r.duties.announceAt = r.now.Add(r.cfg.ElectionTimeout)
	if self != nil { // which may be refused for good
		r.duties.announcements = min(r.duties.announcements+1, 7)
		r.duties.announceAt = r.now.Add(r.cfg.ElectionTimeout << (r.duties.announcements - 1))
	}
	if r.lead == 0 || r.registry.ClusterID() == "" {
		return
	}
	r.handToRegistrar([]*logpb.Command{r.own(&logpb.Command{Kind: &logpb.Command_AnnounceVersion{
		AnnounceVersion: &logpb.AnnounceVersion{Replica: uint64(r.cfg.ID), MaxVersion: r.cfg.MaxVersion, Node: self},
	}})})
}

// bootstrap gives the registry its first command.
func (r *Replica) bootstrap() {
	d := &r.duties
	if r.now < d.bootstrapAt {
		return
	}
	d.bootstrapAt = Never
	if id := r.registry.ClusterID(); id != "" {
		if id != r.cfg.ClusterID {
			r.Halt(fmt.Errorf("the registry belongs to cluster %q, this node is configured for %q", id, r.cfg.ClusterID))
		}
		return
	}
	d.bootstrapAt = r.now.Add(r.cfg.ElectionTimeout)
	b := &logpb.Bootstrap{ClusterId: r.cfg.ClusterID, FormationMembers: uint32(r.cfg.FormationMembers)}
	for _, v := range r.cfg.Voters {
		b.Voters = append(b.Voters, uint64(v))
	}
	r.requests.enqueue(r.own(&logpb.Command{Kind: &logpb.Command_Bootstrap{Bootstrap: b}}))
}

// form ends a formation that has waited long enough: since the first member stood,
// or, after a move, since this office began, as long as members of before may
// believe that they lead.
func (r *Replica) form() {
	d := &r.duties
	forming, formation := r.registry.Forming()
	wait := r.registry.Wait()
	if !forming || (r.registry.standing() == 0 && wait == 0) {
		d.formAt, d.formation = Never, 0
		return
	}
	if d.formation != formation {
		d.formation, d.formAt = formation, r.now.Add(max(r.cfg.FormationWindow, r.cfg.Epsilon.Stretch(wait)))
	}
	if r.now < d.formAt && !(wait > 0 && r.cfg.Plants.Has(plant.JumpWithoutWait)) {
		return
	}
	d.formAt = r.now.Add(r.cfg.ElectionTimeout)
	r.requests.enqueue(r.own(&logpb.Command{Kind: &logpb.Command_EndFormation{
		EndFormation: &logpb.EndFormation{Formation: formation},
	}}))
}

// rebalance asks holders to hand a few scopes over. A plan that found nothing is
// not made again until the registry has changed.
func (r *Replica) rebalance() {
	d := &r.duties
	if r.now < d.rebalanceAt {
		return
	}
	d.rebalanceAt = r.now.Add(r.cfg.RebalanceInterval)
	if d.balancedAt == r.registry.Revision() {
		return
	}
	if d.balanceFrom == "" {
		d.balanceSince = r.registry.Revision()
	}
	moves, on := r.registry.planMoves(rebalanceMoves, d.balanceFrom, rebalanceLooks)
	d.balanceFrom = on
	if on != "" && len(moves) < rebalanceMoves {
		d.rebalanceAt = r.now.Add(r.cfg.RebalanceInterval / 10)
	}
	if len(moves) > 0 {
		d.balanceSince = 0 // it has changed
	}
	if on == "" && d.balanceSince == r.registry.Revision() {
		d.balancedAt = d.balanceSince
	}
	for _, m := range moves {
		r.requests.enqueue(r.own(&logpb.Command{Kind: &logpb.Command_Transfer{
			Transfer: &logpb.Transfer{Scope: m.Scope, ToMember: m.To, Fence: m.Fence, Reason: AskRebalance},
		}}))
	}
}
