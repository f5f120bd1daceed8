package fuzz_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/omnirelay/leadership/adapters/fence"
	"github.com/omnirelay/leadership/core"
)

// keptMarks are a resource's marks in memory.
type keptMarks map[string]uint64

func (m keptMarks) Load(context.Context) (map[string]uint64, error) { return m, nil }

func (m keptMarks) Save(context.Context, map[string]uint64) error { return nil }

// resource is one guarded by fence, with the mark 7 on scope a.
func resource(t testing.TB, verifier fence.Verifier) *fence.Guard {
	t.Helper()
	g, err := fence.New(context.Background(), fence.Options{Marks: keptMarks{"a": 7}, Verifier: verifier})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// answer is what a caller is told, in the words of either protocol.
type answer struct {
	admitted        fence.Authority
	reason, message string
}

// A resource answers the same over HTTP and gRPC to the same headers, and admits
// nothing below the mark.
func FuzzAuthorityHeaders(f *testing.F) {
	f.Add("a", "7", "1", "m", "", uint8(0), false)
	f.Add("a", "6", "1", "m", "", uint8(0), false)
	f.Add("b", "9007199254740991", "", "", "", uint8(0), false)
	f.Add("b", "9007199254740992", "", "", "", uint8(0), false)
	f.Add("a", "07", "0", "m n", "t", uint8(0), false)
	f.Add("a", "-7", "+1", "", "", uint8(2), false)
	f.Add("", "", "", "", "a 9 2 m", uint8(0), true)
	f.Add("a", "10", "", "", "a 9 2 m", uint8(0), true)
	f.Add("", "", "", "", strings.Repeat("t", 5000), uint8(0), true)
	f.Fuzz(func(t *testing.T, scope, number, term, leader, token string, twice uint8, verified bool) {
		var verifier fence.Verifier
		if verified {
			verifier = fence.VerifierFunc(signedInClear)
		}
		headers := map[string][]string{}
		size := 0
		for i, h := range [][2]string{{fence.ScopeHeader, scope}, {fence.FenceHeader, number}, {fence.TermHeader, term}, {fence.LeaderHeader, leader}, {fence.TokenHeader, token}} {
			if h[1] != "" {
				headers[h[0]] = []string{h[1]}
			}
			if int(twice) == i+1 {
				headers[h[0]] = append(headers[h[0]], h[1])
			}
			size += len(h[1])
		}
		var byHTTP, byGRPC answer
		frugal(t, size, func() { byHTTP = overHTTP(t, resource(t, verifier), headers) })
		frugal(t, size, func() { byGRPC = overGRPC(t, resource(t, verifier), headers) })
		if byHTTP != byGRPC {
			t.Fatalf("HTTP %+v\ngRPC %+v", byHTTP, byGRPC)
		}
		a := byHTTP.admitted
		if byHTTP.reason != "" {
			if a != (fence.Authority{}) {
				t.Fatalf("refused and admitted: %+v", byHTTP)
			}
			wantLine(t, byHTTP.message)
			return
		}
		if core.ParseScopeID(a.Scope) != nil || a.Fence == 0 || a.Fence > fence.MaxFence || a.Scope == "a" && a.Fence < 7 {
			t.Fatalf("admitted: %+v", a)
		}
	})
}

// signedInClear takes "scope fence term leader" for a signed token.
func signedInClear(_ context.Context, token string) (c fence.Claims, err error) {
	if _, err := fmt.Sscanf(token, "%s %d %d %s", &c.Scope, &c.Fence, &c.Term, &c.Leader); err != nil {
		return fence.Claims{}, errors.New("not signed")
	}
	return c, nil
}

func overHTTP(t *testing.T, g *fence.Guard, headers map[string][]string) (got answer) {
	t.Helper()
	request := httptest.NewRequest(http.MethodPost, "/", nil)
	for name, values := range headers {
		request.Header[http.CanonicalHeaderKey(name)] = values
	}
	response := httptest.NewRecorder()
	g.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got.admitted, _ = fence.From(r.Context()) }), nil).ServeHTTP(response, request)
	if response.Code == http.StatusOK {
		return got
	}
	var p fence.Problem
	if err := json.Unmarshal(response.Body.Bytes(), &p); err != nil || p.Status != response.Code || p.Title == "" {
		t.Fatalf("%d with %s: %v", response.Code, response.Body, err)
	}
	got.reason, got.message = p.Code, p.Detail
	if response.Code >= http.StatusInternalServerError {
		t.Fatalf("%d: %s", response.Code, p.Detail)
	}
	return got
}

func overGRPC(t *testing.T, g *fence.Guard, headers map[string][]string) (got answer) {
	t.Helper()
	ctx := metadata.NewIncomingContext(context.Background(), metadata.MD(headers))
	handle := func(ctx context.Context, _ any) (any, error) {
		got.admitted, _ = fence.From(ctx)
		return nil, nil
	}
	_, err := g.UnaryServerInterceptor(fence.Rules{})(ctx, nil, &grpc.UnaryServerInfo{FullMethod: "/a/b"}, handle)
	if err == nil {
		return got
	}
	st := status.Convert(err)
	got.message = st.Message()
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			got.reason = info.Reason
		}
	}
	return got
}
