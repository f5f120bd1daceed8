package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/omnirelay/leadership/adapters/terminal"
	"github.com/omnirelay/leadership/wire/controlpb"
)

// rate is how many scopes are asked for, in what time. It is a flag.
type rate struct {
	count uint32
	per   time.Duration
}

// maxRate is the most scopes that one request asks for.
const maxRate = 256

// Set is of the interface of flags.
func (r *rate) Set(text string) error {
	const want = "want a number of scopes per second or minute, like 16/s or 30/m"
	count, per, _ := strings.Cut(text, "/")
	n, err := strconv.ParseUint(count, 10, 32)
	unit := map[string]time.Duration{"s": time.Second, "m": time.Minute}[per]
	if err != nil || n == 0 || unit == 0 {
		return errors.New(want)
	}
	if n > maxRate {
		return fmt.Errorf("%d: at most %d at once; %s", n, maxRate, want)
	}
	*r = rate{uint32(n), unit}
	return nil
}

func (r rate) String() string {
	unit := "s"
	if r.per == time.Minute {
		unit = "m"
	}
	return fmt.Sprintf("%d/%s", r.count, unit)
}

// Type is of the interface of flags.
func (r rate) Type() string { return "rate" }

// rebalanceCommand is `mesh leaders rebalance`.
type rebalanceCommand struct {
	change
	dryRun bool
	rate   rate

	asked  map[string]uint64 // scopes that were asked for, and under which fence
	moved  int
	heads  bool
	widths []int
}

func newRebalanceCommand() *cobra.Command {
	c := &rebalanceCommand{rate: rate{16, time.Second}, asked: map[string]uint64{}}
	cmd := &cobra.Command{
		Use:   "rebalance",
		Short: "Move the fewest scopes that restore balance",
		Long: "Moves scopes to the members that they prefer, and from members that lead many to those that lead few:\n" +
			"the fewest that restore balance, each by asking its leader to hand over. Prints the moves as they are\n" +
			"asked for, goes on until the scopes are balanced, and waits for the last of them.",
		Example: "  omnirelay mesh leaders rebalance --dry-run\n  omnirelay mesh leaders rebalance --rate 30/m --why 'node-4 is new'",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel, err := c.begin(cmd, operateRoles)
			if err != nil {
				return err
			}
			defer cancel()
			if c.dryRun {
				return c.plan(ctx)
			}
			return c.run(ctx)
		},
	}
	c.changeFlags(cmd, 10*time.Minute, "the longest wait until the scopes are balanced")
	cmd.Flags().BoolVar(&c.dryRun, "dry-run", false, "only show what would move")
	cmd.Flags().Var(&c.rate, "rate", "ask for at most so many scopes per second or minute, like 16/s or 30/m")
	return cmd
}

var moveHeads = []string{"SCOPE", "FROM", "TO", "FENCE", "RESULT"}

// plan shows what would move.
func (c *rebalanceCommand) plan(ctx context.Context) error {
	answer := &controlpb.RebalanceResponse{}
	limit := uint32(maxRate)
	raw, err := c.tell(ctx, "/control/rebalance", &controlpb.RebalanceRequest{RequestId: c.id("plan"), DryRun: true, Limit: &limit, Why: c.why}, answer)
	switch {
	case err != nil:
		return err
	case c.format.data():
		return c.printData(raw)
	case len(answer.GetMoves()) == 0:
		return c.result(raw, "balanced: nothing would move")
	}
	t := newTable(moveHeads...)
	for _, m := range answer.GetMoves() {
		t.Add(moveCells(m, "would move")...)
	}
	if err := t.Write(c.out, c.colours); err != nil {
		return err
	}
	if more := answer.GetRemaining(); more > 0 {
		note(c.notes, "and %d more", more)
	}
	return nil
}

func moveCells(m *controlpb.Move, asked string) []terminal.Cell {
	result := terminal.Cell{Text: asked}
	if m.GetCode() != "" {
		result = terminal.Cell{Text: "not asked: " + m.GetCode(), Style: terminal.Yellow}
	}
	return append(terminal.Text(m.GetScope(), m.GetFromMember(), m.GetToMember(), number(m.GetFenceToken())), result)
}

