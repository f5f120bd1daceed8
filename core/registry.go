package core

import (
	"time"

	"github.com/omnirelay/leadership/core/logpb"
	"github.com/omnirelay/leadership/core/plant"
)

// ProtocolVersion is the newest command schema this build understands.
const ProtocolVersion uint32 = 3

// baseVersion is what every replica understood from the start.
const baseVersion uint32 = 1

// Registry is the state machine that the log feeds: sessions, scopes, who leads
// them, and every number that must never be given twice. Two registries that
// applied the same entries are equal, field by field. It reads no clock and knows
// no registrar; wall times in it come from the log and decide nothing.
type Registry struct {
	clusterID string
	revision  uint64
	self      NodeID // for planted bugs only
	plants    plant.Set

	nextFence   uint64 // the fence of the next election
	nextSession SessionID

	sessions map[SessionID]*session
	members  map[string][]SessionID // live sessions by member id, oldest first. It follows from sessions.
	scopes   map[string]*scope
	vacant   map[string]*scope
	cordoned map[string]bool
	draining map[string]bool // cordoned members that are asked for all they lead
	observed map[string]Observation
	// filled: nobody can lead a vacant scope but those that were vacated since, which are
	// in vacated. Both follow from the rest, and only save looking at it.
	filled  bool
	vacated map[string]*scope

	replies replyWindow

	// The last keeper decision that took effect: decisions are ordered by (term, number).
	keeperTerm, keeperNumber uint64

	history History

	// The nodes that keep the registry, as far as they told their names, and those of
	// before, by name and by id; see registry_nodes.go.
	nodes      map[NodeID]*logpb.Node
	removed    map[string]NodeID
	removedIDs map[NodeID]bool

	voters           []NodeID
	versions         map[NodeID]uint32
	activeVersion    uint32
	maxVersion       uint32 // what this build understands; not part of the state
	formationMembers uint32
	forming          bool
	formation        uint64 // how many formations there were
	// wait is how long members of before a move may still believe that they lead, in
	// nanoseconds. While it is not 0 only EndFormation ends the formation.
	wait int64
	// longestTTL is the longest TTL of any session there ever was, in nanoseconds.
	longestTTL int64

	plantWall  int64 // a replica's own clock
	plantTwice bool
	outgoing   bool // see ChangingVoters; not part of the state

	// Of the entry being applied.
	entry   *logpb.Entry
	command *logpb.Command
	ordinal uint32
	outcome *Outcome
}

// session is a member's one lease with the registry.
type session struct {
	id       SessionID
	member   string
	labels   map[string]string
	weight   uint32
	ttl      int64 // nanoseconds
	openedAt uint64
	// changedAt is the last revision at which the session's view changed.
	changedAt uint64
	stands    []*logpb.Stand
	// wish is the number of the last stand or withdrawal that took effect.
	wish uint64

	// A note of silence that stands. Without it a new registrar would wait a full
	// TTL for a member that was silent long before.
	noted    bool
	notedAge int64
	notedAt  uint64

	leads map[string]*scope
	// drained are those of leads that a drain asks for. It follows from the rest.
	drained map[string]*scope
}

// scope is what one leader is elected for.
type scope struct {
	spec       *logpb.ScopeSpec
	term       uint64
	leader     *session // nil: vacant
	fence      uint64
	issuedWall int64
	// failover is what the present holder was promised; a new declaration counts
	// from the next election.
	failover   logpb.ScopeSpec_Failover
	resignedBy SessionID
	ask        *ask
	// vacantSince is the wall time at which it became vacant. For people.
	vacantSince int64
}

// ask is a standing request to the holder.
type ask struct {
	reason, to, correlationID, actor, why string
}

// Outcome is what one entry did.
type Outcome struct {
	Revision uint64
	Results  []*Result // one per command
	Records  []*Record // transitions, in order
	// Sessions that were opened, noted, cancelled or ended, or whose view changed,
	// in the order in which that happened; an id may repeat.
	Sessions []SessionID
	// Notes are the sessions whose note of silence was made by this entry.
	Notes []SessionID
	// Nodes is true when it changed what is to be done with nodes; Move asks the registrar
	// to hand its office on, nil: no.
	Nodes bool
	Move  *RegistrarMove
	// Keeper lists the keeper decisions of the entry, whether or not they took effect.
	Keeper []KeeperApplied
}

