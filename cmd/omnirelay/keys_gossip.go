package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/omnirelay/leadership/adapters/gossip"
	"github.com/omnirelay/leadership/adapters/terminal"
)

// maxSecretLine bounds what is read of standard input for a key.
const maxSecretLine = 1 << 10

// newGossipKeysCommand holds the care of the keys that gossip is encrypted with.
func newGossipKeysCommand() *cobra.Command {
	group := newGroup("gossip", "The keys that gossip is encrypted with",
		newGossipKeyNew(), newGossipKeyList(), newGossipKeyAdd(), newGossipKeyShow(),
		gossipKeyChange("promote FILE ID", "Encrypt with this key from now on",
			"Encrypts with this key from now on. Every node has to know it first: add it everywhere, wait two seconds,\nthen promote it everywhere.", gossip.PromoteKey),
		gossipKeyChange("remove FILE ID", "Remove a key: what is encrypted with it is not understood any more",
			"Removes a key that is not used for sending. Promote another one on every node first.", gossip.RemoveKey))
	group.Long = "The keys that gossip is encrypted with, one file on each node. Nodes take a change up within two seconds.\n\n" +
		"To replace a key without a node being unheard: `add` a fresh one to one file, `show` it, `add` it by --stdin\n" +
		"to the files of the others; then `promote` it on all, then `remove` the old one on all."
	return group
}

// gossipKeys is a command on a key file.
func gossipKeys(use, short, long string, args int, run func(cmd *cobra.Command, out show, args []string) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Long: long, Args: cobra.ExactArgs(args),
		RunE: func(cmd *cobra.Command, args []string) error {
			return run(cmd, show{cmd.OutOrStdout(), coloursOn(cmd)}, args)
		},
		ValidArgsFunction: completeGossipKeys(args),
	}
}

// completeGossipKeys offers files, then the keys in the file.
func completeGossipKeys(most int) completion {
	return func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) == 0 {
			return nil, cobra.ShellCompDirectiveDefault
		}
		if len(args) >= most {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		keys, _ := gossip.ListKeys(args[0]) // a file that cannot be read has none to offer
		var ids []string
		for _, key := range keys {
			ids = append(ids, key.ID)
		}
		return ids, cobra.ShellCompDirectiveNoFileComp
	}
}

func newGossipKeyNew() *cobra.Command {
	return gossipKeys("new FILE", "Make a key file with one fresh key", "", 1, func(_ *cobra.Command, out show, args []string) error {
		if _, err := gossip.CreateKeyFile(args[0]); err != nil {
			return err
		}
		return listGossipKeys(out, args[0])
	})
}

func newGossipKeyList() *cobra.Command {
	return gossipKeys("list FILE", "Show the keys of a file by their ids, not the keys themselves", "", 1, func(_ *cobra.Command, out show, args []string) error {
		return listGossipKeys(out, args[0])
	})
}

func newGossipKeyAdd() *cobra.Command {
	var stdin bool
	cmd := gossipKeys("add FILE", "Add a key that is understood, but not used for sending yet",
		"Adds a fresh key, or with --stdin the one that `show` printed elsewhere.", 1, func(cmd *cobra.Command, out show, args []string) error {
			secret := ""
			if stdin {
				var err error
				if secret, err = readSecret(cmd.InOrStdin()); err != nil {
					return err
				}
			}
			if _, err := gossip.AddKeyTo(args[0], secret); err != nil {
				return err
			}
			return listGossipKeys(out, args[0])
		})
	cmd.Example = "  omnirelay keys gossip show gossip.keys 1a2b3c4d | ssh node-2 omnirelay keys gossip add /etc/leaderd/gossip.keys --stdin"
	cmd.Flags().BoolVar(&stdin, "stdin", false, "read the key, in base64, from standard input: on a command line everybody could see it")
	return cmd
}

// readSecret reads one line.
func readSecret(in io.Reader) (string, error) {
	line, err := bufio.NewReader(io.LimitReader(in, maxSecretLine)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	if line = strings.TrimSpace(line); line == "" {
		return "", errors.New("--stdin: standard input has no key; want one in base64, as `omnirelay keys gossip show` prints it")
	}
	return line, nil
}

func newGossipKeyShow() *cobra.Command {
	return gossipKeys("show FILE ID", "Print a key, which is a secret, to be added on other nodes", "", 2, func(_ *cobra.Command, out show, args []string) error {
		secret, err := gossip.KeySecret(args[0], args[1])
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(out, secret)
		return err
	})
}

// gossipKeyChange is a command that changes one key of a file.
func gossipKeyChange(use, short, long string, change func(file, id string) error) *cobra.Command {
	return gossipKeys(use, short, long, 2, func(_ *cobra.Command, out show, args []string) error {
		if err := change(args[0], args[1]); err != nil {
			return err
		}
		return listGossipKeys(out, args[0])
	})
}

func listGossipKeys(out show, file string) error {
	keys, err := gossip.ListKeys(file)
	if err != nil {
		return err
	}
	t := newTable("KEY", "STATE", "BITS")
	for _, key := range keys {
		state := terminal.Cell{Text: "understood"}
		if key.Primary {
			state = terminal.Cell{Text: "sends", Style: terminal.Green}
		}
		t.Add(terminal.Cell{Text: key.ID}, state, terminal.Cell{Text: number(uint32(8 * key.Bytes))})
	}
	return t.Write(out, out.colours)
}
