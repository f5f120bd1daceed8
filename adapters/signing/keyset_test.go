package signing

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// rotate is what omnirelay keys rotate does: the next key signs, and there is a new
// next one.
func rotate(now time.Time, published, keep time.Duration) func(*KeySet) error {
	return func(s *KeySet) error {
		if err := s.Promote(s.Next(), now, published); err != nil {
			return err
		}
		s.DropRetired(now.Add(-keep))
		_, err := s.Add(now)
		return err
	}
}

func wantError(t testing.TB, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want an error with %q", err, want)
	}
}

func TestARotationGoesStepByStep(t *testing.T) {
	c := newClock()
	s, err := NewKeySet(c.now())
	if err != nil {
		t.Fatal(err)
	}
	first, next := s.keys[0].ID, s.keys[1].ID
	if s.Next() != next {
		t.Errorf("next is %s, want %s", s.Next(), next)
	}
	wantError(t, s.Promote(next, c.now(), time.Minute), "has been published for 0s, want 1m0s")
	wantError(t, s.Promote(first, c.now(), 0), "signs already")
	wantError(t, s.Promote("nobody", c.now(), 0), "no key nobody")
	wantError(t, s.Drop(first), "promote another one first")
	wantError(t, s.Drop("nobody"), "no key nobody")

	c.advance(time.Minute)
	if err := s.Promote(next, c.now(), time.Minute); err != nil {
		t.Fatal(err)
	}
	if s.keys[0].ID != next || !s.keys[1].Retired.Equal(c.now()) || s.Next() != "" {
		t.Errorf("after the promotion: %+v", s.Keys())
	}
	wantError(t, s.Promote(first, c.now(), 0), "has signed before")
	if dropped := s.DropRetired(c.now().Add(-time.Second)); dropped != nil {
		t.Errorf("dropped %v, which may still be in use", dropped)
	}
	if dropped := s.DropRetired(c.now()); len(dropped) != 1 || dropped[0] != first {
		t.Errorf("dropped %v, want %s", dropped, first)
	}
	for len(s.keys) < MaxKeys {
		if _, err := s.Add(c.now()); err != nil {
			t.Fatal(err)
		}
	}
	_, err = s.Add(c.now())
	wantError(t, err, "holds 16 keys already")
}

func TestAKeySetSurvivesItsEncoding(t *testing.T) {
	s := newSite(t)
	set, err := ReadKeyFile(s.file)
	s.must(err)
	s.must(set.Promote(set.Next(), s.clock.now(), 0))
	data, err := set.JSON()
	s.must(err)
	again, err := ParseKeySet(data)
	s.must(err)
	for i, k := range set.keys {
		g := again.keys[i]
		if g.ID != k.ID || !g.Created.Equal(k.Created) || !g.Retired.Equal(k.Retired) || !g.private.Equal(k.private) {
			t.Errorf("key %d: %+v, want %+v", i, g, k)
		}
	}
}

