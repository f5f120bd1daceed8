package core

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/core/logpb"
)

// The stories of testdata/registry. Regenerate what they show with
//
//	go test ./core -run Stories -rewrite
//
// and read the difference: it is what changed for users.
//
//	entry [term=N]        one log entry; each line of input is a command (see storyCommands)
//	state                 scopes and sessions
//	view N                what the member of session N is told
//	drains                what draining members would be asked for by now
//	moves [limit=N]       what a rebalance would ask for
//	snapshot              go on with a registry restored from the encoded snapshot
//	window limit=N        keep N replies only
//	understand version=N  go on with a build that understands version N
//	unknown WHAT          an entry of a newer schema
func TestRegistryStories(t *testing.T) {
	datadriven.Walk(t, "testdata/registry", func(t *testing.T, path string) {
		s := &registryStory{g: NewRegistry(0), term: 1}
		datadriven.RunTest(t, path, s.run)
	})
}

type registryStory struct {
	g        *Registry
	term     uint64
	requests int
	number   uint64 // of the latest keeper decision
}

func (s *registryStory) run(t *testing.T, d *datadriven.TestData) string {
	switch d.Cmd {
	case "entry":
		if d.HasArg("term") {
			s.number = 0
			d.ScanArgs(t, "term", &s.term)
		}
		return s.entry(t, d.Input)
	case "state":
		return storyState(s.g)
	case "view":
		id, err := strconv.ParseUint(d.CmdArgs[0].Key, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return storyView(s.g.View(SessionID(id)))
	case "moves":
		limit := 10
		d.MaybeScanArgs(t, "limit", &limit)
		return storyMoves(s.g.PlanMoves(limit))
	case "drains":
		return storyMoves(s.g.PlanDrains(10))
	case "snapshot":
		s.g = reincarnate(t, s.g)
		return "the same hash"
	case "window":
		d.ScanArgs(t, "limit", &s.g.replies.limit)
		return "ok"
	case "understand":
		var version int
		d.ScanArgs(t, "version", &version)
		s.g.maxVersion = uint32(version)
		return "ok"
	case "unknown":
		_, err := s.g.Apply(s.g.revision+1, s.term, newerPayload(t, d.CmdArgs[0].Key))
		return fmt.Sprintf("stops: %v", err)
	}
	t.Fatalf("unknown directive %q", d.Cmd)
	return ""
}

// entry applies one entry and shows each reply and each event.
func (s *registryStory) entry(t *testing.T, input string) string {
	e := &logpb.Entry{Proposer: 1, WallNs: int64(s.g.revision+1) * 1e9}
	var verbs []string
	if input != "" {
		for _, text := range strings.Split(input, "\n") {
			line := parseStoryLine(t, text)
			c := s.command(line)
			if err := checkProposed(c); err != nil {
				return fmt.Sprintf("%s never reaches the log: %v", line.verb, err)
			}
			e.Commands, verbs = append(e.Commands, c), append(verbs, line.verb)
		}
	}
	out, err := s.g.Apply(s.g.revision+1, s.term, mustMarshal(t, e))
	if err != nil {
		return fmt.Sprintf("stops: %v", err)
	}
	return s.told(e, verbs, out)
}

func (s *registryStory) told(e *logpb.Entry, verbs []string, out *Outcome) string {
	var b strings.Builder
	decisions := out.Keeper
	for i, r := range out.Results {
		fmt.Fprintf(&b, "%s: %s", verbs[i], storyResult(r))
		if e.Commands[i].GetKeeper() != nil {
			if decisions[0].Void {
				b.WriteString(", void")
			}
			decisions = decisions[1:]
		}
		b.WriteString("\n")
	}
	for _, r := range out.Records {
		b.WriteString("  " + storyRecord(r) + "\n")
	}
	if b.Len() == 0 {
		return fmt.Sprintf("nothing at %d", out.Revision)
	}
	return b.String()
}

func (s *registryStory) command(l storyLine) *logpb.Command {
	build := storyCommands[l.verb]
	if build == nil {
		l.t.Fatalf("no command is called %q", l.verb)
	}
	c := build(l)
	s.requests++
	c.RequestId = l.str("id", fmt.Sprintf("r%d", s.requests))
	c.Base = uint64(l.num("base", int64(s.g.revision)))
	c.CorrelationId, c.Actor, c.Why = "c-"+c.RequestId, l.str("actor", ""), strings.ReplaceAll(l.str("why", ""), "_", " ")
	if k := c.GetKeeper(); k != nil {
		c.RequestId = ""
		if k.Term == 0 {
			k.Term = s.term
		}
		if k.Number == 0 {
			k.Number = s.number + 1
		}
		s.number = max(s.number, k.Number)
	}
	return c
}

// checkProposed is what a replica checks before it proposes: commands of its own
// are not checked.
func checkProposed(c *logpb.Command) error {
	switch c.Kind.(type) {
	case *logpb.Command_Bootstrap, *logpb.Command_AnnounceVersion, *logpb.Command_Keeper, *logpb.Command_EndFormation,
		*logpb.Command_ObserveMembers, *logpb.Command_ReportSplitBrain:
		return nil
	}
	if err := CompleteCommand(c); err != nil {
		return err
	}
	return ValidateCommand(c)
}

func mustMarshal(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// reincarnate restores g from the bytes of its snapshot.
func reincarnate(t testing.TB, g *Registry) *Registry {
	t.Helper()
	data, err := marshalSnapshot(g.Snapshot())
	if err != nil {
		t.Fatal(err)
	}
	s := &logpb.Snapshot{}
	if err := proto.Unmarshal(data, s); err != nil {
		t.Fatal(err)
	}
	restored, err := Restore(s, g.maxVersion)
	if err != nil {
		t.Fatal(err)
	}
	if restored.Hash() != g.Hash() {
		t.Fatal("the restored registry has another hash")
	}
	restored.replies.limit, restored.history.limit = g.replies.limit, g.history.limit
	return restored
}

// newerPayload is an entry that a newer build might write.
func newerPayload(t testing.TB, what string) []byte {
	field := protowire.AppendVarint(protowire.AppendTag(nil, 900, protowire.VarintType), 1)
	c := &logpb.Command{RequestId: "new", Kind: &logpb.Command_Stand{Stand: &logpb.Stand{Session: 1, Selector: &logpb.Selector{}}}}
	e := &logpb.Entry{Commands: []*logpb.Command{c}}
	declared := &logpb.ScopeSpec{Id: "new", Kind: KindCustom}
	switch what {
	case "kind-of-command":
		c.Kind = nil
		c.ProtoReflect().SetUnknown(field)
	case "field-of-entry":
		e.ProtoReflect().SetUnknown(field)
	case "field-of-command":
		c.ProtoReflect().SetUnknown(field)
	case "field-of-stand":
		c.GetStand().ProtoReflect().SetUnknown(field)
	case "field-of-selector":
		c.GetStand().Selector.ProtoReflect().SetUnknown(field)
	case "field-of-scope":
		declared.ProtoReflect().SetUnknown(field)
		c.Kind = &logpb.Command_DeclareScopes{DeclareScopes: &logpb.DeclareScopes{Scopes: []*logpb.ScopeSpec{declared}}}
	case "failover-mode":
		declared.Failover = 9
		c.Kind = &logpb.Command_DeclareScopes{DeclareScopes: &logpb.DeclareScopes{Scopes: []*logpb.ScopeSpec{declared}}}
	case "kind-of-decision":
		c.Kind = &logpb.Command_Keeper{Keeper: &logpb.KeeperDecision{Term: 1, Number: 1, Kind: 9, Session: 1}}
	default:
		t.Fatalf("nothing newer is called %q", what)
	}
	return mustMarshal(t, e)
}

// apply applies one command and fails unless the entry is taken.
func apply(t testing.TB, g *Registry, c *logpb.Command) *Outcome {
	t.Helper()
	if err := CompleteCommand(c); err != nil {
		t.Fatal(err)
	}
	out, err := g.Apply(g.revision+1, 1, mustMarshal(t, &logpb.Entry{Commands: []*logpb.Command{c}}))
	if err != nil {
		t.Fatal(err)
	}
	return out
}
