package fuzz_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/omnirelay/leadership/adapters/signing"
	"github.com/omnirelay/leadership/core"
)

// A leadership token that passes was signed, says nothing beyond the limits, and is
// the only one that says it so: no byte of it can be changed.
func FuzzLeadershipToken(f *testing.F) {
	k := newKey(f)
	keys, err := signing.ParseKeys(k.public)
	if err != nil {
		f.Fatal(err)
	}
	const now = 1_800_000_000
	verifier, err := signing.NewVerifier(signing.VerifierOptions{Cluster: "demo", Keys: keys, Now: func() time.Time { return time.Unix(now, 0) }})
	if err != nil {
		f.Fatal(err)
	}
	header := `{"alg":"EdDSA","typ":"leadership+jwt","kid":"` + k.id + `"}`
	claims := fmt.Sprintf(`{"iss":"demo","sub":"m","iat":%d,"exp":%d,"scope":"a","scopeKind":"custom","term":1,"fence":9,"session":1}`, now, now+3600)
	if _, err := verifier.Verify(context.Background(), k.sign(header, claims)); err != nil {
		f.Fatalf("the first seed is refused: %v", err)
	}
	f.Add(true, header, claims, uint16(3), byte(0))
	f.Add(true, header, claims, uint16(40), byte(1))
	f.Add(true, strings.Replace(header, "EdDSA", "none", 1), claims, uint16(0), byte(0))
	f.Add(true, header, strings.Replace(claims, `"fence":9`, `"fence":9,"fence":10`, 1), uint16(0), byte(0))
	long := strings.Repeat("\xff\\u202e", 300)
	f.Add(true, strings.Replace(header, "EdDSA", long, 1), claims, uint16(0), byte(0))
	f.Add(true, `{"`+long+`":1,"`+long+`":1}`, claims, uint16(0), byte(0))
	f.Add(true, header, `{"`+long+`":1,"`+long+`":1}`, uint16(0), byte(0))
	f.Add(false, k.sign(header, claims), "", uint16(0), byte(0))
	f.Fuzz(func(t *testing.T, signed bool, header, payload string, at uint16, mask byte) {
		token := header
		if signed {
			token = k.sign(header, payload)
		}
		whole := token
		if mask != 0 && token != "" {
			b := []byte(token)
			b[int(at)%len(b)] ^= mask
			token = string(b)
		}
		var c signing.Claims
		var err error
		frugal(t, len(token), func() { c, err = verifier.Verify(context.Background(), token) })
		if err != nil {
			var refused *signing.TokenError
			if !errors.As(err, &refused) || refused.Reason == "" {
				t.Fatalf("a %T without a reason: %v", err, err)
			}
			wantLine(t, err.Error())
			return
		}
		if token != whole && signed {
			t.Fatalf("altered and accepted: %s", token)
		}
		if !strings.Contains(header, "EdDSA") && signed {
			t.Fatalf("accepted with the header %s", header)
		}
		if c.Cluster != "demo" || core.ParseScopeID(c.Scope) != nil || c.Fence == 0 || c.Fence >= 1<<53 || c.Term == 0 || c.Session == 0 ||
			c.Expires.Unix() <= now-30 || c.IssuedAt.Unix() > now+30 || c.Expires.Sub(c.IssuedAt) > signing.MaxLife {
			t.Fatalf("accepted: %+v", c)
		}
	})
}