func TestBrokenKeySetsAreRefused(t *testing.T) {
	s := newSite(t)
	text, err := os.ReadFile(s.file)
	s.must(err)
	good := string(text)
	entry := func() string {
		set, err := ReadKeyFile(s.file)
		s.must(err)
		s.must(set.Drop(set.Next()))
		one, err := set.JSON()
		s.must(err)
		_, rest, _ := strings.Cut(string(one), "[")
		return strings.TrimSuffix(strings.TrimSpace(rest), "]\n}")
	}()
	for want, text := range map[string]string{
		"not a JWK Set":       "keys",
		"keys: none":          `{"keys":[]}`,
		"keys: 17; at most":   `{"keys":[` + strings.Repeat("{},", MaxKeys) + `{}]}`,
		"a key set has":       strings.Repeat(" ", MaxKeySetBytes+1),
		"keys[0].kty":         strings.Replace(good, `"OKP"`, `"EC"`, 1),
		"keys[0].d: want":     strings.Replace(good, `"d": "`, `"d": "A`, 1),
		"keys[0].x: not":      strings.Replace(good, `"x": "`, `"x": "A`, 1),
		"keys[0].kid: want":   strings.Replace(good, `"kid": "`, `"kid": "A`, 1),
		"keys[0].use":         strings.Replace(good, `"sig"`, `"enc"`, 1),
		"keys[0].alg":         strings.Replace(good, `"EdDSA"`, `"ES256"`, 1),
		"keys[0].iat":         strings.Replace(good, `"iat": 1`, `"iat": -1`, 1),
		"duplicate key 'd'":   strings.Replace(good, `"d":`, `"d":"","d":`, 1),
		"keys[1].x: the same": `{"keys":[` + entry + `,` + entry + `]}`,
		"keys[0].retired":     strings.Replace(good, `"iat":`, `"retired": 1800000000, "iat":`, 1),
	} {
		_, err := ParseKeySet([]byte(text))
		wantError(t, err, want)
		if seed := strings.Split(good, `"d": "`)[1][:43]; err != nil && strings.Contains(err.Error(), seed) {
			t.Errorf("the error tells the private key: %v", err)
		}
	}
	// A set made by another tool, with nothing that only ours writes.
	bare := `{"keys":[{"kty":"OKP","crv":"Ed25519","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`
	set, err := ParseKeySet([]byte(bare))
	s.must(err)
	if set.keys[0].ID != "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k" { // RFC 8037, appendix A.3
		t.Errorf("the key of RFC 8037 is named %s", set.keys[0].ID)
	}
}

func TestAKeyFileIsItsOwnersAlone(t *testing.T) {
	s := newSite(t)
	info, err := os.Stat(s.file)
	s.must(err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("made with mode %04o", info.Mode().Perm())
	}
	for _, mode := range []os.FileMode{0o640, 0o604, 0o620, 0o602, 0o700} {
		s.must(os.Chmod(s.file, mode))
		_, err := OpenSigner(SignerOptions{File: s.file, Cluster: "demo"})
		wantError(t, err, "want 0600: chmod 600 "+s.file)
		wantError(t, ChangeKeyFile(s.file, func(*KeySet) error { return nil }), "want 0600")
	}
	s.must(os.Chmod(s.file, 0o400))
	_, err = OpenSigner(SignerOptions{File: s.file, Cluster: "demo"})
	s.must(err)
}

func TestAChangeIsWholeOrNotAtAll(t *testing.T) {
	s := newSite(t)
	before, err := os.ReadFile(s.file)
	s.must(err)
	set, err := NewKeySet(s.clock.now())
	s.must(err)
	wantError(t, CreateKeyFile(s.file, set), "is there already")
	wantError(t, ChangeKeyFile(s.file, func(k *KeySet) error {
		_, _ = k.Add(s.clock.now())
		return errors.New("changed my mind")
	}), "changed my mind")
	wantError(t, ChangeKeyFile(s.file, func(*KeySet) error {
		// Another change meanwhile.
		wantError(t, ChangeKeyFile(s.file, func(*KeySet) error { return nil }), "another change is under way")
		return errors.New("enough")
	}), "enough")
	after, err := os.ReadFile(s.file)
	s.must(err)
	if string(after) != string(before) {
		t.Error("a change that failed is in the file")
	}
	left, err := filepath.Glob(filepath.Join(filepath.Dir(s.file), "*"))
	s.must(err)
	if len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}

	link := filepath.Join(t.TempDir(), "link.json")
	s.must(os.Symlink(s.file, link))
	s.must(ChangeKeyFile(link, func(k *KeySet) error { _, err := k.Add(s.clock.now()); return err }))
	changed, err := ReadKeyFile(s.file)
	s.must(err)
	if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 || len(changed.keys) != 3 {
		t.Errorf("through a link: %v, %d keys", err, len(changed.keys))
	}
}

