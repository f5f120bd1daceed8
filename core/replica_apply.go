package core

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/core/logpb"
	"github.com/omnirelay/leadership/core/plant"
)

// registryFrom decodes the registry of a snapshot.
func (r *Replica) registryFrom(index uint64, data []byte) (*Registry, error) {
	s := &logpb.Snapshot{}
	if err := proto.Unmarshal(data, s); err != nil {
		return nil, fmt.Errorf("the snapshot at index %d does not decode: %w", index, err)
	}
	return Restore(s, r.cfg.MaxVersion)
}

// adopt makes g this replica's registry. Notes that stand in it are dated now:
// later than they were made, so no silence is counted that was not measured.
func (r *Replica) adopt(g *Registry) {
	g.plants, g.self = r.cfg.Plants, r.cfg.ID
	r.registry = g
	r.claims.adopt(r.now, g)
	clear(r.notedAt)
	for _, s := range g.Sessions() {
		if s.Noted {
			r.notedAt[s.ID] = r.now
		}
	}
}

// install replaces the registry, while running, by the one a snapshot brought.
func (r *Replica) install(g *Registry) {
	r.status.installs++
	old := r.registry
	r.adopt(g)
	// By revision, not by number: what this replica had told of entries that a store
	// lost has numbers that other records have now.
	for _, rec := range g.History().records {
		if rec.Revision > old.revision {
			r.out.Records = append(r.out.Records, rec)
		}
	}
	r.attached.markAll()
	r.requests.answerKept(&r.out, &g.replies)
	r.followNodes(0, &Outcome{Nodes: true})
}

// watchOffice notices that this replica became registrar or ceased to be it.
func (r *Replica) watchOffice() {
	lead, term, leading := r.journal.office()
	if lead != r.lead {
		r.lead = lead
		r.requests.retryNow(r.now)
		r.reads.retryNow(r.now)
	}
	if leading == r.leading && term == r.term {
		return
	}
	if r.leading {
		r.endOffice()
	}
	r.leading, r.term = leading, term
	if leading {
		r.beginOffice()
	}
}

func (r *Replica) beginOffice() {
	r.status.offices++
	r.officeOpen = false
	r.journal.officeBegan()
	r.keeper.Begin(r.term)
	r.duties.forget()
	if r.cfg.Plants.Has(plant.OfficeOutlived) || r.cfg.Plants.Has(plant.KeepalivesBeforeFirstEntry) {
		r.keeper.plantAdopt(r.now, r.registry)
	}
}

func (r *Replica) endOffice() {
	r.officeOpen = false
	r.keeper.End()
	r.duties.forget()
	r.requests.officeEnded()
	r.journal.officeEnded()
}

// confirm has it proven that this replica still leads, for the keepalives that
// wait for that, and where the log ends, for the reads.
func (r *Replica) confirm() {
	if r.leading && r.keeper.WantsCheck() {
		r.journal.confirmOffice(r.keeper.BeginCheck())
	}
	for _, id := range r.reads.due(r.now, r.cfg.ElectionTimeout) {
		r.journal.confirmRead(id)
	}
}

// Ready is what must be made durable, and then sent.
type Ready struct {
	// Batch must be durable before any of Messages is sent, any of Calls is made,
	// and before Advance is called.
	Batch    Batch
	Messages []Message
	Calls    []StoreCall
}

// HasReady reports whether there is anything to persist, send or give out.
func (r *Replica) HasReady() bool {
	return r.err == nil && (r.journal.hasReady() || !r.out.empty() || r.reads.hasFailed() || r.attached.dirty())
}

// Ready takes out the next step. Advance must follow once it is durable and sent.
func (r *Replica) Ready() Ready {
	rd := Ready{}
	r.journal.ready(&rd)
	return rd
}

// Advance takes in that the latest Ready is durable and sent, applies what is
// committed, and returns what that gives out. now was read after the persisting.
func (r *Replica) Advance(now Time) Emission {
	r.now = now
	if err := r.journal.advance(); err != nil {
		r.Halt(err)
		return Emission{}
	}
	r.out.Reads = append(r.out.Reads, r.reads.ready(r.registry.Revision())...)
	r.collectAcks()
	r.sendViews()
	out := r.out
	r.out = Emission{}
	return out
}

// apply executes one committed entry; twice, if a plant wants it.
func (r *Replica) apply(e logEntry, twice bool) error {
	term := e.term
	if r.cfg.Plants.Has(plant.TermOfCommitter) {
		term = r.term
	}
	r.registry.plantWall = r.plantWall
	out, err := r.registry.Apply(e.index, term, e.data)
	if err != nil {
		return err
	}
	if twice {
		r.registry.plantAgain(e.index, e.term, e.data, out)
	}
	if err := r.journal.recorded(out); err != nil {
		return err
	}
	r.take(e.term, out)
	return r.answer(e.data, out)
}

// applied takes in what an entry without commands did.
func (r *Replica) applied(term uint64, out *Outcome) error {
	if err := r.journal.recorded(out); err != nil {
		return err
	}
	r.take(term, out)
	return nil
}

// take tells every part what an applied entry did.
func (r *Replica) take(term uint64, out *Outcome) {
	r.followSessions(out)
	if r.leading && !r.officeOpen && term == r.term {
		r.openOffice()
	}
	for _, k := range out.Keeper {
		r.keeper.Applied(k)
	}
	r.attached.caughtUp()
	r.claims.follow(r.now, r.registry, out.Records)
	if len(out.Sessions) > 0 {
		r.stirAdvice()
	}
	r.stirDrains()
	r.followNodes(term, out)
}

// openOffice: the office's first entry is applied.
func (r *Replica) openOffice() {
	r.officeOpen = true
	r.keeper.Open(r.now, r.registry, r.notedAt)
	r.duties.open(r.now, r.cfg.RebalanceInterval)
	r.beginAdvice()
	r.stirDrains()
}

// followSessions tells keeper and attachments what an entry did to sessions.
func (r *Replica) followSessions(out *Outcome) {
	for _, id := range out.Notes {
		r.notedAt[id] = r.now
	}
	for _, id := range out.Sessions {
		s, live := r.registry.Session(id)
		if !live {
			delete(r.notedAt, id)
			r.keeper.Ended(id)
		} else {
			if !s.Noted {
				delete(r.notedAt, id)
			}
			r.keeper.Opened(r.now, id, durationOf(s.TTL))
		}
		r.attached.mark(id)
	}
}
