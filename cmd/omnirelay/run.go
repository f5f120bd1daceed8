package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/omnirelay/leadership/adapters/client"
	"github.com/omnirelay/leadership/adapters/supervisor"
	"github.com/omnirelay/leadership/core"
)

// exitLost is the exit code of mesh run when leadership was lost before CMD had ended.
const exitLost = 3

// exitCode is an error that settles the exit code. Without a cause nothing is printed.
type exitCode struct {
	code  int
	cause error
}

func (e *exitCode) Error() string {
	if e.cause == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.cause.Error()
}

func (e *exitCode) Unwrap() error { return e.cause }

const (
	// runTTL is longer than that of services: a command that has to be stopped and started
	// is not to be for every hiccup of the network.
	runTTL = 5 * time.Second
	// minRunTTL leaves a tenth of a second for the killing.
	minRunTTL = time.Second
)

// runCommand is `mesh run`.
type runCommand struct {
	candidate
	scope, isolation              string
	priority                      int32
	ttl, grace, stopWithin, limit time.Duration
	verbose                       bool
}

func newRunCommand() *cobra.Command {
	r := &runCommand{}
	cmd := &cobra.Command{
		Use:   "run --scope S [flags] -- CMD ARGS...",
		Short: "Run a command only while leading a scope",
		Long: "Stands for the scope and runs CMD once it is led. CMD and all that it started are dead before\n" +
			"the registry can let anybody else lead: also when the network is gone or this process is\n" +
			"stopped. CMD finds LEADERSHIP_SCOPE, LEADERSHIP_TERM and LEADERSHIP_FENCE in its environment.\n\n" +
			"Exit codes: CMD's own when it ended (128+n: killed by signal n), 1 refused or failed,\n" +
			"2 not elected within --timeout, 3 leadership was lost first.",
		Example: "  omnirelay mesh run --scope billing/nightly -- ./bill --all",
		Args:    r.command,
		RunE:    r.run,
	}
	cmd.Flags().SetInterspersed(false) // what follows CMD is CMD's
	f := cmd.Flags()
	f.StringVar(&r.scope, "scope", "", "the scope to lead; a custom one that is not declared is, if the cluster file has an administrator's certificate")
	f.Int32Var(&r.priority, "priority", 0, "among those who stand for the scope; the highest is elected")
	f.DurationVar(&r.limit, "timeout", 0, "the longest wait to be elected; 0: for ever")
	f.DurationVar(&r.ttl, "ttl", runTTL, "how long after the last renewal another can be elected")
	f.DurationVar(&r.grace, "grace", 0, "how long CMD has to end, after SIGTERM, when the lease is not renewed (default a fifth of the TTL)")
	f.DurationVar(&r.stopWithin, "stop-within", 10*time.Second, "how long CMD has to end, after SIGTERM, when the scope is to be handed over")
	f.StringVar(&r.isolation, "isolation", string(supervisor.Auto), "what holds CMD's descendants together: auto, pidns, cgroup or none; see docs/mesh-run.md")
	f.BoolVarP(&r.verbose, "verbose", "v", false, "say on standard error what happens to the session")
	r.candidate.flags(cmd)
	complete(cmd, "scope", func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		return (&asker{clusterPath: r.clusterPath, timeout: completeWithin}).completeScopes(cmd, args, typed)
	})
	complete(cmd, "isolation", cobra.FixedCompletions([]string{"auto", "pidns", "cgroup", "none"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// command checks that there is one that can be started.
func (r *runCommand) command(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("no command to run: %s", cmd.UseLine())
	}
	if _, err := exec.LookPath(args[0]); err != nil {
		return fmt.Errorf("the command to run: %w", err)
	}
	return nil
}

func (r *runCommand) check() error {
	if err := checkScope("--scope", r.scope); err != nil {
		return err
	}
	switch {
	case r.ttl < minRunTTL || r.ttl > core.MaxTTL:
		return fmt.Errorf("--ttl %v: want %v to %v", r.ttl, minRunTTL, core.MaxTTL)
	case r.limit < 0 || r.grace < 0 || r.stopWithin < 0:
		return errors.New("--timeout, --grace, --stop-within: want none below 0")
	}
	return nil
}

func (r *runCommand) run(cmd *cobra.Command, args []string) error {
	began := time.Now()
	if err := r.check(); err != nil {
		return err
	}
	site, err := r.survey()
	if err != nil {
		return err
	}
	note := func(text string) { fmt.Fprintln(cmd.ErrOrStderr(), "omnirelay:", text) }
	if site.Warning != "" {
		note(site.Warning)
	}
	if err := r.candidate.find(); err != nil {
		return err
	}
	signals := make(chan os.Signal, 16)
	for _, s := range supervisor.Forwarded {
		if !signal.Ignored(s) { // as under nohup
			signal.Notify(signals, s)
		}
	}
	defer signal.Stop(signals)
	scope, err := r.standFor(cmd.Context())
	if err != nil {
		return r.ended(signals, err)
	}
	c, err := r.member(cmd)
	if err != nil {
		return err
	}
	defer c.Close() // its session would expire all the same
	job := &supervisor.Job{
		Client: c, Scope: scope, TTL: r.ttl, Margin: r.ttl / 10, Grace: r.grace, StopWithin: r.stopWithin, Signals: signals, Note: note,
		Command: supervisor.Command{Args: args, Env: os.Environ(), Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Site: site},
	}
	if r.limit > 0 {
		job.WaitFor = max(time.Millisecond, r.limit-time.Since(began))
	}
	code, err := job.Run(context.WithoutCancel(cmd.Context())) // signals are the command's
	return r.result(code, err)
}

func (r *runCommand) survey() (supervisor.Site, error) {
	if r.grace == 0 {
		r.grace = r.ttl / 5
	}
	isolation, err := supervisor.ParseIsolation(r.isolation)
	if err != nil {
		return supervisor.Site{}, fmt.Errorf("--%w", err)
	}
	site, err := supervisor.Survey(isolation)
	if err != nil {
		return site, fmt.Errorf("--isolation %s: %w; auto takes what works here", isolation, err)
	}
	return site, nil
}

// standFor finds the scope, within the time for all.
func (r *runCommand) standFor(ctx context.Context) (client.Scope, error) {
	if r.limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, r.limit)
		defer cancel()
	}
	scope, err := r.candidate.declared(ctx, r.scope)
	scope.Priority = r.priority
	return scope, err
}

