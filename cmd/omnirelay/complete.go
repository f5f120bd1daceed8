package main

import (
	"context"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/omnirelay/leadership/adapters/terminal"
)

// completeWithin bounds how long a shell is kept waiting for names.
const completeWithin = time.Second

// completion is a function that offers names to a shell.
type completion = func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective)

// complete offers the values of a flag.
func complete(cmd *cobra.Command, flag string, names completion) {
	if err := cmd.RegisterFlagCompletionFunc(flag, names); err != nil {
		panic(err) // the flag is not there: a mistake in the program
	}
}

// completed offers what list tells of the cluster that the command line names, and
// nothing when that takes too long or fails.
func (a *asker) completed(list func(a *asker, ctx context.Context) ([]string, error)) completion {
	return func(cmd *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
		const directive = cobra.ShellCompDirectiveNoFileComp
		cmd.SetErr(io.Discard)
		if err := a.open(cmd, readRoles); err != nil {
			return nil, directive
		}
		ctx, cancel := context.WithTimeout(context.Background(), completeWithin)
		defer cancel()
		names, err := list(a, ctx)
		if err != nil {
			return nil, directive
		}
		var offered []string
		for _, name := range names {
			if strings.HasPrefix(name, typed) && name == terminal.Clean(name) {
				offered = append(offered, name)
			}
		}
		return offered, directive
	}
}

func (a *asker) completeScopes(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	return a.completed((*asker).scopeNames)(cmd, args, typed)
}

func (a *asker) completeMembers(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	return a.completed((*asker).memberNames)(cmd, args, typed)
}

func (a *asker) completeNodes(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	return a.completed((*asker).nodeNames)(cmd, args, typed)
}

// onlyFirst offers names for the first argument only.
func onlyFirst(names completion) completion {
	return func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return names(cmd, args, typed)
	}
}

// newCompletionCommand writes what a shell needs to complete command lines.
func newCompletionCommand() *cobra.Command {
	shell := func(name, long string, write func(root *cobra.Command, out io.Writer) error) *cobra.Command {
		return &cobra.Command{
			Use: name, Short: "The completion for " + name, Long: long, Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error { return write(cmd.Root(), cmd.OutOrStdout()) },
		}
	}
	return newGroup("completion", "Write the completion for a shell, with live names of scopes, members and nodes",
		shell("bash", "For this shell:\n  source <(omnirelay completion bash)\nFor all:\n  omnirelay completion bash > /etc/bash_completion.d/omnirelay",
			func(root *cobra.Command, out io.Writer) error { return root.GenBashCompletionV2(out, true) }),
		shell("zsh", "For this shell:\n  source <(omnirelay completion zsh)\nFor all:\n  omnirelay completion zsh > \"${fpath[1]}/_omnirelay\"",
			func(root *cobra.Command, out io.Writer) error { return root.GenZshCompletion(out) }),
		shell("fish", "For this shell:\n  omnirelay completion fish | source\nFor all:\n  omnirelay completion fish > ~/.config/fish/completions/omnirelay.fish",
			func(root *cobra.Command, out io.Writer) error { return root.GenFishCompletion(out, true) }))
}