func TestABrokenFileLeavesTheOldKeysInForce(t *testing.T) {
	s := newSite(t)
	v := s.verifier()
	good, err := os.ReadFile(s.file)
	s.must(err)
	for name, spoil := range map[string]func() error{
		"half a file": func() error { return os.WriteFile(s.file, good[:len(good)/2], 0o600) },
		"too open":    func() error { return errors.Join(os.WriteFile(s.file, good, 0o600), os.Chmod(s.file, 0o644)) },
		"gone":        func() error { return os.Remove(s.file) },
	} {
		s.must(spoil())
		s.clock.advance(lookEvery)
		if _, err := v.Verify(context.Background(), s.sign(lead())); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	fresh, err := NewKeySet(s.clock.now())
	s.must(err)
	_ = os.Remove(s.file)
	s.must(CreateKeyFile(s.file, fresh))
	s.clock.advance(lookEvery)
	_, err = v.Verify(context.Background(), s.sign(lead()))
	wantReason(t, err, UnknownKey)
}

// The same size in the same tick of the file system's clock: only the order of two
// keys changed, in place.
func TestAChangeInPlaceIsNoticed(t *testing.T) {
	s := newSite(t)
	set, err := ReadKeyFile(s.file)
	s.must(err)
	set.keys[0], set.keys[1] = set.keys[1], set.keys[0]
	data, err := set.JSON()
	s.must(err)
	info, err := os.Stat(s.file)
	s.must(err)
	s.clock.mu.Lock()
	s.clock.at = info.ModTime() // as if read when it was written
	s.clock.mu.Unlock()
	s.signer, err = OpenSigner(SignerOptions{File: s.file, Cluster: "demo", Now: s.clock.now})
	s.must(err)
	s.must(os.WriteFile(s.file, data, 0o600))
	s.must(os.Chtimes(s.file, time.Time{}, info.ModTime()))
	s.clock.advance(lookEvery)
	if got := s.signer.Public().Keys[0].KeyID; got != set.keys[0].ID {
		t.Errorf("%s signs, want %s", got, set.keys[0].ID)
	}
}

// While keys are rotated by the book, no token is refused: not one just signed, nor
// one signed half a life ago. The resource learns the keys every 5 minutes only.
func TestRotationUnderLoadLosesNoToken(t *testing.T) {
	s := newSite(t)
	const signers = 4
	type signed struct {
		token string
		at    time.Time
	}
	var (
		mu      sync.Mutex
		kept    []signed
		keys    atomic.Pointer[PublicKeys]
		round   sync.WaitGroup
		checked int
	)
	learn := func() {
		k, err := ParseKeys(s.signer.PublicJSON())
		s.must(err)
		keys.Store(k)
	}
	work := func() {
		for range 4 {
			at := s.clock.now()
			token, err := s.signer.Sign(lead())
			if err != nil {
				t.Error(err)
				return
			}
			v, err := NewVerifier(VerifierOptions{Cluster: "demo", Keys: keys.Load(), Now: s.clock.now})
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := v.Verify(context.Background(), token); err != nil {
				t.Errorf("fresh: %v", err)
			}
			mu.Lock()
			kept = append(kept, signed{token, at})
			mu.Unlock()
		}
	}
	learn()
	seen := map[string]bool{}
	for minute := 0; minute < 200; minute += 5 { // a key lives 20 minutes as the next one, 20 as the signing one
		if minute%20 == 15 {
			s.must(ChangeKeyFile(s.file, rotate(s.clock.now(), 10*time.Minute, 2*time.Hour)))
		}
		round.Go(func() { s.clock.advance(5 * time.Minute) })
		for range signers {
			round.Go(work)
		}
		round.Wait()
		learn()
		v, err := NewVerifier(VerifierOptions{Cluster: "demo", Keys: keys.Load(), Now: s.clock.now})
		s.must(err)
		for len(kept) > 0 && s.clock.now().Sub(kept[0].at) > s.signer.Life() {
			kept = kept[1:]
		}
		for i := 0; i < len(kept); i += 29 {
			if s.clock.now().Sub(kept[i].at) > s.signer.Life() {
				continue // they were kept in the order of their signers' scheduling
			}
			if _, err := v.Verify(context.Background(), kept[i].token); err != nil {
				t.Fatalf("minute %d: a token of %v ago: %v", minute, s.clock.now().Sub(kept[i].at), err)
			}
			checked++
		}
		seen[s.signer.Public().Keys[0].KeyID] = true
	}
	if len(seen) < 8 || checked < 100 {
		t.Errorf("%d keys signed, %d old tokens checked", len(seen), checked)
	}
}
