package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/wire/controlpb"
)

// cordonCommand is what is done with one member: cordon, uncordon, drain.
type cordonCommand struct {
	change
	member string
	force  bool

	began   time.Time
	most    uint32    // scopes to move when it began
	stuckAt time.Time // since when all that is left is stuck; zero: it is not
}

// stuckFor is how long a drain waits for somebody who can lead what nobody else can: a
// member that restarts is back by then.
const stuckFor = 5 * time.Second

func newCordonCommand() *cobra.Command {
	c := &cordonCommand{}
	cmd := c.command("cordon MEMBER", "Keep a member from being elected",
		"Keeps a member from being elected. What it leads it goes on leading: drain moves that away too.\n"+
			"Repeated it changes nothing; a drain that goes on, it turns into a mere cordon.",
		"  omnirelay mesh peers cordon node-2 --why 'new disks tomorrow'",
		func(ctx context.Context) error {
			return c.tellMember(ctx, "cordon", &controlpb.CordonRequest{RequestId: c.id("cordon"), MemberId: c.member, Why: c.why}, &controlpb.CordonResponse{},
				c.member+" is cordoned: it is not elected any more, and goes on leading what it leads")
		})
	c.changeFlags(cmd, 10*time.Second, "the longest wait for an answer")
	return cmd
}

func newUncordonCommand() *cobra.Command {
	c := &cordonCommand{}
	cmd := c.command("uncordon MEMBER", "Let a member be elected again, and end its drain", "",
		"  omnirelay mesh peers uncordon node-2",
		func(ctx context.Context) error {
			return c.tellMember(ctx, "uncordon", &controlpb.UncordonRequest{RequestId: c.id("uncordon"), MemberId: c.member, Why: c.why}, &controlpb.UncordonResponse{},
				c.member+" may be elected again; `omnirelay mesh leaders rebalance` gives it its share")
		})
	c.changeFlags(cmd, 10*time.Second, "the longest wait for an answer")
	return cmd
}

func newDrainCommand() *cobra.Command {
	c := &cordonCommand{}
	cmd := c.command("drain MEMBER", "Move everything away that a member leads, and wait",
		"Cordons a member, asks it to hand over all that it leads, spread over the others, and waits until it\n"+
			"leads nothing. The drain stands until uncordon ends it: repeated, this command goes on waiting;\n"+
			"interrupted, the drain goes on without it.\n\n"+
			"Scopes that nobody else can lead stay with the member and are handed over as soon as somebody can.\n"+
			"When nothing else has been left for "+stuckFor.String()+" they are named, with exit code 1; when the time is up\n"+
			"while the member still hands over, the exit code is 2. The drain stands in both cases.",
		"  omnirelay mesh peers drain node-2 --why 'kernel update'",
		c.drain)
	c.changeFlags(cmd, 5*time.Minute, "the longest wait until the member leads nothing")
	c.waitFlags(cmd, "the member leads nothing")
	return cmd
}

func (c *cordonCommand) command(use, short, long, example string, run func(ctx context.Context) error) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, Long: long, Example: example, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c.member = args[0]
			if err := checkMember("MEMBER", c.member); err != nil {
				return err
			}
			ctx, cancel, err := c.begin(cmd, operateRoles)
			if err != nil {
				return err
			}
			defer cancel()
			return run(ctx)
		},
	}
	cmd.Flags().BoolVar(&c.force, "force", false, "also a member that nobody knows, such as one that has not started yet")
	cmd.ValidArgsFunction = onlyFirst(c.completeMembers)
	return cmd
}

// known refuses a member that nobody knows: its name may be mistyped.
func (c *cordonCommand) known(ctx context.Context) error {
	_, peers, err := c.peer(ctx, c.member)
	switch {
	case err == nil:
		c.most = peers.GetPeers()[0].GetLeads()
	case errors.Is(err, errNobody) && c.force:
		return nil
	case errors.Is(err, errNobody):
		return fmt.Errorf("%w; --force does it all the same", err)
	}
	return err
}

func (c *cordonCommand) tellMember(ctx context.Context, verb string, request, answer proto.Message, done string) error {
	if err := c.known(ctx); err != nil {
		return err
	}
	raw, err := c.tell(ctx, "/control/members/"+c.member+"/"+verb, request, answer)
	if err != nil {
		return err
	}
	return c.result(raw, "%s", done)
}

func (c *cordonCommand) drain(ctx context.Context) error {
	if err := c.known(ctx); err != nil {
		return err
	}
	answer := &controlpb.CordonResponse{}
	raw, err := c.tell(ctx, "/control/members/"+c.member+"/cordon",
		&controlpb.CordonRequest{RequestId: c.id("drain"), MemberId: c.member, Drain: true, Why: c.why}, answer)
	if err != nil {
		return err
	}
	c.undo, c.began = "omnirelay mesh peers uncordon "+c.member, time.Now()
	if !c.waits() {
		return c.result(raw, "%s is cordoned and asked for all that it leads; `omnirelay mesh peers status %s` shows how far it is", c.member, c.member)
	}
	return c.await(ctx, func(ctx context.Context) (bool, error) {
		raw, peers, err := c.peer(ctx, c.member)
		if errors.Is(err, errNobody) { // it left, and nothing is remembered of it
			return true, c.result(raw, "%s is gone, and leads nothing", c.member)
		}
		if err != nil || peers.GetRevision() < answer.GetRevision() {
			return false, err // a node that has not seen the drain yet
		}
		return c.drained(ctx, raw, peers.GetPeers()[0])
	})
}

// drained reports whether it is over, and how far it is.
func (c *cordonCommand) drained(ctx context.Context, raw []byte, p *controlpb.Peer) (bool, error) {
	c.most = max(c.most, p.GetLeads())
	left, stuck := p.GetLeads(), p.GetStuck()
	switch {
	case c.most == 0:
		return true, c.result(raw, "%s leads nothing; it stays cordoned until `%s`", c.member, c.undo)
	case left == 0:
		return true, c.result(raw, "%s leads nothing any more: %s moved in %v; it stays cordoned until `%s`",
			c.member, plural(c.most, "scope"), time.Since(c.began).Round(100*time.Millisecond), c.undo)
	case !p.GetDraining():
		return true, fmt.Errorf("somebody ended the drain of %s, which leads %s; repeat the command to begin another", c.member, plural(left, "scope"))
	}
	c.progress.Tell("draining %s: %d of %s moved, %d asked for, %d stuck", c.member, c.most-left, plural(c.most, "scope"), p.GetHandingOver(), stuck)
	if stuck < left {
		c.stuckAt = time.Time{}
		return false, nil
	}
	if c.stuckAt.IsZero() {
		c.stuckAt = time.Now()
	}
	if time.Since(c.stuckAt) < min(stuckFor, c.timeout/2) {
		return false, nil
	}
	return true, c.stuckOn(ctx, left)
}

// stuckOn names what nobody else can lead.
func (c *cordonCommand) stuckOn(ctx context.Context, left uint32) error {
	names, what := []string{}, plural(left, "scope")
	answer := &controlpb.ListScopesResponse{}
	if _, err := c.ask(ctx, "/control/scopes", nil, answer); err == nil {
		for _, s := range answer.GetScopes() {
			if s.GetLeader().GetLeaderId() == c.member {
				names = append(names, s.GetId())
			}
		}
		slices.Sort(names)
		what = some(names)
	}
	return fmt.Errorf("%w: nobody else can lead %s at the moment, so %s goes on leading it; start another member that stands for it, and the drain, which stands, moves it there; `%s` ends the drain",
		errStuck, what, c.member, c.undo)
}
