package core

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/omnirelay/leadership/core/logpb"
	"github.com/omnirelay/leadership/core/plant"
)

// The stories of testdata/claims: what members are heard to claim, and what a registrar
// with an election timeout of 600 ms reports of it. Every line of a "run" is a moment on
// its clock:
//
//	TIME registry COMMAND                an entry is applied (see storyCommands)
//	TIME hear MEMBER SCOPE:FENCE... [for=D] [gossip=1] [every=D until=TIME]
//	TIME until TIME                      it looks at each of its deadlines, or every 100ms
//	TIME office                          it became registrar
func TestClaimStories(t *testing.T) {
	datadriven.Walk(t, "testdata/claims", func(t *testing.T, path string) {
		s := &claimStory{d: newSplitBrain(DefaultElectionTimeout, plant.Set{}), g: NewRegistry(0)}
		s.d.begin(0, s.g)
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			if d.Cmd != "run" {
				t.Fatalf("unknown directive %q", d.Cmd)
			}
			s.t = t
			s.told.Reset()
			for _, line := range strings.Split(d.Input, "\n") {
				s.moment(line)
			}
			if s.told.Len() == 0 {
				return "nothing to report"
			}
			return s.told.String()
		})
	})
}

type claimStory struct {
	t        *testing.T
	d        *splitBrain
	g        *Registry
	now      Time
	requests int
	decided  uint64
	told     strings.Builder
}

func (s *claimStory) moment(line string) {
	at, rest, _ := strings.Cut(line, " ")
	s.now = storyTime(s.t, at)
	l := parseStoryLine(s.t, strings.TrimSpace(rest))
	switch l.verb {
	case "registry":
		_, command, _ := strings.Cut(rest, "registry ")
		s.apply(parseStoryLine(s.t, command))
	case "hear":
		s.hear(l)
	case "until":
		for end := storyTime(s.t, l.at(0)); s.now < end; s.now = s.now.Add(100 * time.Millisecond) {
			s.look()
		}
	case "office":
		s.d.begin(s.now, s.g)
	default:
		s.t.Fatalf("unknown verb in %q", line)
	}
	s.look()
}

func (s *claimStory) hear(l storyLine) {
	var claims []Claim
	for _, word := range l.pos[1:] {
		scope, number, _ := strings.Cut(word, ":")
		fence, err := strconv.ParseUint(number, 10, 64)
		if err != nil {
			s.t.Fatal(err)
		}
		claims = append(claims, Claim{Scope: scope, Fence: fence})
	}
	every := l.dur("every", time.Hour)
	end := s.now
	if until, ok := l.key["until"]; ok {
		end = storyTime(s.t, until)
	}
	for ; s.now <= end; s.now = s.now.Add(every) {
		if l.num("gossip", 0) == 1 {
			s.d.hear(s.now, s.g, l.at(0), claims, l.dur("for", DefaultTTL))
		} else {
			s.d.hearItself(s.now, s.g, l.at(0), claims, l.dur("for", DefaultTTL))
		}
		s.look()
	}
	s.now = s.now.Add(-every)
}

// look has everything reported that is due, and applied.
func (s *claimStory) look() {
	reports := s.d.due(s.now, s.g)
	for _, r := range reports {
		fmt.Fprintf(&s.told, "%v %s: %s claims %s under fence %d\n", time.Duration(s.now), r.Reason, r.MemberId, r.Scope, r.Fence)
	}
	if len(reports) > 0 {
		s.commit(&logpb.Command{Kind: &logpb.Command_ReportSplitBrain{ReportSplitBrain: &logpb.ReportSplitBrain{Reports: reports}}})
	}
}

func (s *claimStory) apply(l storyLine) {
	c := storyCommands[l.verb](l)
	if k := c.GetKeeper(); k != nil {
		s.decided++
		k.Term, k.Number = 1, s.decided
	}
	s.commit(c)
}

func (s *claimStory) commit(c *logpb.Command) {
	if err := CompleteCommand(c); err != nil {
		s.t.Fatal(err)
	}
	if c.GetKeeper() == nil {
		s.requests++
		c.RequestId, c.Base = fmt.Sprintf("r%d", s.requests), s.g.revision
	}
	out, err := s.g.Apply(s.g.revision+1, 1, mustMarshal(s.t, &logpb.Entry{Commands: []*logpb.Command{c}}))
	if err != nil {
		s.t.Fatal(err)
	}
	if r := out.Results[0]; r.Code != "" {
		s.t.Fatal(storyResult(r))
	}
	s.d.follow(s.now, s.g, out.Records)
}
