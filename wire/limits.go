package wire

import "github.com/omnirelay/leadership/core"

// Limits on what one node takes from another. Beyond core's own: a message that
// breaks one is an error, never cut.
const (
	// MaxRequestBytes bounds one request of an Exchange stream, encoded. It stays
	// below the 4 MiB that a grpc server takes by default, so that the server the
	// public API shares needs no larger limit.
	MaxRequestBytes = 2 << 20
	// MaxRaftMessageBytes bounds a raft message without a snapshot, encoded. Raft
	// fills messages up to 1 MiB and sends a larger entry alone.
	MaxRaftMessageBytes = 4 << 20
	// MaxMessageBytes bounds one message of any kind, encoded: a snapshot and the
	// room its envelope takes.
	MaxMessageBytes = core.MaxSnapshotBytes + 1<<20
	// MaxRaftEntries bounds the entries of one raft message: 1 MiB of the smallest
	// entries there are, four bytes each.
	MaxRaftEntries = 1 << 18
	// MaxRaftContext bounds the context of a raft message in bytes.
	MaxRaftContext = 1 << 10
)