// ended is what an error comes to that may be due to a signal.
func (r *runCommand) ended(signals <-chan os.Signal, err error) error {
	for {
		select {
		case s := <-signals:
			if supervisor.Ends(s) {
				return r.result(0, &supervisor.Interrupted{Signal: s})
			}
		default:
			return err
		}
	}
}

// member is this process as a candidate.
func (r *runCommand) member(cmd *cobra.Command) (*client.Client, error) {
	o := r.candidate.options()
	o.TTL, o.UnsignedTokens = r.ttl, true
	if r.verbose {
		o.Logger = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
	}
	return client.New(o)
}

// result is the exit code of how the job ended.
func (r *runCommand) result(code int, err error) error {
	var interrupted *supervisor.Interrupted
	switch {
	case err == nil && code == 0:
		return nil
	case err == nil:
		return &exitCode{code: code}
	case errors.Is(err, supervisor.ErrLost):
		return &exitCode{code: exitLost, cause: err}
	case errors.Is(err, supervisor.ErrNotElected):
		return fmt.Errorf("%w: not elected to lead %s within %v; `omnirelay mesh leaders status --scope %s` says who leads it", errTimedOut, r.scope, r.limit, r.scope)
	case errors.As(err, &interrupted):
		if s, ok := interrupted.Signal.(syscall.Signal); ok {
			return &exitCode{code: 128 + int(s)}
		}
	}
	return err
}
