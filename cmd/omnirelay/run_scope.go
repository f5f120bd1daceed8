package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/omnirelay/leadership/adapters/client"
	"github.com/omnirelay/leadership/adapters/transport"
	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/wire/controlpb"
)

// askAgain is the pause between rounds of nodes that do not answer.
const askAgain = 300 * time.Millisecond

// declared finds the scope, and declares one of kind custom that is not there.
func (c *candidate) declared(ctx context.Context, id string) (client.Scope, error) {
	var found *controlpb.Scope
	err := c.ask(ctx, c.files, func(ctx context.Context, registry controlpb.LeadershipRegistryServiceClient) error {
		answer, err := registry.ListScopes(ctx, &controlpb.ListScopesRequest{Scope: id})
		for _, s := range answer.GetScopes() {
			if s.GetId() == id {
				found = s
			}
		}
		return err
	})
	switch {
	case err != nil && status.Code(err) != codes.NotFound:
		return client.Scope{}, fmt.Errorf("looking for the scope %s: %w", id, err)
	case found.GetRetiring():
		return client.Scope{}, fmt.Errorf("scope %s is being retired: declare it again once it is gone", id)
	case found != nil:
		return client.Scope{ID: id, Kind: found.GetKind()}, nil
	}
	return client.Scope{ID: id, Kind: core.KindCustom}, c.declare(ctx, id)
}

func (c *candidate) declare(ctx context.Context, id string) error {
	spec, err := core.NewScopeSpec(id)
	if err != nil {
		return err
	}
	if spec.Kind != core.KindCustom {
		return fmt.Errorf("scope %s is not declared, and only custom scopes are declared by running: name it in the nodes' settings", id)
	}
	var random [8]byte
	_, _ = rand.Read(random[:]) // never fails
	request := &controlpb.DeclareScopesRequest{
		RequestId: "mesh-run-" + hex.EncodeToString(random[:]), Scopes: []*controlpb.ScopeSpec{{Id: id}}, Why: "mesh run --scope " + id,
	}
	if len(request.Why) > core.MaxWhy {
		request.Why = "mesh run"
	}
	err = c.ask(ctx, c.administrator(), func(ctx context.Context, registry controlpb.LeadershipRegistryServiceClient) error {
		_, err := registry.DeclareScopes(ctx, request)
		return err
	})
	if status.Code(err) == codes.PermissionDenied {
		return fmt.Errorf("scope %s is not declared, and the certificate may not declare it: %w; name an administrator's under clients.admin in the cluster file, or have the scope declared", id, err)
	}
	if err != nil {
		return fmt.Errorf("declaring the scope %s: %w", id, err)
	}
	return nil
}

// ask asks the nodes in turn, again and again, until one answers or refuses.
func (c *candidate) ask(ctx context.Context, files transport.Files, call func(context.Context, controlpb.LeadershipRegistryServiceClient) error) error {
	certificates, err := transport.LoadCertificates(files, nil)
	if err != nil {
		return err
	}
	for {
		var failures []error
		for _, address := range c.grpc {
			err := askOne(ctx, certificates, address, call)
			switch status.Code(err) {
			case codes.Unavailable, codes.DeadlineExceeded, codes.ResourceExhausted, codes.Aborted, codes.Canceled:
				failures = append(failures, fmt.Errorf("%s: %w", address, err))
			default:
				return err
			}
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return fmt.Errorf("%w; no node answered: %w", errTimedOut, errors.Join(failures...))
			}
			return ctx.Err()
		case <-time.After(askAgain):
		}
	}
}

func askOne(ctx context.Context, certificates *transport.Certificates, address string, call func(context.Context, controlpb.LeadershipRegistryServiceClient) error) error {
	channel, err := transport.NewChannel(transport.ChannelOptions{Address: address, TLS: func() *tls.Config { return certificates.Client("") }})
	if err != nil {
		return err
	}
	defer channel.Close()
	ctx, cancel := context.WithTimeout(ctx, perNode)
	defer cancel()
	return call(ctx, controlpb.NewLeadershipRegistryServiceClient(channel))
}
