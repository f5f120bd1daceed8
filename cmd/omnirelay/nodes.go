package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/adapters/terminal"
	"github.com/omnirelay/leadership/wire/controlpb"
)

func newNodesCommand() *cobra.Command {
	return newGroup("nodes", "The nodes that keep the registry",
		newNodesListCommand(), newNodesAddCommand(), newNodesRemoveCommand(), newNodesReplaceCommand(), newMoveRegistrarCommand())
}

func newNodesListCommand() *cobra.Command {
	l := &listCommand{}
	cmd := &cobra.Command{
		Use:   "list",
		Short: "Show the nodes that keep the registry, and how far changes of them are",
		Long: "Shows the nodes that keep the registry. A learner catches up until it is made a voter; who is leaving\n" +
			"is about to be removed. LOG and REACHABLE are known to the registrar only.",
		Example: "  omnirelay mesh nodes list --watch",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return l.run(cmd, func(ctx context.Context) ([]byte, list, error) {
				raw, answer, err := l.nodesOf(ctx)
				return raw, nodeList(answer, l.format == formatWide), err
			})
		},
	}
	l.define(cmd)
	return cmd
}

// nodesOf asks for the nodes.
func (a *asker) nodesOf(ctx context.Context) ([]byte, *controlpb.ListNodesResponse, error) {
	answer := &controlpb.ListNodesResponse{}
	raw, err := a.ask(ctx, "/control/nodes", nil, answer)
	return raw, answer, err
}

func nodeList(answer *controlpb.ListNodesResponse, wide bool) list {
	l := list{heads: []string{"NAME", "STAGE", "REGISTRAR", "REACHABLE", "LOG", "REPLACES"}, volatile: "LOG", empty: "no nodes are told of"}
	if wide {
		l.heads = append(l.heads, "PEER", "HTTP", "GRPC")
	}
	for _, n := range answer.GetNodes() {
		cells := []terminal.Cell{{Text: n.GetName()}, stageCell(n.GetStage()), {Text: yesDash(n.GetRegistrar())}, reachableCell(n),
			{Text: dash(matchText(n))}, {Text: dash(n.GetReplaces())}}
		if wide {
			cells = append(cells, terminal.Text(dash(n.GetPeerAddress()), dash(n.GetHttpAddress()), dash(n.GetGrpcAddress()))...)
		}
		l.rows = append(l.rows, row{n.GetName(), cells})
	}
	if removed := answer.GetRemoved(); wide && len(removed) > 0 {
		l.foot = "removed, never to be used again: " + strings.Join(removed, ", ")
	}
	return l
}

func yesDash(yes bool) string {
	if yes {
		return "yes"
	}
	return "-"
}

func stageCell(stage string) terminal.Cell {
	styles := map[string]terminal.Style{"voter": terminal.Green, "learner": terminal.Yellow, "leaving": terminal.Yellow}
	return terminal.Cell{Text: dash(stage), Style: styles[stage]}
}

func reachableCell(n *controlpb.Node) terminal.Cell {
	switch {
	case n.Reachable == nil:
		return terminal.Cell{Text: "-"}
	case n.GetReachable():
		return terminal.Cell{Text: "yes", Style: terminal.Green}
	}
	return terminal.Cell{Text: "no", Style: terminal.Red}
}

func matchText(n *controlpb.Node) string {
	if n.Match == nil {
		return ""
	}
	return number(n.GetMatch())
}

// nodeChange is a change of the nodes.
type nodeChange struct {
	change
	peer, http, grpc string // addresses of a new node
	by, to           string // who comes in its place; who is to be registrar

	began time.Time
	known uint64 // the revision at which it was found to be asked for already; 0: it was not
}

// nodeTimeout bounds the wait for a new node to catch up.
const nodeTimeout = 10 * time.Minute

// command is one verb. run has checked arguments.
func (c *nodeChange) command(use, short, long, example string, args cobra.PositionalArgs, roles []string, run func(ctx context.Context, args []string) error) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, Long: long, Example: example, Args: args,
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, name := range args {
				if err := checkMember("NODE", name); err != nil {
					return err
				}
			}
			if err := c.checkAddresses(); err != nil {
				return err
			}
			ctx, cancel, err := c.begin(cmd, roles)
			if err != nil {
				return err
			}
			defer cancel()
			c.began = time.Now()
			return run(ctx, args)
		},
	}
	return cmd
}

