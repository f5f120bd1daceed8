package harness

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/wire"
	"github.com/omnirelay/leadership/wire/controlpb"
	"github.com/omnirelay/leadership/wire/nodepb"
)

// Subscribed reads the snapshot that a gRPC stream begins with.
func (n *Node) Subscribed() (Leaders, error) {
	return Subscribe(n.GRPC, credentials.NewTLS(n.cluster.tlsConfig()), &controlpb.LeadershipSubscribeRequest{})
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

// Exchange opens a stream to a peer listener, as a replica does, and returns how it
// was refused; nil when it was not.
func Exchange(address string, config *tls.Config) error {
	ctx, cancel := context.WithTimeout(context.Background(), readWithin)
	defer cancel()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(credentials.NewTLS(config)))
	if err != nil {
		return err
	}
	defer conn.Close()
	stream, err := nodepb.NewNodeServiceClient(conn).Exchange(ctx)
	if err != nil {
		return err
	}
	_, err = stream.CloseAndRecv()
	return err
}

// SendGarbage writes bytes of no protocol to a listener and returns nil when it
// closes the connection.
func SendGarbage(address string, garbage []byte) error {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	_, _ = conn.Write(garbage) // may be closed in the midst of it
	answer := make([]byte, 1024)
	for {
		if _, err := conn.Read(answer); err != nil {
			if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
				return fmt.Errorf("the connection is still open: %w", err)
			}
			return nil
		}
	}
}
