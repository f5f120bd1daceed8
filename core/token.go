package core

import "github.com/omnirelay/leadership/core/logpb"

// SessionID names one session. Ids start at 1 and are never reused.
type SessionID uint64

// NodeID names one replica of the registry. 0 is nobody.
type NodeID uint64

// Failover says when a scope whose holder fell silent may be led by another.
type Failover uint8

const (
	// FailoverLease waits for the end of the holder's session: exclusive in real
	// time while clocks keep within Epsilon.
	FailoverLease Failover = iota
	// FailoverFast replaces a suspected holder at once; only the fence keeps its
	// effects out.
	FailoverFast
)

// Token is the proof of one leadership: constant during the term, and above all
// earlier ones in its fence.
type Token struct {
	Scope     string
	ScopeKind string
	LeaderID  string // member id
	Session   SessionID
	Term      uint64 // per scope, counted from 1
	Fence     uint64 // registry-wide, never reused
	// IssuedAtWall is the registrar's wall clock at the election, Unix
	// nanoseconds. For people.
	IssuedAtWall int64
	Labels       map[string]string
	Failover     Failover
}

// Ask is a standing request to the holder of a scope to hand it over.
type Ask struct {
	Reason        string // AskTransfer, AskDrain, AskRebalance or AskRetire
	To            string // member id of the wished successor; empty: by election rule
	CorrelationID string
}

// The reasons for which a holder is asked to hand over.
const (
	AskTransfer  = "transfer"
	AskDrain     = "drain"
	AskRebalance = "rebalance"
	AskRetire    = "retire"
)

// Grant is what a view tells a member about one scope it leads.
type Grant struct {
	Token
	Ask *Ask // nil: not asked
}

// Result is the reply to a command.
type Result = logpb.Result