func (c *nodeChange) addressFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&c.peer, "peer", "", "host:port at which the new node talks with the others (its peer listener)")
	f.StringVar(&c.http, "http", "", "host:port of its http listener")
	f.StringVar(&c.grpc, "grpc", "", "host:port of its grpc listener")
	_ = cmd.MarkFlagRequired("peer") // it is there
}

func (c *nodeChange) checkAddresses() error {
	for _, flag := range [][2]string{{"--peer", c.peer}, {"--http", c.http}, {"--grpc", c.grpc}} {
		if flag[1] == "" {
			continue
		}
		if host, port, err := net.SplitHostPort(flag[1]); err != nil || host == "" || port == "" {
			return fmt.Errorf("%s %q: want host:port, like 10.0.0.4:7413", flag[0], flag[1])
		}
	}
	return nil
}

func (c *nodeChange) newNode(name string) *controlpb.NewNode {
	return &controlpb.NewNode{Name: name, PeerAddress: c.peer, HttpAddress: c.http, GrpcAddress: c.grpc}
}

func newNodesAddCommand() *cobra.Command {
	c := &nodeChange{}
	cmd := c.command("add NODE --peer HOST:PORT", "Add a node to the registry, and wait until it votes",
		"Adds a node: a learner that gets the log until it has caught up, then a voter. Start leaderd on it, with\n"+
			"a configuration that names the cluster, before or after. Repeated it goes on waiting; interrupted, the\n"+
			"change goes on without it.",
		"  omnirelay mesh nodes add node-4 --peer 10.0.0.4:7413 --http 10.0.0.4:7411 --grpc 10.0.0.4:7412",
		cobra.ExactArgs(1), adminRoles, func(ctx context.Context, args []string) error {
			c.undo = "omnirelay mesh nodes remove " + args[0]
			known, err := c.addedBefore(ctx, args[0])
			if err != nil {
				return err
			}
			c.known = known
			return c.run(ctx, "/control/nodes", &controlpb.AddNodeRequest{RequestId: c.id("add"), Node: c.newNode(args[0]), Why: c.why},
				&controlpb.AddNodeResponse{}, args[0]+" is asked to join", func(now *controlpb.ListNodesResponse) (string, string) { return joined(now, args[0]) })
		})
	c.waitingFlags(cmd, "the node votes")
	c.addressFlags(cmd)
	return cmd
}

func newNodesRemoveCommand() *cobra.Command {
	c := &nodeChange{}
	cmd := c.command("remove NODE", "Remove a node from the registry, dead or alive, and wait",
		"Removes a node that keeps the registry, dead or alive. Its name is never used again: a machine that comes\n"+
			"back gets another. Drain its member first, if it leads something. Repeated it changes nothing.",
		"  omnirelay mesh nodes remove node-2 --why 'decommissioned'",
		cobra.ExactArgs(1), adminRoles, func(ctx context.Context, args []string) error {
			if done, err := c.removedBefore(ctx, args[0]); done || err != nil {
				return err
			}
			return c.run(ctx, "/control/nodes/"+args[0]+"/remove", &controlpb.RemoveNodeRequest{RequestId: c.id("remove"), Name: args[0], Why: c.why},
				&controlpb.RemoveNodeResponse{}, args[0]+" is asked to be removed", func(now *controlpb.ListNodesResponse) (string, string) { return removed(now, args[0]) })
		})
	c.waitingFlags(cmd, "the node is removed")
	cmd.ValidArgsFunction = onlyFirst(c.completeNodes)
	return cmd
}

