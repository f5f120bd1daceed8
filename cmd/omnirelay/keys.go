package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/omnirelay/leadership/adapters/signing"
	"github.com/omnirelay/leadership/adapters/terminal"
)

const (
	// publishedFor is how long resources have to learn a key before it signs: twice
	// as long as they keep what they fetched.
	publishedFor = 2 * signing.DefaultMaxAge
	// keepRetired is how long a key stays after it ceased to sign: longer than the
	// tokens it signed last.
	keepRetired = 2 * signing.DefaultLife
)

// newKeysCommand holds the care of keys.
func newKeysCommand() *cobra.Command {
	return newGroup("keys", "The keys that sign leadership tokens, and those that encrypt gossip",
		newKeysNew(), newKeysList(), newKeysPublic(), newKeysRotate(), newKeysAdd(), newKeysPromote(), newKeysDrop(), newGossipKeysCommand())
}

// show is where a command shows what it did.
type show struct {
	io.Writer
	colours bool
}

// keysCommand is a command on one key file, which run reads or changes.
func keysCommand(use, short, long string, run func(file string, out show) error) *cobra.Command {
	var file string
	cmd := &cobra.Command{Use: use, Short: short, Long: long, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				return errors.New("--file: name the key file")
			}
			return run(file, show{cmd.OutOrStdout(), coloursOn(cmd)})
		},
	}
	cmd.Flags().StringVar(&file, "file", "", "private key file (a JWK Set, mode 0600)")
	return cmd
}

func newKeysNew() *cobra.Command {
	return keysCommand("new", "Make a key file",
		"Makes a key file with a key that signs and the next one, which is published already.",
		func(file string, out show) error {
			set, err := signing.NewKeySet(time.Now())
			if err != nil {
				return err
			}
			if err := signing.CreateKeyFile(file, set); err != nil {
				return err
			}
			return listKeys(out, set)
		})
}

func newKeysList() *cobra.Command {
	return keysCommand("list", "Show the keys of a file, without their private parts", "",
		func(file string, out show) error {
			set, err := signing.ReadKeyFile(file)
			if err != nil {
				return err
			}
			return listKeys(out, set)
		})
}

func newKeysPublic() *cobra.Command {
	return keysCommand("public", "Print what may be published: the JWK Set for resources", "",
		func(file string, out show) error {
			set, err := signing.ReadKeyFile(file)
			if err != nil {
				return err
			}
			data, err := json.MarshalIndent(set.Public(), "", "  ")
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(out, "%s\n", data)
			return err
		})
}

func newKeysAdd() *cobra.Command {
	return keysCommand("add", "Publish a new key that does not sign yet", "",
		changeKeys(func(set *signing.KeySet) error {
			_, err := set.Add(time.Now())
			return err
		}))
}

func newKeysPromote() *cobra.Command {
	var id string
	var published time.Duration
	cmd := keysCommand("promote", "Sign with the next key from now on",
		"Signs with the next key from now on; the former one stays published, so that what it signed can be checked.",
		changeKeys(func(set *signing.KeySet) error { return promote(set, id, published) }))
	cmd.Flags().StringVar(&id, "kid", "", "this key (default: the oldest that has not signed yet)")
	publishedFlag(cmd, &published)
	return cmd
}

func newKeysDrop() *cobra.Command {
	var id string
	var age time.Duration
	cmd := keysCommand("drop", "Remove keys: what they signed is refused from then on", "",
		changeKeys(func(set *signing.KeySet) error {
			if id != "" {
				return set.Drop(id)
			}
			return dropRetired(set, age)
		}))
	cmd.Flags().StringVar(&id, "kid", "", "this key at once, as when it became known to others")
	cmd.Flags().DurationVar(&age, "older-than", keepRetired, "the keys that ceased to sign so long ago; longer than a token's life")
	cmd.MarkFlagsMutuallyExclusive("kid", "older-than")
	return cmd
}

func newKeysRotate() *cobra.Command {
	var published, age time.Duration
	cmd := keysCommand("rotate", "Promote the next key, publish another one, drop what is old",
		"Takes the file one key further: the next key signs, a new next one is published, and keys that\n"+
			"ceased to sign long ago are dropped. To be called regularly; then copy the file to every node.",
		changeKeys(func(set *signing.KeySet) error {
			if err := promote(set, "", published); err != nil {
				return err
			}
			if err := dropRetired(set, age); err != nil {
				return err
			}
			_, err := set.Add(time.Now())
			return err
		}))
	publishedFlag(cmd, &published)
	cmd.Flags().DurationVar(&age, "older-than", keepRetired, "drop the keys that ceased to sign so long ago; longer than a token's life")
	return cmd
}

func publishedFlag(cmd *cobra.Command, published *time.Duration) {
	cmd.Flags().DurationVar(published, "published-for", publishedFor, "refuse a key that was published for less, since resources may not know it")
}

// changeKeys applies change to a key file and shows what became of it.
func changeKeys(change func(*signing.KeySet) error) func(string, show) error {
	return func(file string, out show) error {
		var changed *signing.KeySet
		err := signing.ChangeKeyFile(file, func(set *signing.KeySet) error {
			changed = set
			return change(set)
		})
		if err != nil {
			return err
		}
		return listKeys(out, changed)
	}
}

func promote(set *signing.KeySet, id string, published time.Duration) error {
	if published < 0 {
		return fmt.Errorf("--published-for %v: want 0 or more", published)
	}
	if id == "" {
		id = set.Next()
	}
	if id == "" {
		return errors.New("no key that has not signed yet; publish one with omnirelay keys add")
	}
	return set.Promote(id, time.Now(), published)
}

func dropRetired(set *signing.KeySet, age time.Duration) error {
	if age < 0 {
		return fmt.Errorf("--older-than %v: want 0 or more", age)
	}
	set.DropRetired(time.Now().Add(-age))
	return nil
}

// listKeys prints the keys, the signing one first.
func listKeys(out show, set *signing.KeySet) error {
	t := newTable("KID", "STATE", "CREATED", "RETIRED")
	for i, key := range set.Keys() {
		state := "published"
		switch {
		case i == 0:
			state = "signing"
		case !key.Retired.IsZero():
			state = "retired"
		}
		t.Add(terminal.Text(key.ID, state, second(key.Created), second(key.Retired))...)
	}
	return t.Write(out, out.colours)
}

func second(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}
