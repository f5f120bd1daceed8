package core

import (
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/omnirelay/leadership/core/logpb"
)

// ConnID names a member's connection to one replica. The host assigns it; core
// only hands it back. 0 is no connection.
type ConnID uint64

// Message is what one replica tells another. Exactly one of the pointers is set.
// A message may be lost, delayed, repeated or overtaken.
type Message struct {
	From, To  NodeID
	Raft      *raftpb.Message
	Proposal  *Proposal
	Keepalive *KeepaliveForward
	Ack       *AckReturn
	Suspicion *Suspicion
}

// Suspicion tells the registrar that a member's connection broke off.
type Suspicion struct {
	Session SessionID
}

// Claim is a scope that a member believes to lead, and under which fence.
type Claim struct {
	Scope string
	Fence uint64
}

// GossipNews is what gossip says of one member from now on. It is advice: it may be
// wrong, late, and different on every replica.
type GossipNews struct {
	MemberID string
	Health   Health
	// Unsupported: it runs a version that this mesh does not work with.
	Unsupported bool
	// Claims are what the member is heard to claim, at most MaxClaims. ClaimsFor is how long,
	// from the arrival of the news, the member may believe in them without a further word;
	// 0: this news tells nothing of claims.
	Claims    []Claim
	ClaimsFor time.Duration
}

// Health is what gossip says of a member.
type Health uint8

const (
	HealthUnknown Health = iota // gossip knows nothing of it, or has forgotten it
	HealthAlive
	HealthSuspect // it does not answer
	HealthDead    // it has not answered for long
	HealthLeft    // it said farewell
)

// Proposal hands commands to the registrar. The receiver drops it when it is not.
type Proposal struct {
	Commands []*logpb.Command
}

// KeepaliveForward is a member's keepalive on its way to the registrar.
type KeepaliveForward struct {
	Session SessionID
	Number  uint64
	Conn    ConnID
	Claims  []Claim
}

// AckReturn is the registrar's acknowledgement on its way back to the member.
type AckReturn struct {
	Session SessionID
	Number  uint64
	Conn    ConnID
}

// MemberMessage is what a member tells the replica it is attached to. Exactly one
// of the pointers is set.
type MemberMessage struct {
	Keepalive *Keepalive
	Command   *logpb.Command // OpenSession, CloseSession, Stand, Withdraw, Resign
}

// Keepalive renews a session and tells what its member has seen.
type Keepalive struct {
	Session SessionID
	Number  uint64 // 1, 2, 3 ... within the session
	// Cursor is the highest revision the member has seen, from any replica. A
	// replica that is behind it stays silent until it has caught up.
	Cursor uint64
	// ViewRevision is the revision of the last view the member took.
	ViewRevision uint64
	// Claims are what the member believes to lead at this moment, at most MaxClaims, in
	// turn when there are more.
	Claims []Claim
}

// ReplicaMessage is what a replica tells an attached member. Exactly one of the
// pointers is set.
type ReplicaMessage struct {
	Ack   *Ack
	View  *View
	Reply *Reply
}

// Ack acknowledges a keepalive: the session lived after the keepalive was sent.
type Ack struct {
	Session SessionID
	Number  uint64
}

// View is all that a session leads at one revision.
type View struct {
	Session  SessionID
	Revision uint64
	// Live is false once the session has ended. It never becomes true again.
	Live   bool
	Grants []Grant // sorted by scope
}

// Reply answers a command.
type Reply struct {
	RequestID string
	Result    *Result
}
