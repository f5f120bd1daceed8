package rpc

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/omnirelay/leadership/adapters/access"
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
