package core

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/omnirelay/leadership/core/logpb"
)

// TestMain draws more cases than rapid does of itself, unless told how many.
func TestMain(m *testing.M) {
	flag.Parse()
	if checks := flag.Lookup("rapid.checks"); checks.Value.String() == checks.DefValue && !testing.Short() {
		if err := checks.Value.Set("600"); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

// registryMachine feeds random entries to a registry that is restored from its
// snapshot now and then, to one that never is, and to the naive twin.
type registryMachine struct {
	g, steady *Registry
	twin      *twin
	term      uint64
	number    uint64
	requests  int
	sent      []*logpb.Command

	// What the records alone say.
	leaders map[string]*Record
	terms   map[string]uint64
	fence   uint64
	last    *Record

	shown map[SessionID]string // what each session was told last
}

func TestRegistryAgreesWithItsTwin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(2, 40).Draw(t, "replies kept")
		m := &registryMachine{
			g: NewRegistry(0), steady: NewRegistry(0), twin: newTwin(limit), term: 1,
			leaders: map[string]*Record{}, terms: map[string]uint64{},
		}
		m.g.replies.limit, m.steady.replies.limit = limit, limit
		records := rapid.IntRange(1, 20).Draw(t, "records kept")
		m.g.history.limit, m.steady.history.limit = records, records
		m.begin(t)
		t.Repeat(map[string]func(*rapid.T){
			"":         m.check,
			"entry":    m.entry,
			"entries":  m.entry, // drawn more often than the rest
			"retry":    m.retry,
			"snapshot": m.snapshot,
			"term":     func(t *rapid.T) { m.term++; m.number = 0 },
		})
	})
}

var (
	someMember = rapid.SampledFrom([]string{"a", "b", "c", "d"})
	someScope  = rapid.SampledFrom([]string{GlobalControl, "shard/x/0", "shard/x/1", "shard/y/0", "s", "t"})
	oftenFalse = rapid.SampledFrom([]bool{true, false, false})
)

func (m *registryMachine) someSession(t *rapid.T) uint64 {
	return rapid.Uint64Range(max(1, uint64(m.g.nextSession)-min(uint64(m.g.nextSession)-1, 5)), uint64(m.g.nextSession)).Draw(t, "session")
}

func someSelector(t *rapid.T) *logpb.Selector {
	return rapid.SampledFrom([]*logpb.Selector{
		{}, {Kind: KindShard}, {Namespace: "x"}, {Id: "s"}, {Id: GlobalControl}, {Kind: KindCustom}, {Labels: map[string]string{"shardId": "0"}},
	}).Draw(t, "selector")
}

func (m *registryMachine) command(t *rapid.T) *logpb.Command {
	return m.commandOf(t, rapid.SampledFrom([]string{
		"bootstrap", "announce", "open", "open", "open", "close", "stand", "stand", "stand", "withdraw", "resign", "resign", "resign",
		"transfer", "transfer", "transfer", "cancel", "declare", "declare", "retire", "cordon", "uncordon", "observe", "report", "form", "keeper", "keeper", "keeper", "read",
	}).Draw(t, "command"))
}

