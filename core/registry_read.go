package core

import "github.com/omnirelay/leadership/core/logpb"

// Stands lists what a live session stands for, in the order in which that was declared.
// Not to be modified, nor kept: the next entry may change it.
func (g *Registry) Stands(id SessionID) []*logpb.Stand {
	if s := g.sessions[id]; s != nil {
		return s.stands
	}
	return nil
}

// Leads lists the scopes that a live session leads, sorted.
func (g *Registry) Leads(id SessionID) []string {
	if s := g.sessions[id]; s != nil {
		return sortedKeys(s.leads)
	}
	return nil
}

// LiveSessions is how many live sessions a member has.
func (g *Registry) LiveSessions(member string) int { return len(g.members[member]) }

// Answered reports whether the reply to a request is kept: to send it again has no
// effect.
func (g *Registry) Answered(requestID string) bool { return g.replies.replies[requestID] != nil }
