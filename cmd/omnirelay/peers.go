package main

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/omnirelay/leadership/adapters/terminal"
	"github.com/omnirelay/leadership/wire/controlpb"
)

func newPeersCommand() *cobra.Command {
	return newGroup("peers", "The members, and who may be elected",
		newPeersListCommand(), newPeersStatusCommand(), newCordonCommand(), newUncordonCommand(), newDrainCommand())
}

func newPeersListCommand() *cobra.Command {
	l := &listCommand{}
	cmd := &cobra.Command{
		Use:   "list",
		Short: "Show all members, as gossip and the registry see them",
		Long: "Shows all members as the gossip of one node sees them, with what the registry says of them.\n" +
			"STATE tells what keeps a member from being elected; LEADS what it leads, and of that how much it is\n" +
			"asked to hand over, and how much nobody else can lead (stuck).",
		Example: "  omnirelay mesh peers list --watch\n  omnirelay mesh peers list -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return l.run(cmd, func(ctx context.Context) ([]byte, list, error) {
				answer := &controlpb.ListPeersResponse{}
				raw, err := l.ask(ctx, "/control/peers", nil, answer)
				return raw, peerList(answer, l.format == formatWide, time.Now()), err
			})
		},
	}
	l.define(cmd)
	return cmd
}

// peerList is the table of members.
func peerList(answer *controlpb.ListPeersResponse, wide bool, now time.Time) list {
	l := list{heads: []string{"ID", "STATUS", "STATE", "LEADS", "ROLE", "REGION", "SEEN"}, volatile: "SEEN", empty: "there are no members"}
	if wide {
		l.heads = append(l.heads, "SESSIONS", "CLUSTER", "VERSION", "HTTP3", "ADDRESS", "LABELS")
	}
	for _, p := range answer.GetPeers() {
		cells := []terminal.Cell{{Text: p.GetId()}, healthCell(p.GetStatus()), stateCell(p), {Text: leadsText(p)},
			{Text: dash(p.GetRole())}, {Text: dash(p.GetRegion())}, {Text: ago(timeOf(p.GetLastSeen()), now)}}
		if wide {
			cells = append(cells, terminal.Text(number(p.GetSessions()), dash(p.GetClusterId()), dash(p.GetMeshVersion()), yesNo(p.GetHttp3Support()),
				dash(p.GetAddress()), labelsText(p.GetLabels()))...)
		}
		l.rows = append(l.rows, row{p.GetId(), cells})
	}
	return l
}

func yesNo(yes bool) string {
	if yes {
		return "yes"
	}
	return "no"
}

func healthCell(status string) terminal.Cell {
	styles := map[string]terminal.Style{"alive": terminal.Green, "suspect": terminal.Yellow, "dead": terminal.Red, "left": terminal.Faint, "unknown": terminal.Faint}
	return terminal.Cell{Text: dash(status), Style: styles[status]}
}

// stateCell is what keeps a member from being elected.
func stateCell(p *controlpb.Peer) terminal.Cell {
	var all []string
	switch {
	case p.GetDraining() && p.GetLeads() == 0:
		all = append(all, "drained")
	case p.GetDraining():
		all = append(all, "draining")
	case p.GetCordoned():
		all = append(all, "cordoned")
	}
	if p.GetIneligible() != "" {
		all = append(all, "ineligible: "+p.GetIneligible())
	}
	if len(all) == 0 {
		return terminal.Cell{Text: "-"}
	}
	return terminal.Cell{Text: strings.Join(all, ", "), Style: terminal.Yellow}
}

func leadsText(p *controlpb.Peer) string {
	var parts []string
	if p.GetHandingOver() > 0 {
		parts = append(parts, number(p.GetHandingOver())+" asked for")
	}
	if p.GetStuck() > 0 {
		parts = append(parts, number(p.GetStuck())+" stuck")
	}
	if len(parts) == 0 {
		return number(p.GetLeads())
	}
	return fmt.Sprintf("%d (%s)", p.GetLeads(), strings.Join(parts, ", "))
}

