package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/omnirelay/leadership/adapters/config"
	"github.com/omnirelay/leadership/adapters/raftlog"
	"github.com/omnirelay/leadership/core"
)

// A data directory belongs to one kind of store. After the registry has moved to a
// store, a node's directory is adopted for it: it gets a mark of what lies there, so
// that the node would notice if the store forgot the migration, and what it held
// before is put aside.

func (f *migrateFlags) runAdopt(ctx context.Context, cmd *cobra.Command) (err error) {
	c := f.targetConfigs[0]
	if !c.Registry.External() {
		return errors.New("registry.store is raft: its data directories are filled by the migration itself, all at once")
	}
	s, err := openForOperator(ctx, c, cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	return errors.Join(adoptAll(ctx, cmd.OutOrStdout(), f.targetConfigs, s), s.Close())
}

// adoptAll adopts the data directories of nodes for a store. Those in use are left.
func adoptAll(ctx context.Context, out io.Writer, configs []*config.Config, s store) error {
	log, err := readLog(ctx, s)
	if err != nil {
		return err
	}
	var failed error
	for _, c := range configs {
		text, err := adopt(c, log)
		var refusal *raftlog.Refusal
		if errors.As(err, &refusal) && refusal.Reason == raftlog.ReasonInUse {
			text, err = fmt.Sprintf("%s; then make its directory ready with leaderd migrate --adopt --to FILE", refusal.Found), nil
		}
		if text != "" {
			fmt.Fprintf(out, "directory  %s: %s\n", c.NodeID, text)
		}
		failed = errors.Join(failed, err)
	}
	return failed
}

// adopt makes the data directory of a node one for the store that holds log. It
// returns what it did; nothing when nothing was to be done.
func adopt(c *config.Config, log *standingLog) (string, error) {
	there, err := raftlog.Exists(c.DataDir)
	if err != nil || !there {
		return "", err
	}
	before, err := lookIntoDirectory(c)
	if err != nil || before.store == c.Registry.Store {
		return "", err
	}
	if why := before.unrelated(log.lead); why != "" {
		return "", fmt.Errorf("%s: the data directory %s %s; give this node an empty one, or move it away", c.NodeID, c.DataDir, why)
	}
	incoming, err := newIncoming(c, c.Registry.Store)
	if err != nil {
		return "", fmt.Errorf("%s: %w", c.NodeID, err)
	}
	if err := errors.Join(incoming.Persist(core.Batch{Mark: markOf(log)}), incoming.Close()); err != nil {
		return "", err
	}
	if err := install(c, log.lead.Generation); err != nil {
		return "", fmt.Errorf("%s: %w", c.NodeID, err)
	}
	return fmt.Sprintf("%s is ready for %s; what it held of %s is kept beside as before-%d.db", c.DataDir, c.Registry.Store, before.store, log.lead.Generation), nil
}

// markOf is the mark of a node that has seen the whole log.
func markOf(log *standingLog) *core.StoreMark {
	snapshot := log.registry.Snapshot()
	return &core.StoreMark{
		ClusterId: log.lead.ClusterId, Generation: log.lead.Generation, Index: log.lead.Last, Chain: log.lead.Chain,
		Term: log.lead.Term, NextFence: snapshot.NextFence, NextSession: snapshot.NextSession,
	}
}

// directory is what a data directory holds.
type directory struct {
	store string
	seal  string
	boot  core.Boot
}

// lookIntoDirectory finds out for which store a directory is.
func lookIntoDirectory(c *config.Config) (*directory, error) {
	for _, kind := range config.Stores {
		log, boot, err := openSealed(c, kind)
		var refusal *raftlog.Refusal
		if errors.As(err, &refusal) && refusal.Reason == raftlog.ReasonOtherStore {
			continue
		}
		if err != nil {
			return nil, err
		}
		reason, err := log.Sealed()
		return &directory{store: kind, seal: reason, boot: boot}, errors.Join(err, log.Close())
	}
	return nil, fmt.Errorf("%s: the data directory %s is of a store that this leaderd does not know", c.NodeID, c.DataDir)
}

// unrelated says why what a directory holds does not prove that the registry went
// from there to the log with this lead record; empty: it does.
func (d *directory) unrelated(lead *core.Lead) string {
	if d.store != config.StoreRaft {
		if g := d.boot.Mark.GetGeneration(); d.boot.Mark != nil && g >= lead.Generation {
			return fmt.Sprintf("has seen generation %d of this registry in %s, and the store holds generation %d: it is no later one", g, d.store, lead.Generation)
		}
		return ""
	}
	n, ok := parseNote(d.seal)
	switch {
	case d.boot.HardState == nil:
		return "" // never used
	case !ok || n.kind != noteMoved:
		return "holds a raft log which no migration closed"
	case n.generation > lead.Generation:
		return fmt.Sprintf("holds a raft log whose registry moved on as generation %d, and the store holds generation %d", n.generation, lead.Generation)
	}
	return ""
}
