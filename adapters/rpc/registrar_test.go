package rpc

import (
	"context"
	"runtime"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/omnirelay/leadership/adapters/access"
	"github.com/omnirelay/leadership/adapters/transport"
	"github.com/omnirelay/leadership/wire/controlpb"
)

// begin begins a call and sends nothing of its request.
func (st *site) begin(method string, conn *grpc.ClientConn) error {
	st.t.Helper()
	ctx, cancel := context.WithTimeout(st.t.Context(), 10*time.Second)
	st.t.Cleanup(cancel)
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
	if err != nil {
		st.t.Fatal(err)
	}
	return stream.RecvMsg(&emptypb.Empty{})
}

// A request that nobody may make is not waited for: what is kept of those that do not end
// must not be anybody's to take.
func TestStrangersAreRefusedBeforeTheirRequest(t *testing.T) {
	st := newSite(t)
	for _, method := range []string{controlpb.LeadershipRegistryService_ListLeaders_FullMethodName, controlpb.LeadershipRegistryService_DeclareScopes_FullMethodName,
		controlpb.LeadershipMemberService_OpenSession_FullMethodName, controlpb.LeadershipMemberService_Attach_FullMethodName, controlpb.LeadershipControlService_Subscribe_FullMethodName} {
		if err := st.begin(method, st.dial()); status.Code(err) != codes.Unauthenticated {
			t.Errorf("%s: %v, want UNAUTHENTICATED", method, err)
		}
	}
}

func TestASlowRequestIsCut(t *testing.T) {
	st := newSite(t)
	st.server.requestWithin = 50 * time.Millisecond
	err := st.begin(controlpb.LeadershipRegistryService_ListLeaders_FullMethodName, st.dial(st.reader()))
	if status.Code(err) != codes.DeadlineExceeded || !strings.Contains(err.Error(), "within 50ms") {
		t.Errorf("%v, want DEADLINE_EXCEEDED", err)
	}
}

// The schema is told without a credential, and not any number of times on one stream.
func TestQuestionsAboutTheSchemaAreCounted(t *testing.T) {
	limiter, err := access.NewLimiter(access.Limits{RequestsPerSecond: 1, Burst: 5, StreamsPerCaller: 100, SessionsPerMember: 4})
	if err != nil {
		t.Fatal(err)
	}
	st := newSite(t, func(o *Options) { o.Gate.Limiter = limiter })
	stream, err := grpc_reflection_v1.NewServerReflectionClient(st.dial()).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	list := &grpc_reflection_v1.ServerReflectionRequest{MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_ListServices{}}
	for range 10 {
		if err = stream.Send(list); err == nil {
			_, err = stream.Recv()
		}
		if err != nil {
			break
		}
	}
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("%v, want RESOURCE_EXHAUSTED", err)
	}
}

// bulky answers with half of what may wait for one caller.
type bulky struct{ service }

func (bulky) ListSessions(context.Context, *controlpb.ListSessionsRequest) (*controlpb.ListSessionsResponse, error) {
	return &controlpb.ListSessionsResponse{Cordoned: []string{strings.Repeat("x", access.MaxUnread/2-1000)}}, nil
}

// Whoever asks on and reads nothing is refused in time, and served again when it reads, or
// its connection has ended.
func TestUnreadAnswersAreBounded(t *testing.T) {
	st := newSite(t, func(o *Options) { o.Service = bulky{} })
	reader := st.reader()
	ask := func(conn *grpc.ClientConn) grpc.ClientStream {
		stream, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, controlpb.LeadershipRegistryService_ListSessions_FullMethodName,
			grpc.MaxCallRecvMsgSize(access.MaxUnread))
		if err == nil {
			err = stream.SendMsg(&controlpb.ListSessionsRequest{})
		}
		if err == nil {
			err = stream.CloseSend()
		}
		if err == nil {
			_, err = stream.Header() // it is answered, and the answer not read
		}
		if err != nil {
			t.Fatal(err)
		}
		return stream
	}
	lazy := st.dial(reader)
	first := ask(lazy)
	ask(lazy)
	if err := ask(lazy).RecvMsg(&controlpb.ListSessionsResponse{}); status.Code(err) != codes.ResourceExhausted {
		t.Fatalf("%v, want RESOURCE_EXHAUSTED", err)
	}
	if err := ask(st.dial(st.pair(st.authority.IssueClient(transport.RoleOperate)))).RecvMsg(&controlpb.ListSessionsResponse{}); err != nil {
		t.Errorf("another caller: %v", err)
	}
	if err := first.RecvMsg(&controlpb.ListSessionsResponse{}); err != nil {
		t.Fatal(err)
	}
	third := ask(lazy)
	if err := third.RecvMsg(&controlpb.ListSessionsResponse{}); err != nil {
		t.Errorf("after one was read: %v", err)
	}
	ask(lazy)
	_ = lazy.Close()
	for deadline := time.Now().Add(10 * time.Second); ; runtime.GC() {
		err := ask(st.dial(reader)).RecvMsg(&controlpb.ListSessionsResponse{})
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("after the connection has ended: %v", err)
		}
	}
}
