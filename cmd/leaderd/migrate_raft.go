package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/adapters/config"
	"github.com/omnirelay/leadership/adapters/raftlog"
	"github.com/omnirelay/leadership/core"
)

// raftEnd is the data directories of the nodes of a raft cluster. None of them may
// be in use: the lock on each proves it.
type raftEnd struct {
	configs []*config.Config

	// Of a source. Its logs are held open until the end, so that no node can start.
	logs     []*raftlog.Log
	registry *core.Registry // of the log that reaches furthest
	audit    *raftlog.Log   // the log that keeps most of the audit trail; nil: none keeps any
}

// incoming is the folder inside a data directory in which the log that will replace
// its own is made.
const incoming = "incoming"

// newRaftEnd checks that the configurations are of different nodes of one cluster,
// and at least so many of them.
func newRaftEnd(configs []*config.Config, atLeast int) (*raftEnd, error) {
	e := &raftEnd{configs: configs}
	seen := map[string]bool{}
	for _, c := range configs {
		switch {
		case placeOf(c) != e.name():
			return nil, fmt.Errorf("%s and %s do not name the same peers", configs[0].NodeID, c.NodeID)
		case seen[c.NodeID] || seen[c.DataDir]:
			return nil, fmt.Errorf("%s: this node, or its data directory, is given twice", c.NodeID)
		}
		seen[c.NodeID], seen[c.DataDir] = true, true
	}
	if n := len(configs[0].Peers); len(configs) < atLeast {
		return nil, fmt.Errorf("the configurations of %d of the %d nodes are given; give those of at least %d, with their data directories on this machine", len(configs), n, atLeast)
	}
	return e, nil
}

// newRaftSource opens the logs of a majority: what was acknowledged is in one of
// them, and once they are sealed, the other nodes can elect nobody.
func newRaftSource(configs []*config.Config) (*raftEnd, error) {
	e, err := newRaftEnd(configs, len(configs[0].Peers)/2+1)
	if err != nil {
		return nil, err
	}
	err = e.openLogs()
	if err == nil {
		err = e.checkMajority()
	}
	if err != nil {
		return nil, errors.Join(err, e.release())
	}
	return e, nil
}

// newRaftTarget takes all nodes: one that starts without its part would be another
// cluster's.
func newRaftTarget(configs []*config.Config) (*raftEnd, error) {
	return newRaftEnd(configs, len(configs[0].Peers))
}

// checkMajority holds the logs that were opened against the voters that the registry has by
// now: nodes may have come and gone since the configurations were written.
func (e *raftEnd) checkMajority() error {
	voters, given := e.registry.Voters(), 0
	for _, c := range e.configs {
		if slices.Contains(voters, config.Peer{ID: c.NodeID}.Replica()) {
			given++
		}
	}
	switch {
	case e.registry.ChangingVoters():
		return errors.New("the logs end amid a change of the nodes; start the nodes, wait until it is over (omnirelay mesh nodes list), stop them and try again")
	case len(voters) > 0 && given < len(voters)/2+1:
		return fmt.Errorf("%d nodes vote by now, and the logs of %d of them are given; give those of at least %d", len(voters), given, len(voters)/2+1)
	}
	return nil
}

func (e *raftEnd) openLogs() error {
	var furthest [2]uint64
	var oldest uint64
	for _, c := range e.configs {
		log, boot, err := openSealed(c, config.StoreRaft)
		if err != nil {
			return err
		}
		e.logs = append(e.logs, log)
		if boot.HardState == nil {
			return fmt.Errorf("%s: the data directory %s holds a log that was never used: a node that lost its log cannot stand for what it acknowledged; leave it out", c.NodeID, c.DataDir)
		}
		g, term, index, err := core.ReadRaftLog(boot)
		if err != nil {
			return fmt.Errorf("%s: %w", c.NodeID, err)
		}
		if at := [2]uint64{term, index}; slices.Compare(at[:], furthest[:]) > 0 {
			furthest, e.registry = at, g
		}
		first, err := log.Records(0, 1)
		if err != nil {
			return err
		}
		if len(first) > 0 && (e.audit == nil || first[0].Seq < oldest) {
			e.audit, oldest = log, first[0].Seq
		}
	}
	return nil
}

