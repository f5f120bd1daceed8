package sim

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/omnirelay/leadership/core"
)

// Duration is a time.Duration that is written like "1.5s" in scenario files.
type Duration time.Duration

// D is d as a time.Duration.
func (d Duration) D() time.Duration { return time.Duration(d) }

func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(d.D().String()) }

func (d *Duration) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("want a duration like \"1.5s\": %w", err)
	}
	v, err := time.ParseDuration(s)
	*d = Duration(v)
	return err
}

// Scenario says what a world is made of and what befalls it.
type Scenario struct {
	Name  string
	About string

	Replicas, Members, Scopes, Resources, Subscribers int
	// Spares are machines that may become nodes of the registry; 0: the nodes stay as
	// they are.
	Spares int

	// Duration is the simulated length; the last Quiet of it is without faults, so
	// that what must happen in the end has the time to.
	Duration, Quiet Duration

	TTL               Duration
	Patience          Duration // how long a member waits for any word before it tries another replica
	Epsilon           core.Epsilon
	FormationMembers  int
	SnapshotEntries   uint64
	RebalanceInterval Duration

	Clocks  Clocks
	Network Quality
	Store   StoreSetup
	Gossip  GossipSetup
	// SyncMin and SyncMax bound what a write to disk takes.
	SyncMin, SyncMax Duration

	Workload Workload
	Faults   []FaultRate

	// SafetyOnly says that the network, the disks or the faults are too bad for the
	// bounds of liveness, which are not checked then.
	SafetyOnly bool

	// vary lets a scenario differ by seed; varyStore likewise, over an external store.
	vary, varyStore func(s *Scenario, rng *rand.Rand)

	// only is the one log that the scenario is about; empty: either.
	only Log
}

// StoreSetup says how an external store behaves, when the log lies in one.
type StoreSetup struct {
	// ServeMin and ServeMax bound what a call takes on the server.
	ServeMin, ServeMax Duration
	// KeepsIdentity says that the server is the same to its clients after a restart.
	KeepsIdentity bool
}

// Clocks says how the clocks of processes go.
type Clocks struct {
	// MaxPPM bounds the rate error in parts per million.
	MaxPPM int64
	// Edge puts every clock at one end of the bound.
	Edge bool
	// Beyond says that clocks may break the promise of Epsilon: then only what
	// rests on fences is checked.
	Beyond bool
}

func (c Clocks) rate(rng *rand.Rand) int64 {
	switch {
	case c.MaxPPM == 0:
		return 0
	case c.Edge:
		return c.MaxPPM * int64(2*rng.IntN(2)-1)
	}
	return rng.Int64N(2*c.MaxPPM+1) - c.MaxPPM
}

// Workload says how often, on average, things are asked for; 0: never.
type Workload struct {
	EffectEvery Duration // per member
	ResignEvery Duration // per member
	CloseEvery  Duration // per member
	FinishMax   Duration // the longest a holder takes to finish when asked

	TransferEvery Duration
	CancelEvery   Duration
	CordonEvery   Duration
	RetireEvery   Duration
	ReadEvery     Duration
	NodesEvery    Duration // a change of nodes; needs Spares
}

// FaultRate says how often a fault strikes, on average, and how long it lasts.
type FaultRate struct {
	Fault    string
	Every    Duration
	Min, Max Duration
	Steady   bool // strikes exactly each Every, not around it
}

// baseline is a calm world of three replicas and four members.
func baseline(name, about string) Scenario {
	return Scenario{
		Name: name, About: about,
		Replicas: 3, Members: 4, Scopes: 12, Resources: 2, Subscribers: 2,
		Duration: Duration(time.Minute), Quiet: Duration(15 * time.Second),
		TTL: Duration(core.DefaultTTL), Patience: Duration(800 * ms), Epsilon: core.DefaultEpsilon, FormationMembers: 2,
		Clocks:  Clocks{MaxPPM: 9_900},
		Network: Quality{DelayMin: 200 * time.Microsecond, DelayMax: 3 * time.Millisecond},
		Store:   StoreSetup{ServeMin: Duration(100 * time.Microsecond), ServeMax: Duration(4 * time.Millisecond)},
		SyncMin: Duration(200 * time.Microsecond), SyncMax: Duration(5 * time.Millisecond),
		Workload: Workload{
			EffectEvery: Duration(700 * time.Millisecond), ResignEvery: Duration(20 * time.Second), FinishMax: Duration(800 * time.Millisecond),
			TransferEvery: Duration(4 * time.Second), CancelEvery: Duration(12 * time.Second), CordonEvery: Duration(15 * time.Second),
			RetireEvery: Duration(6 * time.Second), ReadEvery: Duration(time.Second),
		},
	}
}

