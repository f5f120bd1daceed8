package core

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/omnirelay/leadership/core/logpb"
	"github.com/omnirelay/leadership/core/plant"
)

// The stories of testdata/keeper: time lines of one registrar. Every line of a
// "run" is a moment on its clock and what happens then:
//
//	TIME registry COMMAND...      an entry of this term is applied (see storyCommands)
//	TIME office TERM              this replica became registrar
//	TIME first-entry              the office's first entry is applied; then whatever stands in the registry counts
//	TIME noted SESSION            this replica applied the session's note now
//	TIME receive SESSION NUMBER   a keepalive arrives
//	TIME suspect SESSION grace=D  somebody says that the member is gone
//	TIME check                    a quorum check is begun if one is wanted
//	TIME confirm CHECK            a quorum confirmed it
//	TIME tick                     the keeper decides; what it decides is proposed
//	TIME apply                    what was proposed is applied, in order
//	TIME drop                     the log does not take what was proposed
//	TIME until TIME               it ticks at each of its deadlines up to a moment, applying what it proposes
//	TIME end                      the office ends
func TestKeeperStories(t *testing.T) {
	datadriven.Walk(t, "testdata/keeper", func(t *testing.T, path string) {
		s := &keeperStory{k: newKeeper(DefaultEpsilon, plant.Set{}), g: NewRegistry(0), notedAt: map[SessionID]Time{}}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			if d.Cmd != "run" {
				t.Fatalf("unknown directive %q", d.Cmd)
			}
			s.t = t
			s.told.Reset()
			for _, line := range strings.Split(d.Input, "\n") {
				s.moment(line)
			}
			return s.told.String()
		})
	})
}

type keeperStory struct {
	t        *testing.T
	k        *Keeper
	g        *Registry
	now      Time
	notedAt  map[SessionID]Time
	requests int
	proposed []*logpb.KeeperDecision
	told     strings.Builder
}

func (s *keeperStory) moment(line string) {
	at, rest, _ := strings.Cut(line, " ")
	s.now = storyTime(s.t, at)
	l := parseStoryLine(s.t, strings.TrimSpace(rest))
	switch l.verb {
	case "registry":
		_, command, _ := strings.Cut(rest, "registry ")
		s.apply(s.command(parseStoryLine(s.t, command)))
	case "office":
		s.k.Begin(l.numAt(0))
	case "first-entry":
		s.k.Open(s.now, s.g, s.notedAt)
	case "noted":
		s.notedAt[SessionID(l.numAt(0))] = s.now
	case "receive":
		s.k.Receive(s.now, 2, &KeepaliveForward{Session: SessionID(l.numAt(0)), Number: l.numAt(1), Conn: 7})
	case "suspect":
		s.k.Suspect(s.now, SessionID(l.numAt(0)), l.dur("grace", 0))
	case "check":
		s.check()
	case "confirm":
		s.k.Confirmed(l.numAt(0))
	case "tick":
		s.tick()
	case "apply":
		s.applyProposed()
	case "drop":
		for _, d := range s.take() {
			s.k.Dropped(s.now, d)
		}
	case "until":
		s.until(storyTime(s.t, l.at(0)))
	case "end":
		s.k.End()
	default:
		s.t.Fatalf("unknown verb in %q", line)
	}
	s.showAcks()
}

func storyTime(t *testing.T, s string) Time {
	t.Helper()
	d, err := time.ParseDuration(s)
	if err != nil {
		t.Fatal(err)
	}
	return Time(d)
}

func (s *keeperStory) say(format string, args ...any) {
	fmt.Fprintf(&s.told, "%v "+format+"\n", append([]any{time.Duration(s.now)}, args...)...)
}

func (s *keeperStory) check() {
	if s.k.WantsCheck() {
		s.say("check %d begins", s.k.BeginCheck())
	} else {
		s.say("no check is wanted")
	}
}

func (s *keeperStory) tick() {
	for _, d := range s.k.Tick(s.now) {
		s.proposed = append(s.proposed, d)
		s.say("proposes %s", storyKeeperDecision(d))
	}
}

func storyKeeperDecision(d *logpb.KeeperDecision) string {
	kind := strings.ToLower(strings.TrimPrefix(d.Kind.String(), "KIND_"))
	s := fmt.Sprintf("%s of session %d, number %d of term %d", kind, d.Session, d.Number, d.Term)
	if d.Kind == logpb.KeeperDecision_KIND_NOTE {
		s += fmt.Sprintf(", silent for %v", time.Duration(d.AgeNs))
	}
	return s
}

func (s *keeperStory) take() []*logpb.KeeperDecision {
	taken := s.proposed
	s.proposed = nil
	return taken
}

func (s *keeperStory) applyProposed() {
	for _, d := range s.take() {
		s.apply(&logpb.Command{Kind: &logpb.Command_Keeper{Keeper: d}})
	}
}

// until lets the keeper sleep from deadline to deadline.
func (s *keeperStory) until(end Time) {
	for range 1000 {
		if at := max(s.k.Deadline(s.now), s.now); at > end {
			s.now = end
			return
		} else {
			s.now = at
		}
		s.tick()
		s.applyProposed()
		s.showAcks()
	}
	s.t.Fatalf("the keeper spins at %v", time.Duration(s.now))
}

func (s *keeperStory) command(l storyLine) *logpb.Command {
	c := storyCommands[l.verb](l)
	s.requests++
	if c.GetKeeper() == nil {
		c.RequestId, c.Base = fmt.Sprintf("r%d", s.requests), s.g.revision
	}
	return c
}

// apply does with an entry what a replica does.
func (s *keeperStory) apply(c *logpb.Command) {
	term := s.k.term
	if k := c.GetKeeper(); k != nil && term == 0 {
		term = k.Term
	}
	out, err := s.g.Apply(s.g.revision+1, term, mustMarshal(s.t, &logpb.Entry{Commands: []*logpb.Command{c}}))
	if err != nil {
		s.t.Fatal(err)
	}
	for _, id := range out.Notes {
		s.notedAt[id] = s.now
	}
	for _, id := range out.Sessions {
		if st, live := s.g.Session(id); live {
			s.k.Opened(s.now, id, time.Duration(st.TTL))
		} else {
			s.k.Ended(id)
			s.say("session %d ended", id)
		}
	}
	for _, a := range out.Keeper {
		s.k.Applied(a)
	}
}

func (s *keeperStory) showAcks() {
	acks := s.k.TakeAcks()
	slices.SortFunc(acks, func(a, b keeperAck) int { return int(a.session) - int(b.session) })
	for _, a := range acks {
		s.say("acknowledges keepalive %d of session %d", a.number, a.session)
	}
}