func newNodesReplaceCommand() *cobra.Command {
	c := &nodeChange{}
	cmd := c.command("replace NODE --by NEW --peer HOST:PORT", "Replace a node, dead or alive, by a new one, and wait",
		"Adds the node NEW, and removes NODE in the step that makes NEW a voter, so that there are never fewer\n"+
			"voters than before. The name of NODE is never used again. Repeated it goes on waiting; interrupted, the\n"+
			"change goes on without it.",
		"  omnirelay mesh nodes replace node-2 --by node-5 --peer 10.0.0.5:7413 --why 'its disk is gone'",
		cobra.ExactArgs(1), adminRoles, func(ctx context.Context, args []string) error {
			if err := checkMember("--by", c.by); err != nil {
				return err
			}
			c.undo = "omnirelay mesh nodes remove " + c.by
			known, err := c.replacedBefore(ctx, args[0])
			if err != nil {
				return err
			}
			c.known = known
			return c.run(ctx, "/control/nodes/"+args[0]+"/replace", &controlpb.ReplaceNodeRequest{RequestId: c.id("replace"), Name: args[0], By: c.newNode(c.by), Why: c.why},
				&controlpb.ReplaceNodeResponse{}, args[0]+" is asked to be replaced by "+c.by, func(now *controlpb.ListNodesResponse) (string, string) {
					done, how := joined(now, c.by)
					if done == "" {
						return "", how
					}
					return removed(now, args[0])
				})
		})
	c.waitingFlags(cmd, "the new node votes and the old one is removed")
	cmd.Flags().StringVar(&c.by, "by", "", "the name of the new node")
	_ = cmd.MarkFlagRequired("by") // it is there
	c.addressFlags(cmd)
	cmd.ValidArgsFunction = onlyFirst(c.completeNodes)
	return cmd
}

func newMoveRegistrarCommand() *cobra.Command {
	c := &nodeChange{}
	cmd := c.command("move-registrar", "Hand the registrar's office to another node, and wait",
		"The registrar is the node that leads the log and keeps time. Moving it before its node is stopped spares\n"+
			"the cluster an election timeout. No leadership changes by it.",
		"  omnirelay mesh nodes move-registrar --to node-2",
		cobra.NoArgs, operateRoles, func(ctx context.Context, _ []string) error { return c.moveRegistrar(ctx) })
	c.waitingFlags(cmd, "another node is registrar")
	cmd.Flags().StringVar(&c.to, "to", "", "the node that is to be registrar (default any but the present one)")
	complete(cmd, "to", c.completeNodes)
	return cmd
}

func (c *nodeChange) waitingFlags(cmd *cobra.Command, until string) {
	c.changeFlags(cmd, nodeTimeout, "the longest wait until "+until)
	c.waitFlags(cmd, until)
}

func (c *nodeChange) moveRegistrar(ctx context.Context) error {
	if c.to != "" {
		if err := checkMember("--to", c.to); err != nil {
			return err
		}
	}
	raw, before, err := c.nodesOf(ctx)
	if err != nil {
		return err
	}
	present := registrarOf(before)
	if present != "" && present == c.to {
		return c.result(raw, "%s is registrar already", c.to)
	}
	return c.run(ctx, "/control/registrar/move", &controlpb.MoveRegistrarRequest{RequestId: c.id("registrar"), Base: before.GetRevision(), To: c.to, Why: c.why},
		&controlpb.MoveRegistrarResponse{}, "the registrar is asked to hand its office on", func(now *controlpb.ListNodesResponse) (string, string) {
			switch name := registrarOf(now); {
			case name != "" && (name == c.to || c.to == "" && name != present):
				return name + " is registrar", ""
			case name == "":
				return "", "nobody is registrar at the moment"
			default:
				return "", name + " is registrar still"
			}
		})
}

func registrarOf(nodes *controlpb.ListNodesResponse) string {
	for _, n := range nodes.GetNodes() {
		if n.GetRegistrar() {
			return n.GetName()
		}
	}
	return ""
}

