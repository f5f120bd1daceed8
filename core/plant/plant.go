// Package plant names the bugs that the simulator can plant in core to show that
// its checkers catch them. Each is one wrong line behind a switch. A Set can only
// be filled here, and only sim imports this package (ci/imports_test.go), so no
// shipped program can turn one on; an empty Set costs one bit test.
package plant

import "fmt"

// Plant is one named bug.
type Plant uint8

const (
	AckBeforeQuorum Plant = iota
	ExpireWithoutWait
	DeposedExpiryCounts
	KeepalivesBeforeFirstEntry
	RenewExpired
	LeaseFromAck
	IgnoreDrift
	FenceNotRaised
	FenceMissingFromSnapshot
	GuardRecordsRefused
	GuardForgetsOnRestart
	ApplyTwiceAfterRestart
	SnapshotDropsSessions
	ReplyCacheLost
	VoteBeforeDurable
	AppendBeforeDurable
	TornTailAccepted
	ApplyRangesOverMap
	ApplyReadsClock
	AuditOutsideTransaction
	NoPreVoteCheckQuorum
	SuccessorBeforeAck
	StreamResumesLate
	RetiredScopeElected
	BelieveGivenUp
	AckAfterNote
	NoNotes
	StampBeforeDrain      // †: receipts stamped by a clock read before the inbox was drained
	OldCheckConfirms      // †: a check begun before receipt confirms a keepalive
	AckWhileExpiring      // †: a pending expiry does not hold back the ack
	OfficeOutlived        // †: deadlines and waiting keepalives survive the office
	AgeFromAck            // †: age counts from the last acknowledged receipt
	NoteCountsWhenApplied // †: a note holds acks back only once it is applied
	ForeignCancelCounts   // †: a cancel proposed before the note, or of another term, counts
	TermOfCommitter       // †: a keeper entry's term compared with the committer's
	ForgetUnseenResign    // †: a grant acknowledged unseen is believed when it shows up
	NoteAfterCancel       // a note decided earlier lands after its cancel
	DivergentElection     // a replica breaks ties by its own id
	CheckOfFormerOffice   // raft's answer to a check of an office that is over counts
	LocalRead             // a replica answers a linearizable read at once, from its own copy

	// Of gossip:

	GossipRevokesLease    // a member that gossip calls dead is expired at once
	SuspicionNotCancelled // the note of a suspicion stands, whatever is heard of the session
	ObservedNeverCleared  // what gossip once said against a member stays in the log
	IneligibleElected     // elections do not look at what gossip says against a member
	DetectorSilent        // no split-brain is reported

	// Of a log in an external store:

	AppendUnguarded    // the store takes a deposed registrar's append
	AppendChanged      // an append whose answer was lost is repeated with more in it
	OldConfirmCounts   // a confirmation that was asked for before the receipt counts
	SupersededBelieved // answers of an old server are believed after attesting another
	MarkBeforeDurable  // what rests on a mark is shown before the mark is durable
	MarkForgotten      // the mark is gone after a restart
	AttestUnseen       // a replica attests a server without having found its mark there
	AdoptedBySome      // a new server is adopted when not all have attested it
	OneRound           // a replica that moves on to another server attests it in the same round
	GapAccepted        // the chain of what is fetched is not checked
	PublishedTwice     // the store adds audit records that it has already
	JumpKeepsFence     // an operator's jump does not raise the fence
	JumpWithoutWait    // after a jump elections do not wait for members of before

	// Of nodes that come and go:

	PromoteUncaught   // a learner gets its vote before it has caught up
	RemovedNameReused // the name of a removed node is taken for another one
	ReplaceAtOnce     // two voters change in one step, without a joint majority
	StaleMembers      // a snapshot names the voters of the start
	MembersForgotten  // a restart does not repeat changes of the voters
	numPlants
)

var names = [numPlants]string{
	"ack-before-quorum", "expire-without-wait", "deposed-expiry-counts", "keepalives-before-first-entry",
	"renew-expired", "lease-from-ack", "ignore-drift", "fence-not-raised", "fence-missing-from-snapshot",
	"guard-records-refused", "guard-forgets-on-restart", "apply-twice-after-restart", "snapshot-drops-sessions",
	"reply-cache-lost", "vote-before-durable", "append-before-durable", "torn-tail-accepted",
	"apply-ranges-over-map", "apply-reads-clock", "audit-outside-transaction", "no-prevote-checkquorum",
	"successor-before-ack", "stream-resumes-late", "retired-scope-elected", "believe-given-up", "ack-after-note",
	"no-notes", "stamp-before-drain", "old-check-confirms", "ack-while-expiring", "office-outlived", "age-from-ack",
	"note-counts-when-applied", "foreign-cancel-counts", "term-of-committer", "forget-unseen-resign",
	"note-after-cancel", "divergent-election", "check-of-former-office",
	"local-read",

	"gossip-revokes-lease", "suspicion-not-cancelled", "observed-never-cleared", "ineligible-elected", "detector-silent",

	"append-unguarded", "append-changed", "old-confirm-counts", "superseded-believed", "mark-before-durable", "mark-forgotten",
	"attest-unseen", "adopted-by-some", "one-round", "gap-accepted", "published-twice", "jump-keeps-fence", "jump-without-wait",

	"promote-uncaught", "removed-name-reused", "replace-at-once", "stale-members", "members-forgotten",
}

func (p Plant) String() string { return names[p] }

// All lists every plant in the order of its declaration.
func All() []Plant {
	all := make([]Plant, numPlants)
	for i := range all {
		all[i] = Plant(i)
	}
	return all
}

// Parse finds a plant by its name.
func Parse(name string) (Plant, error) {
	for i, n := range names {
		if n == name {
			return Plant(i), nil
		}
	}
	return 0, fmt.Errorf("no plant is named %q; simrun selftest --list shows them", name)
}

// Set is the plants of one run, a bit for each there can be. The zero Set is empty.
type Set struct{ bits [4]uint64 }

// Of returns the set of the given plants.
func Of(plants ...Plant) Set {
	var s Set
	for _, p := range plants {
		s.bits[p/64] |= 1 << (p % 64)
	}
	return s
}

// Has reports whether p is planted.
func (s Set) Has(p Plant) bool { return s.bits[p/64]&(1<<(p%64)) != 0 }
