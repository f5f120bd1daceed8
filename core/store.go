package core

import (
	"time"

	"github.com/omnirelay/leadership/core/logpb"
)

// An external store (etcd, Postgres, Redis) is, to core, an ordered durable log
// with a lead record, on which a handful of calls can be made. This file is the
// contract of those calls: what core relies on, and what adapters/logtest holds
// every store to. The other log is raft's, among the replicas themselves.
//
// Intuition: one entry after another, each written only where the writer believes
// the log to end and only while the writer holds the office it believes to hold
// (compare and append). A deposed registrar's append fails at the guard, however
// late it arrives; a take-over is an append too, guarded by the term it deposes.
//
// Every call takes effect at one instant between being made and being answered, or
// not at all. A call that failed may still take effect later, once: the guards
// make that harmless. All calls may be made again.

// The types below as they lie in a store.
type (
	Lead           = logpb.Lead
	StoredEntry    = logpb.StoredEntry
	StoredSnapshot = logpb.StoredSnapshot
	StoreMark      = logpb.StoreMark
)

// StoreSchema is the newest layout of a store that this build reads and writes.
const StoreSchema uint32 = 1

// StoreCall is one call on the store. Exactly one of the pointers is set.
type StoreCall struct {
	// ID is handed back with the reply.
	ID uint64
	// Timeout is when the caller no longer waits. A call that was not answered by
	// then is answered with StoreFailed; what it may still do is unknown.
	Timeout time.Duration

	Append     *StoreAppend
	Confirm    *StoreConfirm
	Fetch      *StoreFetch
	Publish    *StorePublish
	Checkpoint *StoreCheckpoint
	Attest     *StoreAttest
	Close      *StoreClose
	// Of the commands of an operator, never of a replica:
	Replace *StoreReplace
	Trail   *StoreTrail
}

// Position is a place in a log, as its writer believes it: the term of the latest
// office and the index of the newest entry. The zero Position is that of a store
// that holds no log yet.
type Position struct {
	Term, Last uint64
}

// StoreAppend writes entries behind the newest one, if the lead record stands
// exactly at Guard, is open and names the identity under which this server is now
// known; otherwise it changes nothing and is refused. All of it or nothing.
//
// One that took effect already, recognised by the AppendID in the lead record at
// its term, is answered with StoreOK again: the registrar has at most one under
// way, and repeats it until it knows.
type StoreAppend struct {
	Guard Position
	// Lead is the lead record afterwards, but for what the store keeps itself: Beat
	// stays as it is. Lead.Term above Guard.Term takes the office over; equal to it
	// goes on with it. Lead.Identity is the server the caller believes to talk to: if it
	// is another now, the append is refused, on the store's side where that can be, and
	// in any case before it is answered with StoreOK.
	Lead *Lead
	// Entries are consecutive from Guard.Last+1, at least one, together no more than
	// MaxAppendBytes and MaxAppendEntries.
	Entries []*StoredEntry
	// Adopt lets Lead.Identity be another than the one in the lead record: the latest
	// attestation of it (StoreAttest) by every replica of Voters must be of the round
	// Lead.Round, or the append is refused.
	Adopt  bool
	Voters []NodeID
}

// StoreConfirm reads the lead record so that the answer proves something: at some
// instant between call and answer it was in force, and nothing acknowledged by
// this log then or earlier, through any server, is missing from it. A store whose
// reads can be answered by a superseded server must write something and wait until
// that is as durable as an append.
//
// With Beat set, it also raises Lead.Beat, if Lead.Term is Term; otherwise it only reads.
type StoreConfirm struct {
	Term uint64
	Beat bool
}

// StoreFetch reads the log as of one instant: the lead record, and what follows
// After. Nothing is ever skipped: the entries are consecutive from After+1; if that
// one was trimmed, the snapshot comes, with the entries that follow the snapshot.
// It holds whole entries of at most about MaxBytes together, at least one if there is one;
// more is fetched by the next call.
//
// When there is nothing after After, the store may wait for it, up to Wait, and
// answers with what is there then. Without something new, it answers with the lead
// record as it is then.
type StoreFetch struct {
	After    uint64
	MaxBytes int
	Wait     time.Duration
}

