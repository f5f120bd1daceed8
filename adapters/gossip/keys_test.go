package gossip

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/omnirelay/leadership/core"
)

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestKeyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	first := must[string](t)(CreateKeyFile(path))
	if _, err := CreateKeyFile(path); err == nil || !strings.Contains(err.Error(), "is there already") {
		t.Errorf("a second file: %v", err)
	}
	if info := must[os.FileInfo](t)(os.Stat(path)); info.Mode().Perm() != keyMode {
		t.Errorf("mode %v", info.Mode())
	}
	second := must[string](t)(AddKeyTo(path, ""))
	secret := must[string](t)(KeySecret(path, second))
	if again := must[string](t)(AddKeyTo(path, secret)); again != second {
		t.Errorf("added again as %s, was %s", again, second)
	}
	if err := RemoveKey(path, first); err == nil || !strings.Contains(err.Error(), "promote another one first") {
		t.Errorf("the key in use goes: %v", err)
	}
	if err := PromoteKey(path, second); err != nil {
		t.Fatal(err)
	}
	if keys := must[[]KeyInfo](t)(ListKeys(path)); len(keys) != 2 || keys[0] != (KeyInfo{second, true, 32}) || keys[1] != (KeyInfo{first, false, 32}) {
		t.Errorf("%+v", keys)
	}
	if err := RemoveKey(path, first); err != nil {
		t.Fatal(err)
	}
	if err := PromoteKey(path, first); err == nil || !strings.Contains(err.Error(), "the file holds "+second) {
		t.Errorf("a key that is gone: %v", err)
	}
	for range MaxKeys - 1 {
		must[string](t)(AddKeyTo(path, ""))
	}
	if _, err := AddKeyTo(path, ""); err == nil {
		t.Error("one key too many")
	}
	if _, err := AddKeyTo(path, "not a key"); err == nil || strings.Contains(err.Error(), "not a key") {
		t.Errorf("a wrong key is %v", err)
	}
	if leftover, err := filepath.Glob(path + ".*"); len(leftover) != 0 || err != nil {
		t.Errorf("left behind: %v", leftover)
	}
}

func TestKeyFilesThatAreRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	good := must[string](t)(CreateKeyFile(path))
	key := must[string](t)(KeySecret(path, good))
	for name, text := range map[string]string{
		"nothing":   "# only words\n",
		"text":      "secret\n",
		"odd bytes": "AAAA\n",
		"twice":     key + "\n" + key + "\n",
		"too long":  strings.Repeat("#\n", maxKeyFile),
	} {
		if _, err := ParseKeys([]byte(text)); err == nil || strings.Contains(err.Error(), key) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := ListKeys(path); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("readable for others: %v", err)
	}
}

// write puts new content in the place of a file, as the tool does.
func write(t testing.TB, path, from string) {
	t.Helper()
	data := must[[]byte](t)(os.ReadFile(from))
	if err := os.WriteFile(path+".tmp", data, keyMode); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		t.Fatal(err)
	}
}

// The keys of a mesh are replaced while it lives: added everywhere, promoted everywhere,
// the old ones removed everywhere, one node after the other. No member is ever suspect,
// and what is claimed goes on arriving.
func TestKeysAreRotatedWithoutLosingAMember(t *testing.T) {
	m := newMesh(t)
	files := map[string]string{}
	var members []*member
	for _, id := range []string{"a", "b", "c"} {
		o := m.options(id)
		o.KeyFile = filepath.Join(t.TempDir(), "keys")
		write(t, o.KeyFile, m.keyFile)
		files[id] = o.KeyFile
		if len(members) > 0 {
			o.Seeds = []string{members[0].Address()}
		}
		x := m.start(o)
		x.mu.Lock()
		x.claims, x.lease = someClaims(3), 2*time.Second
		x.mu.Unlock()
		members = append(members, x)
	}
	for _, x := range members {
		for id := range files {
			x.sees(id, StatusAlive)
		}
	}
	old := must[[]KeyInfo](t)(ListKeys(m.keyFile))[0].ID
	fresh := must[string](t)(AddKeyTo(m.keyFile, ""))
	secret := must[string](t)(KeySecret(m.keyFile, fresh))
	reloads := uint64(0)
	for _, step := range []func(path string) error{
		func(path string) error { _, err := AddKeyTo(path, secret); return err },
		func(path string) error { return PromoteKey(path, fresh) },
		func(path string) error { return RemoveKey(path, old) },
	} {
		reloads++
		for _, x := range members {
			if err := step(files[x.options.Name]); err != nil {
				t.Fatal(err)
			}
			until(t, "the file is read again", func() bool { return x.Stats().KeyReloads == reloads })
			// Between two nodes everything goes on: each hears the others anew.
			heard := make([]uint64, len(members))
			for i, y := range members {
				heard[i] = y.Stats().WordsHeard
			}
			for i, y := range members {
				until(t, "words arrive", func() bool { return y.Stats().WordsHeard > heard[i]+2 })
			}
		}
	}
	for _, x := range members {
		s := x.Stats()
		if s.Refused[refusedKey] != 0 || s.Keys != 1 {
			t.Errorf("%s: %d packets with a wrong key, %d keys", x.options.Name, s.Refused[refusedKey], s.Keys)
		}
		for id := range files {
			for _, h := range x.healths(id) {
				if h != core.HealthAlive {
					t.Errorf("%s was told that %s is %v", x.options.Name, id, h)
				}
			}
		}
	}
}

func TestBadKeyFileLeavesTheOldKeysInForce(t *testing.T) {
	m := newMesh(t)
	a := m.start(m.options("a"))
	if err := os.WriteFile(m.keyFile, []byte("damaged"), keyMode); err != nil {
		t.Fatal(err)
	}
	until(t, "it is noticed", func() bool { return a.Stats().KeyReloadsFailed == 1 })
	if s := a.Stats(); s.Keys != 1 || s.KeyReloads != 0 {
		t.Errorf("%+v", s)
	}
	if err := os.Remove(m.keyFile); err != nil {
		t.Fatal(err)
	}
	until(t, "it is noticed", func() bool { return a.Stats().KeyReloadsFailed == 2 })
	must[string](t)(CreateKeyFile(m.keyFile))
	until(t, "it is read again", func() bool { return a.Stats().KeyReloads == 1 })
}

// memberlist goes through the keys while they change.
func TestKeyringChangesUnderItsReaders(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	must[string](t)(CreateKeyFile(path))
	for range 4 {
		must[string](t)(AddKeyTo(path, ""))
	}
	k := must[*keyring](t)(openKeyring(path, newMesh(t).logger(), &counters{}))
	all := must[[][]byte](t)(readKeys(path))
	done := make(chan struct{})
	stop := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			for _, key := range k.ring.GetKeys() {
				if len(key) != keyBytes {
					t.Error("a key is damaged")
				}
			}
		}
	}()
	for i := range 500 {
		want := [][]byte{all[i%len(all)], all[(i+2)%len(all)], all[(i+3)%len(all)]}[:1+i%3]
		if err := k.install(want); err != nil {
			t.Fatal(err)
		}
		if !same(k.ring.GetKeys(), want) {
			t.Fatalf("step %d: the ring has other keys", i)
		}
	}
	close(stop)
	<-done
}
