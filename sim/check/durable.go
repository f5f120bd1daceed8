package check

import "github.com/omnirelay/leadership/core"

// Durable: an acknowledged command is in the log and stays there, and every
// replica's audit trail holds each transition once, in order, with the chain of
// hashes unbroken, through restarts and received snapshots.
type Durable struct {
	report    Report
	chronicle *Chronicle
}

func NewDurable(report Report, chronicle *Chronicle) *Durable {
	return &Durable{report: report, chronicle: chronicle}
}

// Acknowledged takes a reply of success.
func (c *Durable) Acknowledged(at int64, requestID string, r *core.Result) {
	if _, ok := c.chronicle.acked[requestID]; ok {
		return
	}
	c.chronicle.acked[requestID] = r.Revision
	for _, index := range c.chronicle.requests[requestID] {
		if index == r.Revision {
			return
		}
	}
	c.report.plain(DurableProperty, at, "request %s was acknowledged at revision %d, where the log does not have it", requestID, r.Revision)
}

// Stored takes the record that a replica's trail grows by. last is the newest it
// had before, nil for none.
func (c *Durable) Stored(at int64, replica core.NodeID, last, r *core.Record) {
	var seq uint64
	var hash []byte
	if last != nil {
		seq, hash = last.Seq, last.Hash
	}
	switch {
	case r.Seq != seq+1:
		c.report.plain(DurableProperty, at, "replica %d stored audit record %d after record %d", replica, r.Seq, seq)
	case last != nil && string(r.PrevHash) != string(hash):
		c.report.plain(DurableProperty, at, "replica %d stored audit record %d, whose chain does not continue record %d", replica, r.Seq, seq)
	}
}

// Trail takes the state of a replica's trail: the number of its newest record
// and the revision up to which it claims to be whole.
func (c *Durable) Trail(at int64, replica core.NodeID, newest, auditedTo uint64) {
	if want := c.chronicle.RecordsUpTo(auditedTo); newest < want {
		c.report.plain(DurableProperty, at, "replica %d holds audit records up to %d and claims all up to revision %d, which are %d", replica, newest, auditedTo, want)
	}
}

// Lost reports that a replica's log lost what it had acknowledged, as raft found.
func (c *Durable) Lost(at int64, replica core.NodeID, why string) {
	c.report.plain(DurableProperty, at, "replica %d lost what it had acknowledged: %s", replica, why)
}
