package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/omnirelay/leadership/adapters/access"
	"github.com/omnirelay/leadership/adapters/api"
	"github.com/omnirelay/leadership/adapters/clock"
	"github.com/omnirelay/leadership/adapters/config"
	"github.com/omnirelay/leadership/adapters/control"
	"github.com/omnirelay/leadership/adapters/rpc"
	"github.com/omnirelay/leadership/adapters/signing"
	"github.com/omnirelay/leadership/adapters/transport"
	"github.com/omnirelay/leadership/core"
)

// front is what the outside calls: one service, as JSON over HTTP and as gRPC, each on
// a port of its own, over TCP and QUIC.
type front struct {
	gate    access.Gate
	service *api.Service
	control *control.Server
	rpc     *rpc.Server

	web  *transport.WebFront
	grpc *transport.GRPCFront

	webListeners, grpcListeners *transport.Dual
	listeners                   config.Listeners
}

// closeWithin bounds how long calls under way may hold up a shutdown.
const closeWithin = 2 * time.Second

func newFront(n *node) (f *front, err error) {
	c := n.config
	f = &front{listeners: c.Listeners}
	if f.gate, err = newGate(c, n.logger); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.gate.Authenticator.Close()
		}
	}()
	signer, err := newSigner(c, n.logger)
	if err != nil {
		return nil, fmt.Errorf("tokens.keys: %w", err)
	}
	if f.service, err = api.New(f.apiOptions(n, signer)); err != nil {
		return nil, err
	}
	if err := f.newWeb(n, signer); err != nil {
		return nil, err
	}
	return f, f.newGRPC(n)
}

func (f *front) apiOptions(n *node, signer *signing.Signer) api.Options {
	c := n.config
	o := api.Options{
		Source: n.host, Session: f.gate.Limiter.Session, Allow: f.gate.Limiter.Request, Protocol: transport.Protocol, Others: n.addresses, Peers: n.meshPeers,
		SessionsPerMember: c.Limits.SessionsPerMember, Cluster: c.ClusterID, NodeID: c.NodeID, Store: c.Registry.Store, Epsilon: c.ClockDrift,
		Window: c.MaxElectionWindow, WriteTimeout: c.Streams.WriteTimeout, Logger: n.logger,
		Attach: func(deliver func(core.ReplicaMessage)) (api.Attachment, error) { return n.host.Attach(deliver) },
	}
	for _, p := range c.Peers {
		o.Reserved = append(o.Reserved, p.ID)
	}
	if signer != nil {
		o.Signer = signer
	}
	return o
}

func (f *front) newWeb(n *node, signer *signing.Signer) (err error) {
	c := n.config
	o := control.Options{
		Source: n.host, Service: f.service, Gate: f.gate, Metrics: n.metrics, Logger: n.logger, Open: c.Control.Open, Boottime: clock.Boottime,
		MaxStreams: c.Streams.Max, WriteTimeout: c.Streams.WriteTimeout, Heartbeat: c.Streams.Heartbeat, ReadTimeout: c.MaxElectionWindow,
		MaxBody: int64(c.Limits.RequestBytes), Hint: n.hint,
	}
	if signer != nil {
		o.Keys = signer.PublicJSON
	}
	if f.control, err = control.New(o); err != nil {
		return err
	}
	f.web, err = transport.NewWebFront(f.control.HTTPServer(), f.options(n, "h2", "http/1.1"))
	return err
}

func (f *front) newGRPC(n *node) (err error) {
	c := n.config
	f.rpc, err = rpc.New(rpc.Options{
		Source: n.host, Service: f.service, Gate: f.gate, Metrics: n.metrics, Logger: n.logger, Hint: n.hint,
		MaxStreams: c.Streams.Max, WriteTimeout: c.Streams.WriteTimeout, RenewalInterval: core.KeepaliveInterval(c.LeaseDuration),
	})
	if err != nil {
		return err
	}
	if f.grpc, err = transport.NewGRPCFront(f.options(n, "h2"), f.rpc.ServerOptions()...); err != nil {
		return err
	}
	f.rpc.Register(f.grpc.Server())
	return nil
}

// options of both listeners. Certificates are optional, so that a caller without one is
// told so in words rather than by a broken connection.
func (f *front) options(n *node, protocols ...string) transport.FrontOptions {
	l := n.config.Limits
	return transport.FrontOptions{
		TLS: n.certificates.Server(transport.Optional, protocols...), Logger: n.logger,
		Limits: transport.Limits{
			Connections: l.Connections, ConnectionsPerSource: min(l.ConnectionsPerAddress, l.Connections), HandshakeTimeout: l.HandshakeTimeout,
			MessageBytes: l.RequestBytes, WriteTimeout: n.config.Streams.WriteTimeout, IdleTimeout: idleTimeout(n.config.LeaseDuration),
		},
	}
}

// idleTimeout is after how much silence a QUIC caller counts as gone: before the lease of
// a member that hangs on it, within what a connection bears.
func idleTimeout(lease time.Duration) time.Duration {
	return min(max(lease*3/4, 200*time.Millisecond), 10*time.Second)
}

func (f *front) listen() (err error) {
	if f.webListeners, err = f.bind(f.listeners.HTTP); err != nil {
		return fmt.Errorf("listeners.http: %w", err)
	}
	if f.grpcListeners, err = f.bind(f.listeners.GRPC); err != nil {
		return errors.Join(fmt.Errorf("listeners.grpc: %w", err), f.webListeners.Close())
	}
	return nil
}

func (f *front) bind(address string) (*transport.Dual, error) {
	if !f.listeners.HTTP3 {
		return transport.ListenTCP(address)
	}
	return transport.ListenDual(address)
}

func (f *front) serve(ctx context.Context, n *node) {
	n.run(func() error { return f.web.Serve(f.webListeners) })
	n.run(func() error { return f.grpc.Serve(f.grpcListeners) })
	n.run(func() error { f.rpc.WatchHealth(ctx); return nil })
}

// endStreams sends readers and members to other nodes.
func (f *front) endStreams() {
	f.service.EndStreams()
	f.control.EndStreams()
	f.rpc.EndStreams()
}

// close ends streams and calls, the patient way first.
func (f *front) close() {
	f.endStreams()
	ctx, cancel := context.WithTimeout(context.Background(), closeWithin)
	defer cancel()
	grpcEnded := make(chan struct{})
	go func() {
		defer close(grpcEnded)
		f.grpc.Shutdown(ctx)
	}()
	_ = f.web.Shutdown(ctx) // what did not end in time was cut
	<-grpcEnded
	f.gate.Authenticator.Close()
}