func fault(name string, every, shortest, longest time.Duration) FaultRate {
	return FaultRate{Fault: name, Every: Duration(every), Min: Duration(shortest), Max: Duration(longest)}
}

const (
	ms  = time.Millisecond
	sec = time.Second
)

// Scenarios lists the named scenarios.
func Scenarios() []Scenario {
	return []Scenario{
		defaultScenario(), steady(), registrarChurn(), clockEdge(), clockBeyond(), partitions(), crashes(), slowDisk(),
		handOver(), retireRedeclare(), laggingReplica(), snapshots(), oneWayCut(), silentMembers(), stalls(),
		contestedElections(), lateDecisions(), lateExpiries(), lostCancels(), deposedRegistrar(), stalledReceipts(),
		noGossip(), gossipLies(), nodeChurn(), storeFaults(), storeRestarts(), storeFailOvers(), storeQuickFailOvers(), storeLostWrites(),
	}
}

// ScenarioByName finds a named scenario.
func ScenarioByName(name string) (Scenario, error) {
	for _, s := range Scenarios() {
		if s.Name == name {
			return s, nil
		}
	}
	return Scenario{}, fmt.Errorf("no scenario is named %q; simrun scenarios lists them", name)
}

// On reports whether the scenario can be run over a log; an error says why not.
func (s *Scenario) On(log Log) error {
	if log == "" {
		log = LogRaft
	}
	if s.only != "" && s.only != log {
		return fmt.Errorf("scenario %q is about the log %q", s.Name, s.only)
	}
	for _, f := range s.Faults {
		if log == LogRaft && ofStore(f.Fault) {
			return fmt.Errorf("scenario %q: the fault %q needs an external store: --log cas", s.Name, f.Fault)
		}
	}
	return nil
}

// forSeed is the scenario as this seed meets it over a log.
func (s Scenario) forSeed(seed uint64, log Log) Scenario {
	if s.vary != nil {
		s.Faults = slices.Clone(s.Faults) // other seeds vary theirs at the same time
		s.vary(&s, rand.New(rand.NewPCG(seed, 0x5ce7a210)))
		s.vary = nil
	}
	if s.varyStore != nil && log == LogCAS {
		s.Faults = slices.Clone(s.Faults)
		s.varyStore(&s, rand.New(rand.NewPCG(seed, 0x5707e)))
	}
	s.varyStore = nil
	return s
}

func steady() Scenario {
	return baseline("steady", "no faults at all: members come, lead and hand over")
}

// allFaults is everything that can go wrong while clocks keep their promise.
func allFaults() []FaultRate {
	return []FaultRate{
		fault("replica-crash", 9*sec, 100*ms, 4*sec),
		fault("replica-crash-at-port", 9*sec, 100*ms, 4*sec),
		fault("replica-pause", 10*sec, 100*ms, 5*sec),
		fault("replica-stalls", 12*sec, 1*sec, 6*sec),
		fault("replica-reboot", 25*sec, 0, 0),
		fault("isolate-registrar", 8*sec, 300*ms, 4*sec),
		fault("isolate-replica", 10*sec, 300*ms, 6*sec),
		fault("one-way-registrar", 12*sec, 300*ms, 5*sec),
		fault("one-way-link", 8*sec, 300*ms, 6*sec),
		fault("split", 15*sec, 300*ms, 5*sec),
		fault("isolate-member", 8*sec, 300*ms, 6*sec),
		fault("member-one-replica", 10*sec, 500*ms, 8*sec),
		fault("member-crash", 9*sec, 0, 0),
		fault("member-pause", 7*sec, 300*ms, 6*sec),
		fault("member-stalls", 10*sec, 1*sec, 6*sec),
		fault("storm", 9*sec, 500*ms, 5*sec),
		fault("slow-disk", 10*sec, 500*ms, 5*sec),
		fault("disk-error", 25*sec, 0, 0),
		fault("resource-restart", 8*sec, 100*ms, 2*sec),
		fault("clock-rate", 10*sec, 0, 0),
		fault("wall-jump", 20*sec, 0, 0),
		fault("hand-over", 20*sec, 0, 0),
	}
}