func (m *registryMachine) commandOf(t *rapid.T, kind string) *logpb.Command {
	c := &logpb.Command{Base: m.g.revision}
	m.requests++
	c.RequestId = fmt.Sprint("r", m.requests)
	if rapid.IntRange(0, 9).Draw(t, "older base") == 9 {
		c.Base = rapid.Uint64Range(0, m.g.revision).Draw(t, "base")
	}
	switch kind {
	case "bootstrap":
		c.Kind = &logpb.Command_Bootstrap{Bootstrap: &logpb.Bootstrap{ClusterId: "c", Voters: []uint64{1, 2}, FormationMembers: rapid.Uint32Range(0, 3).Draw(t, "formation")}}
	case "announce":
		c.Kind = &logpb.Command_AnnounceVersion{AnnounceVersion: &logpb.AnnounceVersion{Replica: rapid.Uint64Range(1, 3).Draw(t, "replica"), MaxVersion: rapid.SampledFrom([]uint32{1, 2, 3, 3, 3, 3}).Draw(t, "version")}}
	case "open":
		o := &logpb.OpenSession{MemberId: someMember.Draw(t, "member"), Weight: rapid.Uint32Range(1, 3).Draw(t, "weight"), TtlNs: int64(time.Second)}
		if oftenFalse.Draw(t, "replaces") {
			o.Replaces = m.someSession(t)
		}
		if oftenFalse.Draw(t, "opens standing") {
			o.Stands = []*logpb.Stand{{Selector: someSelector(t), Priority: rapid.Int32Range(-1, 1).Draw(t, "priority")}}
		}
		c.Kind = &logpb.Command_OpenSession{OpenSession: o}
	case "close":
		c.Kind = &logpb.Command_CloseSession{CloseSession: &logpb.CloseSession{Session: m.someSession(t)}}
	case "stand":
		c.Kind = &logpb.Command_Stand{Stand: &logpb.Stand{Session: m.someSession(t), Selector: someSelector(t), Priority: rapid.Int32Range(-1, 1).Draw(t, "priority"), Number: rapid.Uint64Range(0, 4).Draw(t, "wish")}}
	case "withdraw":
		c.Kind = &logpb.Command_Withdraw{Withdraw: &logpb.Withdraw{Session: m.someSession(t), Selector: someSelector(t), Number: rapid.Uint64Range(0, 4).Draw(t, "wish")}}
	case "resign":
		c.Kind = &logpb.Command_Resign{Resign: m.someResignation(t)}
	case "transfer":
		tr := &logpb.Transfer{Scope: someScope.Draw(t, "scope"), Reason: rapid.SampledFrom([]string{AskTransfer, AskRebalance}).Draw(t, "reason")}
		if !oftenFalse.Draw(t, "by rule") {
			tr.ToMember = someMember.Draw(t, "to")
		}
		if oftenFalse.Draw(t, "with fence") {
			tr.Fence = rapid.Uint64Range(1, m.g.nextFence).Draw(t, "fence")
		}
		c.Kind = &logpb.Command_Transfer{Transfer: tr}
	case "cancel":
		c.Kind = &logpb.Command_CancelTransfer{CancelTransfer: &logpb.CancelTransfer{Scope: someScope.Draw(t, "scope")}}
	case "declare":
		c.Kind = &logpb.Command_DeclareScopes{DeclareScopes: someDeclaration(t)}
	case "retire":
		c.Kind = &logpb.Command_RetireScopes{RetireScopes: &logpb.RetireScopes{Scopes: rapid.SliceOfN(someScope, 1, 2).Draw(t, "scopes")}}
	case "cordon":
		c.Kind = &logpb.Command_Cordon{Cordon: &logpb.Cordon{MemberId: someMember.Draw(t, "member"), Cordoned: true, Drain: rapid.Bool().Draw(t, "drain")}}
	case "uncordon":
		c.Kind = &logpb.Command_Cordon{Cordon: &logpb.Cordon{MemberId: someMember.Draw(t, "member")}}
	case "observe":
		o := &logpb.ObserveMembers{}
		for _, id := range rapid.SliceOfNDistinct(someMember, 1, 3, rapid.ID).Draw(t, "members") {
			health := rapid.SampledFrom([]Health{HealthAlive, HealthAlive, HealthDead, HealthLeft}).Draw(t, "health")
			o.Members = append(o.Members, Observation{MemberID: id, Health: health, Unsupported: oftenFalse.Draw(t, "unsupported")}.toProto())
		}
		c.Kind = &logpb.Command_ObserveMembers{ObserveMembers: o}
	case "report":
		c.Kind = &logpb.Command_ReportSplitBrain{ReportSplitBrain: &logpb.ReportSplitBrain{Reports: []*logpb.SplitBrain{{
			Scope: someScope.Draw(t, "scope"), MemberId: someMember.Draw(t, "member"), Fence: rapid.Uint64Range(1, 3).Draw(t, "fence"), Reason: SplitBrainTwoClaimants,
		}}}}
	case "form":
		c.Kind = &logpb.Command_EndFormation{EndFormation: &logpb.EndFormation{Formation: rapid.Uint64Range(1, 3).Draw(t, "formation")}}
	case "read":
		c.Kind = &logpb.Command_Read{Read: &logpb.Read{}}
	case "keeper":
		c.RequestId, c.Kind = "", &logpb.Command_Keeper{Keeper: m.someDecision(t)}
	}
	return c
}

