package core

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/core/logpb"
)

// The relations between limits, each with what breaks without it.
func TestLimitsAgree(t *testing.T) {
	for _, relation := range []struct {
		holds bool
		what  string
	}{
		{MaxBatchBytes >= MaxCommandBytes, "the largest command fits a batch"},
		{MaxUncommitted >= 4*MaxBatchBytes, "several batches may be under way"},
		{MaxBatch <= MaxPending, "a batch is made of what is pending"},
		{MaxReplies >= 2*MaxPending, "a retry of anything still pending finds its reply"},
		{MaxReplies >= MaxBatch, "one entry does not forget its own replies"},
		{MaxHistory >= 2*MaxScopes, "one entry that ends and elects every scope does not outrun every reader"},
		{MaxScopesPerCmd <= MaxScopes, "one command can not ask for more than there may be"},
		{MaxAttached >= MaxSessions, "one replica can be the door of every member"},
		{MaxGuardScopes >= MaxScopes, "a guard can keep every scope"},
		{MaxScopeID >= len("shard/")+2*MaxScopeSegment+1, "the longest shard id is a scope id"},
		{MaxScopeSegments >= 3, "a shard has three segments"},
		{MaxInFlight >= 5*5, "a member remembers every keepalive of a whole TTL, also at five times the rate"},
		{MaxMessagesPerTurn >= MaxAttached, "one turn takes a keepalive of every member"},
		{MaxAppendBytes >= MaxBatchBytes, "the largest entry fits an append"},
		{MaxFetchBytes >= MaxAppendBytes, "one fetch takes the largest append"},
		{MaxLogBytes >= MaxUncommitted, "what is under way fits the log"},
		{uint64(MaxScopes+1)*MaxWeight < 1<<53, "loads times weights do not overflow"},
		{DefaultTTL >= MinTTL && DefaultTTL <= MaxTTL, "the default TTL is a TTL"},
		{DefaultElectionTimeout >= 3*DefaultHeartbeatInterval, "a lost heartbeat deposes nobody"},
	} {
		if !relation.holds {
			t.Errorf("does not hold: %s", relation.what)
		}
	}
	for _, ttl := range []time.Duration{MinTTL, DefaultTTL, MaxTTL} {
		if KeepaliveInterval(ttl) >= NoteAfter(ttl) {
			t.Errorf("TTL %v: a keepalive every %v is noted as silence after %v", ttl, KeepaliveInterval(ttl), NoteAfter(ttl))
		}
		e := DefaultEpsilon
		if n := e.Stretch(NoteAfter(ttl)); n >= ttl/2 {
			t.Errorf("TTL %v: a note after %v leaves no room for its commit before TTL/2", ttl, n)
		}
		if e.Shrink(ttl) >= ttl || e.Stretch(ttl) <= ttl {
			t.Errorf("TTL %v: a member believes for %v, a registrar waits for %v", ttl, e.Shrink(ttl), e.Stretch(ttl))
		}
	}
	if worst := DefaultEpsilon.Stretch(DefaultEpsilon.Stretch(DefaultTTL)) + 2*DefaultElectionTimeout; worst >= DefaultMaxElectionWindow {
		t.Errorf("by default an election may take %v of %v", worst, DefaultMaxElectionWindow)
	}
}

// The margins hold for every duration and bound: rounding never eats them.
func TestTheDriftMarginIsNeverRoundedAway(t *testing.T) {
	for _, e := range []Epsilon{0, 1, 10, 83, 499} {
		for _, d := range []time.Duration{1, 2, 99, 999, 1001, time.Second, MaxTTL} {
			if e.Shrink(d) >= d || e.Stretch(d) <= d || e.Shrink(d) < 0 {
				t.Errorf("ε %d: %v shrinks to %v and stretches to %v", e, d, e.Shrink(d), e.Stretch(d))
			}
		}
	}
	if Never.Add(time.Second) != Never || (Never-1).Add(2) != Never || Time(5).Add(-3) != 2 {
		t.Error("time overflows")
	}
}

