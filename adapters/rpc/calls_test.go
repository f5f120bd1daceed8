package rpc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/omnirelay/leadership/adapters/access"
	"github.com/omnirelay/leadership/adapters/transport"
	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/wire/controlpb"
)

// answering is a service whose one operation does what a test wants.
type answering struct {
	service
	answer func(ctx context.Context) error
}

func (a *answering) Transfer(ctx context.Context, _ *controlpb.TransferRequest) (*controlpb.TransferResponse, error) {
	return &controlpb.TransferResponse{}, a.answer(ctx)
}

func (a *answering) Attach(stream grpc.BidiStreamingServer[controlpb.AttachRequest, controlpb.AttachResponse]) error {
	return a.answer(stream.Context())
}

func (st *site) transfer(ctx context.Context, certs ...tls.Certificate) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	_, err := controlpb.NewLeadershipRegistryServiceClient(st.dial(certs...)).Transfer(ctx, &controlpb.TransferRequest{})
	return err
}

// saying is a refusal as a program reads it.
type saying struct {
	code     codes.Code
	reason   string
	field    string
	retry    time.Duration
	metadata map[string]string
}

func read(err error) (s saying) {
	st := status.Convert(err)
	s.code = st.Code()
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			s.reason, s.metadata = d.Reason, d.Metadata
		case *errdetails.BadRequest:
			s.field = d.FieldViolations[0].Field
		case *errdetails.RetryInfo:
			s.retry = d.RetryDelay.AsDuration()
		}
	}
	return s
}