// run asks for one batch after another, no faster than the rate allows, until nothing
// is left to ask for; then it waits for what was asked.
func (c *rebalanceCommand) run(ctx context.Context) error {
	limit, pause := c.rate.count, c.rate.per
	if c.rate.per == time.Minute { // spread, not sixty seconds of nothing
		limit, pause = 1, time.Minute/time.Duration(c.rate.count)
	}
	for batch := 1; ; batch++ {
		answer := &controlpb.RebalanceResponse{}
		raw, err := c.tell(ctx, "/control/rebalance", &controlpb.RebalanceRequest{RequestId: c.id(strconv.Itoa(batch)), Limit: &limit, Why: c.why}, answer)
		if err != nil {
			return c.stopped(ctx, err)
		}
		if err := c.take(raw, answer.GetMoves()); err != nil {
			return err
		}
		if len(answer.GetMoves()) == 0 && answer.GetRemaining() == 0 {
			return c.settle(ctx, raw)
		}
		c.progress.Tell("asked for %s, %d to go", plural(len(c.asked), "scope"), answer.GetRemaining())
		select {
		case <-ctx.Done():
			return c.stopped(ctx, ctx.Err())
		case <-time.After(pause):
		}
	}
}

// stopped says what was asked for so far.
func (c *rebalanceCommand) stopped(ctx context.Context, err error) error {
	c.progress.Done()
	if ctx.Err() != nil {
		err = c.gaveUp(ctx)
	}
	return fmt.Errorf("asked for %s so far: %w", plural(len(c.asked), "scope"), err)
}

// take shows a batch.
func (c *rebalanceCommand) take(raw []byte, moves []*controlpb.Move) error {
	if len(moves) > 0 {
		c.progress.Done()
	}
	for _, m := range moves {
		if m.GetCode() == "" {
			c.asked[m.GetScope()] = m.GetFenceToken()
		}
	}
	if c.format.data() {
		if len(moves) == 0 {
			return nil
		}
		return c.printData(raw)
	}
	if !c.heads && len(moves) > 0 {
		c.heads, c.widths = true, []int{24, 12, 12, 6, 0}
		fmt.Fprintln(c.out, terminal.Align(headCells(moveHeads), c.widths, c.colours))
	}
	for _, m := range moves {
		fmt.Fprintln(c.out, terminal.Align(moveCells(m, "asked"), c.widths, c.colours))
	}
	return nil
}

// settle waits until no scope that was asked for is still to be handed over.
func (c *rebalanceCommand) settle(ctx context.Context, raw []byte) error {
	total := len(c.asked)
	if total == 0 {
		return c.result(raw, "balanced: nothing had to move")
	}
	return c.await(ctx, func(ctx context.Context) (bool, error) {
		answer := &controlpb.ListScopesResponse{}
		if _, err := c.ask(ctx, "/control/scopes", nil, answer); err != nil {
			return false, err
		}
		c.count(answer)
		if len(c.asked) > 0 {
			c.progress.Tell("%d of %s moved", c.moved, plural(total, "scope"))
			return false, nil
		}
		return true, c.result(raw, "balanced: %d of %s moved", c.moved, plural(total, "scope"))
	})
}

// count takes scopes off that are not to be handed over any more.
func (c *rebalanceCommand) count(answer *controlpb.ListScopesResponse) {
	there := map[string]bool{}
	for _, s := range answer.GetScopes() {
		there[s.GetId()] = true
		fence, asked := c.asked[s.GetId()]
		switch {
		case !asked:
		case s.GetLeader() != nil && uint64(s.GetLeader().GetFenceToken()) != fence:
			c.moved++
			delete(c.asked, s.GetId())
		case s.GetLeader() != nil && s.GetHandOver() == nil: // withdrawn
			delete(c.asked, s.GetId())
		}
	}
	for scope := range c.asked {
		if !there[scope] { // retired
			delete(c.asked, scope)
		}
	}
}
