package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/omnirelay/leadership/wire/controlpb"
)

const (
	// nearestShown bounds how many names a refusal offers.
	nearestShown = 3
	// nearestWithin bounds how long names are looked up for a refusal.
	nearestWithin = 2 * time.Second
)

// nearest are the names that somebody may have meant by name, the likeliest first.
func nearest(name string, names []string) []string {
	type near struct {
		name     string
		distance int
	}
	var found []near
	most := max(2, len(name)/3)
	for _, other := range names {
		if d := apart(strings.ToLower(name), strings.ToLower(other)); d <= most {
			found = append(found, near{other, d})
		}
	}
	slices.SortStableFunc(found, func(a, b near) int {
		return cmp.Or(cmp.Compare(a.distance, b.distance), cmp.Compare(a.name, b.name))
	})
	var out []string
	for _, n := range found[:min(len(found), nearestShown)] {
		out = append(out, n.name)
	}
	return out
}

// apart is how far a name is from another, or from its beginning or end: who types a
// part of a long name means it too. Names of two letters are a part of everything.
func apart(name, other string) int {
	d := distance(name, other)
	if n := len(name); n > 2 && n < len(other) {
		d = min(d, 1+distance(name, other[:n]), 1+distance(name, other[len(other)-n:]))
	} else if n > 0 && strings.HasSuffix(other, name) {
		d = min(d, 1)
	}
	return d
}

// distance is how many bytes have to be changed, added or removed (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}

// meant ends a refusal of a name with the names that come close.
func meant(name string, names []string, all string) string {
	if near := nearest(name, names); len(near) > 0 {
		return "did you mean " + strings.Join(near, ", ") + "?"
	}
	return all
}

// scopeHint adds the nearest names to a refusal of a scope that is not declared.
func (a *asker) scopeHint(ctx context.Context, scope string, err error) error {
	if scope == "" || !is(err, "not-found") {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, nearestWithin)
	defer cancel()
	names, failed := a.scopeNames(ctx)
	near := meant(scope, names, "")
	if failed != nil || near == "" {
		return err // the refusal is what matters
	}
	return fmt.Errorf("%w; %s", err, near)
}

// scopeNames are all scopes that are declared.
func (a *asker) scopeNames(ctx context.Context) (names []string, err error) {
	answer := &controlpb.ListScopesResponse{}
	if _, err := a.ask(ctx, "/control/scopes", nil, answer); err != nil {
		return nil, err
	}
	for _, s := range answer.GetScopes() {
		names = append(names, s.GetId())
	}
	return names, nil
}

// memberNames are all members that gossip or the registry knows.
func (a *asker) memberNames(ctx context.Context) (names []string, err error) {
	answer := &controlpb.ListPeersResponse{}
	if _, err := a.ask(ctx, "/control/peers", nil, answer); err != nil {
		return nil, err
	}
	for _, p := range answer.GetPeers() {
		names = append(names, p.GetId())
	}
	return names, nil
}

// nodeNames are all nodes that keep the registry.
func (a *asker) nodeNames(ctx context.Context) (names []string, err error) {
	answer := &controlpb.ListNodesResponse{}
	if _, err := a.ask(ctx, "/control/nodes", nil, answer); err != nil {
		return nil, err
	}
	for _, n := range answer.GetNodes() {
		names = append(names, n.GetName())
	}
	return names, nil
}

// errNobody is a member or a node that there is not.
var errNobody = errors.New("there is none of that name")

// peer asks for one member.
func (a *asker) peer(ctx context.Context, member string) (raw []byte, answer *controlpb.ListPeersResponse, err error) {
	answer = &controlpb.ListPeersResponse{}
	raw, err = a.ask(ctx, "/control/peers", url.Values{"memberId": {member}}, answer)
	switch {
	case is(err, "not-found"), err == nil && len(answer.GetPeers()) == 0:
		return nil, nil, a.noMember(ctx, member)
	case err != nil:
		return nil, nil, err
	}
	return raw, answer, nil
}

// noMember refuses a member that nobody knows.
func (a *asker) noMember(ctx context.Context, member string) error {
	ctx, cancel := context.WithTimeout(ctx, nearestWithin)
	defer cancel()
	const list = "`omnirelay mesh peers list` lists all"
	names, err := a.memberNames(ctx)
	if err != nil {
		return fmt.Errorf("member %s: %w; %s", member, errNobody, list)
	}
	return fmt.Errorf("member %s: %w; %s", member, errNobody, meant(member, names, list))
}
