package core

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
)

// The stories of testdata/member: time lines of one member's process. "member"
// makes it (ttl=, manual=1, lead=, backoff=); every line of a "run" is a moment on
// its clock and what happens then:
//
//	TIME tick                    time passes
//	TIME until TIME              it ticks at each of its deadlines up to a moment
//	TIME stand|withdraw kind= namespace= scope= labels= priority=
//	TIME reply WHAT [SESSION] [code=C] [revision=N]   an answer: to open, close, stand-1 ...
//	TIME ack SESSION NUMBER      the registrar acknowledges a keepalive
//	TIME view SESSION REVISION [SCOPE:FENCE | SCOPE:FENCE:ASK]... [ended=1]
//	TIME give-up SCOPE FENCE     the application has stopped acting
//	TIME attach                  a connection is made anew
//	TIME close                   the process wants to end
//	TIME held                    what it believes
func TestMemberStories(t *testing.T) {
	datadriven.Walk(t, "testdata/member", func(t *testing.T, path string) {
		s := &memberStory{}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			s.t = t
			s.told.Reset()
			switch d.Cmd {
			case "member":
				return s.create(parseStoryLine(t, d.Cmd+" "+argsOf(d)))
			case "run":
				for _, line := range strings.Split(d.Input, "\n") {
					s.moment(line)
				}
				return s.told.String()
			}
			t.Fatalf("unknown directive %q", d.Cmd)
			return ""
		})
	})
}

func argsOf(d *datadriven.TestData) string {
	var words []string
	for _, a := range d.CmdArgs {
		words = append(words, a.String())
	}
	return strings.Join(words, " ")
}

type memberStory struct {
	t    *testing.T
	m    *Member
	now  Time
	told strings.Builder
}

func (s *memberStory) create(l storyLine) string {
	m, err := NewMember(MemberConfig{
		MemberID: "alice", TTL: l.dur("ttl", time.Second), Instance: "life", Manual: l.num("manual", 0) == 1,
		RenewalLead: l.dur("lead", 0), Backoff: l.dur("backoff", 0), Epsilon: Epsilon(l.num("epsilon", 0)),
	}, 0)
	if err != nil {
		return err.Error()
	}
	s.m = m
	return "ok"
}

func (s *memberStory) moment(line string) {
	at, rest, _ := strings.Cut(line, " ")
	s.now = storyTime(s.t, at)
	l := parseStoryLine(s.t, rest)
	switch l.verb {
	case "tick":
		s.m.Tick(s.now)
	case "until":
		s.until(storyTime(s.t, l.at(0)))
	case "stand":
		if err := s.m.Stand(l.selector(), int32(l.num("priority", 0))); err != nil {
			s.say("%v", err)
		}
	case "withdraw":
		s.m.Withdraw(l.selector())
	case "reply":
		s.reply(l)
	case "ack":
		s.m.Step(s.now, ReplicaMessage{Ack: &Ack{Session: SessionID(l.numAt(0)), Number: l.numAt(1)}})
	case "view":
		s.m.Step(s.now, ReplicaMessage{View: s.view(l)})
	case "give-up":
		s.m.GiveUp(l.at(0), l.numAt(1))
	case "attach":
		s.m.Attached(s.now)
	case "close":
		s.m.Close()
	case "held":
		s.held()
	default:
		s.t.Fatalf("unknown verb in %q", line)
	}
	s.show()
}

func (s *memberStory) say(format string, args ...any) {
	fmt.Fprintf(&s.told, "%v "+format+"\n", append([]any{time.Duration(s.now)}, args...)...)
}

func (s *memberStory) until(end Time) {
	for range 1000 {
		at := max(s.m.Deadline(), s.now)
		if at > end {
			s.now = end
			return
		}
		s.now = at
		s.m.Tick(s.now)
		s.show()
	}
	s.t.Fatalf("the member spins at %v", time.Duration(s.now))
}

func (s *memberStory) reply(l storyLine) {
	result := &Result{Code: l.str("code", ""), Revision: uint64(l.num("revision", 0))}
	if len(l.pos) > 1 {
		result.Session = l.numAt(1)
	}
	s.m.Step(s.now, ReplicaMessage{Reply: &Reply{RequestID: s.m.requestID(l.at(0)), Result: result}})
}

func (s *memberStory) view(l storyLine) *View {
	v := &View{Session: SessionID(l.numAt(0)), Revision: l.numAt(1), Live: l.num("ended", 0) == 0}
	for _, word := range l.pos[2:] {
		part := strings.Split(word, ":")
		fence, err := strconv.ParseUint(part[1], 10, 64)
		if err != nil {
			s.t.Fatal(err)
		}
		g := Grant{Token: Token{Scope: part[0], Session: v.Session, Term: 1, Fence: fence}}
		if len(part) > 2 {
			g.Ask = &Ask{Reason: part[2]}
		}
		v.Grants = append(v.Grants, g)
	}
	return v
}

func (s *memberStory) held() {
	held := s.m.Held(s.now)
	for _, h := range held {
		s.say("holds %s under fence %d until %v", h.Scope, h.Fence, time.Duration(h.Until))
	}
	if len(held) == 0 {
		s.say("holds nothing")
	}
}

var changeNames = map[ChangeKind]string{
	ChangeSessionOpened: "session opened", ChangeSessionLost: "session lost", ChangeGained: "gained", ChangeLost: "lost",
	ChangeAsked: "asked for", ChangeRefused: "refused",
}

func (s *memberStory) show() {
	out := s.m.TakeOutput()
	for _, c := range out.Changes {
		text := changeNames[c.Kind]
		if c.Token.Scope != "" {
			text += fmt.Sprintf(" %s under fence %d", c.Token.Scope, c.Token.Fence)
		}
		if c.Ask != nil {
			text += storyAsk(c.Ask)
		}
		if c.Reason != "" {
			text += " (" + c.Reason + ")"
		}
		s.say("* %s", text)
	}
	for _, m := range out.Messages {
		s.say("-> %s", storyMemberMessage(m))
	}
}

func storyMemberMessage(m MemberMessage) string {
	if k := m.Keepalive; k != nil {
		return fmt.Sprintf("keepalive %d of session %d, cursor %d, view %d", k.Number, k.Session, k.Cursor, k.ViewRevision)
	}
	c := m.Command
	what := "?"
	switch {
	case c.GetOpenSession() != nil:
		what = fmt.Sprintf("open standing %d times", len(c.GetOpenSession().Stands))
	case c.GetCloseSession() != nil:
		what = fmt.Sprintf("close %d", c.GetCloseSession().Session)
	case c.GetStand() != nil:
		what = fmt.Sprintf("stand %d priority %d", c.GetStand().Session, c.GetStand().Priority)
	case c.GetWithdraw() != nil:
		what = fmt.Sprintf("withdraw %d", c.GetWithdraw().Session)
	case c.GetResign() != nil:
		what = fmt.Sprintf("resign %d %s fence %d", c.GetResign().Session, c.GetResign().Scope, c.GetResign().Fence)
	}
	return fmt.Sprintf("%s, request %s, base %d", what, c.RequestId, c.Base)
}