func longSpec(i int) *logpb.ScopeSpec {
	spec, err := NewScopeSpec(fmt.Sprintf("shard/mesh.production.europe-west/%04d", i))
	if err != nil {
		panic(err)
	}
	spec.PreferredMember = "leaderd-node-01.europe-west.example"
	spec.Labels["tier"], spec.Labels["team"], spec.Labels["region"] = "gold", "mesh-control-plane", "europe-west"
	return spec
}

func TestAFullDeclarationFitsOneCommand(t *testing.T) {
	d := &logpb.DeclareScopes{}
	for i := range MaxScopesPerCmd {
		d.Scopes = append(d.Scopes, longSpec(i))
	}
	c := &logpb.Command{RequestId: "r", Kind: &logpb.Command_DeclareScopes{DeclareScopes: d}}
	if err := ValidateCommand(c); err != nil {
		t.Errorf("%d typical scopes: %v", MaxScopesPerCmd, err)
	}
}

// refusal is what a client sees of an error.
func refusal(t *testing.T, err error) (Code, string) {
	t.Helper()
	e, ok := err.(*Error)
	if !ok {
		t.Fatalf("%v is no *Error", err)
	}
	return e.Code, e.Field
}

// Everything that is too long, too many or malformed is refused by code and field.
func TestWhatIsRefusedNamesItsField(t *testing.T) {
	long := func(n int) string { return strings.Repeat("x", n) }
	manyLabels := map[string]string{}
	for i := range MaxLabels + 1 {
		manyLabels[fmt.Sprint("k", i)] = "v"
	}
	stand := func(s *logpb.Stand) *logpb.Command {
		return &logpb.Command{RequestId: "r", Kind: &logpb.Command_Stand{Stand: s}}
	}
	open := func(edit func(*logpb.OpenSession)) *logpb.Command {
		o := &logpb.OpenSession{MemberId: "m", Weight: 1, TtlNs: int64(DefaultTTL)}
		edit(o)
		return &logpb.Command{RequestId: "r", Kind: &logpb.Command_OpenSession{OpenSession: o}}
	}
	spec := func(edit func(*logpb.ScopeSpec)) *logpb.Command {
		s := &logpb.ScopeSpec{Id: "s"}
		edit(s)
		return &logpb.Command{RequestId: "r", Kind: &logpb.Command_DeclareScopes{DeclareScopes: &logpb.DeclareScopes{Scopes: []*logpb.ScopeSpec{s}}}}
	}
	read := &logpb.Command_Read{Read: &logpb.Read{}}
	manyScopes, bigScopes := declare("r"), declare("r")
	for i := range MaxScopesPerCmd + 1 {
		manyScopes.GetDeclareScopes().Scopes = append(manyScopes.GetDeclareScopes().Scopes, &logpb.ScopeSpec{Id: fmt.Sprint("s", i)})
	}
	for i := range 200 {
		labels := map[string]string{}
		for k := range MaxLabels {
			labels[fmt.Sprint("k", k)] = long(MaxLabelValue)
		}
		bigScopes.GetDeclareScopes().Scopes = append(bigScopes.GetDeclareScopes().Scopes, &logpb.ScopeSpec{Id: fmt.Sprint("s", i), Labels: labels})
	}
	for name, c := range map[string]struct {
		command *logpb.Command
		code    Code
		field   string
	}{
		"no request id":         {&logpb.Command{Kind: read}, CodeInvalid, "requestId"},
		"long request id":       {&logpb.Command{RequestId: long(MaxRequestID + 1), Kind: read}, CodeInvalid, "requestId"},
		"control in request id": {&logpb.Command{RequestId: "a\nb", Kind: read}, CodeInvalid, "requestId"},
		"long correlation id":   {&logpb.Command{RequestId: "r", CorrelationId: long(MaxCorrelationID + 1), Kind: read}, CodeInvalid, "correlationId"},
		"long actor":            {&logpb.Command{RequestId: "r", Actor: long(MaxActor + 1), Kind: read}, CodeInvalid, "actor"},
		"nothing said":          {&logpb.Command{RequestId: "r"}, CodeInvalid, "kind"},
		"a replica's own":       {&logpb.Command{RequestId: "r", Kind: &logpb.Command_Bootstrap{Bootstrap: &logpb.Bootstrap{}}}, CodeInvalid, "kind"},
		"no member id":          {open(func(o *logpb.OpenSession) { o.MemberId = "" }), CodeInvalid, "memberId"},
		"long member id":        {open(func(o *logpb.OpenSession) { o.MemberId = long(MaxMemberID + 1) }), CodeInvalid, "memberId"},
		"heavy member":          {open(func(o *logpb.OpenSession) { o.Weight = MaxWeight + 1 }), CodeInvalid, "weight"},
		"short ttl":             {open(func(o *logpb.OpenSession) { o.TtlNs = int64(MinTTL) - 1 }), CodeInvalid, "ttl"},
		"long ttl":              {open(func(o *logpb.OpenSession) { o.TtlNs = int64(MaxTTL) + 1 }), CodeInvalid, "ttl"},
		"negative ttl":          {open(func(o *logpb.OpenSession) { o.TtlNs = -1 }), CodeInvalid, "ttl"},
		"many labels":           {open(func(o *logpb.OpenSession) { o.Labels = manyLabels }), CodeInvalid, "labels"},
		"long label key":        {open(func(o *logpb.OpenSession) { o.Labels = map[string]string{long(MaxLabelKey + 1): "v"} }), CodeInvalid, "labels"},
		"long label value":      {open(func(o *logpb.OpenSession) { o.Labels = map[string]string{"k": long(MaxLabelValue + 1)} }), CodeInvalid, "labels"},
		"broken label value":    {open(func(o *logpb.OpenSession) { o.Labels = map[string]string{"k": "\xff"} }), CodeInvalid, "labels"},
		"many stands at once":   {open(func(o *logpb.OpenSession) { o.Stands = make([]*logpb.Stand, MaxStands+1) }), CodeLimit, "stands"},
		"stand without session": {stand(&logpb.Stand{}), CodeInvalid, "session"},
		"high priority":         {stand(&logpb.Stand{Session: 1, Priority: MaxPriority + 1}), CodeInvalid, "priority"},
		"low priority":          {stand(&logpb.Stand{Session: 1, Priority: -MaxPriority - 1}), CodeInvalid, "priority"},
		"odd kind":              {stand(&logpb.Stand{Session: 1, Selector: &logpb.Selector{Kind: "a b"}}), CodeInvalid, "selector.kind"},
		"odd namespace":         {stand(&logpb.Stand{Session: 1, Selector: &logpb.Selector{Namespace: "a/b"}}), CodeInvalid, "selector.namespace"},
		"odd selector id":       {stand(&logpb.Stand{Session: 1, Selector: &logpb.Selector{Id: "a//b"}}), CodeInvalid, "scope"},
		"selector labels":       {stand(&logpb.Stand{Session: 1, Selector: &logpb.Selector{Labels: manyLabels}}), CodeInvalid, "selector.labels"},
		"nothing declared":      {declare("r"), CodeInvalid, "scopes"},
		"too much declared":     {manyScopes, CodeInvalid, "scopes"},
		"a command too large":   {bigScopes, CodeLimit, "command"},
		"empty scope id":        {spec(func(s *logpb.ScopeSpec) { s.Id = "" }), CodeInvalid, "scope"},
		"long scope id":         {spec(func(s *logpb.ScopeSpec) { s.Id = long(MaxScopeID + 1) }), CodeInvalid, "scope"},
		"long segment":          {spec(func(s *logpb.ScopeSpec) { s.Id = long(MaxScopeSegment + 1) }), CodeInvalid, "scope"},
		"many segments":         {spec(func(s *logpb.ScopeSpec) { s.Id = strings.Repeat("a/", MaxScopeSegments) + "a" }), CodeInvalid, "scope"},
		"odd failover":          {spec(func(s *logpb.ScopeSpec) { s.Failover = 7 }), CodeInvalid, "failover"},
		"odd preferred member":  {spec(func(s *logpb.ScopeSpec) { s.PreferredMember = "a b" }), CodeInvalid, "preferredMember"},
		"nothing retired":       {&logpb.Command{RequestId: "r", Kind: &logpb.Command_RetireScopes{RetireScopes: &logpb.RetireScopes{}}}, CodeInvalid, "scopes"},
		"cordon nobody":         {&logpb.Command{RequestId: "r", Kind: &logpb.Command_Cordon{Cordon: &logpb.Cordon{Cordoned: true}}}, CodeInvalid, "memberId"},
		"close nothing":         {&logpb.Command{RequestId: "r", Kind: &logpb.Command_CloseSession{CloseSession: &logpb.CloseSession{}}}, CodeInvalid, "session"},
	} {
		err := checkProposed(c.command)
		if c.command.GetBootstrap() != nil {
			err = ValidateCommand(c.command)
		}
		if err == nil {
			t.Errorf("%s: accepted", name)
			continue
		}
		if code, field := refusal(t, err); code != c.code || field != c.field {
			t.Errorf("%s: refused as %s of %q: %v", name, code, field, err)
		}
	}
}

