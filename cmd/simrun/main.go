// Command simrun attacks the core in a simulated world: single runs, swarms of
// seeds, a check that runs repeat exactly, and planted bugs that must be caught.
package main

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// Exit codes, as users and scripts rely on them.
const (
	exitPass           = 0
	exitSafety         = 1
	exitLiveness       = 2
	exitSLA            = 3
	exitUnknown        = 4
	exitNondeterminism = 5
	exitUsage          = 64
	exitHarness        = 70
)

// gcPercent trades memory for speed: runs make much garbage and keep little.
const gcPercent = 400

func main() {
	debug.SetGCPercent(gcPercent)
	os.Exit(run(os.Args[1:]))
}

func run(args []string) int {
	cmd := newCommand()
	cmd.SetArgs(args)
	err := cmd.Execute()
	if err == nil {
		return exitPass
	}
	var ended *endedError
	if errors.As(err, &ended) {
		if ended.why != "" {
			fmt.Fprintln(os.Stderr, "simrun:", ended.why)
		}
		return ended.code
	}
	fmt.Fprintf(os.Stderr, "simrun: %v; see simrun --help\n", err)
	return exitUsage
}

// endedError ends the program with an exit code. Any other error is one of usage.
type endedError struct {
	code int
	why  string // empty: it was said already
}

func (e *endedError) Error() string { return e.why }

func ended(code int, format string, args ...any) error {
	if code == exitPass {
		return nil
	}
	return &endedError{code: code, why: fmt.Sprintf(format, args...)}
}

func newCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "simrun",
		Short:         "Runs the core in a simulated world where everything goes wrong",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.AddCommand(newRunCommand(), newSwarmCommand(), newDeterminismCommand(), newSelftestCommand(), newScenariosCommand())
	return root
}