// someResignation is of a real leader two times out of three, and of one that was
// asked if there is any.
func (m *registryMachine) someResignation(t *rapid.T) *logpb.Resign {
	for _, sc := range m.g.Scopes() {
		if sc.Ask != nil && rapid.Bool().Draw(t, "asked") {
			return &logpb.Resign{Session: uint64(sc.Leader.Session), Scope: sc.Spec.Id, Fence: sc.Leader.Fence}
		}
	}
	if tokens := m.g.Tokens(); len(tokens) > 0 && !oftenFalse.Draw(t, "void") {
		tok := rapid.SampledFrom(tokens).Draw(t, "token")
		return &logpb.Resign{Session: uint64(tok.Session), Scope: tok.Scope, Fence: tok.Fence}
	}
	return &logpb.Resign{Session: m.someSession(t), Scope: someScope.Draw(t, "scope"), Fence: rapid.Uint64Range(1, m.g.nextFence).Draw(t, "fence")}
}

func someDeclaration(t *rapid.T) *logpb.DeclareScopes {
	d := &logpb.DeclareScopes{}
	for _, id := range rapid.SliceOfNDistinct(someScope, 1, 3, rapid.ID).Draw(t, "scopes") {
		spec, _ := NewScopeSpec(id)
		if oftenFalse.Draw(t, "preferred") {
			spec.PreferredMember = someMember.Draw(t, "member")
		}
		if id == "t" {
			spec.Labels = map[string]string{"tier": rapid.SampledFrom([]string{"gold", "gold", "iron"}).Draw(t, "tier")}
		}
		spec.Failover = logpb.ScopeSpec_Failover(rapid.Int32Range(0, 2).Draw(t, "failover"))
		d.Scopes = append(d.Scopes, spec)
	}
	return d
}

func (m *registryMachine) someDecision(t *rapid.T) *logpb.KeeperDecision {
	k := &logpb.KeeperDecision{
		Term: m.term, Kind: logpb.KeeperDecision_Kind(rapid.Int32Range(1, 3).Draw(t, "kind")), Session: m.someSession(t),
		AgeNs: int64(rapid.IntRange(1, 3).Draw(t, "age")) * int64(time.Second),
	}
	m.number++
	k.Number = m.number
	if oftenFalse.Draw(t, "odd") {
		k.Term = rapid.Uint64Range(m.term-1, m.term+1).Draw(t, "term")
		k.Number = rapid.Uint64Range(1, m.number).Draw(t, "number")
	}
	return k
}

// begin starts most cases with a registry in use: members that stand, scopes that
// are led.
func (m *registryMachine) begin(t *rapid.T) {
	if oftenFalse.Draw(t, "from nothing") {
		return
	}
	var commands []*logpb.Command
	for _, kind := range []string{"bootstrap", "declare", "declare", "open", "open", "open", "stand", "stand", "stand"} {
		c := m.commandOf(t, kind)
		if st := c.GetStand(); st != nil {
			st.Session, st.Selector = uint64(len(commands)-5), &logpb.Selector{}
		}
		commands = append(commands, c)
	}
	m.apply(t, commands)
}

func (m *registryMachine) entry(t *rapid.T) {
	var commands []*logpb.Command
	for range rapid.IntRange(0, 4).Draw(t, "commands") {
		commands = append(commands, m.command(t))
	}
	m.sent = append(m.sent, commands...)
	m.apply(t, commands)
}

func (m *registryMachine) retry(t *rapid.T) {
	if len(m.sent) > 0 {
		m.apply(t, []*logpb.Command{rapid.SampledFrom(m.sent).Draw(t, "again")})
	}
}