func TestErrorsBecomeStatuses(t *testing.T) {
	a := &answering{}
	hint := map[string]string{"node": "node-2", "grpc": "127.0.0.1:1", "http": "127.0.0.1:2"}
	st := newSite(t, func(o *Options) { o.Service, o.Hint = a, func() map[string]string { return maps.Clone(hint) } })
	for label, tc := range map[string]struct {
		err  error
		want saying
	}{
		"invalid":     {&core.Error{Code: core.CodeInvalid, Field: "scope", Message: "m"}, saying{code: codes.InvalidArgument, reason: "invalid", field: "scope"}},
		"ended":       {&core.Error{Code: core.CodeSessionEnded}, saying{code: codes.FailedPrecondition, reason: "session-ended"}},
		"wrapped":     {fmt.Errorf("x: %w", &core.Error{Code: core.CodeNotFound}), saying{code: codes.NotFound, reason: "not-found"}},
		"unavailable": {&core.Error{Code: core.CodeUnavailable}, saying{code: codes.Unavailable, reason: "unavailable", retry: time.Second, metadata: hint}},
		"halted":      {&core.Error{Code: core.CodeHalted}, saying{code: codes.Unavailable, reason: "halted", retry: time.Second, metadata: hint}},
		"overloaded":  {&core.Error{Code: core.CodeOverloaded}, saying{code: codes.ResourceExhausted, reason: "overloaded", retry: time.Second, metadata: hint}},
		"retiring":    {&core.Error{Code: core.CodeRetiring}, saying{code: codes.FailedPrecondition, reason: "retiring", retry: time.Second}},
		"denied": {&access.Denied{Want: "w", Have: "h"},
			saying{code: codes.PermissionDenied, reason: "denied", metadata: map[string]string{"want": "w", "have": "h"}}},
		"exceeded": {&access.Exceeded{What: "requests", Limit: 1, RetryAfter: 3 * time.Second},
			saying{code: codes.ResourceExhausted, reason: "overloaded", retry: 3 * time.Second}},
		"late":    {context.DeadlineExceeded, saying{code: codes.DeadlineExceeded}},
		"foreign": {errors.New("open /secret/path"), saying{code: codes.Internal, reason: "internal"}},
		"status":  {status.Error(codes.DataLoss, "m"), saying{code: codes.DataLoss}},
	} {
		t.Run(label, func(t *testing.T) {
			a.answer = func(context.Context) error { return tc.err }
			err := st.transfer(t.Context(), st.reader())
			if got := read(err); fmt.Sprint(got) != fmt.Sprint(tc.want) {
				t.Errorf("have %+v\nwant %+v", got, tc.want)
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("tells too much: %v", err)
			}
			stream, err := controlpb.NewLeadershipMemberServiceClient(st.dial(st.reader())).Attach(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			_, err = stream.Recv()
			if got := read(err); fmt.Sprint(got) != fmt.Sprint(tc.want) {
				t.Errorf("stream: have %+v\nwant %+v", got, tc.want)
			}
		})
	}
}

// Who is turned away is counted, by why; what is wrong with a request is not.
func TestRefusalsAreCounted(t *testing.T) {
	a := &answering{}
	st := newSite(t, func(o *Options) { o.Service = a })
	for _, err := range []error{&access.Denied{Unauthenticated: true}, &access.Denied{}, &access.Exceeded{}, fmt.Errorf("x: %w", &core.Error{Code: core.CodeOverloaded}),
		&core.Error{Code: core.CodeInvalid}, errors.New("other"), nil} {
		a.answer = func(context.Context) error { return err }
		_ = st.transfer(t.Context(), st.reader())
	}
	w := httptest.NewRecorder()
	st.metrics.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for _, reason := range []string{"unauthenticated", "forbidden", "rate", "busy"} {
		if line := `mesh_leadership_requests_refused_total{api="grpc",reason="` + reason + `"} 1`; !strings.Contains(w.Body.String(), line+"\n") {
			t.Errorf("no line %s", line)
		}
	}
}

func TestOnePanicEndsOneCall(t *testing.T) {
	a := &answering{answer: func(context.Context) error { panic("at the disco") }}
	st := newSite(t, func(o *Options) { o.Service = a })
	if err := st.transfer(t.Context(), st.reader()); status.Code(err) != codes.Internal || strings.Contains(err.Error(), "disco") {
		t.Errorf("got %v", err)
	}
	a.answer = func(context.Context) error { return nil }
	if err := st.transfer(t.Context(), st.reader()); err != nil {
		t.Errorf("the next call: %v", err)
	}
}

func TestWhoMayComeIn(t *testing.T) {
	var seen access.Caller
	a := &answering{answer: func(ctx context.Context) error { seen, _ = access.CallerFrom(ctx); return nil }}
	st := newSite(t, func(o *Options) { o.Service = a })
	other, err := transport.NewAuthority("other")
	if err != nil {
		t.Fatal(err)
	}
	for label, tc := range map[string]struct {
		certs  []tls.Certificate
		code   codes.Code
		reason string
	}{
		"nobody":             {nil, codes.Unauthenticated, "unauthenticated"},
		"node":               {[]tls.Certificate{st.pair(st.authority.IssueNode("node-2"))}, codes.PermissionDenied, "denied"},
		"of another cluster": {[]tls.Certificate{st.pair(other.IssueClient(transport.RoleRead))}, codes.Unauthenticated, "unauthenticated"},
		"reader":             {[]tls.Certificate{st.reader()}, codes.OK, ""},
		"member":             {[]tls.Certificate{st.pair(st.authority.IssueMember("m"))}, codes.OK, ""},
	} {
		t.Run(label, func(t *testing.T) {
			seen = access.Caller{}
			err := st.transfer(t.Context(), tc.certs...)
			if got := read(err); got.code != tc.code || got.reason != tc.reason {
				t.Errorf("transfer: %v", err)
			}
			if (seen.Name != "") != (tc.code == codes.OK) {
				t.Errorf("the operation was called by %+v", seen)
			}
			e := st.subscribe(&controlpb.LeadershipSubscribeRequest{}, append([]tls.Certificate{}, tc.certs...)...)
			_, err = e.stream.Recv()
			if got := read(err); got.code != tc.code || got.reason != tc.reason {
				t.Errorf("subscribe: %v", err)
			}
		})
	}
}

func TestAnonymousReadIsASetting(t *testing.T) {
	st := newSite(t, func(o *Options) { o.Gate = newGate(t, access.Options{Cluster: "demo", AnonymousRead: true}) })
	st.node.declare("a")
	st.subscribe(&controlpb.LeadershipSubscribeRequest{}, []tls.Certificate{}...).want("OBSERVED ")
}

func TestABadTokenIsRefusedAlsoWithACertificate(t *testing.T) {
	st := newSite(t, func(o *Options) { o.Service = &answering{answer: func(context.Context) error { return nil }} })
	for _, values := range [][]string{{"Bearer nonsense"}, {"Basic eA=="}, {"Bearer a", "Bearer b"}} {
		md := metadata.MD{"authorization": values}
		if err := st.transfer(metadata.NewOutgoingContext(t.Context(), md), st.reader()); status.Code(err) != codes.Unauthenticated {
			t.Errorf("%v: %v", values, err)
		}
	}
}

func TestWhatOneCallerTakesIsBounded(t *testing.T) {
	limiter, err := access.NewLimiter(access.Limits{RequestsPerSecond: 1, Burst: 3, StreamsPerCaller: 1, SessionsPerMember: 1})
	if err != nil {
		t.Fatal(err)
	}
	st := newSite(t, func(o *Options) { o.Gate.Limiter = limiter })
	member := st.pair(st.authority.IssueMember("m"))
	st.subscribe(&controlpb.LeadershipSubscribeRequest{}, member).want("OBSERVED ")
	_, err = st.subscribe(&controlpb.LeadershipSubscribeRequest{}, member).stream.Recv()
	if got := read(err); got.code != codes.ResourceExhausted || got.reason != "overloaded" {
		t.Errorf("a second stream: %v", err)
	}
	registry := controlpb.NewLeadershipRegistryServiceClient(st.dial(member))
	var last saying
	for i := 0; last.code != codes.ResourceExhausted && i < 100; i++ { // as long as a slow machine earns a new one
		_, err := registry.Transfer(t.Context(), &controlpb.TransferRequest{})
		last = read(err)
	}
	if last.code != codes.ResourceExhausted || last.retry <= 0 {
		t.Errorf("one request after the other: %+v", last)
	}
	// Others have not taken anything.
	if err := st.transfer(t.Context(), st.reader()); status.Code(err) != codes.Unimplemented {
		t.Errorf("another caller: %v", err)
	}
	// Probes ask for nobody and are counted all the same.
	probe := healthpb.NewHealthClient(st.dial())
	for i := 0; status.Code(err) != codes.ResourceExhausted || i == 0; i++ {
		if _, err = probe.Check(t.Context(), &healthpb.HealthCheckRequest{}); i == 100 {
			break
		}
	}
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("probes without end: %v", err)
	}
}

// An event stream ends with the credential that it rests on.
func TestSubscriptionEndsWithItsCredential(t *testing.T) {
	st := newSite(t)
	ctx := access.WithCaller(t.Context(), access.Caller{Name: "n", Role: access.RoleRead, Expires: time.Now().Add(50 * time.Millisecond)})
	out := &sink{ctx: ctx}
	err := st.server.Subscribe(&controlpb.LeadershipSubscribeRequest{}, out)
	var denied *access.Denied
	if !errors.As(err, &denied) || !denied.Unauthenticated {
		t.Errorf("ended with %v", err)
	}
}

// sink is a reader that takes everything.
type sink struct {
	grpc.ServerStreamingServer[controlpb.LeadershipEvent]
	ctx context.Context
}

func (s *sink) Context() context.Context              { return s.ctx }
func (s *sink) SendHeader(metadata.MD) error          { return nil }
func (s *sink) Send(*controlpb.LeadershipEvent) error { return nil }
