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
	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/adapters/terminal"
	"github.com/omnirelay/leadership/wire"
)

// asker is what all commands share that ask a cluster.
type asker struct {
	url, clusterPath string
	timeout          time.Duration
	format           format

	out, notes io.Writer
	colours    bool
	cluster    *cluster // nil: there is no cluster file
	roles      []string // that will do
	presented  string   // the role of the certificate that is shown; empty: none is
	client     *httpClient
}

// flags are those of every command that asks. wait says what the timeout bounds.
func (a *asker) flags(cmd *cobra.Command, timeout time.Duration, wait string) {
	f := cmd.Flags()
	f.StringVar(&a.url, "url", "", "ask this node over HTTP, like https://127.0.0.1:7411")
	f.StringVar(&a.clusterPath, "cluster", "", "cluster file with URLs and certificates, or its folder (default $"+clusterVariable+", or "+defaultCluster+")")
	f.DurationVar(&a.timeout, "timeout", timeout, wait)
	f.VarP(&a.format, "output", "o", "table, wide, json: the API's own JSON, or yaml: the same data")
	complete(cmd, "output", cobra.FixedCompletions([]string{"table", "wide", "json", "yaml"}, cobra.ShellCompDirectiveNoFileComp))
}

// check refuses flags that make no sense before anybody is asked.
func (a *asker) check() error {
	if a.timeout <= 0 {
		return fmt.Errorf("--timeout %v: want more than 0, like 10s", a.timeout)
	}
	if a.url == "" {
		return nil
	}
	u, err := url.Parse(a.url)
	if err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") {
		return fmt.Errorf("--url %q: want a URL like https://127.0.0.1:7411", a.url)
	}
	return nil
}

// open finds whom to ask, and with which certificate: the least of roles that there is.
func (a *asker) open(cmd *cobra.Command, roles []string) error {
	a.out, a.notes, a.roles = cmd.OutOrStdout(), cmd.ErrOrStderr(), roles
	a.colours = coloursOn(cmd)
	if err := a.check(); err != nil {
		return err
	}
	var err error
	if a.cluster, err = findCluster(a.clusterPath); err != nil {
		return err
	}
	return a.connect()
}

func (a *asker) connect() error {
	nodes := a.nodes()
	if len(nodes) == 0 {
		return fmt.Errorf("no cluster to ask: give --url, or --cluster, or set %s; `leaderd dev` writes %s, docs/cli.md says how to write one by hand",
			clusterVariable, defaultCluster)
	}
	config, presented, err := a.cluster.tlsConfig(a.roles)
	if err != nil {
		return err
	}
	a.presented = presented
	a.client = &httpClient{nodes: nodes, client: &http.Client{
		Transport: &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true, Proxy: http.ProxyFromEnvironment},
	}}
	return nil
}

// nodes are the URLs to ask, in this order.
func (a *asker) nodes() []string {
	switch {
	case a.url != "":
		return []string{a.url}
	case a.cluster == nil:
		return nil
	}
	nodes := make([]string, len(a.cluster.Nodes))
	for i, n := range a.cluster.Nodes {
		nodes[i] = n.HTTP
	}
	return nodes
}

// coloursOn reports whether what cmd prints may have colours.
func coloursOn(cmd *cobra.Command) bool {
	mode := terminal.ColourAuto
	if flag := cmd.Flag("color"); flag != nil {
		mode = terminal.ColourMode(flag.Value.String())
	}
	return mode.On(cmd.OutOrStdout())
}

// ask reads from the first node that answers. raw is the node's own JSON.
func (a *asker) ask(ctx context.Context, path string, query url.Values, into proto.Message) (raw []byte, err error) {
	raw, err = a.client.call(ctx, http.MethodGet, path, query, nil, into)
	return raw, a.advised(err)
}

// tell has something changed. It is sent to one node after another until one answers,
// with one request id: however often it arrives, it is done once.
func (a *asker) tell(ctx context.Context, path string, request, into proto.Message) (raw []byte, err error) {
	raw, err = a.client.call(ctx, http.MethodPost, path, nil, request, into)
	return raw, a.advised(err)
}

// advised adds what to try to a refusal for who asks.
func (a *asker) advised(err error) error {
	var no *refusal
	if !errors.As(err, &no) {
		return err
	}
	switch no.problem.Code {
	case "denied":
		if a.presented == "" {
			return fmt.Errorf("%w; this takes the role %s: %s", err, a.roles[0], howToIssue(a.roles[0]))
		}
		return fmt.Errorf("%w; the certificate of the role %s was shown, this takes %s: %s", err, a.presented, a.roles[0], howToIssue(a.roles[0]))
	case "unauthenticated":
		return fmt.Errorf("%w; %s", err, howToIssue(a.roles[0]))
	}
	return err
}

// is reports whether err is a refusal with one of these codes.
func is(err error, codes ...string) bool {
	var no *refusal
	if !errors.As(err, &no) {
		return false
	}
	for _, code := range codes {
		if no.problem.Code == code {
			return true
		}
	}
	return false
}

// refusalOf makes a refusal of our own in the words of one of a node.
func refusalOf(code, format string, args ...any) error {
	return &refusal{wire.Problem{Code: code, Detail: fmt.Sprintf(format, args...)}}
}
