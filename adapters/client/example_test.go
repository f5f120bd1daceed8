package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/omnirelay/leadership/adapters/client"
	"github.com/omnirelay/leadership/adapters/fence"
	"github.com/omnirelay/leadership/core"
)

// A dozen lines to lead.
func Example() {
	options, stop := client.ClusterForExamples("billing/nightly") // endpoints and certificates, elsewhere
	defer stop()
	options.MemberID = "billing-1"

	c, err := client.New(options)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	err = c.Run(ctx, []client.Scope{{ID: "billing/nightly"}}, func(ctx context.Context, t client.Token) error {
		fmt.Printf("%s leads %s in term %d\n", t.LeaderID, t.Scope, t.Term)
		cancel() // an application works here until ctx ends
		return nil
	})
	fmt.Println("done:", err)
	// Output:
	// billing-1 leads billing/nightly in term 1
	// done: <nil>
}

// marks keeps a guard's marks; a resource keeps them on its disk or in its database.
type marks map[string]uint64

func (m marks) Load(context.Context) (map[string]uint64, error) { return m, nil }
func (m marks) Save(_ context.Context, raised map[string]uint64) error {
	for scope, mark := range raised {
		m[scope] = max(m[scope], mark)
	}
	return nil
}

// resource is a gRPC service that only leaders may call.
type resource struct {
	healthpb.UnimplementedHealthServer
}

func (resource) Check(ctx context.Context, _ *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	a, _ := fence.From(ctx)
	fmt.Printf("the resource acts for %s, which leads %s under fence %d\n", a.Leader, a.Scope, a.Fence)
	return &healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_SERVING}, nil
}

// Calls that are made with the context of a leadership carry its authority, and the
// resource's guard looks at it. Neither side writes a check.
func ExampleStampCalls() {
	guard, err := fence.New(context.Background(), fence.Options{Marks: marks{}})
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer(grpc.ChainUnaryInterceptor(guard.UnaryServerInterceptor(fence.Rules{})))
	healthpb.RegisterHealthServer(server, resource{})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	defer server.Stop()
	go func() { _ = server.Serve(listener) }()

	options, stop := client.ClusterForExamples("shard/orders/07")
	defer stop()
	options.MemberID = "orders-2"
	c, err := client.New(options)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	conn, err := grpc.NewClient(listener.Addr().String(), append(client.StampCalls(), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var kept context.Context
	err = c.Run(ctx, []client.Scope{{Kind: core.KindShard, Namespace: "orders"}}, func(ctx context.Context, t client.Token) error {
		kept = context.WithoutCancel(ctx)
		_, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
		cancel()
		return err
	})
	if err != nil {
		log.Fatal(err)
	}
	// The leadership is over: nothing leaves under it any more.
	_, err = healthpb.NewHealthClient(conn).Check(kept, &healthpb.HealthCheckRequest{})
	var lost *fence.LostError
	fmt.Println("held back:", errors.As(err, &lost))
	// Output:
	// the resource acts for orders-2, which leads shard/orders/07 under fence 1
	// held back: true
}

// A leader that was overtaken is refused, whatever it believes.
func ExampleStampRequests() {
	guard, err := fence.New(context.Background(), fence.Options{Marks: marks{}})
	if err != nil {
		log.Fatal(err)
	}
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "written") })
	server := httptest.NewServer(guard.Handler(handler, nil))
	defer server.Close()

	options, stop := client.ClusterForExamples("archive")
	defer stop()
	options.MemberID = "archiver-1"
	c, err := client.New(options)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	calls := &http.Client{Transport: client.StampRequests(http.DefaultTransport)}
	defer calls.CloseIdleConnections()
	write := func(ctx context.Context) {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, server.URL, nil)
		if err != nil {
			log.Fatal(err)
		}
		resp, err := calls.Do(req)
		if err != nil {
			log.Fatal(err)
		}
		defer resp.Body.Close()
		if stale, ok := fence.StaleResponse(resp); ok {
			fmt.Printf("refused: fence %d, required %d\n", stale.Fence, stale.Required)
			return
		}
		text, err := io.ReadAll(resp.Body)
		fmt.Println(string(text), err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	err = c.Run(ctx, []client.Scope{{ID: "archive"}}, func(ctx context.Context, t client.Token) error {
		write(ctx)
		if err := guard.Observe("archive", t.Fence+1); err != nil { // what the guard hears when another is elected
			return err
		}
		write(ctx)
		cancel()
		return nil
	})
	fmt.Println(err)
	// Output:
	// written <nil>
	// refused: fence 1, required 2
	// <nil>
}

// Who leads, and what changes.
func ExampleClient_Events() {
	options, stop := client.ClusterForExamples("archive")
	defer stop()
	c, err := client.New(options) // without a member id it only watches
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	options.MemberID = "archiver-1"
	leader, err := client.New(options)
	if err != nil {
		log.Fatal(err)
	}
	defer leader.Close()
	for event, err := range c.Events(context.Background(), client.Watch{Scope: "archive"}) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s %q %q\n", event.Kind, event.Scope, event.LeaderID)
		if event.Kind == core.EventElected.String() {
			break
		}
		if err := leader.Stand(client.Scope{ID: "archive"}); err != nil {
			log.Fatal(err)
		}
	}
	// Output:
	// OBSERVED "" ""
	// ELECTED "archive" "archiver-1"
}

// Without Run: stand, ask before every action, give up.
func ExampleClient_Holds() {
	options, stop := client.ClusterForExamples("archive")
	defer stop()
	options.MemberID = "archiver-1"
	c, err := client.New(options)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	if err := c.Stand(client.Scope{ID: "archive", Priority: 10}); err != nil {
		log.Fatal(err)
	}
	for {
		token, leads := c.Holds("archive")
		if !leads {
			time.Sleep(10 * time.Millisecond) // an application does something else meanwhile
			continue
		}
		fmt.Println("acting under fence", token.Fence)
		if err := c.Withdraw(client.Scope{ID: "archive"}); err != nil { // or it is elected again
			log.Fatal(err)
		}
		c.GiveUp(token)
		_, leads = c.Holds("archive")
		fmt.Println("leads after giving up:", leads)
		return
	}
	// Output:
	// acting under fence 1
	// leads after giving up: false
}
