package main

import (
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// manDate is in the head of every page: pages made on another day are the same.
var manDate = time.Date(2026, time.November, 1, 0, 0, 0, 0, time.UTC)

// newManCommand writes the manual pages that docs/man has.
func newManCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use: "man", Short: "Write the manual pages of all commands", Args: cobra.NoArgs,
		Example: "  omnirelay man --dir /usr/local/share/man/man1",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
			root := cmd.Root()
			root.DisableAutoGenTag = true
			return doc.GenManTree(root, &doc.GenManHeader{Section: "1", Date: &manDate, Source: "omnirelay", Manual: "Leadership"}, filepath.Clean(dir))
		},
	}
	cmd.Flags().StringVar(&dir, "dir", ".", "folder for the pages; made when it is not there")
	return cmd
}