// RegistrarMove says who is to be registrar next; 0: any other voter.
type RegistrarMove struct{ To NodeID }

// KeeperApplied tells a registrar that its decision came back from the log.
type KeeperApplied struct {
	Decision *logpb.KeeperDecision
	Void     bool
}

// NewRegistry returns the registry before the first entry. maxVersion 0 means
// ProtocolVersion.
func NewRegistry(maxVersion uint32) *Registry {
	if maxVersion == 0 {
		maxVersion = ProtocolVersion
	}
	return &Registry{
		nextFence: 1, nextSession: 1, maxVersion: maxVersion, activeVersion: baseVersion, forming: true, formation: 1,
		sessions: map[SessionID]*session{}, members: map[string][]SessionID{}, scopes: map[string]*scope{},
		vacant: map[string]*scope{}, vacated: map[string]*scope{}, cordoned: map[string]bool{}, draining: map[string]bool{},
		observed: map[string]Observation{}, versions: map[NodeID]uint32{},
		nodes: map[NodeID]*logpb.Node{}, removed: map[string]NodeID{}, removedIDs: map[NodeID]bool{},
		replies: newReplyWindow(), history: newHistory(),
	}
}

// Apply executes one log entry at the given index and term of the log. An empty
// payload takes a place and does nothing. The error is fatal: the replica has met
// something it does not understand and must stop, since skipping would diverge.
func (g *Registry) Apply(index, term uint64, payload []byte) (*Outcome, error) {
	entry, err := decodeEntry(payload, g.maxVersion)
	if err != nil {
		return nil, err
	}
	g.revision, g.entry, g.ordinal = index, entry, 0
	g.outcome = &Outcome{Revision: index}
	for _, c := range entry.Commands {
		g.command = c
		g.outcome.Results = append(g.outcome.Results, g.execute(c, term))
	}
	out := g.outcome
	g.entry, g.command, g.outcome = nil, nil, nil
	return out, nil
}

// execute runs one command, or returns the reply it had before.
func (g *Registry) execute(c *logpb.Command, term uint64) *Result {
	if k := c.GetKeeper(); k != nil {
		return g.keeperDecision(k, term)
	}
	if r := g.replies.lookup(c.RequestId, c.Base); r != nil && !g.plantTwice {
		return r
	}
	result := &Result{Revision: g.revision}
	if err := g.dispatch(c, result); err != nil {
		result = &Result{Revision: g.revision, Code: string(err.Code), Field: err.Field, Message: err.Message}
	}
	if !g.plants.Has(plant.ReplyCacheLost) {
		g.replies.keep(c.RequestId, g.revision, result)
	}
	return result
}