// openSealed opens an existing log, sealed or not.
func openSealed(c *config.Config, store string) (*raftlog.Log, core.Boot, error) {
	there, err := raftlog.Exists(c.DataDir)
	if err == nil && !there {
		err = fmt.Errorf("the data directory %s holds no log", c.DataDir)
	}
	if err != nil {
		return nil, core.Boot{}, fmt.Errorf("%s: %w", c.NodeID, err)
	}
	log, boot, err := raftlog.Open(logOptions(c, c.DataDir, store, true))
	if err != nil {
		return nil, boot, fmt.Errorf("%s: %w", c.NodeID, err)
	}
	return log, boot, nil
}

func logOptions(c *config.Config, dir, store string, sealed bool) raftlog.Options {
	return raftlog.Options{Dir: dir, ClusterID: c.ClusterID, NodeID: config.Peer{ID: c.NodeID}.Replica(), Store: store, Sealed: sealed}
}

func (e *raftEnd) name() string { return placeOf(e.configs[0]) }

func (e *raftEnd) voters() []core.NodeID { return votersOf(e.configs[0]) }

func (e *raftEnd) release() error {
	var err error
	for _, log := range e.logs {
		err = errors.Join(err, log.Close())
	}
	e.logs = nil
	return err
}

func (e *raftEnd) look(context.Context) (standing, error) {
	if e.logs != nil {
		return e.lookAtSource()
	}
	return e.lookAtTarget()
}

// lookAtSource joins the seals of all logs: the farthest step counts that was begun.
func (e *raftEnd) lookAtSource() (standing, error) {
	s := standing{present: e.registry.ClusterID() != "", open: true}
	for i, log := range e.logs {
		reason, err := log.Sealed()
		if err != nil {
			return s, err
		}
		if reason == "" {
			continue
		}
		n, ok := parseNote(reason)
		if !ok || (s.note.id != "" && n.id != s.note.id) {
			return s, fmt.Errorf("%s is sealed for another reason than the others: %s", e.configs[i].NodeID, reason)
		}
		if s.open || n.kind == noteMoved {
			s.open, s.closed, s.note = false, reason, n
		}
	}
	return s, nil
}

// lookAtTarget looks into every directory, which none may be using.
func (e *raftEnd) lookAtTarget() (s standing, err error) {
	for _, c := range e.configs {
		here, err := directoryStanding(c)
		if err != nil {
			return s, err
		}
		switch {
		case !here.present:
		case here.open && (!s.open || here.generation < s.generation):
			s.open, s.generation = true, here.generation
		case s.note.id != "" && !here.open && here.note.id != s.note.id:
			return s, fmt.Errorf("%s was left by another migration than the others: %s", c.NodeID, here.closed)
		}
		if here.present && !here.open {
			s.closed, s.note = here.closed, here.note
		}
		s.present = s.present || here.present
	}
	return s, nil
}

// directoryStanding looks into one directory. What may be put aside counts as not
// present: a log never used, the mark of a node whose registry lay in a store, and a
// raft log that the registry left.
func directoryStanding(c *config.Config) (standing, error) {
	var none standing
	there, err := raftlog.Exists(c.DataDir)
	if err != nil || !there {
		return none, err
	}
	log, boot, err := openSealed(c, config.StoreRaft)
	var refusal *raftlog.Refusal
	if errors.As(err, &refusal) && refusal.Reason == raftlog.ReasonOtherStore {
		return none, nil
	}
	if err != nil {
		return none, err
	}
	reason, err := log.Sealed()
	if err = errors.Join(err, log.Close()); err != nil {
		return none, err
	}
	n, _ := parseNote(reason)
	switch {
	case reason == "" && boot.HardState == nil, n.kind == noteMoved:
		return none, nil
	case reason == "":
		return standing{present: true, open: true, generation: boot.HardState.GetCommit()}, nil
	}
	return standing{present: true, closed: reason, note: n}, nil
}

func (e *raftEnd) close(_ context.Context, why note) error { return e.seal(why) }

func (e *raftEnd) settle(_ context.Context, why note) error { return e.seal(why) }

func (e *raftEnd) seal(why note) error {
	for i, log := range e.logs {
		if err := log.Seal(why.String()); err != nil {
			return fmt.Errorf("%s: %w", e.configs[i].NodeID, err)
		}
	}
	return nil
}

