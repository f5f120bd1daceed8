package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
)

// runReopen takes a source back into service whose target was never opened. It asks
// the source alone, which is told before the target is opened: the target need not be
// reachable, nor exist.
func (f *migrateFlags) runReopen(ctx context.Context, cmd *cobra.Command) error {
	from, err := f.source(ctx, cmd)
	if err != nil {
		return err
	}
	return errors.Join(f.reopenSource(ctx, cmd, from), from.release())
}

func (f *migrateFlags) reopenSource(ctx context.Context, cmd *cobra.Command, from end) error {
	s, err := from.look(ctx)
	switch {
	case err != nil:
		return err
	case !s.present:
		return fmt.Errorf("%s holds no registry", from.name())
	case s.open:
		return fmt.Errorf("%s is open: there is nothing to take back", from.name())
	case s.byMigration(noteMoved):
		return fmt.Errorf("the registry of %s %s: that place was opened, or was about to be. Run the migration again to be sure that it is; it is not opened here a second time", from.name(), s.closed)
	case !s.byMigration(noteMoving):
		return fmt.Errorf("%s was not closed by a migration that moves it away, but: %s", from.name(), s.closed)
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s is %s.\nThat place was never opened: the source is told before that happens. What was written there stays closed.\n", from.name(), s.closed)
	if err := confirm(cmd, f.yes); err != nil {
		return err
	}
	if err := from.reopen(ctx); err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s is open again.\n", from.name())
	return nil
}
