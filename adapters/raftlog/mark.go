package raftlog

import (
	"bytes"
	"errors"
	"fmt"

	"go.etcd.io/bbolt"
	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/core"
)

// storeRaft is the kind of a log that holds raft's entries itself.
const storeRaft = "raft"

// maxMark bounds a stored mark, in bytes.
const maxMark = 8 << 10

var markKey = []byte("mark")

// errNoMark is what a raft log says to a mark, and errOnlyMark what the log of a
// node on an external store says to anything else.
var (
	errNoMark   = errors.New("a mark of an external store, but this is a raft log")
	errOnlyMark = errors.New("something of raft, but this log holds the mark of an external store only")
)

// setMark replaces the mark. It must know no less than the one before: a replica
// whose mark went back would believe a store that lost what it had acknowledged.
func (s *step) setMark(m *core.StoreMark) error {
	before, err := getMark(s.tx)
	if err != nil {
		return err
	}
	if err := succeeds(before, m, s.id.cluster); err != nil {
		return fmt.Errorf("mark: %w", err)
	}
	data, err := proto.Marshal(m)
	if err != nil {
		return err
	}
	if len(data) > maxMark {
		return fmt.Errorf("mark: %d bytes, at most %d are stored", len(data), maxMark)
	}
	return put(s.tx, metaBucket, markKey, data)
}

// succeeds checks that m may follow before; nil: there was none. In a later
// generation the log may be a shorter one, but its fences only grow.
func succeeds(before, m *core.StoreMark, cluster string) error {
	if m.ClusterId != cluster {
		return fmt.Errorf("of cluster %q, this is %q", m.ClusterId, cluster)
	}
	if m.Generation < before.GetGeneration() {
		return fmt.Errorf("generation %d after %d", m.Generation, before.GetGeneration())
	}
	if m.NextFence < before.GetNextFence() {
		return fmt.Errorf("next fence %d after %d", m.NextFence, before.GetNextFence())
	}
	if before == nil || m.Generation > before.Generation {
		return nil
	}
	for _, n := range []struct {
		name      string
		was, next uint64
	}{{"index", before.Index, m.Index}, {"term", before.Term, m.Term}, {"next session", before.NextSession, m.NextSession}, {"round", before.Round, m.Round}} {
		if n.next < n.was {
			return fmt.Errorf("%s %d after %d in generation %d", n.name, n.next, n.was, m.Generation)
		}
	}
	if m.Index == before.Index && !bytes.Equal(m.Chain, before.Chain) {
		return fmt.Errorf("another entry %d than before in generation %d", m.Index, m.Generation)
	}
	return nil
}

// getMark returns the stored mark, nil when none was stored yet.
func getMark(tx *bbolt.Tx) (*core.StoreMark, error) {
	payload, err := get(tx, metaBucket, markKey)
	if err != nil || len(payload) == 0 {
		return nil, err
	}
	m := new(core.StoreMark)
	if proto.Unmarshal(payload, m) != nil {
		return nil, errors.New("meta mark: what is there is no mark")
	}
	return m, nil
}

// mark reads the mark of a log of a node on an external store, which holds nothing
// else but the session.
func (r *reader) mark() (err error) {
	if r.state != (state{session: r.state.session}) {
		return errors.New("meta state: there is more than a session beside the mark")
	}
	r.boot.Mark, err = getMark(r.tx)
	return err
}

// markRemedy is what helps after damage on a node with an external store. A node
// without its mark vouches for nothing when the store's server becomes another.
const markRemedy = "do not simply delete it: without it this node cannot tell whether the store lost something. " +
	"When the store's server was neither restarted nor replaced since this node stopped, " +
	"move the whole data directory away and start this node empty. " +
	"Otherwise do the same, and the nodes wait until an operator jumps the fence (leaderd fence jump)"

func otherStore(path, found, want string) *Refusal {
	return &Refusal{Reason: ReasonOtherStore, Path: path,
		Found:  fmt.Sprintf("this node's registry was kept in %s, and registry.store is %s", found, want),
		Remedy: fmt.Sprintf("move the registry with leaderd migrate --from %s --to %s, or write registry.store: %s; a registry that starts anew would give fences twice", found, want, found)}
}