// StorePublish adds audit records behind the newest published one, if Lead.Term is
// Term, that one's number is After, and no record is of a revision above Lead.Last
// (a server that lost entries must not be told of them); otherwise it changes
// nothing and is refused. They are consecutive, the first has a number above After,
// and they hold every transition up to Revision. A store that keeps tables of
// current leaders writes them in the same step.
type StorePublish struct {
	Term     uint64
	After    uint64
	Records  []*Record // at most MaxPublishRecords
	Revision uint64
}

// StoreCheckpoint replaces the snapshot by a newer one, if Lead.Term is Term, and
// drops entries with an index up to TrimTo, which is no more than the snapshot's.
// The snapshot counts only when it is whole; trimming may take longer than the
// call, and may be done in pieces.
type StoreCheckpoint struct {
	Term     uint64
	Snapshot *StoredSnapshot
	TrimTo   uint64
}

// StoreAttest records, under Identity, that Node lost nothing: what its own mark
// says it had seen is in the log that this server holds. It is refused when the server is
// not Identity any more. It is a promise too: in Round and in every earlier round, Node
// attests no other server and believes none that was adopted in one of them. A later
// attestation by Node takes the place of an earlier one, whatever their rounds.
type StoreAttest struct {
	Identity string
	Node     NodeID
	Round    uint64
}

// StoreClose sets Lead.Closed, so that every later append is refused. With Guard
// set only if the lead record stands exactly there, or, when Guard.Last is 0, is of
// that term; with Identity set only on that server. An empty Reason opens the log
// again. Closing a log that is closed changes nothing and is refused.
type StoreClose struct {
	Guard    *Position
	Identity string
	Reason   string
}

// StoreReplace makes Snapshot and Lead the whole log, without entries, if the lead
// record stands exactly at Guard (the zero Position: the store holds no log).
// Published records stay; those with a number above Published are dropped, and so
// are all attestations: they spoke of the log before.
type StoreReplace struct {
	Guard     Position
	Lead      *Lead
	Snapshot  *StoredSnapshot
	Published uint64
}

// StoreTrail reads published audit records with a number above After, in order, at
// most Limit.
type StoreTrail struct {
	After uint64
	Limit int
}

// StoreStatus says what became of a call. The zero value is none.
type StoreStatus int

const (
	// StoreOK: it took effect.
	StoreOK StoreStatus = iota + 1
	// StoreRefused: a guard did not hold; it changed nothing, and StoreReply.Lead says
	// where the log stands.
	StoreRefused
	// StoreFailed: no answer; whether it took effect, or still will, is unknown.
	StoreFailed
	// StoreUnfit: the store must not be used: its settings or its role do not keep
	// what was acknowledged, its data is of a newer version, foreign or damaged. Text
	// says what, where and what would be right. The replica stops.
	StoreUnfit
)

// StoreReply answers a StoreCall.
type StoreReply struct {
	ID     uint64
	Status StoreStatus
	Text   string // for StoreRefused, StoreFailed and StoreUnfit: why

	// Identity is the server that answered. It changes whenever the server may have
	// lost something it had acknowledged, or can no longer tell: another server was
	// promoted, a backup was restored, and for a store on a single machine every restart. For
	// StoreFailed it is not set.
	Identity string
	// Lead is the lead record, nil when the store holds no log yet. It comes with
	// every answer but StoreFailed and StoreUnfit.
	Lead *Lead

	// Of Fetch:
	Snapshot *StoredSnapshot
	Entries  []*StoredEntry
	// First is the index of the oldest entry kept, Lead.Last+1 when there is none.
	First uint64
	// Attested are the replicas that attested Identity, and the round in which each did
	// last.
	Attested map[NodeID]uint64

	// Of Fetch and Publish: the number of the newest published audit record, 0: none.
	Published uint64

	// Of Trail:
	Records []*Record
}
