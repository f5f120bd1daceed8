package wire

import (
	"encoding/hex"
	"maps"
	"time"

	"github.com/omnirelay/leadership/core"
)

// The JSON of the HTTP API. Times are RFC 3339 in UTC; term, fenceToken, revision
// and ordinal are numbers below 2^53.

// Token is the public view of a leadership.
type Token struct {
	Scope      string    `json:"scope"`
	ScopeKind  string    `json:"scopeKind"`
	LeaderID   string    `json:"leaderId"`
	Term       uint64    `json:"term"`
	FenceToken uint64    `json:"fenceToken"`
	IssuedAt   time.Time `json:"issuedAt"`
	// ExpiresAt is the registrar's advisory bound; zero where it is unknown.
	ExpiresAt time.Time         `json:"expiresAt,omitzero"`
	Labels    map[string]string `json:"labels"`
}

// Event is one event of a leadership stream.
type Event struct {
	Kind          string    `json:"kind"` // short name of the enum's value, like ELECTED
	Scope         string    `json:"scope"`
	LeaderID      string    `json:"leaderId"`
	Token         *Token    `json:"token,omitempty"` // nil: the event is about no leadership
	Reason        string    `json:"reason"`
	CorrelationID string    `json:"correlationId"`
	OccurredAt    time.Time `json:"occurredAt,omitzero"` // zero: a mark of the stream
	Subject       string    `json:"subject,omitempty"`   // the node of NODE_* and REGISTRAR_MOVED
	Why           string    `json:"why,omitempty"`       // in the words of who asked; empty: nobody said
	// Revision and Ordinal are the cursor after the event; both 0 for RENEWED,
	// which has none.
	Revision uint64 `json:"revision"`
	Ordinal  uint32 `json:"ordinal"`
	// Transport is the negotiated protocol, on the first event of a stream only.
	Transport string `json:"transport,omitempty"`
}

// LeadersResponse answers GET /control/leaders.
type LeadersResponse struct {
	GeneratedAt time.Time `json:"generatedAt"`
	Revision    uint64    `json:"revision"`
	Tokens      []Token   `json:"tokens"` // sorted by scope
	// LastFence is the highest fence that was ever given, in any scope; 0: none.
	LastFence uint64 `json:"lastFence"`
}

// HeldResponse answers GET /control/held.
type HeldResponse struct {
	MemberID      string `json:"memberId"`
	NowBoottimeNs int64  `json:"nowBoottimeNs"` // CLOCK_BOOTTIME, nanoseconds
	Held          []Held `json:"held"`
}

// Held is one scope this process's member believes it leads.
type Held struct {
	Scope           string `json:"scope"`
	Term            uint64 `json:"term"`
	FenceToken      uint64 `json:"fenceToken"`
	UntilBoottimeNs int64  `json:"untilBoottimeNs"` // CLOCK_BOOTTIME, nanoseconds
}

// AuditResponse answers GET /control/audit.
type AuditResponse struct {
	Records []AuditRecord `json:"records"` // newest last
}

// AuditRecord is one transition as the audit trail holds it.
type AuditRecord struct {
	Seq           uint64            `json:"seq"`
	Revision      uint64            `json:"revision"`
	Ordinal       uint32            `json:"ordinal"`
	Kind          string            `json:"kind"`
	Scope         string            `json:"scope"`
	ScopeKind     string            `json:"scopeKind"`
	Labels        map[string]string `json:"labels"`
	MemberID      string            `json:"memberId"`
	Session       uint64            `json:"session"`
	Term          uint64            `json:"term"`
	FenceToken    uint64            `json:"fenceToken"`
	Reason        string            `json:"reason"`
	CorrelationID string            `json:"correlationId"`
	Actor         string            `json:"actor"`
	OccurredAt    time.Time         `json:"occurredAt"`
	IssuedAt      time.Time         `json:"issuedAt,omitzero"`
	PreviousHash  string            `json:"previousHash"` // hex; empty on the first record
	Hash          string            `json:"hash"`         // hex
	Why           string            `json:"why"`          // in the words of who asked; empty: nobody said
	Subject       string            `json:"subject"`      // what else the kind tells, such as a node
}

// TokenOf converts t. expires is the registrar's published bound, zero when it is
// not known.
func TokenOf(t core.Token, expires time.Time) Token {
	return Token{
		Scope: t.Scope, ScopeKind: t.ScopeKind, LeaderID: t.LeaderID, Term: t.Term, FenceToken: t.Fence,
		IssuedAt: wallTime(t.IssuedAtWall), ExpiresAt: utc(expires), Labels: labels(t.Labels),
	}
}

