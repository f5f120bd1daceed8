package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/omnirelay/leadership/adapters/terminal"
	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/wire"
	"github.com/omnirelay/leadership/wire/controlpb"
)

// leadersTable shows who leads what.
func leadersTable(leaders *controlpb.ListLeadersResponse, wide bool) *terminal.Table {
	heads := []string{"SCOPE", "LEADER", "TERM", "FENCE", "SINCE"}
	if wide {
		heads = append(heads, "EXPIRES", "KIND", "LABELS")
	}
	t := newTable(heads...)
	for _, token := range leaders.GetTokens() {
		cells := []string{token.GetScope(), token.GetLeaderId(), number(token.GetTerm()), number(token.GetFenceToken()), clock(timeOf(token.GetIssuedAt()))}
		if wide {
			cells = append(cells, clock(timeOf(token.GetExpiresAt())), token.GetScopeKind(), labelsText(token.GetLabels()))
		}
		t.Add(terminal.Text(cells...)...)
	}
	return t
}

// eventWidths align the lines of a stream, whose widest cell is not known.
var eventWidths = []int{24, 14, 24, 12, 6, 8, 0, 0, 0}

var eventHeads = []string{"TIME", "EVENT", "SCOPE", "LEADER", "TERM", "FENCE", "REASON"}

// eventCells shows one event. What an event without a scope is about, its subject tells.
func eventCells(e wire.Event, wide bool) []terminal.Cell {
	cells := terminal.Text(clock(e.OccurredAt), e.Kind, dash(e.Scope), dash(e.LeaderID), "-", "-", e.Reason)
	if e.Token != nil {
		cells[4].Text, cells[5].Text = number(e.Token.Term), number(e.Token.FenceToken)
	}
	if wide {
		cells = append(cells, terminal.Text(dash(e.CorrelationID))...)
	}
	style := kindStyle(e.Kind)
	if e.Revision == 0 || e.Kind == core.EventObserved.String() {
		style = terminal.Faint // a mark of the stream itself
	}
	for i := range cells {
		if style == terminal.Faint || i == 1 {
			cells[i].Style = style
		}
	}
	return cells
}

// kindStyle makes what an operator looks for stand out.
func kindStyle(kind string) terminal.Style {
	switch kind {
	case core.EventSplitBrain.String():
		return terminal.Red
	case core.EventElected.String():
		return terminal.Green
	case core.EventExpired.String(), core.EventLost.String(), core.EventSteppedDown.String():
		return terminal.Yellow
	}
	return terminal.Plain
}

func headCells(heads []string) []terminal.Cell {
	cells := terminal.Text(heads...)
	for i := range cells {
		cells[i].Style = terminal.Bold
	}
	return cells
}

// timeOf is the zero time of an absent one.
func timeOf(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}

// labelsText writes labels as a=b,c=d, by name.
func labelsText(labels map[string]string) string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		all = append(all, name+"="+labels[name])
	}
	return dash(strings.Join(all, ","))
}

func number[N ~uint32 | ~uint64 | ~int64](n N) string { return fmt.Sprint(n) }

func dash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

// clock is a time in UTC, to the millisecond.
func clock(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02T15:04:05.000Z")
}
