package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"os/user"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/omnirelay/leadership/adapters/config"
	"github.com/omnirelay/leadership/adapters/telemetry"
	"github.com/omnirelay/leadership/core"
)

// maxFence is the largest fence that every reader of JSON keeps exact.
const maxFence = 1 << 53

func newFenceCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "fence", Short: "Work on the fences of a registry in an external store",
		Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newJumpCommand())
	return cmd
}

// jump goes on with a log that may have forgotten something, with fences far above
// all that were given.
type jump struct {
	cmd        *cobra.Command
	config     *config.Config
	store      store
	force, yes bool
	longest    time.Duration // of the leases that anybody may have had; 0: the configured one
}

func newJumpCommand() *cobra.Command {
	var path string
	var j jump
	cmd := &cobra.Command{
		Use:   "jump --config FILE",
		Short: "After a store lost something: go on with it, with fences far above all that were given",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if j.config, err = config.Load(path, os.Environ()); err != nil {
				return err
			}
			j.cmd = cmd
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			return j.start(ctx)
		},
	}
	cmd.Flags().StringVar(&path, "config", "", "configuration file of one of the nodes")
	cmd.Flags().BoolVar(&j.force, "force", false, "jump although nothing waits for it")
	cmd.Flags().BoolVar(&j.yes, "yes", false, "do not ask")
	cmd.Flags().DurationVar(&j.longest, "longest-lease", 0, "the longest lease that any member may have had, where that is more than this node's leaseDuration: elections wait that long")
	_ = cmd.MarkFlagRequired("config")
	return cmd
}

func (j *jump) longestLease() time.Duration { return max(j.longest, j.config.LeaseDuration) }

func (j *jump) start(ctx context.Context) error {
	if !j.config.Registry.External() {
		return errors.New("registry.store is raft: the nodes keep the log among themselves, and what a majority holds is not forgotten, so there is nothing to jump; " +
			"a node whose directory was lost or damaged says what to do when it starts")
	}
	s, err := openForOperator(ctx, j.config, j.cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	j.store = s
	return errors.Join(j.run(ctx), s.Close())
}

// openForOperator opens the configured store for a command.
func openForOperator(ctx context.Context, c *config.Config, out io.Writer) (store, error) {
	logger, err := telemetry.NewLogger(out, telemetry.LogOptions{Level: c.Log.Level, Format: "text"})
	if err != nil {
		return nil, err
	}
	s, err := openStore(ctx, c, logger)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", placeOf(c), err)
	}
	return s, nil
}

func (j *jump) run(ctx context.Context) error {
	log, err := readLog(ctx, j.store)
	switch {
	case errors.Is(err, errDamaged):
		return fmt.Errorf("%w. Nothing was changed. Restore a backup of the store (the whole of %s), and then jump", err, placeOf(j.config))
	case errors.Is(err, errUnfit):
		return fmt.Errorf("%w. Nothing was changed. Put that right; where the log itself is damaged, restore a backup of the store (the whole of %s), and then jump", err, placeOf(j.config))
	case err != nil:
		return err
	}
	if err := j.judge(log); err != nil {
		return err
	}
	common, err := lastInBoth(ctx, j.store, log)
	if err != nil {
		return err
	}
	j.explain(log, common)
	if err := confirm(j.cmd, j.yes); err != nil {
		return err
	}
	return j.do(ctx, log, common)
}

// judge refuses a jump that nobody waits for, and one that would open an end of a
// migration beside the other.
func (j *jump) judge(log *standingLog) error {
	note, ended := parseNote(log.lead.Closed)
	switch {
	case ended && note.kind == noteFilling:
		return fmt.Errorf("this store is %s and holds only a part of it: run that migration again", log.lead.Closed)
	case ended && note.kind == noteMoving:
		return fmt.Errorf("this store is closed by a migration that did not end: %s. Run it again, or take it back with leaderd migrate --reopen", log.lead.Closed)
	case ended && !j.force:
		return fmt.Errorf("the registry %s. Only when that place is gone for good, and can never be reached by a leaderd again, go on here, with --force", log.lead.Closed)
	case !j.force && log.lead.Closed == "" && log.lead.Identity == log.identity:
		return errors.New("nothing waits for a jump: the log is open, on the server that it was accepted on. To raise the fences all the same, add --force")
	case nextFence(log.registry)+core.JumpAhead >= maxFence:
		return fmt.Errorf("the next fence is %d: after another jump not every reader could tell fences apart", nextFence(log.registry))
	}
	return nil
}

// nextFence is the fence of the next election.
func nextFence(g *core.Registry) uint64 { return g.Snapshot().NextFence }

// lastInBoth is the number of the newest audit record that the store published and
// the log made: what was published behind it tells of entries that are gone.
func lastInBoth(ctx context.Context, s store, log *standingLog) (uint64, error) {
	published, err := newestPublished(ctx, s, log.lead)
	if err != nil {
		return 0, err
	}
	head, _ := log.registry.History().Head()
	newest := min(published, head)
	oldest := head - uint64(log.registry.History().Len()) // the one before the oldest kept
	if newest <= oldest {
		return newest, nil // nothing to compare
	}
	// Records are chained: where two trails agree, they agree in all before.
	low, high := oldest, newest
	for seq := newest; low < high; seq = low + (high-low+1)/2 {
		same, err := sameRecord(ctx, s, log.registry, seq)
		switch {
		case err != nil:
			return 0, err
		case same:
			low = seq
		default:
			high = seq - 1
		}
	}
	if low == oldest && low > 0 {
		return 0, fmt.Errorf("the published audit trail and the log differ in every record from %d on: the store holds the trail of another registry", low+1)
	}
	return low, nil
}

