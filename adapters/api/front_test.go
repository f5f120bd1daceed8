package api

import (
	"context"
	"crypto/tls"
	"testing"
	"time"

	"github.com/omnirelay/leadership/adapters/transport"
	"github.com/omnirelay/leadership/wire/controlpb"
)

// behindFront serves n as leaderd does, over HTTP/2 and HTTP/3.
func (n *node) behindFront() (address string) {
	t := n.world.t
	t.Helper()
	dual, err := transport.ListenDual("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	front, err := transport.NewGRPCFront(transport.FrontOptions{TLS: &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"},
		Certificates: []tls.Certificate{n.world.pair(n.world.authority.IssueNode(n.service.o.NodeID))},
		ClientAuth:   tls.VerifyClientCertIfGiven, ClientCAs: n.world.roots()}}, n.server.ServerOptions()...)
	if err != nil {
		t.Fatal(err)
	}
	n.server.Register(front.Server())
	served := make(chan error, 1)
	go func() { served <- front.Serve(dual) }()
	t.Cleanup(func() {
		n.service.EndStreams()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		front.Shutdown(ctx)
		if err := <-served; err != nil {
			t.Errorf("the front ended with %v", err)
		}
	})
	return dual.Addr()
}

// A member stands by each protocol, and moves from one to the other with its session.
func TestMemberMovesBetweenProtocols(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	w.declare("job")
	member := w.pair(w.authority.IssueMember("worker-1"))
	d := newDriven(t, "worker-1", "life-1", 3*time.Second, "job")
	fronts := []string{w.nodes[0].behindFront(), w.nodes[1].behindFront()}
	for i, tc := range []struct {
		prefer   transport.Preference
		protocol string
	}{{transport.OnlyHTTP3, "HTTP/3.0"}, {transport.OnlyHTTP2, "HTTP/2.0"}, {transport.OnlyHTTP3, "HTTP/3.0"}} {
		n := w.nodes[i%2]
		channel, err := transport.NewChannel(transport.ChannelOptions{Address: fronts[i%2], Prefer: tc.prefer,
			TLS: func() *tls.Config {
				return &tls.Config{RootCAs: w.roots(), Certificates: []tls.Certificate{member}, MinVersion: tls.VersionTLS13, ServerName: "localhost"}
			}})
		if err != nil {
			t.Fatal(err)
		}
		session, before := d.session(), d.acked()
		cut := d.run(&caller{LeadershipMemberServiceClient: controlpb.NewLeadershipMemberServiceClient(channel), node: n})
		w.until("it is acknowledged by way of "+tc.protocol, func() bool { return d.acked() > before+1 })
		w.until("it leads", func() bool { _, held := d.holds("job"); return held })
		d.mu.Lock()
		if d.welcome.GetTransport() != tc.protocol || d.welcome.GetNodeId() != n.service.o.NodeID {
			t.Errorf("welcome %v, want %s", d.welcome, tc.protocol)
		}
		d.mu.Unlock()
		if session != 0 && d.session() != session {
			t.Errorf("session %d became %d", session, d.session())
		}
		_ = cut()
		_ = channel.Close()
	}
}