func defaultScenario() Scenario {
	s := baseline("default", "everything: a mix of faults, sizes and settings that differs by seed")
	s.vary = func(s *Scenario, rng *rand.Rand) {
		s.Faults = chosen(allFaults(), rng)
		varySizes(s, rng)
		s.Network.Loss, s.Network.Duplicate = rng.IntN(10), rng.IntN(20)
		s.Network.Late, s.Network.LateMax = rng.IntN(10), 3*s.TTL.D()
		s.Clocks.Edge = rng.IntN(3) == 0
		s.Workload.CloseEvery = Duration(30 * sec)
		s.Gossip = honestGossip()
	}
	s.varyStore = func(s *Scenario, rng *rand.Rand) {
		s.Faults = append(s.Faults, chosen(storeTroubles(), rng)...)
		s.Store.KeepsIdentity = rng.IntN(2) == 0
	}
	return s
}

// chosen takes about half of the faults, each at half to twice its rate.
func chosen(faults []FaultRate, rng *rand.Rand) []FaultRate {
	var some []FaultRate
	for _, f := range faults {
		if rng.IntN(2) == 0 {
			f.Every = Duration(float64(f.Every) * []float64{0.5, 1, 2}[rng.IntN(3)])
			some = append(some, f)
		}
	}
	return some
}

func varySizes(s *Scenario, rng *rand.Rand) {
	if rng.IntN(6) == 0 {
		s.Replicas = 5
	}
	s.Members = 2 + rng.IntN(4)
	s.Scopes = 3 + rng.IntN(14)
	s.TTL = []Duration{Duration(sec), Duration(2 * sec), Duration(2 * sec), Duration(2 * sec)}[rng.IntN(4)]
	s.SnapshotEntries = []uint64{5, 20, 100, 10_000}[rng.IntN(4)]
	s.FormationMembers = rng.IntN(3)
}

func registrarChurn() Scenario {
	s := baseline("registrar-churn", "the registrar is cut off again and again, for 0.3 to 1.5 TTL, over a network that delivers late")
	s.Faults = []FaultRate{
		fault("isolate-registrar", 1600*ms, 300*ms, 2200*ms),
		fault("replica-stalls", 9*sec, 2*sec, 6*sec),
		fault("storm", 6*sec, 1*sec, 4*sec),
		fault("member-pause", 4*sec, 500*ms, 3*sec),
		fault("isolate-member", 4*sec, 500*ms, 2500*ms),
		fault("member-crash", 15*sec, 0, 0),
		fault("slow-disk", 15*sec, 500*ms, 2*sec),
	}
	s.Network.Late, s.Network.LateMax = 30, 5*sec
	s.vary = func(s *Scenario, rng *rand.Rand) {
		s.Faults[0].Every = Duration(time.Duration(600+rng.IntN(2600)) * ms)
		s.Faults = append(s.Faults[:1:1], chosen(s.Faults[1:], rng)...)
		s.Network.Late = rng.IntN(60)
		s.Clocks.Edge = rng.IntN(2) == 0
	}
	return s
}

func silentMembers() Scenario {
	s := baseline("silent-members", "members die while the registrar changes in steady rhythm, and nothing else is wrong")
	s.Faults = []FaultRate{
		fault("member-crash", 4*sec, 0, 0),
		fault("isolate-registrar", 2600*ms, 700*ms, 700*ms),
	}
	s.Quiet = Duration(10 * sec)
	s.vary = func(s *Scenario, rng *rand.Rand) {
		rhythm := fault("isolate-registrar", time.Duration(2300+rng.IntN(700))*ms, 700*ms, 700*ms)
		rhythm.Steady = true
		s.Faults = []FaultRate{s.Faults[0], rhythm}
	}
	return s
}

func clockEdge() Scenario {
	s := baseline("clock-edge", "every clock at one end of the agreed bound, members and registrars falling silent")
	s.Clocks = Clocks{MaxPPM: 10_000, Edge: true}
	s.Network = Quality{DelayMin: 50 * time.Microsecond, DelayMax: 500 * time.Microsecond}
	s.Faults = []FaultRate{
		fault("member-pause", 4*sec, 1*sec, 5*sec),
		fault("isolate-member", 4*sec, 1*sec, 5*sec),
		fault("isolate-registrar", 10*sec, 1*sec, 4*sec),
		fault("clock-rate", 5*sec, 0, 0),
	}
	return s
}

func clockBeyond() Scenario {
	s := baseline("clock-beyond", "clocks that break the agreed bound by far: two may believe, no resource takes the older after the newer")
	s.Clocks = Clocks{MaxPPM: 400_000, Beyond: true}
	s.Faults = []FaultRate{
		fault("member-pause", 4*sec, 1*sec, 6*sec),
		fault("isolate-member", 4*sec, 1*sec, 6*sec),
		fault("isolate-registrar", 8*sec, 1*sec, 4*sec),
		fault("clock-rate", 3*sec, 0, 0),
		fault("resource-restart", 5*sec, 100*ms, 2*sec),
		fault("replica-crash", 10*sec, 100*ms, 3*sec),
	}
	return s
}