// Limits of the registry itself: reached, then refused by type, and free again.
func TestFullTablesRefuseByType(t *testing.T) {
	g := NewRegistry(0)
	id := 0
	do := func(line string) *Result {
		id++
		l := parseStoryLine(t, line)
		c := storyCommands[l.verb](l)
		c.RequestId, c.Base = fmt.Sprint("r", id), g.revision
		return apply(t, g, c).Results[0]
	}
	limited := func(r *Result, field string) {
		t.Helper()
		if r.Code != string(CodeLimit) || r.Field != field {
			t.Errorf("want a limit of %q, got %v", field, r)
		}
	}
	do("bootstrap")
	for i := range MaxSessions {
		do(fmt.Sprint("open m", i))
	}
	limited(do("open one-more"), "sessions")
	if r := do("open m0 replaces=1"); r.Code != "" {
		t.Errorf("a session that replaces another was refused: %v", r)
	}
	for i := range MaxStands {
		do(fmt.Sprint("stand 2 scope=s", i))
	}
	limited(do("stand 2 scope=one-more"), "stands")
	if r := do("stand 2 scope=s0 priority=3"); r.Code != "" {
		t.Errorf("another priority for a selector was refused: %v", r)
	}
	for i := range MaxSessions {
		do(fmt.Sprint("cordon c", i))
	}
	limited(do("cordon one-more"), "cordoned")
	if r := do("cordon c0"); r.Code != "" {
		t.Errorf("a cordon that stands was refused: %v", r)
	}
	g = NewRegistry(0) // without sessions: electing is not what is tested
	for i := range MaxScopes / MaxScopesPerCmd {
		line := "declare"
		for j := range MaxScopesPerCmd {
			line += fmt.Sprintf(" s/%d/%d", i, j)
		}
		if r := do(line); r.Code != "" {
			t.Fatal(r)
		}
	}
	limited(do("declare one-more"), "scopes")
	do("retire s/0/0")
	if r := do("declare one-more"); r.Code != "" {
		t.Errorf("a scope in a freed place was refused: %v", r)
	}
}