func (g *Registry) dispatch(c *logpb.Command, result *Result) *Error {
	if v := commandVersion(c); v > g.activeVersion && c.GetBootstrap() == nil && c.GetAnnounceVersion() == nil {
		return refuse(CodeUnsupported, "needs protocol version %d; the registry is at %d until every replica announced more", v, g.activeVersion)
	}
	switch c.Kind.(type) {
	case *logpb.Command_Stand, *logpb.Command_Withdraw, *logpb.Command_OpenSession, *logpb.Command_CloseSession, *logpb.Command_Resign, *logpb.Command_Read:
		// What these change is seen to where they change it.
	default:
		g.filled = false // until all vacancies were looked at again
	}
	switch k := c.Kind.(type) {
	case *logpb.Command_Bootstrap:
		return g.bootstrap(k.Bootstrap)
	case *logpb.Command_AnnounceVersion:
		return g.announceVersion(k.AnnounceVersion)
	case *logpb.Command_OpenSession:
		return g.openSession(k.OpenSession, result)
	case *logpb.Command_CloseSession:
		return g.closeSession(k.CloseSession)
	case *logpb.Command_Stand:
		return g.stand(k.Stand)
	case *logpb.Command_Withdraw:
		return g.withdraw(k.Withdraw)
	case *logpb.Command_Resign:
		return g.resign(k.Resign, result)
	case *logpb.Command_Transfer:
		return g.transfer(k.Transfer, result)
	case *logpb.Command_CancelTransfer:
		return g.cancelTransfer(k.CancelTransfer)
	case *logpb.Command_DeclareScopes:
		return g.declareScopes(k.DeclareScopes)
	case *logpb.Command_RetireScopes:
		return g.retireScopes(k.RetireScopes)
	case *logpb.Command_Cordon:
		return g.cordon(k.Cordon)
	case *logpb.Command_ObserveMembers:
		return g.observe(k.ObserveMembers)
	case *logpb.Command_ReportSplitBrain:
		return g.reportSplitBrain(k.ReportSplitBrain)
	case *logpb.Command_AddNode:
		return g.addNode(k.AddNode)
	case *logpb.Command_RemoveNode:
		return g.removeNode(k.RemoveNode)
	case *logpb.Command_ReplaceNode:
		return g.replaceNode(k.ReplaceNode)
	case *logpb.Command_MoveRegistrar:
		return g.moveRegistrar(k.MoveRegistrar)
	case *logpb.Command_EndFormation:
		return g.endFormation(k.EndFormation)
	case *logpb.Command_Read:
		return nil
	}
	return refuse(CodeUnsupported, "unknown command")
}

func (g *Registry) bootstrap(b *logpb.Bootstrap) *Error {
	if g.clusterID != "" {
		return refuse(CodeAlreadyStarted, "the registry belongs to cluster %q", g.clusterID)
	}
	g.clusterID = b.ClusterId
	g.formationMembers = b.FormationMembers
	for _, v := range b.Voters {
		g.voters = append(g.voters, NodeID(v))
	}
	g.raiseVersion()
	return nil
}

// Revision is the index of the last applied entry.
func (g *Registry) Revision() uint64 { return g.revision }

// LastFence is the highest fence that was ever given, in any scope; 0 before the
// first. Every later one is higher.
func (g *Registry) LastFence() uint64 { return g.nextFence - 1 }

// ClusterID is the cluster that the registry was bootstrapped for, empty before.
func (g *Registry) ClusterID() string { return g.clusterID }

// Forming reports whether elections still wait for the configured members, and
// which formation this is.
func (g *Registry) Forming() (forming bool, formation uint64) { return g.forming, g.formation }

// Wait is how long the registrar must wait, in true time, before it may end the
// formation: members of before a move may believe that they lead. 0: not at all.
func (g *Registry) Wait() time.Duration { return time.Duration(g.wait) }

// History holds the retained records.
func (g *Registry) History() *History { return &g.history }

// Token returns the token of the scope's current leader.
func (g *Registry) Token(scope string) (Token, bool) {
	s := g.scopes[scope]
	if s == nil || s.leader == nil {
		return Token{}, false
	}
	return s.token(), true
}

// Tokens returns the tokens of all led scopes, sorted by scope.
func (g *Registry) Tokens() []Token {
	var tokens []Token
	for _, id := range sortedKeys(g.scopes) {
		if s := g.scopes[id]; s.leader != nil {
			tokens = append(tokens, s.token())
		}
	}
	return tokens
}

func (s *scope) token() Token {
	t := Token{
		Scope: s.spec.Id, ScopeKind: s.spec.Kind, LeaderID: s.leader.member, Session: s.leader.id, Term: s.term,
		Fence: s.fence, IssuedAtWall: s.issuedWall, Labels: s.spec.Labels,
	}
	if s.failover == logpb.ScopeSpec_FAILOVER_FAST {
		t.Failover = FailoverFast
	}
	return t
}

func (s *scope) askOf() *Ask {
	if s.ask == nil {
		return nil
	}
	return &Ask{Reason: s.ask.reason, To: s.ask.to, CorrelationID: s.ask.correlationID}
}