// sameRecord reports whether the store published the record with this number as the
// log made it.
func sameRecord(ctx context.Context, s store, g *core.Registry, seq uint64) (bool, error) {
	made, _ := g.History().AfterSeq(seq-1, 1)
	there, err := recordAt(ctx, s, seq)
	if err != nil {
		return false, err
	}
	return there != nil && len(made) > 0 && bytes.Equal(there.Hash, made[0].Hash), nil
}

func (j *jump) explain(log *standingLog, common uint64) {
	closed := log.lead.Closed
	if closed == "" {
		closed = "no"
	}
	server := log.identity + ", on which the log was accepted"
	if log.identity != log.lead.Identity {
		server = fmt.Sprintf("%s; the log was accepted on %s", log.identity, log.lead.Identity)
	}
	head, _ := log.registry.History().Head()
	fence := nextFence(log.registry)
	table := tabwriter.NewWriter(j.cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	for _, row := range [][2]string{
		{"registry", fmt.Sprintf("%s, cluster %s", placeOf(j.config), j.config.ClusterID)},
		{"closed", closed},
		{"server", server},
		{"log ends", fmt.Sprintf("at entry %d of term %d, generation %d", log.lead.Last, log.lead.Term, log.lead.Generation)},
		{"audit trail", fmt.Sprintf("published and in the log up to record %d, in the log up to %d", common, head)},
		{"next fence", fmt.Sprintf("%d by this log; it goes on with %d", fence, fence+core.JumpAhead)},
		{"sessions", fmt.Sprintf("%d end; members open new ones by themselves", len(log.registry.Sessions()))},
		{"elections", fmt.Sprintf("wait until members of before cannot believe any more that they lead: at least %v", j.longestTTL(log.registry))},
	} {
		fmt.Fprintf(table, "%s\t%s\n", row[0], row[1])
	}
	_ = table.Flush()
	fmt.Fprintln(j.cmd.OutOrStdout(), "\nMake sure that no leaderd can reach a former server of this store: one that comes back could be served from beside this one.\n"+
		"Commands that were acknowledged and are missing above are lost; nodes that run go on by themselves.")
}

// longestTTL is the longest TTL of a session that the log knows of, or of one of these
// nodes that it may have forgotten.
func (j *jump) longestTTL(g *core.Registry) time.Duration {
	longest := j.longestLease()
	for _, s := range g.Sessions() {
		longest = max(longest, time.Duration(s.TTL))
	}
	return longest
}

func (j *jump) do(ctx context.Context, log *standingLog, common uint64) error {
	g := log.registry
	if g.ClusterID() == "" {
		return errors.New("the log ends before the registry began: nothing is left to go on from. Restore a backup and jump then; or begin anew, in an empty place of the store and with empty data directories")
	}
	g.Relocate(core.Relocation{
		Ahead: core.JumpAhead, LongestTTL: j.longestLease(), Actor: operator(), CorrelationID: "jump-" + randomID(), WallNs: time.Now().UnixNano(),
	})
	lead, snapshot, err := g.StoredLog(log.lead.Term+1, max(log.lead.Generation+1, g.Revision()), log.identity)
	if err != nil {
		return err
	}
	replace := &core.StoreReplace{Guard: log.position(), Lead: lead, Snapshot: snapshot, Published: common}
	if _, err := ask(ctx, j.store, &core.StoreCall{Replace: replace}); err != nil {
		return fmt.Errorf("the jump may not have been made: %w. Run it again: it says what it finds", err)
	}
	fmt.Fprintf(j.cmd.OutOrStdout(), "\nDone: the log goes on at revision %d, generation %d, with fence %d.\n", g.Revision(), lead.Generation, nextFence(g))
	if err := publishRest(ctx, j.store, g, lead.Term, common); err != nil {
		// The nodes are at it already.
		fmt.Fprintf(j.cmd.OutOrStdout(), "The rest of the audit trail is published by the registrar (%v).\n", err)
	}
	return nil
}

// publishRest publishes what the history holds behind the record with the number after.
func publishRest(ctx context.Context, s store, g *core.Registry, term, after uint64) error {
	for {
		records, kept := g.History().AfterSeq(after, core.MaxPublishRecords)
		if !kept {
			first := g.History().First().GetSeq()
			records, _ = g.History().AfterSeq(first-1, core.MaxPublishRecords)
		}
		if len(records) == 0 {
			return nil
		}
		last := records[len(records)-1]
		revision := g.Revision()
		if head, _ := g.History().Head(); last.Seq < head {
			revision = last.Revision - 1
		}
		if err := publish(ctx, s, term, after, records, revision); err != nil {
			return err
		}
		after = last.Seq
	}
}

// operator names who runs this, for the audit trail.
func operator() string {
	u, err := user.Current()
	if err != nil || u.Username == "" || len(u.Username) > core.MaxActor/2 {
		return "operator"
	}
	return "operator " + u.Username
}

// randomID is 16 hexadecimal digits.
func randomID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // it never fails
	return hex.EncodeToString(b[:])
}
