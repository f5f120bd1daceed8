// Command shards is a service whose members compete to lead shards. The leader of a
// shard, and nobody else, issues its assignments, to a resource that is guarded by
// fences:
//
//	shards member    one member: what a service writes to lead
//	shards resource  the guarded resource: what a service writes to be led
//	shards play      many members and one resource on a cluster that runs, whose leaders
//	                 are killed and paused, and a verdict
//	shards demo      the same with a cluster of its own, shown on the terminal
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"
)

const usage = "usage: shards member|resource|play|demo [flags]; shards COMMAND -h lists them"

func main() {
	// The kernel ends the children with the thread that started them: it must last.
	runtime.LockOSThread()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:])
	var verdict *guilty
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
	case errors.As(err, &verdict):
		os.Exit(1) // it was shown
	default:
		fmt.Fprintln(os.Stderr, "shards:", err)
		os.Exit(2)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New(usage)
	}
	commands := map[string]func(context.Context, []string) error{"member": runMember, "resource": runResource, "play": runPlay, "demo": runDemo}
	command := commands[args[0]]
	if command == nil {
		return fmt.Errorf("%q is no command; %s", args[0], usage)
	}
	return command(ctx, args[1:])
}

func newFlags(name string) *flag.FlagSet {
	return flag.NewFlagSet("shards "+name, flag.ContinueOnError)
}