func TestAMemberAndAGuardKnowTheirLimits(t *testing.T) {
	m, err := NewMember(MemberConfig{MemberID: "m", Instance: "i"}, 0)
	if err != nil {
		t.Fatal(err)
	}
	for i := range MaxStands {
		if err := m.Stand(&logpb.Selector{Id: fmt.Sprint("s", i)}, 0); err != nil {
			t.Fatal(err)
		}
	}
	if code, field := refusal(t, m.Stand(&logpb.Selector{Id: "one-more"}, 0)); code != CodeLimit || field != "stands" {
		t.Errorf("refused as %s of %q", code, field)
	}
	marks := map[string]uint64{}
	for i := range MaxGuardScopes {
		marks[fmt.Sprint("s", i)] = 1
	}
	g := NewGuard(marks)
	if code, field := refusal(t, g.Admit("one-more", 1)); code != CodeLimit || field != "scope" {
		t.Errorf("refused as %s of %q", code, field)
	}
	if err := g.Admit("s0", 2); err != nil {
		t.Error(err)
	}
}

// Every problem of a configuration is reported, and all at once.
func TestAConfigurationIsJudgedAsAWhole(t *testing.T) {
	c := Config{Voters: []NodeID{1, 1}, HeartbeatInterval: time.Second, ElectionTimeout: time.Second, MaxElectionWindow: time.Millisecond, Epsilon: 900, FormationMembers: -1}
	c.EnsureDefaults()
	err := c.Validate()
	if err == nil {
		t.Fatal("accepted")
	}
	for _, field := range []string{"id:", "voters:", "clusterId:", "electionTimeout:", "maxElectionWindow:", "epsilon:", "formationMembers:"} {
		if !strings.Contains(err.Error(), field) {
			t.Errorf("%s is missing in %v", field, err)
		}
	}
	if _, err := NewReplica(Config{ID: 1, Voters: []NodeID{1}}, Boot{}, 0); err == nil {
		t.Error("a replica was made from a faulty configuration")
	}
}

