package harness

import (
	"context"
	"fmt"
	"net/http"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/wire"
	"github.com/omnirelay/leadership/wire/controlpb"
)

// Subscribed reads the snapshot that a gRPC stream begins with.
func (n *Node) Subscribed() (Leaders, error) {
	config := n.cluster.client.Transport.(*http.Transport).TLSClientConfig.Clone()
	config.NextProtos = nil
	return Subscribe(n.GRPC, credentials.NewTLS(config), &controlpb.LeadershipSubscribeRequest{})
}

// Subscribe calls Subscribe at an address and reads to the end of the snapshot.
func Subscribe(address string, creds credentials.TransportCredentials, req *controlpb.LeadershipSubscribeRequest) (Leaders, error) {
	l := Leaders{ByScope: map[string]wire.Token{}}
	ctx, cancel := context.WithTimeout(context.Background(), readWithin)
	defer cancel()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(creds))
	if err != nil {
		return l, err
	}
	defer conn.Close()
	stream, err := controlpb.NewLeadershipControlServiceClient(conn).Subscribe(ctx, req)
	if err != nil {
		return l, err
	}
	for {
		p, err := stream.Recv()
		if err != nil {
			return l, err
		}
		e, err := wire.EventFromProto(p)
		if err != nil {
			return l, err
		}
		switch {
		case e.Kind == core.EventSnapshot.String():
			l.ByScope[e.Scope] = *e.Token
		case e.Kind == core.EventObserved.String() && e.Reason == core.ReasonSnapshotEnd:
			l.Revision = e.Revision
			return l, nil
		default:
			return l, fmt.Errorf("%s %s within a snapshot", e.Kind, e.Reason)
		}
	}
}
