package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/omnirelay/leadership/adapters/client"
	"github.com/omnirelay/leadership/adapters/clock"
	"github.com/omnirelay/leadership/adapters/fence"
	"github.com/omnirelay/leadership/adapters/transport"
	"github.com/omnirelay/leadership/core"
)

// runMember is a member of the service: it leads shards and issues their assignments.
func runMember(ctx context.Context, args []string) (err error) {
	flags := newFlags("member")
	id := flags.String("id", "member-01", "who this member is")
	endpoints := flags.String("endpoints", "127.0.0.1:7412", "grpc listeners of the cluster, separated by commas")
	ca := flags.String("ca", "", "PEM file of the cluster's authority")
	cert := flags.String("cert", "", "PEM file of this member's certificate")
	key := flags.String("key", "", "PEM file of its key")
	namespace := flags.String("namespace", "demo.assign", "of the shards to stand for")
	resource := flags.String("resource", "", "URL of the resource")
	book := flags.String("journal", "", "file for what the resource answered")
	every := flags.Duration("every", 100*time.Millisecond, "pause between two assignments of a shard")
	careless := flags.Bool("careless", false, "never look whether the leadership still holds, as services without a guard do")
	if err := flags.Parse(args); err != nil {
		return err
	}
	journal, err := openJournal(*book)
	if err != nil {
		return err
	}
	c, err := client.New(client.Options{
		Endpoints: strings.Split(*endpoints, ","), TLS: transport.Files{CA: *ca, Cert: *cert, Key: *key}, MemberID: *id,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	i := &issuer{resource: *resource, journal: journal, every: *every, careless: *careless, calls: &http.Client{Transport: client.StampRequests(nil)}}
	if *careless {
		i.calls.Transport = fence.Transport(nil) // stamps, and never asks whether it still leads
	}
	return c.Run(ctx, []client.Scope{{Kind: core.KindShard, Namespace: *namespace}}, i.lead)
}

// issuer issues assignments.
type issuer struct {
	resource string
	calls    *http.Client
	journal  *journal
	every    time.Duration
	careless bool
}

// lead issues the assignments of one shard as long as this member leads it. Those who
// are careless go on when their lease is over, until the resource refuses them.
func (i *issuer) lead(ctx context.Context, t client.Token) error {
	acts, over := ctx, func() bool { return ctx.Err() != nil }
	if i.careless {
		acts, over = context.WithoutCancel(ctx), func() bool { return ctx.Err() != nil && !deposed(ctx) }
	}
	n := 0
	for ; !over(); n++ {
		if err := i.issue(acts, t, idOf(t, n)); err != nil {
			return err
		}
		time.Sleep(i.every)
	}
	if deposed(ctx) {
		return i.note(heldBack, t, idOf(t, n))
	}
	return nil
}

func idOf(t client.Token, n int) string { return fmt.Sprintf("%s/%d/%d", t.LeaderID, t.Fence, n) }

// deposed reports whether a leadership ended without having been given up.
func deposed(ctx context.Context) bool {
	cause := context.Cause(ctx)
	return errors.Is(cause, client.ErrLeaseLapsed) || errors.Is(cause, client.ErrTaken)
}

const (
	answerWithin = time.Second
	retryAfter   = 50 * time.Millisecond
	maxTries     = 50 // without an answer, whatever the context says
)

// issue issues one assignment, again and again until the resource has answered.
func (i *issuer) issue(ctx context.Context, t client.Token, id string) error {
	for tries := 1; ; tries++ {
		err := i.try(ctx, t, id)
		var lost *fence.LostError
		var stale *core.StaleError
		switch {
		case err == nil:
			return i.note(acknowledged, t, id)
		case errors.As(err, &stale):
			return errors.Join(err, i.note(refusedStale, t, id))
		case errors.As(err, &lost):
			return errors.Join(err, i.note(heldBack, t, id))
		case ctx.Err() != nil || tries == maxTries:
			return fmt.Errorf("%s: %w", id, err)
		}
		time.Sleep(retryAfter)
	}
}

func (i *issuer) note(what outcome, t client.Token, id string) error {
	return i.journal.write(attempt{At: clock.Boottime(), What: what, Scope: t.Scope, Fence: t.Fence, ID: id})
}

// try asks the resource once.
func (i *issuer) try(ctx context.Context, t client.Token, id string) error {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	query := url.Values{"id": {id}, "worker": {workerFor(id)}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, i.resource+"/"+t.Scope+"?"+query.Encode(), nil)
	if err != nil {
		return err
	}
	resp, err := i.calls.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if stale, ok := fence.StaleResponse(resp); ok {
		return stale
	}
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		return fmt.Errorf("the resource answered %s: %s", resp.Status, text)
	}
	return nil
}

// workerFor picks the worker that an assignment goes to.
func workerFor(id string) string { return fmt.Sprintf("worker-%d", len(id)%7) }
