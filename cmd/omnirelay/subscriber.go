package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/omnirelay/leadership/adapters/transport"
	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/wire"
	"github.com/omnirelay/leadership/wire/controlpb"
)

// subscriber follows nodes over gRPC.
type subscriber struct {
	tls *tls.Config
}

// follow is a follower.
func (s *subscriber) follow(ctx context.Context, node, scope, cursor string, open func(), show func(item) error) error {
	conn, err := transport.NewChannel(transport.ChannelOptions{Address: node, TLS: s.tls.Clone})
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	req := &controlpb.LeadershipSubscribeRequest{Scope: scope}
	if cursor != "" {
		c, err := core.ParseCursor(cursor)
		if err != nil {
			return err
		}
		req.FromRevision, req.FromOrdinal = c.Revision, c.Ordinal
	}
	stream, err := controlpb.NewLeadershipControlServiceClient(conn).Subscribe(ctx, req)
	if err != nil {
		return refusedBy(node, err)
	}
	if header, err := stream.Header(); err == nil && header != nil {
		open() // the node admitted us, though it may have nothing new to tell
	}
	for {
		p, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return refusedBy(node, err)
		}
		if err := showProto(p, show); err != nil {
			return err
		}
	}
}

// showProto shows an event of the gRPC API as the HTTP API would tell it.
func showProto(p *controlpb.LeadershipEvent, show func(item) error) error {
	event, err := wire.EventFromProto(p)
	if err != nil {
		return err
	}
	it, err := itemOf(event)
	if err != nil {
		return err
	}
	return show(it)
}

// refusalCodes are those that a hint is given for.
var refusalCodes = map[codes.Code]string{
	codes.NotFound: "not-found", codes.PermissionDenied: "denied", codes.Unauthenticated: "unauthenticated",
}

// refusedBy tells a refusal, which another node would repeat, from a node that cannot
// answer now and from one that cannot be reached.
func refusedBy(node string, err error) error {
	st := status.Convert(err)
	problem := wire.Problem{Detail: st.Message(), Code: refusalCodes[st.Code()]}
	switch st.Code() {
	case codes.InvalidArgument, codes.NotFound, codes.Unauthenticated, codes.PermissionDenied, codes.Unimplemented:
		return &refusal{problem}
	case codes.ResourceExhausted:
		return &busy{refusal{problem}, time.Second}
	case codes.DeadlineExceeded:
		return fmt.Errorf("%s: %w", node, context.DeadlineExceeded)
	case codes.Unavailable:
		if len(st.Details()) > 0 { // the node itself said so
			return &busy{refusal{problem}, time.Second}
		}
	}
	return fmt.Errorf("%s: %w", node, err)
}

// errEnough ends a stream that told all that was asked for.
var errEnough = errors.New("enough")

// leaders reads the snapshot that every stream begins with, from the first node that
// answers.
func (s *subscriber) leaders(ctx context.Context, nodes []string, scope string) (raw []byte, answer *controlpb.ListLeadersResponse, err error) {
	var leaders wire.LeadersResponse
	err = inTurn(ctx, nodes, func(ctx context.Context, node string) error {
		leaders = wire.LeadersResponse{Tokens: []wire.Token{}}
		err := s.follow(ctx, node, scope, "", func() {}, func(it item) error {
			switch {
			case it.event.Kind == core.EventSnapshot.String() && it.event.Token != nil:
				leaders.Tokens = append(leaders.Tokens, *it.event.Token)
			case it.event.Reason == core.ReasonSnapshotEnd:
				leaders.Revision, leaders.GeneratedAt = it.event.Revision, time.Now().UTC()
				return errEnough
			}
			return nil
		})
		if errors.Is(err, errEnough) {
			return nil
		}
		if err == nil {
			return fmt.Errorf("%s ended the stream before its snapshot was whole", node)
		}
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	raw, err = json.Marshal(leaders)
	return raw, leaders.Proto(), err
}