func (e *raftEnd) reopen(context.Context) error {
	for i, log := range e.logs {
		if err := log.Unseal(); err != nil {
			return fmt.Errorf("%s: %w", e.configs[i].NodeID, err)
		}
	}
	return nil
}

func (e *raftEnd) read(context.Context) (*core.Registry, error) { return e.registry, nil }

func (e *raftEnd) page(_ context.Context, after uint64) ([]*core.Record, error) {
	if e.audit == nil {
		return nil, nil
	}
	return e.audit.Records(after, trailPage)
}

// fill makes a complete, sealed log for every node beside the one it has, and then
// puts each in its place.
func (e *raftEnd) fill(ctx context.Context, in *filling) error {
	logs, err := e.makeLogs(ctx, in)
	for _, log := range logs {
		err = errors.Join(err, log.Close())
	}
	if err != nil {
		return err
	}
	for _, c := range e.configs {
		if err := install(c, in.generation); err != nil {
			return fmt.Errorf("%s: %w", c.NodeID, err)
		}
	}
	return nil
}

// install puts the log in the folder incoming in its place.
func install(c *config.Config, generation uint64) error {
	staged := filepath.Join(c.DataDir, incoming)
	if err := raftlog.Install(c.DataDir, staged, fmt.Sprintf("before-%d.db", generation)); err != nil {
		return err
	}
	return os.RemoveAll(staged)
}

func (e *raftEnd) makeLogs(ctx context.Context, in *filling) (logs []*raftlog.Log, err error) {
	snapshot, err := in.registry.RaftLog(e.voters())
	if err != nil {
		return nil, err
	}
	index := snapshot.GetMetadata().GetIndex()
	first := core.Batch{Install: snapshot, HardState: &raftpb.HardState{Term: snapshot.GetMetadata().Term, Commit: proto.Uint64(index)}}
	for _, c := range e.configs {
		log, err := newIncoming(c, config.StoreRaft)
		if err != nil {
			return logs, err
		}
		logs = append(logs, log)
		if err := errors.Join(log.Seal(in.why.String()), log.Persist(first)); err != nil {
			return logs, err
		}
	}
	persist := func(b core.Batch) error {
		for _, log := range logs {
			if err := log.Persist(b); err != nil {
				return err
			}
		}
		return nil
	}
	_, err = in.trail.each(ctx, func(records []*core.Record) error {
		return persist(core.Batch{Records: records, AuditedTo: records[len(records)-1].Revision})
	})
	if err != nil {
		return logs, err
	}
	return logs, persist(core.Batch{AuditedTo: index})
}

// newIncoming makes an empty log in the folder incoming of a data directory.
func newIncoming(c *config.Config, store string) (*raftlog.Log, error) {
	dir := filepath.Join(c.DataDir, incoming)
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(c.DataDir, 0o700); err != nil {
		return nil, err
	}
	log, _, err := raftlog.Open(logOptions(c, dir, store, false))
	return log, err
}

func (e *raftEnd) copies(_ context.Context, visit func(*copied) error) error {
	for _, c := range e.configs {
		log, boot, err := openSealed(c, config.StoreRaft)
		if err != nil {
			return err
		}
		g, _, _, err := core.ReadRaftLog(boot)
		if err == nil {
			err = visit(&copied{name: c.NodeID, registry: g, page: func(_ context.Context, after uint64) ([]*core.Record, error) {
				return log.Records(after, trailPage)
			}})
		}
		if err = errors.Join(err, log.Close()); err != nil {
			return fmt.Errorf("%s: %w", c.NodeID, err)
		}
	}
	return nil
}

func (e *raftEnd) open(context.Context) error {
	for _, c := range e.configs {
		log, _, err := openSealed(c, config.StoreRaft)
		if err != nil {
			return err
		}
		reason, err := log.Sealed()
		if err == nil && reason != "" && !strings.HasPrefix(reason, string(noteFilling)) {
			err = fmt.Errorf("%s is not %q any more but %q", c.NodeID, noteFilling, reason)
		}
		if err == nil && reason != "" {
			err = log.Unseal()
		}
		if err = errors.Join(err, log.Close()); err != nil {
			return err
		}
	}
	return nil
}
