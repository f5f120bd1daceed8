package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/wire"
)

// statusCommand is `mesh leaders status`: who leads what, now or as it changes.
type statusCommand struct {
	url, grpcURL, scope, output, clusterPath string
	watch                                    bool
	timeout                                  time.Duration

	out, notes io.Writer
}

func newStatusCommand() *cobra.Command {
	s := &statusCommand{}
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the leader of every scope, or of one",
		Long: "Shows the leader of every scope as one node of the cluster has it; nodes are tried in turn.\n" +
			"With --watch it follows every change and reconnects by itself, missing none.",
		Example: "  omnirelay mesh leaders status\n  omnirelay mesh leaders status --scope global-control -o json\n  omnirelay mesh leaders status --watch --grpc-url 127.0.0.1:7412",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s.out, s.notes = cmd.OutOrStdout(), cmd.ErrOrStderr()
			return s.run(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.StringVar(&s.url, "url", "", "ask this node over HTTP, like https://127.0.0.1:7411")
	f.StringVar(&s.grpcURL, "grpc-url", "", "ask this node over gRPC, like 127.0.0.1:7412")
	f.StringVar(&s.scope, "scope", "", "only this scope")
	f.BoolVar(&s.watch, "watch", false, "follow every change")
	f.DurationVar(&s.timeout, "timeout", 10*time.Second, "the longest wait for an answer, or with --watch without a stream")
	f.StringVarP(&s.output, "output", "o", "table", "table, or json: the API's own JSON")
	f.StringVar(&s.clusterPath, "cluster", "", "cluster file with URLs and certificates (default $"+clusterVariable+", or "+defaultCluster+")")
	return cmd
}

// check refuses flags that make no sense before anybody is asked.
func (s *statusCommand) check() error {
	switch {
	case s.output != "table" && s.output != "json":
		return fmt.Errorf("--output %q: want table or json", s.output)
	case s.timeout <= 0:
		return fmt.Errorf("--timeout %v: want more than 0, like 10s", s.timeout)
	case s.url != "" && s.grpcURL != "":
		return errors.New("--url and --grpc-url: give one of them")
	}
	if s.scope != "" {
		var e *core.Error
		if err := core.ParseScopeID(s.scope); errors.As(err, &e) {
			return fmt.Errorf("--scope: %s", e.Message)
		}
	}
	if s.url != "" {
		u, err := url.Parse(s.url)
		if err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") {
			return fmt.Errorf("--url %q: want a URL like https://127.0.0.1:7411", s.url)
		}
	}
	return nil
}

// source is one API of a cluster.
type source struct {
	nodes   []string
	leaders func(ctx context.Context, scope string) ([]byte, wire.LeadersResponse, error)
	follow  follower
}

// follower reads the event stream of one node behind cursor until it ends. It calls
// open once the node has admitted it, and show for each event.
type follower func(ctx context.Context, node, scope, cursor string, open func(), show func(item) error) error

func (s *statusCommand) run(ctx context.Context) error {
	if err := s.check(); err != nil {
		return err
	}
	src, err := s.source()
	if err != nil {
		return err
	}
	if s.watch {
		return s.follow(ctx, src)
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	raw, leaders, err := src.leaders(ctx, s.scope)
	if err != nil {
		return err
	}
	if s.output == "json" {
		_, err := s.out.Write(raw)
		return err
	}
	if len(leaders.Tokens) == 0 {
		fmt.Fprintln(s.notes, "nothing is led right now; --watch shows the next election")
	}
	return leadersTable(s.out, leaders)
}

// source finds the nodes to ask and how.
func (s *statusCommand) source() (*source, error) {
	c, err := findCluster(s.clusterPath)
	if err != nil {
		return nil, err
	}
	if c == nil && s.url == "" && s.grpcURL == "" {
		return nil, fmt.Errorf("no cluster to ask: give --url, or --cluster, or set %s; `leaderd dev` writes %s", clusterVariable, defaultCluster)
	}
	tlsConfig, err := c.tlsConfig(readRoles)
	if err != nil {
		return nil, err
	}
	if s.grpcURL != "" {
		sub := &subscriber{tls: tlsConfig}
		nodes := []string{s.grpcURL}
		return &source{nodes, func(ctx context.Context, scope string) ([]byte, wire.LeadersResponse, error) {
			return sub.leaders(ctx, nodes, scope)
		}, sub.follow}, nil
	}
	client := &httpClient{nodes: s.httpNodes(c), client: &http.Client{
		Transport: &http.Transport{TLSClientConfig: tlsConfig, ForceAttemptHTTP2: true, Proxy: http.ProxyFromEnvironment},
	}}
	return &source{client.nodes, client.leaders, client.follow}, nil
}

func (s *statusCommand) httpNodes(c *cluster) []string {
	if s.url != "" {
		return []string{s.url}
	}
	nodes := make([]string, len(c.Nodes))
	for i, n := range c.Nodes {
		nodes[i] = n.HTTP
	}
	return nodes
}

// reconnectPause keeps a cluster that refuses everybody from being asked without end.
const reconnectPause = 250 * time.Millisecond

// watch is a stream followed from node to node.
type watch struct {
	command *statusCommand
	source  *source
	cursor  string
	alive   time.Time // when a stream was last open
}

// follow shows the stream of one node after another, each from where the last one
// broke off. It gives up when there was no stream for the timeout.
func (s *statusCommand) follow(ctx context.Context, src *source) error {
	if s.output == "table" {
		if err := eventHeads(s.out); err != nil {
			return err
		}
	}
	w := &watch{command: s, source: src, alive: time.Now()}
	for attempt := 0; ctx.Err() == nil; attempt++ { // an interrupt is how a watch ends
		node := src.nodes[attempt%len(src.nodes)]
		err := w.attempt(ctx, node)
		var no *refusal
		var later *busy
		pause := reconnectPause
		switch {
		case ctx.Err() != nil:
			continue
		case errors.As(err, &no), errors.Is(err, errOutput):
			return err
		case time.Since(w.alive) > s.timeout:
			return fmt.Errorf("%w; no node served the stream for %v: %w", errTimedOut, s.timeout, err)
		case errors.As(err, &later) && len(src.nodes) == 1:
			pause = later.after
		}
		fmt.Fprintf(s.notes, "no stream from %s: %v; reconnecting\n", node, err)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
	return nil
}

// attempt follows one node. Its error is never nil: streams end for a reason.
func (w *watch) attempt(ctx context.Context, node string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	patience := min(perNode, w.command.timeout)
	guard := time.AfterFunc(patience, func() { cancel(fmt.Errorf("it did not answer within %v", patience)) })
	defer guard.Stop()
	opened := false
	err := w.source.follow(ctx, node, w.command.scope, w.cursor, func() { opened = guard.Stop() }, func(it item) error {
		if it.cursor != "" {
			w.cursor = it.cursor
		}
		if it.event.Transport != "" {
			fmt.Fprintf(w.command.notes, "watching %s over %s\n", node, it.event.Transport)
		}
		return w.command.show(it)
	})
	if opened {
		w.alive = time.Now()
	}
	switch {
	case err == nil:
		return errEnded
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	return err
}

var errEnded = errors.New("the node ended it")

// errOutput is an output that takes no more: a pipe whose reader left.
var errOutput = errors.New("cannot write")

func (s *statusCommand) show(it item) error {
	var err error
	if s.output == "json" {
		_, err = s.out.Write(append(it.raw, '\n'))
	} else {
		err = eventLine(s.out, it.event)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errOutput, err)
	}
	return nil
}
