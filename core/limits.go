package core

import "time"

// Limits on everything that comes from outside. Their relations are asserted in
// limits_test.go; a limit that is reached is an error with CodeLimit, never a
// silent cut.
const (
	MaxScopes          = 16_384   // declared scopes
	MaxSessions        = 1_024    // live sessions
	MaxReplicas        = 9        // voters
	MaxNodes           = 12       // nodes: voters, and those on the way in or out
	MaxRemovedNodes    = 4_096    // names of nodes that are never used again
	MaxNodeName        = 63       // bytes
	MaxNodeAddress     = 261      // bytes: a host name, a colon and a port
	MaxStands          = 256      // stands of one session
	MaxStandBytes      = 16 << 10 // their selectors, encoded
	MaxLabels          = 16       // labels of a scope, session or selector
	MaxLabelKey        = 63       // bytes
	MaxLabelValue      = 255      // bytes
	MaxScopeID         = 256      // bytes
	MaxScopeSegments   = 8        // parts of a scope id between slashes
	MaxScopeSegment    = 63       // bytes
	MaxMemberID        = 128      // bytes
	MaxRequestID       = 128      // bytes
	MaxCorrelationID   = 128      // bytes
	MaxActor           = 256      // bytes
	MaxReason          = 256      // bytes
	MaxWeight          = 1_000
	MaxPriority        = 1_000_000 // and no less than its negative
	MaxScopesPerCmd    = 1_024     // scopes declared or retired by one command
	MaxCommandBytes    = 512 << 10 // one command, encoded
	MaxBatch           = 256       // commands of one log entry
	MaxBatchBytes      = 1 << 20   // commands of one log entry, encoded
	MaxUncommitted     = 16 << 20  // bytes proposed but not committed
	MaxPending         = 4_096     // requests one replica waits for
	MaxReplies         = 16_384    // replies kept: the deduplication window
	MaxHistory         = 32_768    // records kept in memory and in snapshots
	MaxAttached        = 1_024     // member connections of one replica
	MaxGuardScopes     = 65_536    // scopes one guard keeps a mark for
	MaxClaims          = 64        // claims of one keepalive or of one piece of gossip
	MaxWhy             = 256       // bytes of an operator's words for the audit trail
	MaxGossipMembers   = 2_048     // members that a replica keeps gossip's word of
	MaxMemberClaims    = 512       // claims of one member that a replica keeps at a time
	MaxHeardClaims     = 65_536    // claims of all members that a replica keeps at a time
	MaxFormerLeaders   = 16_384    // leaderships that ended, kept to tell old claims by
	MaxResigns         = 32        // resignations of a session that wait for their effect at a time
	MaxInFlight        = 64        // keepalives a member remembers the sending time of
	MaxSnapshotBytes   = 64 << 20
	MaxLogBytes        = 64 << 20 // of applied entries; then a snapshot replaces them
	MaxMessagesPerTurn = 1_024    // inputs one turn of a drive takes
	MaxAppendEntries   = 64       // log entries of one append to an external store
	MaxAppendBytes     = 1 << 20  // their data together, unless one alone is larger
	MaxFetchBytes      = 8 << 20  // of entries fetched from an external store at once
	MaxPublishRecords  = 1_024    // audit records published to an external store at once

	MinTTL = 100 * time.Millisecond
	MaxTTL = time.Hour

	DefaultTTL               = 2 * time.Second
	DefaultElectionTimeout   = 600 * time.Millisecond
	DefaultHeartbeatInterval = 100 * time.Millisecond
	DefaultMaxElectionWindow = 5 * time.Second
	DefaultFormationWindow   = 2 * time.Second
	DefaultRebalanceInterval = time.Second
	DefaultSnapshotEntries   = 10_000
)

// KeepaliveInterval is how often a member renews its session: TTL/5.
func KeepaliveInterval(ttl time.Duration) time.Duration { return ttl / 5 }

// NoteAfter is the silence after which a registrar notes it in the log, and
// again after every further stretch of the same length: 0.4 TTL.
func NoteAfter(ttl time.Duration) time.Duration { return ttl * 2 / 5 }