// Damage in what a log gives back is an error, never a start.
func TestADamagedBootIsRefused(t *testing.T) {
	cfg := Config{ID: 1, Voters: []NodeID{1}, ClusterID: "c", Seed: 1}
	snap := &raftpb.Snapshot{Data: []byte("noise"), Metadata: &raftpb.SnapshotMetadata{
		Index: proto.Uint64(9), Term: proto.Uint64(2), ConfState: &raftpb.ConfState{Voters: []uint64{1}},
	}}
	if _, err := NewReplica(cfg, Boot{Snapshot: snap, HardState: &raftpb.HardState{Term: proto.Uint64(2), Commit: proto.Uint64(9)}}, 0); err == nil {
		t.Error("a snapshot of noise was taken")
	}
	g := NewRegistry(0)
	apply(t, g, declare("d", "s", "t"))
	for name, damage := range map[string]func(*logpb.Snapshot){
		"format":        func(s *logpb.Snapshot) { s.Format++ },
		"fence":         func(s *logpb.Snapshot) { s.NextFence++ },
		"hash":          func(s *logpb.Snapshot) { s.Hash[0]++ },
		"no hash":       func(s *logpb.Snapshot) { s.Hash = nil },
		"record":        func(s *logpb.Snapshot) { s.History[0].Scope = "other" },
		"no history":    func(s *logpb.Snapshot) { s.History = nil },
		"less history":  func(s *logpb.Snapshot) { s.History = s.History[1:] },
		"no spec":       func(s *logpb.Snapshot) { s.Scopes[0].Spec = nil },
		"no result":     func(s *logpb.Snapshot) { s.Replies[0].Result = nil },
		"no leader":     func(s *logpb.Snapshot) { s.Scopes[0].Leader = 77 },
		"newer field":   func(s *logpb.Snapshot) { s.Scopes[0].ProtoReflect().SetUnknown([]byte{0xa0, 0x38, 1}) },
		"newer mode":    func(s *logpb.Snapshot) { s.Scopes[0].Spec.Failover = 9 },
		"another chain": func(s *logpb.Snapshot) { s.AuditHead = []byte("head") },
	} {
		s := proto.Clone(g.Snapshot()).(*logpb.Snapshot)
		damage(s)
		if _, err := Restore(s, 0); err == nil {
			t.Errorf("%s: restored", name)
		}
	}
	if _, err := Restore(g.Snapshot(), 0); err != nil {
		t.Error(err)
	}
}