// run asks for a change and waits until stage says what is done; until then it says how
// far it is.
func (c *nodeChange) run(ctx context.Context, path string, request, answer proto.Message, asked string, stage func(*controlpb.ListNodesResponse) (done, how string)) error {
	raw, err := fmt.Appendf(nil, `{"revision":%d}`, c.known), error(nil)
	if c.known == 0 {
		raw, err = c.tell(ctx, path, request, answer)
	}
	if err != nil {
		return c.nodeHint(ctx, err)
	}
	if !c.waits() {
		return c.result(raw, "%s; `omnirelay mesh nodes list --watch` shows how far it is", asked)
	}
	since := answer.(interface{ GetRevision() uint64 }).GetRevision()
	return c.await(ctx, func(ctx context.Context) (bool, error) {
		raw, now, err := c.nodesOf(ctx)
		if err != nil || now.GetRevision() < since {
			return false, err // a node that has not seen the change yet
		}
		done, how := stage(now)
		if done != "" {
			return true, c.result(raw, "%s, after %v", done, time.Since(c.began).Round(100*time.Millisecond))
		}
		c.progress.Tell("%s", how)
		return false, nil
	})
}

// removedBefore reports that there is nothing left to do.
func (c *nodeChange) removedBefore(ctx context.Context, name string) (bool, error) {
	raw, now, err := c.nodesOf(ctx)
	if err != nil || !slices.Contains(now.GetRemoved(), name) {
		return false, err
	}
	if _, there := nodeOf(now, name); there {
		return false, nil
	}
	return true, c.result(raw, "%s is removed already", name)
}

// addedBefore finds that a node is there as it is asked for: its other addresses it
// may have announced itself by now.
func (c *nodeChange) addedBefore(ctx context.Context, name string) (revision uint64, err error) {
	_, now, err := c.nodesOf(ctx)
	if err != nil {
		return 0, err
	}
	n, there := nodeOf(now, name)
	if !there || n.GetStage() == "leaving" || n.GetPeerAddress() != c.peer {
		return 0, nil
	}
	return now.GetRevision(), nil
}

// replacedBefore finds that a replacement is under way, or over.
func (c *nodeChange) replacedBefore(ctx context.Context, name string) (revision uint64, err error) {
	_, now, err := c.nodesOf(ctx)
	if err != nil {
		return 0, err
	}
	n, there := nodeOf(now, c.by)
	gone := slices.Contains(now.GetRemoved(), name)
	if !there || n.GetPeerAddress() != c.peer || n.GetReplaces() != name && !gone {
		return 0, nil
	}
	return now.GetRevision(), nil
}

func nodeOf(nodes *controlpb.ListNodesResponse, name string) (*controlpb.Node, bool) {
	i := slices.IndexFunc(nodes.GetNodes(), func(n *controlpb.Node) bool { return n.GetName() == name })
	if i < 0 {
		return nil, false
	}
	return nodes.GetNodes()[i], true
}

// joined is the way of a new node to its vote.
func joined(now *controlpb.ListNodesResponse, name string) (done, how string) {
	n, there := nodeOf(now, name)
	switch {
	case !there:
		return "", name + ": waiting for the registrar"
	case n.GetStage() == "voter":
		return name + " is a voter", ""
	case n.Reachable != nil && !n.GetReachable():
		return "", name + " is a learner that does not answer; is leaderd running on it?"
	case n.Match != nil:
		return "", fmt.Sprintf("%s is a learner: its log is at %d of %d", name, n.GetMatch(), max(farthest(now), n.GetMatch()))
	}
	return "", name + " is a learner that catches up"
}

// farthest is the end of the log as far as the registrar tells.
func farthest(nodes *controlpb.ListNodesResponse) (end uint64) {
	for _, n := range nodes.GetNodes() {
		end = max(end, n.GetMatch())
	}
	return end
}

// removed is the way of a node out.
func removed(now *controlpb.ListNodesResponse, name string) (done, how string) {
	n, there := nodeOf(now, name)
	if !there {
		return name + " is removed; its name is not used again", ""
	}
	return "", fmt.Sprintf("%s is %s; waiting until the others vote without it", name, n.GetStage())
}

// nodeHint adds the nearest names to a refusal of a node that there is not.
func (c *nodeChange) nodeHint(ctx context.Context, err error) error {
	var no *refusal
	if !is(err, "not-found") || !errors.As(err, &no) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, nearestWithin)
	defer cancel()
	names, failed := c.nodeNames(ctx)
	if failed != nil {
		return err // the refusal is what matters
	}
	return fmt.Errorf("%w; the nodes are %s", err, strings.Join(names, ", "))
}
