package core

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/core/logpb"
)

const benchScopes = 10_000

// bigRegistry holds 10,000 scopes: all led by session 1 when alone, else spread
// over the members.
func bigRegistry(t testing.TB, members int, alone bool) *Registry {
	g := NewRegistry(0)
	apply(t, g, &logpb.Command{RequestId: "b", Kind: &logpb.Command_Bootstrap{Bootstrap: &logpb.Bootstrap{ClusterId: "c", Voters: []uint64{1}}}})
	open := func(i int) {
		apply(t, g, &logpb.Command{RequestId: fmt.Sprint("o", i), Base: g.revision, Kind: &logpb.Command_OpenSession{OpenSession: &logpb.OpenSession{
			MemberId: fmt.Sprint("m", i), Weight: 1, TtlNs: int64(time.Second), Stands: []*logpb.Stand{{Selector: &logpb.Selector{Kind: KindShard}}},
		}}})
	}
	declareAll := func() {
		for i := 0; i < benchScopes; i += 1000 {
			d := &logpb.DeclareScopes{}
			for j := i; j < i+1000; j++ {
				d.Scopes = append(d.Scopes, longSpec(j))
			}
			apply(t, g, &logpb.Command{RequestId: fmt.Sprint("d", i), Base: g.revision, Kind: &logpb.Command_DeclareScopes{DeclareScopes: d}})
		}
	}
	open(1)
	if alone {
		declareAll()
	}
	for i := 2; i <= members; i++ {
		open(i)
	}
	if !alone {
		declareAll()
	}
	return g
}

func expiry(t testing.TB, number uint64) []byte {
	return mustMarshal(t, &logpb.Entry{Commands: []*logpb.Command{{Kind: &logpb.Command_Keeper{Keeper: &logpb.KeeperDecision{
		Term: 1, Number: number, Kind: logpb.KeeperDecision_KIND_EXPIRE, Session: 1,
	}}}}})
}

// One entry re-elects every scope of a dead member.
func BenchmarkExpiryOfAMemberThatLeads10000(b *testing.B) {
	for _, members := range []int{3, 32} {
		b.Run(fmt.Sprint("members=", members), func(b *testing.B) {
			snapshot, payload := bigRegistry(b, members, true).Snapshot(), expiry(b, 1)
			for b.Loop() {
				b.StopTimer()
				g := must(Restore(proto.Clone(snapshot).(*logpb.Snapshot), 0))
				b.StartTimer()
				out, err := g.Apply(g.revision+1, 1, payload)
				if err != nil || len(out.Records) != 2*benchScopes || len(g.Tokens()) != benchScopes {
					b.Fatal(err, len(out.Records), len(g.Tokens()))
				}
			}
		})
	}
}

// A full batch of hand-overs, one entry.
func BenchmarkApplyBatchOfResignations(b *testing.B) {
	g := bigRegistry(b, 8, false)
	request := 0
	for b.Loop() {
		e := &logpb.Entry{}
		for i, tok := range g.Tokens() {
			if i == MaxBatch {
				break
			}
			request++
			e.Commands = append(e.Commands, &logpb.Command{RequestId: fmt.Sprint("r", request), Base: g.revision, Kind: &logpb.Command_Resign{
				Resign: &logpb.Resign{Session: uint64(tok.Session), Scope: tok.Scope, Fence: tok.Fence},
			}})
		}
		payload := mustMarshal(b, e)
		if _, err := g.Apply(g.revision+1, 1, payload); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(MaxBatch*b.N)/b.Elapsed().Seconds(), "commands/s")
}

func BenchmarkHash10000Scopes(b *testing.B) {
	g := bigRegistry(b, 8, false)
	for b.Loop() {
		g.Hash()
	}
}

func BenchmarkSnapshot10000Scopes(b *testing.B) {
	g := bigRegistry(b, 8, false)
	for b.Loop() {
		data, err := marshalSnapshot(g.Snapshot())
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(len(data)), "bytes")
	}
}

func BenchmarkRestore10000Scopes(b *testing.B) {
	data := mustMarshal(b, bigRegistry(b, 8, false).Snapshot())
	for b.Loop() {
		s := &logpb.Snapshot{}
		if err := proto.Unmarshal(data, s); err != nil {
			b.Fatal(err)
		}
		if _, err := Restore(s, 0); err != nil {
			b.Fatal(err)
		}
	}
}

// Vacancies that nobody present can fill cost every command that looks at them.
func BenchmarkStandBeside10000Vacancies(b *testing.B) {
	g := bigRegistry(b, 0, true)
	apply(b, g, &logpb.Command{RequestId: "w", Base: g.revision, Kind: &logpb.Command_Cordon{Cordon: &logpb.Cordon{MemberId: "m1", Cordoned: true}}})
	apply(b, g, &logpb.Command{RequestId: "c", Base: g.revision, Kind: &logpb.Command_CloseSession{CloseSession: &logpb.CloseSession{Session: 1}}})
	request := 0
	for b.Loop() {
		request++
		c := &logpb.Command{RequestId: fmt.Sprint("r", request), Base: g.revision, Kind: &logpb.Command_OpenSession{OpenSession: &logpb.OpenSession{
			MemberId: fmt.Sprint("n", request%100), Weight: 1, TtlNs: int64(time.Second), Replaces: uint64(max(0, request-99)), Stands: []*logpb.Stand{{Selector: &logpb.Selector{Kind: "other"}}},
		}}}
		apply(b, g, c)
	}
}

// A stand that picks nothing, beside a thousand others, while no scope is led.
func BenchmarkStandAmongVacancies(b *testing.B) {
	g := NewRegistry(0)
	apply(b, g, &logpb.Command{RequestId: "b", Kind: &logpb.Command_Bootstrap{Bootstrap: &logpb.Bootstrap{ClusterId: "c", Voters: []uint64{1}}}})
	for i := 0; i < benchScopes; i += 1000 {
		d := &logpb.DeclareScopes{}
		for j := i; j < i+1000; j++ {
			d.Scopes = append(d.Scopes, longSpec(j))
		}
		apply(b, g, &logpb.Command{RequestId: fmt.Sprint("d", i), Base: g.revision, Kind: &logpb.Command_DeclareScopes{DeclareScopes: d}})
	}
	nothing := func(i int) *logpb.Selector { return &logpb.Selector{Kind: fmt.Sprint("none", i)} }
	for s := range 4 {
		open := &logpb.OpenSession{MemberId: "m", Weight: 1, TtlNs: int64(time.Second)}
		for i := range 250 {
			open.Stands = append(open.Stands, &logpb.Stand{Selector: nothing(i)})
		}
		apply(b, g, &logpb.Command{RequestId: fmt.Sprint("o", s), Base: g.revision, Kind: &logpb.Command_OpenSession{OpenSession: open}})
	}
	for i := 0; b.Loop(); i++ {
		sel := nothing(1000 + i)
		apply(b, g, &logpb.Command{RequestId: fmt.Sprint("s", i), Base: g.revision, Kind: &logpb.Command_Stand{Stand: &logpb.Stand{Session: 1, Selector: sel}}})
		apply(b, g, &logpb.Command{RequestId: fmt.Sprint("w", i), Base: g.revision, Kind: &logpb.Command_Withdraw{Withdraw: &logpb.Withdraw{Session: 1, Selector: sel}}})
	}
}