// ScopeStatus describes one declared scope.
type ScopeStatus struct {
	Spec     *logpb.ScopeSpec // not to be modified
	Led      bool
	Leader   Token // when Led
	Ask      *Ask
	Retiring bool
	// VacantSinceWall is when the scope became vacant, registrar's wall clock in
	// Unix nanoseconds. For people.
	VacantSinceWall int64
}

// Scope describes one scope.
func (g *Registry) Scope(id string) (ScopeStatus, bool) {
	s := g.scopes[id]
	if s == nil {
		return ScopeStatus{}, false
	}
	return s.status(), true
}

// Scopes describes every declared scope, sorted by id.
func (g *Registry) Scopes() []ScopeStatus {
	all := make([]ScopeStatus, 0, len(g.scopes))
	for _, id := range sortedKeys(g.scopes) {
		all = append(all, g.scopes[id].status())
	}
	return all
}

func (s *scope) status() ScopeStatus {
	st := ScopeStatus{Spec: s.spec, Led: s.leader != nil, Ask: s.askOf(), VacantSinceWall: s.vacantSince, Retiring: s.retiring()}
	if st.Led {
		st.Leader = s.token()
	}
	return st
}

// SessionStatus describes one live session.
type SessionStatus struct {
	ID       SessionID
	MemberID string
	Labels   map[string]string // not to be modified
	Weight   uint32
	TTL      int64 // nanoseconds
	Noted    bool
	NotedAge int64 // nanoseconds
	Stands   int
	Led      int
	Cordoned bool
	Draining bool
	// Ineligible is what gossip says against electing the member: see Observation.
	Ineligible string
	// ChangedAt is the last revision at which the session's view changed.
	ChangedAt uint64
}

// Session describes a live session.
func (g *Registry) Session(id SessionID) (SessionStatus, bool) {
	s := g.sessions[id]
	if s == nil {
		return SessionStatus{}, false
	}
	return SessionStatus{
		ID: s.id, MemberID: s.member, Labels: s.labels, Weight: s.weight, TTL: s.ttl, Noted: s.noted, NotedAge: s.notedAge,
		Stands: len(s.stands), Led: len(s.leads), Cordoned: g.cordoned[s.member], ChangedAt: s.changedAt,
		Draining: g.draining[s.member], Ineligible: g.observed[s.member].Ineligible(),
	}, true
}

// Sessions describes every live session, sorted by id.
func (g *Registry) Sessions() []SessionStatus {
	all := make([]SessionStatus, 0, len(g.sessions))
	for _, id := range sortedKeys(g.sessions) {
		s, _ := g.Session(id)
		all = append(all, s)
	}
	return all
}

// SessionOf returns the newest live session of a member.
func (g *Registry) SessionOf(member string) (SessionID, bool) {
	all := g.members[member]
	if len(all) == 0 {
		return 0, false
	}
	return all[len(all)-1], true
}

// Cordoned lists the cordoned members, sorted.
func (g *Registry) Cordoned() []string { return sortedKeys(g.cordoned) }

// Version is the protocol version that every replica is known to understand.
func (g *Registry) Version() uint32 { return g.activeVersion }

// AnnouncedVersion is what a replica last announced, 0 when it never did.
func (g *Registry) AnnouncedVersion(n NodeID) uint32 { return g.versions[n] }

// View returns what the member of a session is told: all that it leads.
// ok is false when this registry has not seen the session open yet.
func (g *Registry) View(id SessionID) (v *View, ok bool) {
	if id == 0 || id >= g.nextSession {
		return nil, false
	}
	v = &View{Session: id, Revision: g.revision}
	s := g.sessions[id]
	if s == nil {
		return v, true
	}
	v.Live = true
	for _, name := range sortedKeys(s.leads) {
		sc := s.leads[name]
		v.Grants = append(v.Grants, Grant{Token: sc.token(), Ask: sc.askOf()})
	}
	return v, true
}

// plantAgain applies an entry a second time.
func (g *Registry) plantAgain(index, term uint64, payload []byte, out *Outcome) {
	g.plantTwice = true
	again, err := g.Apply(index, term, payload)
	g.plantTwice = false
	if err == nil {
		out.Records = append(out.Records, again.Records...)
		out.Sessions = append(out.Sessions, again.Sessions...)
	}
}