// whyNot says in words whether a member can be elected.
func whyNot(p *controlpb.Peer) string {
	switch {
	case p.GetCordoned():
		return fmt.Sprintf("it is cordoned; `omnirelay mesh peers uncordon %s` lifts that", p.GetId())
	case p.GetIneligible() != "":
		return "gossip calls it " + p.GetIneligible()
	case p.GetSessions() == 0:
		return "it has no live session; start it, or see its log"
	}
	return "it has a session; does it stand for the scope? `omnirelay mesh peers status " + p.GetId() + "` tells"
}

func newPeersStatusCommand() *cobra.Command {
	a := &asker{}
	cmd := &cobra.Command{
		Use:     "status MEMBER",
		Short:   "Show one member: its health, its sessions, and what it leads",
		Example: "  omnirelay mesh peers status node-2",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkMember("MEMBER", args[0]); err != nil {
				return err
			}
			if err := a.open(cmd, readRoles); err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), a.timeout)
			defer cancel()
			return a.peerStatus(ctx, args[0])
		},
	}
	a.flags(cmd, 10*time.Second, "the longest wait for an answer")
	cmd.ValidArgsFunction = onlyFirst(a.completeMembers)
	return cmd
}

func (a *asker) peerStatus(ctx context.Context, member string) error {
	raw, answer, err := a.peer(ctx, member)
	if err != nil {
		return err
	}
	if a.format.data() {
		return a.printData(raw)
	}
	sessions := &controlpb.ListSessionsResponse{}
	if _, err := a.ask(ctx, "/control/sessions", url.Values{"memberId": {member}}, sessions); err != nil {
		return err
	}
	return a.print(raw, func(wide bool) *terminal.Table {
		return peerTable(answer.GetPeers()[0], sessions.GetSessions(), wide, time.Now())
	})
}

// peerTable is one member, a line for each fact.
func peerTable(p *controlpb.Peer, sessions []*controlpb.Session, wide bool, now time.Time) *terminal.Table {
	t := newTable("MEMBER", p.GetId())
	add := func(name, text string) { t.Add(terminal.Text(name, dash(text))...) }
	t.Add(terminal.Cell{Text: "status"}, healthCell(p.GetStatus()))
	t.Add(terminal.Cell{Text: "state"}, stateCell(p))
	add("seen", ago(timeOf(p.GetLastSeen()), now))
	add("role", p.GetRole())
	add("region", p.GetRegion())
	add("cluster", p.GetClusterId())
	add("version", p.GetMeshVersion())
	add("http3", yesNo(p.GetHttp3Support()))
	add("address", p.GetAddress())
	add("labels", labelsText(p.GetLabels()))
	add("leads", leadsText(p))
	for _, s := range sessions {
		add("session", fmt.Sprintf("%d, TTL %v%s", s.GetId(), time.Duration(s.GetTtlMs())*time.Millisecond, map[bool]string{true: ", SILENT"}[s.GetSilent()]))
		for _, wish := range s.GetStands() {
			add("  stands for", wishText(wish))
		}
		leads := slices.Sorted(slices.Values(s.GetLeads()))
		if !wide && len(leads) > 10 {
			add("  leads", some(leads))
			continue
		}
		for _, scope := range leads {
			add("  leads", scope)
		}
	}
	return t
}

func wishText(w *controlpb.Wish) string {
	var parts []string
	s := w.GetSelector()
	for _, part := range [][2]string{{"kind", s.GetKind()}, {"namespace", s.GetNamespace()}, {"id", s.GetId()}} {
		if part[1] != "" {
			parts = append(parts, part[0]+" "+part[1])
		}
	}
	if len(s.GetLabels()) > 0 {
		parts = append(parts, "labels "+labelsText(s.GetLabels()))
	}
	if len(parts) == 0 {
		parts = append(parts, "all scopes")
	}
	if w.GetPriority() != 0 {
		parts = append(parts, fmt.Sprintf("priority %d", w.GetPriority()))
	}
	return strings.Join(parts, ", ")
}
