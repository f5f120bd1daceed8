package core

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/core/logpb"
)

// The words of the stories in testdata: how their lines become commands, and how
// what happened is written down.

// storyLine is one line of a story: a verb, positional words, key=value pairs.
type storyLine struct {
	t    *testing.T
	verb string
	key  map[string]string
	pos  []string
}

func parseStoryLine(t *testing.T, line string) storyLine {
	t.Helper()
	words := strings.Fields(line)
	if len(words) == 0 {
		t.Fatal("an empty line")
	}
	l := storyLine{t: t, verb: words[0], key: map[string]string{}}
	for _, w := range words[1:] {
		if k, v, ok := strings.Cut(w, "="); ok {
			l.key[k] = v
		} else {
			l.pos = append(l.pos, w)
		}
	}
	return l
}

func (l storyLine) str(key, otherwise string) string {
	if v, ok := l.key[key]; ok {
		return v
	}
	return otherwise
}

func (l storyLine) num(key string, otherwise int64) int64 {
	v, ok := l.key[key]
	if !ok {
		return otherwise
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil {
		l.t.Fatalf("%s=%s: %v", key, v, err)
	}
	return n
}

func (l storyLine) dur(key string, otherwise time.Duration) time.Duration {
	v, ok := l.key[key]
	if !ok {
		return otherwise
	}
	d, err := time.ParseDuration(v)
	if err != nil {
		l.t.Fatalf("%s=%s: %v", key, v, err)
	}
	return d
}

func (l storyLine) at(i int) string {
	l.t.Helper()
	if i >= len(l.pos) {
		l.t.Fatalf("%s: word %d is missing after %v", l.verb, i, l.pos)
	}
	return l.pos[i]
}

func (l storyLine) numAt(i int) uint64 {
	l.t.Helper()
	n, err := strconv.ParseUint(l.at(i), 10, 64)
	if err != nil {
		l.t.Fatalf("%s: %v", l.verb, err)
	}
	return n
}

func (l storyLine) labels() map[string]string {
	if l.key["labels"] == "" {
		return nil
	}
	m := map[string]string{}
	for _, kv := range strings.Split(l.key["labels"], ",") {
		k, v, _ := strings.Cut(kv, ":")
		m[k] = v
	}
	return m
}

func (l storyLine) selector() *logpb.Selector {
	return &logpb.Selector{Kind: l.key["kind"], Namespace: l.key["namespace"], Id: l.key["scope"], Labels: l.labels()}
}

// storyCommands builds each command from its line:
//
//	bootstrap voters=1,2,3 formation=N          announce REPLICA version=N
//	open MEMBER weight=N ttl=D replaces=N stands=KIND,... priority=N
//	close SESSION
//	note|cancel|expire SESSION term=N number=N age=D
//	stand|withdraw SESSION kind= namespace= scope= labels=k:v priority=N
//	resign SESSION SCOPE FENCE                  transfer SCOPE to=MEMBER fence=N reason=
//	cancel-transfer SCOPE                       declare SCOPE... kind= labels= prefer=MEMBER fast=1
//	retire SCOPE...                             cordon MEMBER drain=1 · uncordon MEMBER
//	end-formation N                             read
//	observe MEMBER health=dead|left|alive unsupported=1
//	report MEMBER scope=S fence=N reason=R
//
// actor= and why= say who and why, of any of them;
// id= and base= set the request id and base of any of them.
var storyCommands = map[string]func(l storyLine) *logpb.Command{
	"bootstrap": func(l storyLine) *logpb.Command {
		b := &logpb.Bootstrap{ClusterId: l.str("cluster", "story"), FormationMembers: uint32(l.num("formation", 0))}
		for _, v := range strings.Split(l.str("voters", "1"), ",") {
			n, err := strconv.ParseUint(v, 10, 64)
			if err != nil {
				l.t.Fatal(err)
			}
			b.Voters = append(b.Voters, n)
		}
		return &logpb.Command{Kind: &logpb.Command_Bootstrap{Bootstrap: b}}
	},
	"announce": func(l storyLine) *logpb.Command {
		return &logpb.Command{Kind: &logpb.Command_AnnounceVersion{AnnounceVersion: &logpb.AnnounceVersion{
			Replica: l.numAt(0), MaxVersion: uint32(l.num("version", 2)),
		}}}
	},
	"open": func(l storyLine) *logpb.Command {
		open := &logpb.OpenSession{
			MemberId: l.at(0), Labels: l.labels(), Weight: uint32(l.num("weight", 1)),
			TtlNs: int64(l.dur("ttl", DefaultTTL)), Replaces: uint64(l.num("replaces", 0)),
		}
		if kinds := l.str("stands", ""); kinds != "" {
			for _, kind := range strings.Split(kinds, ",") {
				open.Stands = append(open.Stands, &logpb.Stand{Selector: &logpb.Selector{Kind: kind}, Priority: int32(l.num("priority", 0))})
			}
		}
		return &logpb.Command{Kind: &logpb.Command_OpenSession{OpenSession: open}}
	},
	"close": func(l storyLine) *logpb.Command {
		return &logpb.Command{Kind: &logpb.Command_CloseSession{CloseSession: &logpb.CloseSession{Session: l.numAt(0)}}}
	},
	"note":   func(l storyLine) *logpb.Command { return storyDecision(l, logpb.KeeperDecision_KIND_NOTE) },
	"cancel": func(l storyLine) *logpb.Command { return storyDecision(l, logpb.KeeperDecision_KIND_CANCEL) },
	"expire": func(l storyLine) *logpb.Command { return storyDecision(l, logpb.KeeperDecision_KIND_EXPIRE) },
	"stand": func(l storyLine) *logpb.Command {
		return &logpb.Command{Kind: &logpb.Command_Stand{Stand: &logpb.Stand{
			Session: l.numAt(0), Selector: l.selector(), Priority: int32(l.num("priority", 0)),
		}}}
	},
	"withdraw": func(l storyLine) *logpb.Command {
		return &logpb.Command{Kind: &logpb.Command_Withdraw{Withdraw: &logpb.Withdraw{Session: l.numAt(0), Selector: l.selector()}}}
	},
	"resign": func(l storyLine) *logpb.Command {
		return &logpb.Command{Kind: &logpb.Command_Resign{Resign: &logpb.Resign{Session: l.numAt(0), Scope: l.at(1), Fence: l.numAt(2)}}}
	},
	"transfer": func(l storyLine) *logpb.Command {
		return &logpb.Command{Kind: &logpb.Command_Transfer{Transfer: &logpb.Transfer{
			Scope: l.at(0), ToMember: l.key["to"], Fence: uint64(l.num("fence", 0)), Reason: l.key["reason"],
		}}}
	},
	"cancel-transfer": func(l storyLine) *logpb.Command {
		return &logpb.Command{Kind: &logpb.Command_CancelTransfer{CancelTransfer: &logpb.CancelTransfer{Scope: l.at(0)}}}
	},
	"declare": func(l storyLine) *logpb.Command {
		d := &logpb.DeclareScopes{}
		for _, id := range l.pos {
			spec := &logpb.ScopeSpec{Id: id, Kind: l.key["kind"], Labels: l.labels(), PreferredMember: l.key["prefer"]}
			if l.num("fast", 0) == 1 {
				spec.Failover = logpb.ScopeSpec_FAILOVER_FAST
			}
			d.Scopes = append(d.Scopes, spec)
		}
		return &logpb.Command{Kind: &logpb.Command_DeclareScopes{DeclareScopes: d}}
	},
	"retire": func(l storyLine) *logpb.Command {
		return &logpb.Command{Kind: &logpb.Command_RetireScopes{RetireScopes: &logpb.RetireScopes{Scopes: l.pos}}}
	},
	"cordon": func(l storyLine) *logpb.Command {
		return &logpb.Command{Kind: &logpb.Command_Cordon{Cordon: &logpb.Cordon{MemberId: l.at(0), Cordoned: true, Drain: l.num("drain", 0) == 1}}}
	},
	"uncordon": func(l storyLine) *logpb.Command {
		return &logpb.Command{Kind: &logpb.Command_Cordon{Cordon: &logpb.Cordon{MemberId: l.at(0), Drain: l.num("drain", 0) == 1}}}
	},
	"end-formation": func(l storyLine) *logpb.Command {
		return &logpb.Command{Kind: &logpb.Command_EndFormation{EndFormation: &logpb.EndFormation{Formation: l.numAt(0)}}}
	},
	"observe": func(l storyLine) *logpb.Command {
		health := map[string]Health{"": HealthAlive, "alive": HealthAlive, "dead": HealthDead, "left": HealthLeft}[l.key["health"]]
		o := Observation{MemberID: l.at(0), Health: health, Unsupported: l.num("unsupported", 0) == 1}
		return &logpb.Command{Kind: &logpb.Command_ObserveMembers{ObserveMembers: &logpb.ObserveMembers{Members: []*logpb.Observation{o.toProto()}}}}
	},
	"report": func(l storyLine) *logpb.Command {
		return &logpb.Command{Kind: &logpb.Command_ReportSplitBrain{ReportSplitBrain: &logpb.ReportSplitBrain{Reports: []*logpb.SplitBrain{
			{Scope: l.key["scope"], MemberId: l.at(0), Fence: uint64(l.num("fence", 0)), Reason: l.key["reason"]},
		}}}}
	},
	"read": func(storyLine) *logpb.Command {
		return &logpb.Command{Kind: &logpb.Command_Read{Read: &logpb.Read{}}}
	},
}

func storyDecision(l storyLine, kind logpb.KeeperDecision_Kind) *logpb.Command {
	return &logpb.Command{Kind: &logpb.Command_Keeper{Keeper: &logpb.KeeperDecision{
		Kind: kind, Session: l.numAt(0), AgeNs: int64(l.dur("age", 0)), Term: uint64(l.num("term", 0)), Number: uint64(l.num("number", 0)),
	}}}
}

func storyResult(r *Result) string {
	if r.Code != "" {
		field := ""
		if r.Field != "" {
			field = r.Field + ": "
		}
		return fmt.Sprintf("%s: %s%s (as of revision %d)", r.Code, field, r.Message, r.Revision)
	}
	s := fmt.Sprintf("ok at %d", r.Revision)
	if r.Session != 0 {
		s += fmt.Sprintf(", session %d", r.Session)
	}
	if r.Fence != 0 {
		s += fmt.Sprintf(", fence %d", r.Fence)
	}
	return s
}

func storyRecord(r *Record) string {
	s := fmt.Sprintf("%d.%d %v %s", r.Revision, r.Ordinal, EventKind(r.Kind), r.Scope)
	if why := r.Why; why != "" {
		r = proto.CloneOf(r)
		r.Reason += fmt.Sprintf(", as %s asked, since %q", r.Actor, why)
	}
	if r.Scope == "" {
		return strings.TrimSpace(fmt.Sprintf("%s%s: %s %s", s, r.MemberId, r.Reason, r.Subject))
	}
	if r.MemberId != "" {
		s += fmt.Sprintf(" %s#%d", r.MemberId, r.Session)
	}
	return s + fmt.Sprintf(" term %d fence %d: %s", r.Term, r.Fence, r.Reason)
}

func storyState(g *Registry) string {
	var b strings.Builder
	if forming, n := g.Forming(); forming {
		fmt.Fprintf(&b, "forming, formation %d\n", n)
	}
	for _, sc := range g.Scopes() {
		fmt.Fprintf(&b, "%s (%s): ", sc.Spec.Id, sc.Spec.Kind)
		if sc.Led {
			fmt.Fprintf(&b, "%s#%d term %d fence %d", sc.Leader.LeaderID, sc.Leader.Session, sc.Leader.Term, sc.Leader.Fence)
		} else {
			b.WriteString("vacant")
		}
		b.WriteString(storyAsk(sc.Ask) + "\n")
	}
	for _, s := range g.Sessions() {
		fmt.Fprintf(&b, "%s#%d weight %d stands %d leads %d", s.MemberID, s.ID, s.Weight, s.Stands, s.Led)
		if s.Noted {
			fmt.Fprintf(&b, " noted silent for %v", time.Duration(s.NotedAge))
		}
		if s.Cordoned {
			b.WriteString(" cordoned")
		}
		if s.Draining {
			fmt.Fprintf(&b, " draining, %d stuck", g.Member(s.MemberID).Stuck)
		}
		if s.Ineligible != "" {
			b.WriteString(" " + s.Ineligible)
		}
		b.WriteString("\n")
	}
	return b.String()
}

func storyAsk(a *Ask) string {
	switch {
	case a == nil:
		return ""
	case a.To != "":
		return fmt.Sprintf(", asked: %s to %s", a.Reason, a.To)
	}
	return ", asked: " + a.Reason
}

func storyView(v *View, known bool) string {
	if !known {
		return "not known here"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "session %d at revision %d live=%v\n", v.Session, v.Revision, v.Live)
	for _, g := range v.Grants {
		fmt.Fprintf(&b, "%s term %d fence %d%s\n", g.Scope, g.Term, g.Fence, storyAsk(g.Ask))
	}
	return b.String()
}

func storyMoves(moves []Move) string {
	var b strings.Builder
	for _, m := range moves {
		fmt.Fprintf(&b, "%s under fence %d to %s\n", m.Scope, m.Fence, m.To)
	}
	if len(moves) == 0 {
		return "none"
	}
	return b.String()
}
