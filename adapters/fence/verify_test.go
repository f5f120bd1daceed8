package fence

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
)

// sealed is a verifier of tokens that a test makes: their text is what they claim.
func sealed(_ context.Context, token string) (Claims, error) {
	if token == "unreachable" {
		return Claims{}, &NotReadyError{Reason: "no keys yet", RetryAfter: 3 * time.Second}
	}
	c := Claims{Term: 3}
	if n, err := fmt.Sscanf(token, "sealed %s %d %s", &c.Scope, &c.Fence, &c.Leader); n != 3 || err != nil {
		return Claims{}, errors.New("the signature is not the registry's")
	}
	return c, nil
}

// With a verifier the token is all that counts, and nothing else raises a mark.
func TestVerifiedCalls(t *testing.T) {
	g := newGuard(t, Options{Verifier: VerifierFunc(sealed)})
	client := serve(t, g, Rules{}, &resource{unary: func(ctx context.Context, _ *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
		a, _ := From(ctx)
		return &testpb.SimpleResponse{Username: fmt.Sprintf("%s %d %d %s", a.Scope, a.Fence, a.Term, a.Leader)}, nil
	}})
	call := func(pairs ...string) (string, error) {
		r, err := client.UnaryCall(metadata.AppendToOutgoingContext(t.Context(), pairs...), &testpb.SimpleRequest{})
		return r.GetUsername(), err
	}
	for _, pairs := range [][]string{
		{TokenHeader, "sealed s 5 m1"},
		{TokenHeader, "sealed s 5 m1", ScopeHeader, "s", FenceHeader, "5", TermHeader, "3", LeaderHeader, "m1"},
	} {
		if who, err := call(pairs...); who != "s 5 3 m1" || err != nil {
			t.Errorf("%v: %q, %v", pairs, who, err)
		}
	}
	for _, pairs := range [][]string{
		{TokenHeader, "forged s 9007199254740991 m1"},
		{TokenHeader, "sealed s 9007199254740992 m1"}, // the registry would not
		{TokenHeader, "sealed s 0 m1"},
		{TokenHeader, "sealed s 5 m1", FenceHeader, "9007199254740991"},
		{TokenHeader, "sealed s 5 m1", ScopeHeader, "other"},
		{TokenHeader, "sealed s 5 m1", TermHeader, "4"},
		{TokenHeader, "sealed s 5 m1", LeaderHeader, "m2"},
	} {
		_, err := call(pairs...)
		wantReason(t, err, codes.Unauthenticated, "token-invalid")
	}
	_, err := call(ScopeHeader, "s", FenceHeader, "9007199254740991")
	wantReason(t, err, codes.FailedPrecondition, "authority-missing")
	_, err = call(TokenHeader, "unreachable")
	wantReason(t, err, codes.Unavailable, "guard-not-ready")
	if g.Mark("s") != 5 || g.Mark("other") != 0 {
		t.Errorf("a refused call raised a mark: %d, %d", g.Mark("s"), g.Mark("other"))
	}
	_, err = call(TokenHeader, "sealed s 6 m2")
	ok(t, err)
	_, err = call(TokenHeader, "sealed s 5 m1") // signed, and overtaken
	wantReason(t, err, codes.FailedPrecondition, "stale-token")
}

func TestVerifiedRequests(t *testing.T) {
	g := newGuard(t, Options{Verifier: VerifierFunc(sealed)})
	url, client := serveHTTP(t, g, "HTTP/1.1", nil, func(http.ResponseWriter, *http.Request) {})
	for token, want := range map[string]struct {
		status int
		code   string
	}{"forged": {401, "token-invalid"}, "": {428, "authority-missing"}, "unreachable": {503, "guard-not-ready"}} {
		r, err := post(With(t.Context(), Authority{Scope: "s", Fence: 5, Token: token}), client, url, nil)
		if p := problem(t, r, err); r.StatusCode != want.status || p["code"] != want.code {
			t.Errorf("%q: %s %v", token, r.Status, p)
		}
		if want.status == http.StatusUnauthorized && r.Header.Get("WWW-Authenticate") == "" {
			t.Error("a 401 that names no scheme")
		}
	}
	r, err := post(With(t.Context(), Authority{Scope: "s", Fence: 5, Token: "sealed s 5 m1"}), client, url, nil)
	ok(t, err)
	r.Body.Close()
	if r.StatusCode != http.StatusOK {
		t.Errorf("%s", r.Status)
	}
}

// Without a verifier a token is not looked at, and not passed on as if it had been.
func TestUnverifiedTokenIsDropped(t *testing.T) {
	g := newGuard(t, Options{})
	a, err := g.authenticate(t.Context(), func(h string) []string {
		return map[string][]string{ScopeHeader: {"s"}, FenceHeader: {"5"}, TokenHeader: {"x"}}[h]
	})
	if err != nil || a != (Authority{Scope: "s", Fence: 5}) {
		t.Errorf("%+v, %v", a, err)
	}
	refuses := func(header string) {
		t.Helper()
		_, err := g.authenticate(t.Context(), func(h string) []string {
			return map[string][]string{ScopeHeader: {"s"}, FenceHeader: {"5"}, header: nil}[h]
		})
		var e *MissingError
		if !errors.As(err, &e) || e.Header != header {
			t.Errorf("%v", err)
		}
	}
	refuses(ScopeHeader)
	refuses(FenceHeader)
}
