package logtest

import (
	"fmt"
	"time"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
)

// sessionTTL is so long that no session of a script ends by silence: what happens is
// what the script asks for.
const sessionTTL = time.Hour

// step makes the next command; it may look at what is led now.
type step func(token func(scope string) core.Token) *logpb.Command

func fixed(c *logpb.Command) step { return func(func(string) core.Token) *logpb.Command { return c } }

// script is a history with every kind of command, also refused and repeated ones.
// Each command has its request id, and is made when the one before was answered, so
// that the same comes of it on every log.
func script() []step {
	steps := []step{declareShards(0, 12)}
	for i := range 3 {
		steps = append(steps, openSession(fmt.Sprintf("m%d", i+1), uint32(i+1)))
	}
	steps = append(steps,
		declareShards(12, 16),
		fixed(&logpb.Command{Kind: &logpb.Command_Transfer{Transfer: &logpb.Transfer{Scope: shard(0), ToMember: "m2", Reason: core.AskTransfer}}}),
		fixed(&logpb.Command{Kind: &logpb.Command_CancelTransfer{CancelTransfer: &logpb.CancelTransfer{Scope: shard(0)}}}),
		fixed(&logpb.Command{Kind: &logpb.Command_Transfer{Transfer: &logpb.Transfer{Scope: "nowhere", Reason: core.AskTransfer}}}),
		resign(shard(1)), resign(shard(2)),
		fixed(&logpb.Command{Kind: &logpb.Command_Cordon{Cordon: &logpb.Cordon{MemberId: "m1", Cordoned: true, Drain: true}}}),
		resign(shard(3)), resign(shard(4)),
		fixed(&logpb.Command{Kind: &logpb.Command_Withdraw{Withdraw: &logpb.Withdraw{Session: 2, Selector: &logpb.Selector{}, Number: 2}}}),
		resign(shard(5)),
		fixed(&logpb.Command{Kind: &logpb.Command_Stand{Stand: &logpb.Stand{Session: 2, Selector: &logpb.Selector{}, Priority: 5, Number: 3}}}),
		fixed(&logpb.Command{Kind: &logpb.Command_CloseSession{CloseSession: &logpb.CloseSession{Session: 3}}}),
		fixed(&logpb.Command{Kind: &logpb.Command_CloseSession{CloseSession: &logpb.CloseSession{Session: 3}}}),
		fixed(&logpb.Command{Kind: &logpb.Command_Cordon{Cordon: &logpb.Cordon{MemberId: "m1"}}}),
		openSession("m3", 1),
		fixed(&logpb.Command{Kind: &logpb.Command_RetireScopes{RetireScopes: &logpb.RetireScopes{Scopes: []string{shard(0), shard(15)}}}}),
		resign(shard(7)),
	)
	return steps
}

func shard(n int) string { return fmt.Sprintf("shard/script/%02d", n) }

func declareShards(from, to int) step {
	d := &logpb.DeclareScopes{}
	for n := from; n < to; n++ {
		d.Scopes = append(d.Scopes, &logpb.ScopeSpec{Id: shard(n), Labels: map[string]string{"n": fmt.Sprint(n)}})
	}
	return fixed(&logpb.Command{Kind: &logpb.Command_DeclareScopes{DeclareScopes: d}})
}

func openSession(member string, weight uint32) step {
	return fixed(&logpb.Command{Kind: &logpb.Command_OpenSession{OpenSession: &logpb.OpenSession{
		MemberId: member, Weight: weight, TtlNs: int64(sessionTTL), Stands: []*logpb.Stand{{Selector: &logpb.Selector{}}},
	}}})
}

// resign gives up what is led, with its fence.
func resign(scope string) step {
	return func(token func(string) core.Token) *logpb.Command {
		t := token(scope)
		return &logpb.Command{Kind: &logpb.Command_Resign{Resign: &logpb.Resign{Session: uint64(t.Session), Scope: scope, Fence: t.Fence}}}
	}
}

// filler is a command of no great effect, for a log that is to grow.
func filler(n int) step {
	return fixed(&logpb.Command{Kind: &logpb.Command_Cordon{Cordon: &logpb.Cordon{MemberId: "nobody", Cordoned: n%2 == 0}}})
}

// tell is what of a record is the same on every log: neither its place, nor the time,
// nor the hashes over both.
func tell(r *core.Record) string {
	return fmt.Sprintf("%d %s %s %s %v member %s session %d term %d fence %d reason %q cause %q by %q",
		r.Seq, core.EventKind(r.Kind), r.Scope, r.ScopeKind, r.Labels, r.MemberId, r.Session, r.Term, r.Fence, r.Reason, r.CorrelationId, r.Actor)
}
