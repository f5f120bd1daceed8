package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/omnirelay/leadership/adapters/config"
	"github.com/omnirelay/leadership/adapters/raftlog"
	"github.com/omnirelay/leadership/core"
)

// migration moves a registry from one end to another.
//
// Its steps are in an order in which at every moment at most one end can be served:
// the source is closed; the target is filled while it is closed; what it holds is read
// back and compared; the source is told that the registry moved; the target is
// opened. Ended at any moment and run again, it goes on: the notes at both ends say
// where it was. What follows the opening only prepares data directories.
type migration struct {
	cmd      *cobra.Command
	out      io.Writer
	from, to end
	yes      bool
	targets  []*config.Config

	id string
}

type migrateFlags struct {
	from, to                   []string
	yes, reopen, adoptOnly     bool
	fromConfigs, targetConfigs []*config.Config
}

func newMigrateCommand() *cobra.Command {
	var f migrateFlags
	cmd := &cobra.Command{
		Use:   "migrate --from FILE [--from FILE ...] --to FILE [--to FILE ...]",
		Short: "Move the registry between raft, etcd, postgres and redis, with fences and audit trail",
		Long: `Move the registry of a cluster between any two of raft, etcd, postgres and redis.

FILE is the configuration of a node, before (--from) and after (--to). The environment
is not read. For raft, give the configurations of all nodes, with their data
directories on this machine and the nodes stopped (of a source, a majority will do).
For the others, one is enough.

Interrupted, it is run again with the same arguments and goes on. Until the target is
opened, --reopen --from FILE takes the source back into service instead.

Data directories of the --to files are made ready for the target's kind. On another
machine, --adopt --to FILE does that for one node.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			return f.run(ctx, cmd)
		},
	}
	cmd.Flags().StringArrayVar(&f.from, "from", nil, "configuration file of a node of the source; may be repeated")
	cmd.Flags().StringArrayVar(&f.to, "to", nil, "configuration file of a node of the target; may be repeated")
	cmd.Flags().BoolVar(&f.yes, "yes", false, "do not ask")
	cmd.Flags().BoolVar(&f.reopen, "reopen", false, "take back a migration whose target was never opened")
	cmd.Flags().BoolVar(&f.adoptOnly, "adopt", false, "make a node's data directory ready for the store that the registry moved to")
	return cmd
}

func (f *migrateFlags) run(ctx context.Context, cmd *cobra.Command) error {
	if err := f.check(); err != nil {
		return &usageError{err}
	}
	if err := f.load(); err != nil {
		return err
	}
	switch {
	case f.reopen:
		return f.runReopen(ctx, cmd)
	case f.adoptOnly:
		return f.runAdopt(ctx, cmd)
	}
	return f.runMigrate(ctx, cmd)
}

func (f *migrateFlags) check() error {
	most := 2 * core.MaxReplicas
	switch {
	case f.reopen && f.adoptOnly:
		return errors.New("--reopen and --adopt do not go together")
	case len(f.from) > most || len(f.to) > most:
		return fmt.Errorf("more than %d files are given for one end", most)
	case f.reopen && (len(f.from) == 0 || len(f.to) > 0):
		return errors.New("--reopen wants --from and no --to")
	case f.adoptOnly && (len(f.to) == 0 || len(f.from) > 0):
		return errors.New("--adopt wants --to and no --from")
	case !f.reopen && !f.adoptOnly && (len(f.from) == 0 || len(f.to) == 0):
		return errors.New("--from and --to are both needed")
	}
	return nil
}

// load reads all files, which must be of one cluster, and those of one end of one place.
func (f *migrateFlags) load() error {
	cluster := ""
	for _, list := range []struct {
		paths   []string
		configs *[]*config.Config
	}{{f.from, &f.fromConfigs}, {f.to, &f.targetConfigs}} {
		for _, path := range list.paths {
			c, err := config.Load(path, nil)
			if err != nil {
				return err
			}
			if cluster == "" {
				cluster = c.ClusterID
			}
			*list.configs = append(*list.configs, c)
			switch first := (*list.configs)[0]; {
			case c.ClusterID != cluster:
				return fmt.Errorf("%s is of cluster %s, another file of %s: a registry stays in its cluster", path, c.ClusterID, cluster)
			case c.Registry.Store != first.Registry.Store:
				return fmt.Errorf("%s keeps the registry in %s, a file before it in %s: one end is one place", path, c.Registry.Store, first.Registry.Store)
			}
		}
	}
	return nil
}

func (f *migrateFlags) runMigrate(ctx context.Context, cmd *cobra.Command) (err error) {
	m := &migration{cmd: cmd, out: cmd.OutOrStdout(), yes: f.yes, targets: f.targetConfigs}
	if m.to, err = f.target(ctx, cmd); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.to.release()) }()
	if m.from, err = f.source(ctx, cmd); err != nil {
		if done, again := m.wasFinished(ctx, f.fromConfigs, err); done || again != nil {
			return again
		}
		return err
	}
	defer func() {
		if m.from != nil {
			err = errors.Join(err, m.from.release())
		}
	}()
	return m.run(ctx)
}

func (f *migrateFlags) source(ctx context.Context, cmd *cobra.Command) (end, error) {
	c := f.fromConfigs[0]
	if !c.Registry.External() {
		return asEnd(newRaftSource(f.fromConfigs))
	}
	return newStoreEnd(ctx, cmd, c)
}

func (f *migrateFlags) target(ctx context.Context, cmd *cobra.Command) (end, error) {
	c := f.targetConfigs[0]
	if !c.Registry.External() {
		return asEnd(newRaftTarget(f.targetConfigs))
	}
	return newStoreEnd(ctx, cmd, c)
}

// asEnd keeps a nil pointer from being an end.
func asEnd(e *raftEnd, err error) (end, error) {
	if err != nil {
		return nil, err
	}
	return e, nil
}

func newStoreEnd(ctx context.Context, cmd *cobra.Command, c *config.Config) (end, error) {
	s, err := openForOperator(ctx, c, cmd.ErrOrStderr())
	if err != nil {
		return nil, err
	}
	return &storeEnd{config: c, store: s}, nil
}

// step says what is done next.
func (m *migration) step(format string, args ...any) {
	fmt.Fprintf(m.out, format+"\n", args...)
}

func (m *migration) run(ctx context.Context) error {
	source, err := m.from.look(ctx)
	if err != nil {
		return err
	}
	target, err := m.to.look(ctx)
	if err != nil {
		return err
	}
	if err := m.judge(&source, &target); err != nil {
		return err
	}
	if source.byMigration(noteMoved) && target.open && !target.byMigration(noteFilling) {
		return m.finish(ctx, source.note.generation)
	}
	m.explain(&source)
	if err := confirm(m.cmd, m.yes); err != nil {
		return err
	}
	generation := source.note.generation
	if !source.byMigration(noteMoved) {
		if generation, err = m.move(ctx, &source); err != nil {
			return m.interrupted(err)
		}
	} else if err := m.resumeLast(ctx, source.note); err != nil {
		return err
	}
	m.step("opening the target")
	if err := m.to.open(ctx); err != nil {
		return m.interrupted(err)
	}
	return m.finish(ctx, generation)
}

func (m *migration) interrupted(err error) error {
	return fmt.Errorf("%w. The target is not served, nor is the source if it was closed: run this again, or take the source back with --reopen, which says whether it can", err)
}

// judge refuses what cannot be moved, and a target that holds something of its own.
func (m *migration) judge(source, target *standing) error {
	n := source.note
	switch {
	case m.from.name() == m.to.name():
		return fmt.Errorf("source and target are the same place: %s", m.from.name())
	case !source.present:
		return fmt.Errorf("%s holds no registry: there is nothing to move", m.from.name())
	case source.byMigration(noteFilling):
		return fmt.Errorf("%s is itself %s: end that migration first", m.from.name(), source.closed)
	case !source.open && n.id == "":
		return fmt.Errorf("%s is closed: %s. Jump the fence first (leaderd fence jump), and then move it", m.from.name(), source.closed)
	case source.open && source.doubtful != "":
		return fmt.Errorf("%s may have lost something: %s", m.from.name(), source.doubtful)
	case source.byMigration(noteMoved) && target.byMigration(noteFilling) && target.note.id == n.id:
		return nil // its last step is to be made
	case source.byMigration(noteMoved) && target.open && target.generation >= n.generation:
		return nil // all was done
	case source.byMigration(noteMoved):
		return fmt.Errorf("the registry of %s %s, and %s does not hold it: name that place. If it is gone for good: leaderd fence jump says what can be done", m.from.name(), source.closed, m.to.name())
	case target.present && !target.byMigration(noteFilling) && !target.byMigration(noteMoved):
		return fmt.Errorf("%s holds something already%s: name an empty place", m.to.name(), because(target.closed))
	}
	if m.id = n.id; m.id == "" {
		m.id = randomID()
	}
	return nil
}

func because(closed string) string {
	if closed == "" {
		return ""
	}
	return " (closed: " + closed + ")"
}

func (m *migration) explain(source *standing) {
	m.step("from     %s", m.from.name())
	m.step("to       %s", m.to.name())
	if source.note.id != "" {
		m.step("resumed  the source says: %s", source.closed)
	}
	m.step("Nothing is led until nodes with the target's configuration run. Every session ends; fences, terms and the audit trail go on.\n" +
		"Afterwards, keep every leaderd from what the source was before: an older copy or a backup of it would not know that the registry moved.")
}

// move does all up to the moment before the target is opened.
func (m *migration) move(ctx context.Context, source *standing) (generation uint64, err error) {
	why := source.note
	if source.open {
		why = note{kind: noteMoving, place: m.to.name(), id: m.id}
	}
	m.step("closing the source")
	if err := m.from.close(ctx, why); err != nil {
		return 0, err
	}
	m.step("reading the source")
	g, err := m.from.read(ctx)
	if err != nil {
		return 0, err
	}
	g.Relocate(core.Relocation{
		Voters: m.to.voters(), Actor: operator(), CorrelationID: "migration-" + m.id, WallNs: time.Now().UnixNano(),
	})
	// Of all generations that this registry ever had, none is higher than its revision.
	in := &filling{
		registry: g, generation: g.Revision(), why: note{kind: noteFilling, place: m.from.name(), id: m.id},
		trail: &trail{page: m.from.page, history: g.History()},
	}
	m.step("filling the target")
	if err := m.to.fill(ctx, in); err != nil {
		return 0, err
	}
	m.step("reading the target back")
	if err := m.verify(ctx, in); err != nil {
		return 0, err
	}
	m.step("noting at the source that the registry moved")
	return in.generation, m.from.settle(ctx, note{kind: noteMoved, place: m.to.name(), id: m.id, generation: in.generation})
}

// verify compares what the target holds with what was to be moved, all of it.
func (m *migration) verify(ctx context.Context, in *filling) error {
	want, err := in.trail.whole(ctx)
	if err != nil {
		return err
	}
	hash := in.registry.Hash()
	return m.to.copies(ctx, func(c *copied) error {
		here := c.registry.Hash()
		if here != hash {
			return fmt.Errorf("%s reads back as another registry: %x instead of %x", c.name, here, hash)
		}
		got, err := (&trail{page: c.page, history: c.registry.History()}).whole(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		if got.last != want.last || !bytes.Equal(got.hash, want.hash) {
			return fmt.Errorf("%s: the audit trail has %s, instead of %s", c.name, got, want)
		}
		m.tell(c, got)
		if got.first > want.first {
			m.step("           this kind of store keeps only the newest records: %d to %d stay at the source", want.first, got.first-1)
		}
		return nil
	})
}

func (m *migration) tell(c *copied, s summary) {
	g := c.registry
	m.step("verified   %s", c.name)
	m.step("           state hash %x at revision %d; next fence %d; %d scopes", g.Hash(), g.Revision(), nextFence(g), len(g.Scopes()))
	m.step("           audit trail: %s", s)
}

// resumeLast goes on where only the target is still to be opened.
func (m *migration) resumeLast(ctx context.Context, moved note) error {
	if err := m.from.settle(ctx, moved); err != nil {
		return err
	}
	m.step("reading the target back")
	return m.to.copies(ctx, func(c *copied) error {
		if c.registry.Revision() < moved.generation {
			return fmt.Errorf("%s ends at revision %d, before %d at which the registry moved", c.name, c.registry.Revision(), moved.generation)
		}
		s, err := (&trail{page: c.page, history: c.registry.History()}).whole(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		m.tell(c, s)
		return nil
	})
}

// finish prepares the data directories at hand, when the target is open.
func (m *migration) finish(ctx context.Context, generation uint64) error {
	m.step("done: the registry is at %s, generation %d", m.to.name(), generation)
	err := m.from.release() // a directory may belong to both ends
	m.from = nil
	if s, ok := m.to.(*storeEnd); ok && err == nil {
		err = adoptAll(ctx, m.out, m.targets, s.store)
	}
	return err
}

// wasFinished reports whether the source cannot be opened because all was done and its
// directories serve the target already, and then does what may be left to do.
func (m *migration) wasFinished(ctx context.Context, configs []*config.Config, cause error) (bool, error) {
	s, ok := m.to.(*storeEnd)
	var refusal *raftlog.Refusal
	if !ok || !errors.As(cause, &refusal) || refusal.Reason != raftlog.ReasonOtherStore {
		return false, nil
	}
	target, err := s.look(ctx)
	if err != nil || !target.open {
		return false, err
	}
	for _, c := range configs {
		log, boot, err := openSealed(c, s.config.Registry.Store)
		if err != nil {
			continue // not one of those
		}
		if err := log.Close(); err != nil {
			return false, err
		}
		if g := boot.Mark.GetGeneration(); g > 0 && g <= target.generation {
			m.step("done: the registry is at %s, generation %d", m.to.name(), target.generation)
			return true, adoptAll(ctx, m.out, m.targets, s.store)
		}
	}
	return false, nil
}
