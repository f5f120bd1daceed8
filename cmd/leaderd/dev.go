package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/omnirelay/leadership/adapters/config"
	"github.com/omnirelay/leadership/core"
)

// devOptions are the flags of leaderd dev.
type devOptions struct {
	nodes    int
	dir      string
	basePort int
	store    string
}

const (
	devReadyWithin = 30 * time.Second
	devStopWithin  = 20 * time.Second
)

func newDevCommand() *cobra.Command {
	var o devOptions
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run a whole cluster on this machine: real node processes, own certificates, example scopes",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.validate(); err != nil {
				return &usageError{err}
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			return runDev(ctx, &o, cmd.OutOrStdout())
		},
	}
	cmd.Flags().IntVar(&o.nodes, "nodes", 3, "number of nodes")
	cmd.Flags().StringVar(&o.dir, "dir", ".dev", "folder for configurations, certificates, data and logs")
	cmd.Flags().IntVar(&o.basePort, "base-port", 7400, "node N listens on this plus 10N+1 (http), +2 (grpc), +3 (peer) and +4 (gossip), a store's server on this; 0 picks free ports")
	cmd.Flags().StringVar(&o.store, "store", config.StoreRaft, "where the registry is kept: raft (the nodes themselves), or etcd, postgres or redis, of which a private server is started")
	return cmd
}

func (o *devOptions) validate() error {
	if o.nodes < 1 || o.nodes > core.MaxReplicas {
		return fmt.Errorf("--nodes %d: want 1 to %d", o.nodes, core.MaxReplicas)
	}
	if last := o.basePort + 10*o.nodes + 4; o.basePort < 0 || (o.basePort > 0 && (o.basePort < 1024 || last > 65535)) {
		return fmt.Errorf("--base-port %d: want 0, or 1024 to %d", o.basePort, 65535-10*o.nodes-4)
	}
	if !slices.Contains(config.Stores, o.store) {
		return fmt.Errorf("--store %q: want one of %s", o.store, strings.Join(config.Stores, ", "))
	}
	return nil
}

// runDev starts the nodes, stays until ctx ends, and stops them.
func runDev(ctx context.Context, o *devOptions, out io.Writer) error {
	// The kernel stops the nodes when the thread that started them ends, so that a
	// killed leaderd dev leaves none behind: this one must last.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	lock, err := lockDevFolder(o.dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := os.Remove(filepath.Join(o.dir, manifestName)); err != nil && !os.IsNotExist(err) {
		return err
	}
	store, err := startDevStore(ctx, o, o.dir)
	if err != nil {
		return err
	}
	defer store.stop()
	cluster, err := newDevCluster(o, store)
	if err != nil {
		return err
	}
	exits := make(chan *devNode, len(cluster.nodes))
	err = cluster.run(ctx, exits, out)
	fmt.Fprintln(out, "stopping")
	return errors.Join(err, cluster.stop(exits))
}

// run starts the nodes and attends to them until ctx ends or none is left.
func (c *devCluster) run(ctx context.Context, exits chan *devNode, out io.Writer) error {
	for _, n := range c.nodes {
		if err := n.start(exits); err != nil {
			return err
		}
	}
	ready, err := c.awaitReady(ctx, exits)
	if err != nil || !ready {
		return err
	}
	if err := c.writeManifest(); err != nil {
		return err
	}
	c.print(out)
	c.attend(ctx, exits, out)
	return nil
}

// attend reports nodes that end, until ctx ends or none is left.
func (c *devCluster) attend(ctx context.Context, exits <-chan *devNode, out io.Writer) {
	for c.running() > 0 {
		select {
		case <-ctx.Done():
			return
		case n := <-exits:
			n.ended = true
			fmt.Fprintf(out, "%s (pid %d) ended: %s; it is not restarted, see %s\n", n.id, n.pid(), n.state(), n.log)
		}
	}
}

func (c *devCluster) print(out io.Writer) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NODE\tPID\tHTTP\tGRPC\tLOG")
	for _, n := range c.nodes {
		fmt.Fprintf(w, "%s\t%d\thttps://%s\t%s\t%s\n", n.id, n.pid(), n.http, n.grpc, n.log)
	}
	_ = w.Flush()
	c.store.print(out)
	fmt.Fprintf(out, "\nready; try: omnirelay mesh leaders status --cluster %s\nCtrl-C stops all\n", c.manifest())
}
