package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"github.com/omnirelay/leadership/adapters/clock"
	"github.com/omnirelay/leadership/adapters/control"
	"github.com/omnirelay/leadership/adapters/rpc"
	"github.com/omnirelay/leadership/adapters/transport"
	"github.com/omnirelay/leadership/core"
)

// front is what the outside calls: the HTTP API and the gRPC API.
type front struct {
	control *control.Server
	http    *http.Server
	rpc     *rpc.Server
	grpc    *grpc.Server

	httpListener, grpcListener net.Listener
	httpAddress, grpcAddress   string
}

const (
	// closeWithin bounds how long calls under way may hold up a shutdown.
	closeWithin = 2 * time.Second

	// Limits of the gRPC listener. Requests of its services are small.
	maxRequestBytes      = 64 << 10
	maxConnectionStreams = 100 // of one connection at the same time
	handshakeWithin      = 5 * time.Second
	pingAfter            = 10 * time.Second // of silence on a connection
)

func newFront(n *node) (*front, error) {
	c := n.config
	f := &front{httpAddress: c.Listeners.HTTP, grpcAddress: c.Listeners.GRPC}
	var err error
	f.control, err = control.New(control.Options{
		Source: n.host, Metrics: n.metrics, Logger: n.logger, Cluster: c.ClusterID, Open: c.Control.Open, Boottime: clock.Boottime,
		MaxStreams: c.Streams.Max, WriteTimeout: c.Streams.WriteTimeout, Heartbeat: c.Streams.Heartbeat, ReadTimeout: c.MaxElectionWindow,
	})
	if err != nil {
		return nil, err
	}
	f.http = f.control.HTTPServer()
	f.http.TLSConfig = n.certificates.Server(transport.Optional, "h2", "http/1.1")
	f.rpc, err = rpc.New(rpc.Options{
		Source: n.host, Metrics: n.metrics, Logger: n.logger, Cluster: c.ClusterID,
		MaxStreams: c.Streams.Max, WriteTimeout: c.Streams.WriteTimeout, RenewalInterval: core.KeepaliveInterval(c.LeaseDuration),
	})
	if err != nil {
		return nil, err
	}
	// Optional, so that a caller without a certificate is told so by rpc rather than by
	// a broken connection.
	creds := credentials.NewTLS(n.certificates.Server(transport.Optional, "h2"))
	f.grpc = grpc.NewServer(grpc.Creds(creds), grpc.MaxRecvMsgSize(maxRequestBytes),
		grpc.MaxConcurrentStreams(maxConnectionStreams), grpc.ConnectionTimeout(handshakeWithin),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: pingAfter, Timeout: pingAfter}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: pingAfter / 2, PermitWithoutStream: true}))
	f.rpc.Register(f.grpc)
	return f, nil
}

func (f *front) listen() (err error) {
	if f.httpListener, err = net.Listen("tcp", f.httpAddress); err != nil {
		return fmt.Errorf("listeners.http: %w", err)
	}
	if f.grpcListener, err = net.Listen("tcp", f.grpcAddress); err != nil {
		_ = f.httpListener.Close()
		return fmt.Errorf("listeners.grpc: %w", err)
	}
	return nil
}

func (f *front) serve(ctx context.Context, n *node) {
	n.run(func() error {
		err := f.http.Serve(tls.NewListener(f.httpListener, f.http.TLSConfig))
		if errors.Is(err, http.ErrServerClosed) {
			return nil
		}
		return err
	})
	n.run(func() error { return f.grpc.Serve(f.grpcListener) })
	n.run(func() error { f.rpc.WatchHealth(ctx); return nil })
}

// close ends streams and calls, the patient way first.
func (f *front) close() {
	f.control.EndStreams()
	f.rpc.EndStreams()
	ctx, cancel := context.WithTimeout(context.Background(), closeWithin)
	defer cancel()
	if err := f.http.Shutdown(ctx); err != nil {
		_ = f.http.Close()
	}
	graceful := make(chan struct{})
	go func() {
		f.grpc.GracefulStop()
		close(graceful)
	}()
	select {
	case <-graceful:
	case <-ctx.Done():
		f.grpc.Stop() // ends GracefulStop too
	}
	<-graceful
}
