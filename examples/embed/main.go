// Command embed runs the leadership service inside another program: one node, one
// member, one resource that guards itself. It ends by itself and fails loudly when
// something it shows does not hold.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/omnirelay/leadership/adapters/host"
	"github.com/omnirelay/leadership/adapters/raftlog"
	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
)

const scope = "jobs/nightly"

func main() {
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	dir, err := os.MkdirTemp("", "embed")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	h, stop, err := embed(ctx, dir)
	if err != nil {
		return err
	}
	defer stop()
	if err := declare(ctx, h); err != nil {
		return err
	}
	if err := work(ctx, h); err != nil {
		return err
	}
	return leaseEndsByItself()
}

// embed starts one node with its own member in this process.
func embed(ctx context.Context, dir string) (*host.Host, func(), error) {
	const cluster, node = "embedded", core.NodeID(1)
	l, boot, err := raftlog.Open(raftlog.Options{Dir: dir, ClusterID: cluster, NodeID: node})
	if err != nil {
		return nil, nil, err
	}
	h, err := host.New(host.Options{
		Core:   core.Config{ID: node, Voters: []core.NodeID{node}, ClusterID: cluster},
		Log:    l,
		Boot:   boot,
		Member: &core.MemberConfig{MemberID: "worker-1"},
		Stands: []host.Stand{{Selector: &logpb.Selector{Id: scope}}},
	})
	if err != nil {
		return nil, nil, err
	}
	loop, end := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Run(loop) }()
	return h, func() {
		_ = h.Shutdown(ctx) // hands over; alone, it only closes the session
		end()
		if err := <-done; err != nil {
			log.Print(err)
		}
		if err := l.Close(); err != nil {
			log.Print(err)
		}
	}, nil
}

// declare tells the registry which scope there is to lead.
func declare(ctx context.Context, h *host.Host) error {
	_, err := h.Do(ctx, &logpb.Command{
		RequestId: "embed/declare", Actor: "embed",
		Kind: &logpb.Command_DeclareScopes{DeclareScopes: &logpb.DeclareScopes{Scopes: []*logpb.ScopeSpec{{Id: scope}}}},
	})
	return err
}

// work acts as leader, gives the scope up, is elected again under a higher fence,
// and shows that the resource refuses the older one from then on.
func work(ctx context.Context, h *host.Host) error {
	ledger := newLedger()
	first, err := nextTerm(ctx, h, 0)
	if err != nil {
		return err
	}
	if err := ledger.write(first, "line 1"); err != nil {
		return err
	}
	h.GiveUp(scope, first.Fence)
	if token, held := h.Holds(scope); held && token.Fence == first.Fence {
		return fmt.Errorf("a grant that was given up is still held")
	}
	second, err := nextTerm(ctx, h, first.Fence)
	if err != nil {
		return err
	}
	if err := ledger.write(second, "line 2"); err != nil {
		return err
	}
	err = ledger.write(first, "line 3, from the past")
	if err == nil {
		return fmt.Errorf("the resource took an action under fence %d after one under %d", first.Fence, second.Fence)
	}
	fmt.Println("refused, as it must be:", err)
	_, tokens := h.Snapshot()
	fmt.Printf("led now: %s by %s, term %d, fence %d\n", tokens[0].Scope, tokens[0].LeaderID, tokens[0].Term, tokens[0].Fence)
	return nil
}

// nextTerm follows the event stream until this process leads under a fence above
// the given one.
func nextTerm(ctx context.Context, h *host.Host, above uint64) (core.Token, error) {
	for item := range h.Subscribe(ctx, core.Filter{Scope: scope}, nil) {
		if item.Record != nil {
			fmt.Printf("%s  %-14v fence %d\n", item.Cursor, item.Kind, item.Record.Fence)
		}
		for ctx.Err() == nil && item.Kind == core.EventElected && item.Record.Fence > above {
			// Elected by the registry; believed once the member was told and has a lease.
			if token, held := h.Holds(scope); held && token.Fence > above {
				return token, nil
			}
			time.Sleep(time.Millisecond)
		}
		if token, held := h.Holds(scope); held && token.Fence > above {
			return token, nil
		}
	}
	return core.Token{}, fmt.Errorf("not elected in time: %w", ctx.Err())
}

// ledger is a resource. Its guard and its lines are one: what it keeps of one it
// must keep of the other.
type ledger struct {
	guard *core.Guard
	lines []string
}

func newLedger() *ledger { return &ledger{guard: core.NewGuard(nil)} }

func (l *ledger) write(t core.Token, line string) error {
	if err := l.guard.Admit(t.Scope, t.Fence); err != nil {
		return err
	}
	l.lines = append(l.lines, line)
	return nil
}