func partitions() Scenario {
	s := baseline("partitions", "links cut in one or both directions: the registrar, a minority, a member from all replicas but one")
	s.Faults = []FaultRate{
		fault("isolate-registrar", 5*sec, 300*ms, 4*sec),
		fault("isolate-replica", 6*sec, 300*ms, 6*sec),
		fault("one-way-registrar", 7*sec, 300*ms, 6*sec),
		fault("one-way-link", 3*sec, 300*ms, 6*sec),
		fault("split", 9*sec, 300*ms, 5*sec),
		fault("isolate-member", 5*sec, 300*ms, 6*sec),
		fault("member-one-replica", 5*sec, 500*ms, 8*sec),
		fault("storm", 9*sec, 500*ms, 5*sec),
	}
	return s
}

func oneWayCut() Scenario {
	s := baseline("one-way-cut", "the registrar still speaks and no longer hears")
	s.Faults = []FaultRate{fault("deaf-registrar", 14*sec, 8*sec, 10*sec)}
	return s
}

func crashes() Scenario {
	s := baseline("crashes", "processes die at any port call, amid writes, and come back from what their disk kept")
	s.SnapshotEntries = 40
	s.SyncMax = Duration(20 * ms)
	s.Faults = []FaultRate{
		fault("replica-crash", 3*sec, 50*ms, 2*sec),
		fault("replica-crash-at-port", 2*sec, 50*ms, 2*sec),
		fault("replica-reboot", 15*sec, 0, 0),
		fault("all-crash", 15*sec, 50*ms, 1*sec),
		fault("disk-error", 12*sec, 0, 0),
		fault("isolate-replica", 5*sec, 200*ms, 3*sec),
		fault("isolate-registrar", 6*sec, 200*ms, 2*sec),
		fault("member-crash", 6*sec, 0, 0),
		fault("resource-restart", 4*sec, 100*ms, 1*sec),
	}
	return s
}

func slowDisk() Scenario {
	s := baseline("slow-disk", "disks that take up to seconds to sync, the registrar's too")
	s.Faults = []FaultRate{
		fault("slow-disk", 3*sec, 1*sec, 6*sec),
		fault("slow-registrar-disk", 5*sec, 1*sec, 5*sec),
		fault("member-pause", 6*sec, 500*ms, 4*sec),
		fault("isolate-member", 6*sec, 500*ms, 4*sec),
	}
	return s
}

func handOver() Scenario {
	s := baseline("hand-over", "scopes handed over all the time: transfers, cancels, drains, resignations, closes, holders cut off meanwhile")
	s.Workload = Workload{
		EffectEvery: Duration(700 * ms), ResignEvery: Duration(4 * sec), CloseEvery: Duration(15 * sec), FinishMax: Duration(1500 * ms),
		TransferEvery: Duration(500 * ms), CancelEvery: Duration(1500 * ms), CordonEvery: Duration(4 * sec),
		RetireEvery: Duration(5 * sec), ReadEvery: Duration(2 * sec),
	}
	s.Faults = []FaultRate{
		fault("isolate-member", 4*sec, 300*ms, 4*sec),
		fault("member-one-replica", 5*sec, 500*ms, 5*sec),
		fault("member-pause", 6*sec, 300*ms, 3*sec),
		fault("isolate-replica", 6*sec, 500*ms, 4*sec),
		fault("hand-over", 9*sec, 0, 0),
		fault("storm", 8*sec, 500*ms, 3*sec),
	}
	return s
}

func retireRedeclare() Scenario {
	s := baseline("retire-redeclare", "scopes are retired and declared again at once while their holders are cut off")
	s.Workload.RetireEvery = Duration(700 * ms)
	s.Workload.FinishMax = Duration(2 * sec)
	s.Faults = []FaultRate{
		fault("isolate-member", 2500*ms, 1*sec, 5*sec),
		fault("member-pause", 5*sec, 500*ms, 3*sec),
		fault("isolate-registrar", 12*sec, 500*ms, 3*sec),
	}
	return s
}

func laggingReplica() Scenario {
	s := baseline("lagging-replica", "a replica hears members and lags behind the log, while they resign and reattach")
	s.Workload.ResignEvery = Duration(1500 * ms)
	s.Workload.TransferEvery = Duration(1 * sec)
	s.Workload.FinishMax = Duration(300 * ms)
	s.Network.Late, s.Network.LateMax = 40, 2*sec
	s.Faults = []FaultRate{
		fault("lagging-replica", 4*sec, 1*sec, 6*sec),
		fault("member-one-replica", 3*sec, 500*ms, 5*sec),
		fault("storm", 5*sec, 500*ms, 3*sec),
		fault("member-stalls", 8*sec, 1*sec, 4*sec),
	}
	return s
}