// snapshot goes on with a registry restored from the bytes of a snapshot.
func (m *registryMachine) snapshot(t *rapid.T) {
	data := must(marshalSnapshot(m.g.Snapshot()))
	if again := must(marshalSnapshot(m.g.Snapshot())); string(again) != string(data) {
		t.Fatal("two snapshots of one state differ")
	}
	s := &logpb.Snapshot{}
	if err := proto.Unmarshal(data, s); err != nil {
		t.Fatal(err)
	}
	restored, err := Restore(s, 0)
	if err != nil {
		t.Fatal(err)
	}
	restored.replies.limit, restored.history.limit = m.g.replies.limit, m.g.history.limit
	m.g = restored
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func (m *registryMachine) apply(t *rapid.T, commands []*logpb.Command) {
	e := &logpb.Entry{Proposer: 1, WallNs: int64(m.g.revision) * 1e9, Commands: commands}
	payload := must(proto.Marshal(e))
	index := m.g.revision + 1
	out, err := m.g.Apply(index, m.term, payload)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.steady.Apply(index, m.term, payload); err != nil {
		t.Fatal(err)
	}
	for i, want := range m.twin.apply(index, m.term, proto.Clone(e).(*logpb.Entry)) {
		if got := (twinResult{Code(out.Results[i].Code), out.Results[i].Session, out.Results[i].Fence}); got != want {
			t.Fatalf("%v\nreplied %+v (%s), the twin %+v", commands[i], got, out.Results[i].Message, want)
		}
	}
	m.replay(t, out)
	m.follow(t, out)
}

// follow looks at what every session is told, as a replica does: only those that an
// entry names.
func (m *registryMachine) follow(t *rapid.T, out *Outcome) {
	if m.shown == nil {
		m.shown = map[SessionID]string{}
	}
	for id := SessionID(1); id < m.g.nextSession; id++ {
		v, _ := m.g.View(id)
		told := fmt.Sprint(v.Live)
		for _, g := range v.Grants {
			told += fmt.Sprintf(" %s/%d%s", g.Scope, g.Fence, storyAsk(g.Ask))
		}
		if told == m.shown[id] {
			continue
		}
		s, live := m.g.Session(id)
		if !slices.Contains(out.Sessions, id) || (live && s.ChangedAt != out.Revision) {
			t.Fatalf("revision %d changed the view of session %d, and does not say so: %s, then %s", out.Revision, id, m.shown[id], told)
		}
		m.shown[id] = told
	}
}

// replay follows the records as a reader of the stream does.
func (m *registryMachine) replay(t *rapid.T, out *Outcome) {
	for i, r := range out.Records {
		if r.Revision != out.Revision || r.Ordinal != uint32(i+1) {
			t.Fatalf("record %d of revision %d is at %d.%d", i, out.Revision, r.Revision, r.Ordinal)
		}
		was := m.leaders[r.Scope]
		switch k := EventKind(r.Kind); {
		case k == EventElected:
			if was != nil {
				t.Fatalf("%s elected while %s leads", storyRecord(r), storyRecord(was))
			}
			if r.Fence <= m.fence || r.Term != m.terms[r.Scope]+1 {
				t.Fatalf("%s after fence %d and term %d", storyRecord(r), m.fence, m.terms[r.Scope])
			}
			m.leaders[r.Scope], m.fence, m.terms[r.Scope] = r, r.Fence, r.Term
		case k.EndsLeadership():
			if was == nil || was.Fence != r.Fence || was.Session != r.Session {
				t.Fatalf("%s ends nothing", storyRecord(r))
			}
			delete(m.leaders, r.Scope)
		case k == EventScopeRetired:
			delete(m.terms, r.Scope)
		}
	}
	if err := VerifyChain(m.last, out.Records); err != nil {
		t.Fatal(err)
	}
	if n := len(out.Records); n > 0 {
		m.last = out.Records[n-1]
	}
}

func (m *registryMachine) check(t *rapid.T) {
	if got, want := storyState(m.g), m.twin.String(); got != want {
		t.Fatalf("the registry:\n%s\nthe twin:\n%s", got, want)
	}
	if m.g.Hash() != m.steady.Hash() {
		t.Fatal("the restored registry and the steady one differ")
	}
	seen := map[string]uint64{}
	for _, tok := range m.g.Tokens() {
		if _, live := m.g.Session(tok.Session); !live {
			t.Fatalf("session %d leads %s and is not live", tok.Session, tok.Scope)
		}
		seen[tok.Scope] = tok.Fence
	}
	told := map[string]uint64{}
	for scope, r := range m.leaders {
		told[scope] = r.Fence
	}
	if !maps.Equal(seen, told) {
		t.Fatalf("the records tell of leaders %v, the registry has %v", told, seen)
	}
	m.checkViews(t)
	m.checkVacancies(t)
}

// checkViews: views and tokens tell the same.
func (m *registryMachine) checkViews(t *rapid.T) {
	shown := 0
	for _, s := range m.g.Sessions() {
		v, known := m.g.View(s.ID)
		if !known || !v.Live || len(v.Grants) != s.Led {
			t.Fatalf("the view of session %d: %+v", s.ID, v)
		}
		for _, grant := range v.Grants {
			if tok, led := m.g.Token(grant.Scope); !led || tok.Fence != grant.Fence || tok.Session != s.ID {
				t.Fatalf("session %d is told of %s under fence %d; the token is %+v", s.ID, grant.Scope, grant.Fence, tok)
			}
			shown++
		}
	}
	if n := len(m.g.Tokens()); n != shown {
		t.Fatalf("%d scopes are led, %d are shown to their leaders", n, shown)
	}
}

// checkVacancies: nobody eligible is left waiting, unless for a formation.
func (m *registryMachine) checkVacancies(t *rapid.T) {
	if forming, _ := m.g.Forming(); forming {
		return
	}
	for _, sc := range m.g.Scopes() {
		for id, s := range m.g.sessions {
			if !sc.Led && m.g.eligible(s, m.g.scopes[sc.Spec.Id]) {
				t.Fatalf("%s is vacant although session %d stands for it", sc.Spec.Id, id)
			}
		}
	}
}

// Planned moves bring balance and then stop: a plan that is carried out leads to
// an empty plan, in no more rounds than there are scopes.
func TestRebalanceComesToRest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &registryMachine{g: NewRegistry(0), steady: NewRegistry(0), twin: newTwin(MaxReplies), term: 1, leaders: map[string]*Record{}, terms: map[string]uint64{}}
		m.begin(t)
		for range rapid.IntRange(1, 12).Draw(t, "entries") {
			m.entry(t)
		}
		for range 4 * len(m.g.scopes) {
			moves := m.g.PlanMoves(rebalanceMoves)
			if len(moves) == 0 {
				return
			}
			for _, mv := range moves {
				m.carryOut(t, mv)
			}
		}
		if moves := m.g.PlanMoves(rebalanceMoves); len(moves) > 0 {
			t.Fatalf("scopes are still in motion: %v\n%s", moves, storyState(m.g))
		}
	})
}

func (m *registryMachine) carryOut(t *rapid.T, mv Move) {
	tok, led := m.g.Token(mv.Scope)
	if !led || tok.Fence != mv.Fence || tok.LeaderID == mv.To {
		t.Fatalf("a move that makes no sense: %+v of %+v", mv, tok)
	}
	m.requests++
	ask := &logpb.Command{RequestId: fmt.Sprint("ask", m.requests), Base: m.g.revision, Kind: &logpb.Command_Transfer{
		Transfer: &logpb.Transfer{Scope: mv.Scope, ToMember: mv.To, Fence: mv.Fence, Reason: AskRebalance},
	}}
	acknowledge := &logpb.Command{RequestId: fmt.Sprint("ack", m.requests), Base: m.g.revision, Kind: &logpb.Command_Resign{
		Resign: &logpb.Resign{Session: uint64(tok.Session), Scope: mv.Scope, Fence: mv.Fence},
	}}
	m.apply(t, []*logpb.Command{ask, acknowledge})
}
