// Command omnirelay asks a running cluster who leads what.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/omnirelay/leadership/adapters/supervisor"
	"github.com/omnirelay/leadership/adapters/terminal"
)

// Exit codes of every command.
const (
	exitDone     = 0
	exitFailed   = 1 // refused, or it cannot be done
	exitTimedOut = 2
)

// errTimedOut marks an error that comes of waiting no longer.
var errTimedOut = errors.New("timed out")

func main() {
	supervisor.Enter() // a helper process of mesh run goes no further
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// run executes one command line and returns its exit code.
func run(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := newCommand()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	var settled *exitCode
	if errors.As(err, &settled) && settled.cause == nil {
		return settled.code
	}
	for line := range strings.SplitSeq("omnirelay: "+err.Error(), "\n") {
		fmt.Fprintln(stderr, terminal.Clean(line)) // nodes may say anything
	}
	if settled != nil {
		return settled.code
	}
	if errors.Is(err, errTimedOut) {
		return exitTimedOut
	}
	return exitFailed
}

func newCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "omnirelay",
		Short: "Shows and changes who leads what in a leadership cluster",
		Long: "Shows and changes who leads what in a leadership cluster: leaders, members, and the nodes that keep the\n" +
			"registry; makes certificates and keys; runs commands only while leading.\n\n" +
			"The cluster is named by --cluster, or by OMNIRELAY_CLUSTER: a cluster.json or its folder. Without either it\n" +
			"is " + defaultCluster + ", which `leaderd dev` writes. Of the certificates in it the one with the least role that\n" +
			"will do is shown.\n\n" +
			"Exit codes: 0 done, 1 refused or failed, 2 timed out. Those of `mesh run` are in its own manual.",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.CompletionOptions.DisableDefaultCmd = true // ours says more
	var colour terminal.ColourMode
	root.PersistentFlags().Var(&colour, "color", "colours: auto (on a terminal, unless NO_COLOR is set), always or never")
	complete(root, "color", cobra.FixedCompletions([]string{"auto", "always", "never"}, cobra.ShellCompDirectiveNoFileComp))
	root.AddCommand(newMeshCommand(), newKeysCommand(), newCertCommand(), newCompletionCommand(), newManCommand(), newVersionCommand())
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fmt.Errorf("%w; try %s --help", err, cmd.CommandPath())
	})
	return root
}

// newMeshCommand holds what is asked of a cluster.
func newMeshCommand() *cobra.Command {
	return newGroup("mesh", "The cluster's control plane",
		newGroup("leaders", "Who leads what",
			newStatusCommand(), newTransferCommand(), newResignCommand(), newRebalanceCommand(), newAuditCommand()),
		newPeersCommand(), newNodesCommand(), newRunCommand())
}

// newGroup returns a command that only holds others. Without a Run of its own cobra
// would answer a command it does not know with help and success.
func newGroup(use, short string, commands ...*cobra.Command) *cobra.Command {
	group := &cobra.Command{
		Use: use, Short: short, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	group.AddCommand(commands...)
	return group
}
