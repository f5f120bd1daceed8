package fence_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/omnirelay/leadership/adapters/fence"
	"github.com/omnirelay/leadership/wire/controlpb"
)

// A service over HTTP that only takes assignments of a shard from the shard's leader.
func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "marks")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)

	// The resource.
	marks, err := fence.OpenFile(filepath.Join(dir, "marks"))
	if err != nil {
		panic(err)
	}
	defer func() { _ = marks.Close() }()
	guard, err := fence.New(ctx, fence.Options{Marks: marks})
	if err != nil {
		panic(err)
	}
	assign := func(w http.ResponseWriter, r *http.Request) {
		leader, _ := fence.From(r.Context())
		fmt.Fprintf(w, "assigned under fence %d", leader.Fence)
	}
	scope := func(r *http.Request) (string, error) { return strings.TrimPrefix(r.URL.Path, "/"), nil }
	server := httptest.NewServer(guard.Handler(http.HandlerFunc(assign), scope))
	defer server.Close()

	// A leader, and its successor.
	client := &http.Client{Transport: fence.Transport(http.DefaultTransport)}
	defer client.CloseIdleConnections()
	for _, leader := range []fence.Authority{
		{Scope: "shard/demo/07", Fence: 41, Leader: "m1"},
		{Scope: "shard/demo/07", Fence: 42, Leader: "m2"},
		{Scope: "shard/demo/07", Fence: 41, Leader: "m1"}, // it does not know yet
	} {
		request, err := http.NewRequestWithContext(fence.With(ctx, leader), http.MethodPost, server.URL+"/shard/demo/07", nil)
		if err != nil {
			panic(err)
		}
		response, err := client.Do(request)
		if err != nil {
			panic(err)
		}
		if stale, found := fence.StaleResponse(response); found {
			fmt.Println(response.Status, "-", stale)
		} else {
			fmt.Println(response.Status)
		}
		response.Body.Close()
	}
	// Output:
	// 200 OK
	// 200 OK
	// 409 Conflict - stale leader of "shard/demo/07": fence 41, at least 42 is required
}

// An action inside a program: its successor waits until it has returned.
func ExampleGuard_Do() {
	ctx := context.Background()
	guard, err := fence.New(ctx, fence.Options{Seeder: func(context.Context) (fence.Leaders, error) {
		return fence.Leaders{Fences: map[string]uint64{"global-control": 7}, Last: 9}, nil
	}})
	if err != nil {
		panic(err)
	}
	if err := guard.Seed(ctx); err != nil {
		panic(err)
	}

	err = guard.Do(ctx, "global-control", 7, func(ctx context.Context) error {
		// As when the stream tells that another was elected, see Guard.Follow.
		if err := guard.Observe("global-control", 10); err != nil {
			return err
		}
		return ctx.Err() // heed it: it has ended
	})
	fmt.Println(err)
	err = guard.Do(ctx, "global-control", 10, func(context.Context) error { return nil })
	fmt.Println(err)
	// Output:
	// stale leader of "global-control": fence 7, at least 10 is required
	// <nil>
}

// A gRPC service that only leaders may call, but for its health.
func ExampleGuard_UnaryServerInterceptor() {
	guard, err := fence.New(context.Background(), fence.Options{Seeder: func(context.Context) (fence.Leaders, error) {
		return fence.Leaders{}, errors.New("the registry cannot be reached")
	}})
	if err != nil {
		panic(err)
	}
	rules := fence.Rules{Methods: map[string]fence.Rule{"/grpc.health.v1.Health/": {Open: true}}}
	server := grpc.NewServer(
		grpc.UnaryInterceptor(guard.UnaryServerInterceptor(rules)),
		grpc.StreamInterceptor(guard.StreamServerInterceptor(rules)))
	controlpb.RegisterLeadershipControlServiceServer(server, controlpb.UnimplementedLeadershipControlServiceServer{})
	healthpb.RegisterHealthServer(server, healthpb.UnimplementedHealthServer{})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	go func() { _ = server.Serve(listener) }()
	defer server.Stop()

	// The leader's side.
	held := func(context.Context) error { return nil } // whether the lease still runs, by the clock
	connection, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithUnaryInterceptor(fence.UnaryClientInterceptor(fence.HeldBy(held))),
		grpc.WithStreamInterceptor(fence.StreamClientInterceptor(fence.HeldBy(held))))
	if err != nil {
		panic(err)
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(fence.With(context.Background(), fence.Authority{Scope: "global-control", Fence: 7}), time.Minute)
	defer cancel()
	stream, err := controlpb.NewLeadershipControlServiceClient(connection).Subscribe(ctx, &controlpb.LeadershipSubscribeRequest{})
	if err != nil {
		panic(err)
	}
	_, err = stream.Recv()
	fmt.Println(err)
	// Output:
	// rpc error: code = Unavailable desc = the guard cannot judge yet: the registry has not yet been asked who leads
}