func snapshots() Scenario {
	s := baseline("snapshots", "snapshots every few entries, replicas that fall behind and receive them, registrars that restart from them")
	s.SnapshotEntries = 6
	s.Faults = []FaultRate{
		fault("isolate-replica", 4*sec, 1*sec, 6*sec),
		fault("replica-crash", 5*sec, 100*ms, 3*sec),
		fault("isolate-registrar", 6*sec, 500*ms, 3*sec),
		fault("all-crash", 20*sec, 100*ms, 1*sec),
		fault("member-crash", 10*sec, 0, 0),
	}
	return s
}

func stalls() Scenario {
	s := baseline("stalls", "processes stall between any two of their port calls, for up to more than a TTL")
	s.Faults = []FaultRate{
		fault("replica-stalls", 3*sec, 2*sec, 8*sec),
		fault("member-stalls", 5*sec, 1*sec, 6*sec),
		fault("replica-pause", 5*sec, 500*ms, 4*sec),
		fault("member-pause", 5*sec, 500*ms, 4*sec),
		fault("isolate-member", 6*sec, 500*ms, 3*sec),
	}
	s.Network.Late, s.Network.LateMax = 10, 4*sec
	return s
}

func contestedElections() Scenario {
	s := baseline("contested-elections", "slow links, so that several stand at once, and voters that die as they vote")
	s.only = LogRaft
	s.SafetyOnly = true
	s.Network = Quality{DelayMin: 5 * ms, DelayMax: 150 * ms, Duplicate: 30, Late: 200, LateMax: 800 * ms}
	s.SyncMin, s.SyncMax = Duration(5*ms), Duration(80*ms)
	s.Faults = []FaultRate{
		fault("isolate-registrar", 3*sec, 800*ms, 1500*ms),
		fault("replica-crash", 6*sec, 0, 0),
		fault("crash-at-vote", 500*ms, 0, 0),
	}
	return s
}

func lateDecisions() Scenario {
	s := baseline("late-decisions", "what a keeper decides is proposed and not committed while its members come back, and then its office ends")
	s.Members = 6
	s.Faults = []FaultRate{
		fault("black-hole-at-decision", 1500*ms, 50*ms, 1500*ms),
		fault("black-hole", 5*sec, 300*ms, 2500*ms),
		fault("isolate-registrar", 8*sec, 300*ms, 2*sec),
		fault("hand-over", 6*sec, 0, 0),
		fault("member-pause", 700*ms, 800*ms, 2600*ms),
	}
	return s
}

func lateExpiries() Scenario {
	s := baseline("late-expiries", "an expiry is proposed and not committed when its member comes back")
	s.Members = 8
	s.Faults = []FaultRate{
		fault("black-hole-at-expiry", 900*ms, 20*ms, 500*ms),
		fault("delay-member", 500*ms, 1*sec, 2500*ms),
		fault("isolate-registrar", 12*sec, 300*ms, 2*sec),
	}
	return s
}

func lostCancels() Scenario {
	s := baseline("lost-cancels", "a note and its cancel are committed late and together, the next cancel is lost with its registrar")
	s.only = LogRaft
	s.SafetyOnly = true
	s.Faults = []FaultRate{
		fault("trap-cancel", 1*sec, 0, 0),
		fault("member-pause", 800*ms, 700*ms, 1100*ms),
	}
	return s
}

func deposedRegistrar() Scenario {
	s := baseline("deposed-registrar", "a registrar is deposed and does not know, while members keep to it")
	s.Patience = Duration(5 * sec)
	s.SafetyOnly = true
	s.Members = 6
	s.Faults = []FaultRate{
		fault("pause-at-check", 4*sec, 700*ms, 2*sec),
		fault("isolate-registrar", 9*sec, 300*ms, 2*sec),
		fault("member-one-replica", 2*sec, 1*sec, 4*sec),
	}
	return s
}

func stalledReceipts() Scenario {
	s := baseline("stalled-receipts", "registrars that stall between taking their inbox and reading the clock, and members that die meanwhile")
	s.Members = 8
	s.Faults = []FaultRate{
		fault("registrar-stalls", 1500*ms, 1*sec, 3*sec),
		fault("member-crash", 700*ms, 0, 0),
		fault("isolate-member", 1500*ms, 2500*ms, 3500*ms),
	}
	return s
}
