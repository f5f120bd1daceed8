package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/omnirelay/leadership/adapters/terminal"
)

// change is what all commands share that change something in a cluster.
type change struct {
	asker
	why       string
	requestID string
	noWait    bool
	wait      bool
	undo      string // how to take back what was asked; empty: not by a command
	progress  *terminal.Progress
}

// changeFlags are those of every command that changes something.
func (c *change) changeFlags(cmd *cobra.Command, timeout time.Duration, wait string) {
	c.flags(cmd, timeout, wait)
	f := cmd.Flags()
	f.StringVar(&c.why, "why", "", "why, for the audit trail; at most 256 bytes")
	f.StringVar(&c.requestID, "request-id", "", "names this request: repeated with the same name it has one effect (default: made up)")
}

// waitFlags are those of a command that waits for what it asked for.
func (c *change) waitFlags(cmd *cobra.Command, what string) {
	f := cmd.Flags()
	f.BoolVar(&c.wait, "wait", true, "wait until "+what)
	f.BoolVar(&c.noWait, "no-wait", false, "return as soon as it is asked for")
	cmd.MarkFlagsMutuallyExclusive("wait", "no-wait")
}

func (c *change) waits() bool { return c.wait && !c.noWait }

// begin is what every change begins with.
func (c *change) begin(cmd *cobra.Command, roles []string) (context.Context, context.CancelFunc, error) {
	if err := c.open(cmd, roles); err != nil {
		return nil, nil, err
	}
	c.progress = terminal.NewProgress(c.notes)
	ctx, cancel := context.WithTimeout(cmd.Context(), c.timeout)
	return ctx, cancel, nil
}

// id names a request. Those of one command line differ by what they are for.
func (c *change) id(purpose string) string {
	if c.requestID == "" {
		var b [8]byte
		_, _ = rand.Read(b[:]) // never fails: crypto/rand ends the program instead
		c.requestID = hex.EncodeToString(b[:])
	}
	if purpose == "" {
		return c.requestID
	}
	return c.requestID + "." + purpose
}

// pollEvery is how often a wait looks.
const pollEvery = 250 * time.Millisecond

// await looks until look says done. A node that cannot be asked is no end of a wait; a
// refusal is. When it ends without, its error says what stands.
func (c *change) await(ctx context.Context, look func(ctx context.Context) (done bool, err error)) error {
	defer c.progress.Done()
	for {
		done, err := look(ctx)
		var no *refusal
		switch {
		case done:
			return err
		case ctx.Err() != nil:
			return c.gaveUp(ctx)
		case errors.As(err, &no), errors.Is(err, errStuck):
			return err
		case err != nil:
			c.progress.Tell("no answer (%s); asking on", oneLine(err))
		}
		select {
		case <-ctx.Done():
			return c.gaveUp(ctx)
		case <-time.After(pollEvery):
		}
	}
}

// oneLine is an error of several nodes in one line.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// gaveUp says that what was asked for stands.
func (c *change) gaveUp(ctx context.Context) error {
	undo := ""
	if c.undo != "" {
		undo = "; `" + c.undo + "` takes it back"
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return fmt.Errorf("interrupted; what was asked for stands and goes on without this command, which can be repeated%s", undo)
	}
	return fmt.Errorf("%w after %v; what was asked for stands and goes on without this command, which can be repeated%s; --timeout allows more", errTimedOut, c.timeout, undo)
}

// result is the last word of a change: text for people, the node's answer for programs.
func (c *change) result(raw []byte, format string, args ...any) error {
	c.progress.Done()
	if c.format.data() {
		return c.printData(raw)
	}
	if _, err := fmt.Fprintln(c.out, terminal.Clean(fmt.Sprintf(format, args...))); err != nil {
		return fmt.Errorf("%w: %w", errOutput, err)
	}
	return nil
}

// errStuck is a wait that nothing will end by itself.
var errStuck = errors.New("stuck")

// some lists the first of many names.
func some(names []string) string {
	const shown = 10
	if len(names) <= shown {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:shown], ", "), len(names)-shown)
}

// plural is "1 scope", "2 scopes".
func plural[N ~int | ~uint32](n N, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
