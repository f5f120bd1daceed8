package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/wire/controlpb"
)

// transferCommand is `mesh leaders transfer` and `resign`: the holder of a scope is
// asked to hand it over.
type transferCommand struct {
	change
	scope, to string
	named     bool // a successor has to be named
	cancel    bool

	began time.Time
}

// handOverTimeout bounds the wait for a holder that was asked.
const handOverTimeout = 30 * time.Second

func newTransferCommand() *cobra.Command {
	c := &transferCommand{named: true}
	cmd := &cobra.Command{
		Use:   "transfer",
		Short: "Hand a scope to another member",
		Long: "Asks the leader of a scope to finish, stop, and hand over to the member that is named, and waits\n" +
			"until that has happened. When the time is up the request stands; --cancel withdraws it.",
		Example: "  omnirelay mesh leaders transfer --scope global-control --to node-2 --why 'kernel update'\n  omnirelay mesh leaders transfer --scope global-control --cancel",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return c.run(cmd) },
	}
	c.define(cmd)
	cmd.Flags().StringVar(&c.to, "to", "", "the member that is to lead it")
	cmd.Flags().BoolVar(&c.cancel, "cancel", false, "withdraw a request that stands instead")
	cmd.MarkFlagsMutuallyExclusive("to", "cancel")
	cmd.MarkFlagsOneRequired("to", "cancel")
	complete(cmd, "to", c.completeMembers)
	return cmd
}

func newResignCommand() *cobra.Command {
	c := &transferCommand{}
	cmd := &cobra.Command{
		Use:   "resign",
		Short: "Have the leader of a scope give it up",
		Long: "Asks the leader of a scope to finish, stop, and give it up, and waits until that has happened.\n" +
			"Who leads next is elected; the same member again only if nobody else can.",
		Example: "  omnirelay mesh leaders resign --scope global-control",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return c.run(cmd) },
	}
	c.define(cmd)
	return cmd
}

func (c *transferCommand) define(cmd *cobra.Command) {
	c.changeFlags(cmd, handOverTimeout, "the longest wait until the scope has been handed over")
	c.waitFlags(cmd, "the scope has been handed over")
	cmd.Flags().StringVar(&c.scope, "scope", "", "the scope")
	_ = cmd.MarkFlagRequired("scope") // it is there
	complete(cmd, "scope", c.completeScopes)
}

func (c *transferCommand) run(cmd *cobra.Command) error {
	if err := checkScope("--scope", c.scope); err != nil {
		return err
	}
	if err := checkMember("--to", c.to); c.to != "" && err != nil {
		return err
	}
	ctx, cancel, err := c.begin(cmd, operateRoles)
	if err != nil {
		return err
	}
	defer cancel()
	c.began = time.Now()
	if c.cancel {
		return c.withdraw(ctx)
	}
	raw, scope, revision, err := c.look(ctx)
	if err != nil {
		return c.scopeHint(ctx, c.scope, err)
	}
	holder := scope.GetLeader()
	switch {
	case holder == nil:
		return fmt.Errorf("nobody leads %s, so there is nobody to ask; it goes to the first member that stands for it", c.scope)
	case holder.GetLeaderId() == c.to:
		return c.result(raw, "%s leads %s already, in term %d under fence %d", c.to, c.scope, holder.GetTerm(), holder.GetFenceToken())
	}
	return c.move(ctx, holder, revision)
}

// checkMember refuses what cannot be the id of a member.
func checkMember(flag, member string) error {
	var e *core.Error
	if err := core.CheckMemberID(flag, member); errors.As(err, &e) {
		return fmt.Errorf("%s: %s", flag, e.Message)
	}
	return nil
}

// look reads the scope, with everything that was acknowledged before.
func (c *transferCommand) look(ctx context.Context) (raw []byte, scope *controlpb.Scope, revision uint64, err error) {
	answer := &controlpb.ListScopesResponse{}
	raw, err = c.ask(ctx, "/control/scopes", url.Values{"scope": {c.scope}, "linearizable": {"true"}}, answer)
	if err == nil && len(answer.GetScopes()) != 1 {
		err = refusalOf("not-found", "no scope %s is declared", c.scope)
	}
	if err != nil {
		return nil, nil, 0, err
	}
	return raw, answer.GetScopes()[0], answer.GetRevision(), nil
}

