package core

// journal is the ordered log under a replica: raft among the replicas themselves
// (raftJournal), or a store outside (storeJournal). Who leads the journal is the
// registrar. Everything else, the registry, the keeper, requests, members, is the
// same for both and knows neither.
//
// What becomes true only when something is durable goes out in two steps: ready
// adds it to what the drive persists and sends, advance takes in that it was, and
// applies what is committed.
type journal interface {
	// step takes what arrived for the log: a message, a notice, an answer.
	step(in *Input)
	// tick lets time pass until the replica's now.
	tick()
	deadline() Time
	// office tells who leads the log as far as this replica knows (0: nobody), the
	// latest term it knows, and whether it leads itself.
	office() (lead NodeID, term uint64, leading bool)
	// officeBegan and officeEnded tell that the replica has taken note of its own.
	officeBegan()
	officeEnded()
	// propose puts an entry behind the newest one. An error: it was not taken.
	propose(data []byte) error
	// confirmOffice has it proven, by a check begun now, that this replica still
	// leads; the answer goes to the keeper. confirmRead asks where the log ends; the
	// answer goes to the table of reads.
	confirmOffice(check uint64)
	confirmRead(id uint64)
	// handOver gives the office to another replica, handOverTo to a certain one (0: any).
	handOver()
	handOverTo(NodeID)
	hasReady() bool
	ready(rd *Ready)
	advance() error
	// recorded is called with what each applied entry did.
	recorded(out *Outcome) error
	// notReady says why this copy cannot be vouched for; empty: it can.
	notReady() string
	committed() uint64
	// doubtful reports whether this copy may hold what the log has lost: nothing is
	// answered from it then.
	doubtful() bool
}

// logEntry is one committed entry of the log.
type logEntry struct {
	index, term uint64
	data        []byte
}
