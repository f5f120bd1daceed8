package fence_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"github.com/omnirelay/leadership/adapters/fence"
	"github.com/omnirelay/leadership/adapters/signing"
)

// verifierOf checks tokens by the keys that the registry publishes.
func verifierOf(v *signing.Verifier) fence.Verifier {
	return fence.VerifierFunc(func(ctx context.Context, token string) (fence.Claims, error) {
		c, err := v.Verify(ctx, token)
		var refused *signing.TokenError
		if errors.As(err, &refused) && refused.Reason == signing.NoKeys {
			return fence.Claims{}, &fence.NotReadyError{Reason: "the registry's keys cannot be had", RetryAfter: time.Second, Why: err}
		}
		return fence.Claims{Scope: c.Scope, Fence: c.Fence, Term: c.Term, Leader: c.Leader}, err
	})
}

// With the registry's real tokens: a liar raises no mark, whatever it says.
func TestSignedTokens(t *testing.T) {
	signer := newSigner(t, "one")
	keys, err := signing.ParseKeys(signer.PublicJSON())
	ok(t, err)
	v, err := signing.NewVerifier(signing.VerifierOptions{Cluster: "one", Keys: keys})
	ok(t, err)
	guard, err := fence.New(t.Context(), fence.Options{
		Seeder:   func(context.Context) (fence.Leaders, error) { return fence.Leaders{Last: 1}, nil },
		Verifier: verifierOf(v),
	})
	ok(t, err)
	ok(t, guard.Seed(t.Context()))
	server := httptest.NewServer(guard.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), nil))
	defer server.Close()
	client := &http.Client{Transport: fence.Transport(http.DefaultTransport)}
	defer client.CloseIdleConnections()
	call := func(a fence.Authority) int {
		r, err := http.NewRequestWithContext(fence.With(t.Context(), a), http.MethodPost, server.URL, nil)
		ok(t, err)
		response, err := client.Do(r)
		ok(t, err)
		response.Body.Close()
		return response.StatusCode
	}
	sign := func(s *signing.Signer, n uint64) string {
		token, err := s.Sign(signing.Claims{Leader: "m1", Scope: "s", ScopeKind: "custom", Term: 1, Fence: n, Session: 1})
		ok(t, err)
		return token
	}
	good := sign(signer, 5)
	for name, c := range map[string]struct {
		a    fence.Authority
		want int
	}{
		"no token":             {fence.Authority{Scope: "s", Fence: fence.MaxFence}, http.StatusPreconditionRequired},
		"another's keys":       {fence.Authority{Scope: "s", Fence: fence.MaxFence, Token: sign(newSigner(t, "one"), fence.MaxFence)}, http.StatusUnauthorized},
		"altered":              {fence.Authority{Scope: "s", Fence: 5, Token: good[:len(good)-2] + "AA"}, http.StatusUnauthorized},
		"a huge fence beside":  {fence.Authority{Scope: "s", Fence: fence.MaxFence, Token: good}, http.StatusUnauthorized},
		"another scope beside": {fence.Authority{Scope: "t", Fence: 5, Token: good}, http.StatusUnauthorized},
	} {
		if got := call(c.a); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
	if mark := guard.Mark("s"); mark != 2 {
		t.Fatalf("a refused call raised the mark to %d", mark)
	}
	for _, step := range []struct {
		token string
		want  int
	}{{good, http.StatusOK}, {sign(signer, 6), http.StatusOK}, {good, http.StatusConflict}} {
		if got := call(fence.Authority{Scope: "s", Fence: 1, Token: step.token}); got != http.StatusUnauthorized {
			t.Errorf("with another fence beside: %d", got)
		}
		a := fence.Authority{Scope: "s", Fence: 5, Token: step.token}
		if step.token != good {
			a.Fence = 6
		}
		if got := call(a); got != step.want {
			t.Errorf("fence %d: %d, want %d", a.Fence, got, step.want)
		}
	}
}

func newSigner(t *testing.T, cluster string) *signing.Signer {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keys")
	set, err := signing.NewKeySet(time.Now())
	ok(t, err)
	ok(t, signing.CreateKeyFile(path, set))
	s, err := signing.OpenSigner(signing.SignerOptions{File: path, Cluster: cluster})
	ok(t, err)
	return s
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