// move asks the holder under the fence that was seen, so that nobody else is asked when
// the scope moves meanwhile.
func (c *transferCommand) move(ctx context.Context, holder *controlpb.LeadershipToken, base uint64) error {
	c.undo = "omnirelay mesh leaders transfer --cancel --scope " + c.scope
	answer := &controlpb.TransferResponse{}
	raw, err := c.tell(ctx, "/control/transfer", &controlpb.TransferRequest{RequestId: c.id(""), Base: base,
		Scope: c.scope, ToMember: c.to, FenceToken: uint64(holder.GetFenceToken()), Why: c.why}, answer)
	if is(err, "conflict") && c.to != "" {
		return c.explain(ctx, err)
	}
	if err != nil {
		return err
	}
	if !c.waits() {
		return c.result(raw, "%s is asked to hand %s over", holder.GetLeaderId(), c.scope)
	}
	return c.await(ctx, func(ctx context.Context) (bool, error) {
		raw, scope, _, err := c.look(ctx)
		if err != nil {
			return false, err
		}
		return c.moved(raw, scope, holder)
	})
}

// moved reports whether it is over, and how.
func (c *transferCommand) moved(raw []byte, scope *controlpb.Scope, holder *controlpb.LeadershipToken) (bool, error) {
	now, took := scope.GetLeader(), time.Since(c.began).Round(time.Millisecond)
	switch {
	case now == nil && c.to != "":
		c.progress.Tell("%s has given %s up; waiting for %s", holder.GetLeaderId(), c.scope, c.to)
		return false, nil
	case now == nil:
		return true, c.result(raw, "%s gave %s up after %v; nobody can lead it at the moment", holder.GetLeaderId(), c.scope, took)
	case now.GetFenceToken() != holder.GetFenceToken() && c.to != "" && now.GetLeaderId() != c.to:
		return true, fmt.Errorf("%s is led by %s now, not by %s; `omnirelay mesh leaders audit --scope %s` tells why", c.scope, now.GetLeaderId(), c.to, c.scope)
	case now.GetFenceToken() != holder.GetFenceToken() && now.GetLeaderId() == holder.GetLeaderId():
		return true, c.result(raw, "%s gave %s up and was elected again, in term %d under fence %d: nobody else can lead it",
			now.GetLeaderId(), c.scope, now.GetTerm(), now.GetFenceToken())
	case now.GetFenceToken() != holder.GetFenceToken():
		return true, c.result(raw, "%s went from %s to %s, in term %d under fence %d, after %v", c.scope,
			holder.GetLeaderId(), now.GetLeaderId(), now.GetTerm(), now.GetFenceToken(), took)
	case scope.GetHandOver() == nil:
		return true, fmt.Errorf("the request was withdrawn by somebody else; %s still leads %s", holder.GetLeaderId(), c.scope)
	}
	c.progress.Tell("%s is finishing what it does for %s", holder.GetLeaderId(), c.scope)
	return false, nil
}

// explain adds to a conflict why the successor will not do.
func (c *transferCommand) explain(ctx context.Context, refused error) error {
	_, answer, err := c.peer(ctx, c.to)
	switch {
	case errors.Is(err, errNobody):
		return fmt.Errorf("%w; %w", refused, err)
	case err != nil:
		return refused
	}
	return fmt.Errorf("%w; %s: %s", refused, c.to, whyNot(answer.GetPeers()[0]))
}

// withdraw takes a request back.
func (c *transferCommand) withdraw(ctx context.Context) error {
	raw, err := c.tell(ctx, "/control/transfer/cancel", &controlpb.CancelTransferRequest{RequestId: c.id("cancel"), Scope: c.scope, Why: c.why},
		&controlpb.CancelTransferResponse{})
	if err != nil {
		return c.scopeHint(ctx, c.scope, err)
	}
	return c.result(raw, "the request to hand %s over is withdrawn", c.scope)
}