// LeadersOf converts what a registry leads at revision. expires gives each token's
// published bound; nil: none is known.
func LeadersOf(revision uint64, tokens []core.Token, now time.Time, expires func(core.Token) time.Time) LeadersResponse {
	out := LeadersResponse{GeneratedAt: utc(now), Revision: revision, Tokens: make([]Token, 0, len(tokens))}
	for _, t := range tokens {
		var until time.Time
		if expires != nil {
			until = expires(t)
		}
		out.Tokens = append(out.Tokens, TokenOf(t, until))
	}
	return out
}

// EventOf converts an item of a stream.
func EventOf(item core.StreamItem) Event {
	if item.Record != nil {
		return EventOfRecord(item.Record)
	}
	e := Event{Kind: item.Kind.String(), Reason: item.Reason, Revision: item.Cursor.Revision, Ordinal: item.Cursor.Ordinal}
	if item.Token != nil {
		t := TokenOf(*item.Token, time.Time{})
		e.Scope, e.LeaderID, e.Token, e.OccurredAt = t.Scope, t.LeaderID, &t, t.IssuedAt
	}
	return e
}

// EventOfRecord converts a transition.
func EventOfRecord(r *core.Record) Event {
	e := Event{
		Kind: core.EventKind(r.Kind).String(), Scope: r.Scope, LeaderID: r.MemberId, Reason: r.Reason,
		CorrelationID: r.CorrelationId, OccurredAt: wallTime(r.WallNs), Revision: r.Revision, Ordinal: r.Ordinal,
		Subject: r.Subject, Why: r.Why,
	}
	if r.Fence != 0 && ofLeadership(core.EventKind(r.Kind)) {
		e.Token = &Token{
			Scope: r.Scope, ScopeKind: r.ScopeKind, LeaderID: r.MemberId, Term: r.Term, FenceToken: r.Fence,
			IssuedAt: wallTime(r.IssuedWallNs), Labels: labels(r.Labels),
		}
	}
	return e
}

// ofLeadership is false for kinds that tell of a claim, a member or a node: a token there
// would look like leadership to whoever does not know the kind.
func ofLeadership(k core.EventKind) bool { return k < core.EventSplitBrain }

// EventOfRenewal is the local RENEWED event of a token whose published bound moved
// to expires.
func EventOfRenewal(t core.Token, now, expires time.Time) Event {
	token := TokenOf(t, expires)
	return Event{Kind: core.EventRenewed.String(), Scope: t.Scope, LeaderID: t.LeaderID, Token: &token, OccurredAt: utc(now)}
}

// HeldOf converts what a member holds. now is the reading of core's clock the
// holdings were asked with, boottime the reading of CLOCK_BOOTTIME beside it: the
// two clocks differ by the kernel's slewing, so only distances carry over.
func HeldOf(memberID string, held []core.Holding, now core.Time, boottime int64) HeldResponse {
	out := HeldResponse{MemberID: memberID, NowBoottimeNs: boottime, Held: make([]Held, 0, len(held))}
	for _, h := range held {
		out.Held = append(out.Held, Held{
			Scope: h.Scope, Term: h.Term, FenceToken: h.Fence,
			UntilBoottimeNs: boottime + int64(h.Until.Sub(now)),
		})
	}
	return out
}

// AuditRecordOf converts a transition with its place in the hash chain.
func AuditRecordOf(r *core.Record) AuditRecord {
	a := AuditRecord{
		Seq: r.Seq, Revision: r.Revision, Ordinal: r.Ordinal, Kind: core.EventKind(r.Kind).String(),
		Scope: r.Scope, ScopeKind: r.ScopeKind, Labels: labels(r.Labels), MemberID: r.MemberId,
		Session: r.Session, Term: r.Term, FenceToken: r.Fence, Reason: r.Reason,
		CorrelationID: r.CorrelationId, Actor: r.Actor, OccurredAt: wallTime(r.WallNs),
		PreviousHash: hex.EncodeToString(r.PrevHash), Hash: hex.EncodeToString(r.Hash),
		Why: r.Why, Subject: r.Subject,
	}
	if r.IssuedWallNs != 0 {
		a.IssuedAt = wallTime(r.IssuedWallNs)
	}
	return a
}

func wallTime(ns int64) time.Time { return time.Unix(0, ns).UTC() }

func utc(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return t.UTC().Round(0)
}

// labels copies l, and makes an empty map of none: clients index into it.
func labels(l map[string]string) map[string]string {
	if l == nil {
		return map[string]string{}
	}
	return maps.Clone(l)
}
