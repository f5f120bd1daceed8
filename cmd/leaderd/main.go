// Command leaderd is one node of the leadership service.
package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/omnirelay/leadership/adapters/config"
	"github.com/omnirelay/leadership/core"
)

// Exit codes.
const (
	exitFailed = 1
	// exitRemoved: the node was removed from its cluster. To start it again is of no use.
	exitRemoved = 3
	exitUsage   = 64
)

func main() {
	err := newCommand().Execute()
	if err == nil {
		return
	}
	var problems config.Problems
	if errors.As(err, &problems) {
		fmt.Fprintln(os.Stderr, problems) // each line names its place
		os.Exit(exitFailed)
	}
	fmt.Fprintln(os.Stderr, "leaderd:", err)
	var usage *usageError
	if errors.As(err, &usage) {
		os.Exit(exitUsage)
	}
	if errors.Is(err, core.ErrRemoved) {
		os.Exit(exitRemoved)
	}
	os.Exit(exitFailed)
}

func newCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "leaderd",
		Short:         "Elects one leader per scope and lets everybody watch",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.AddCommand(newServeCommand(), newDevCommand(), newConfigCommand(), newVersionCommand())
	root.AddCommand(newFenceCommand(), newMigrateCommand(), newPostgresCommand())
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	return root
}

// usageError is a command line that makes no sense.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() + "; see leaderd --help" }
func (e *usageError) Unwrap() error { return e.err }
