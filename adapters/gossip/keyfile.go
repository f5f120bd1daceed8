package gossip

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/memberlist"
)

// The keys lie in a text file that only its owner may read, one in base64 on each line;
// lines that begin with # are for people. The first key is used for sending, all of them
// for what arrives. The file is changed by writing FILE.new beside it and renaming that.

const (
	// MaxKeys is the most keys of a keyring: each may be tried on everything that arrives.
	MaxKeys = 8
	// maxKeyFile is the most bytes of a key file.
	maxKeyFile = 16 << 10
	keyBytes   = 32
	keyMode    = fs.FileMode(0o600)
)

// KeyInfo tells of a key without showing it.
type KeyInfo struct {
	ID      string // the first 8 hexadecimal digits of the SHA-256 of the key
	Primary bool   // it is used for sending
	Bytes   int    // 16, 24 or 32
}

// CreateKeyFile makes a file with one fresh key and returns its id. It refuses to
// replace a file.
func CreateKeyFile(path string) (id string, err error) {
	err = replaceKeys(path, func() ([][]byte, error) {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%s: is there already; add a key to it instead", path)
		}
		key, err := freshKey()
		id = keyID(key)
		return [][]byte{key}, err
	})
	return id, err
}

// AddKeyTo adds a key, which is not used for sending yet, and returns its id. secret is
// the key in base64, as KeySecret returns it; when it is empty a fresh key is made.
func AddKeyTo(path, secret string) (id string, err error) {
	err = changeKeys(path, func(keys [][]byte) ([][]byte, error) {
		key, err := freshKey()
		if secret != "" {
			key, err = parseKey(secret)
		}
		if err != nil {
			return nil, err
		}
		id = keyID(key)
		if slices.ContainsFunc(keys, func(k []byte) bool { return bytes.Equal(k, key) }) {
			return keys, nil // it was added before
		}
		return append(keys, key), nil
	})
	return id, err
}

// PromoteKey makes a key the one that is used for sending.
func PromoteKey(path, id string) error {
	return changeKeys(path, func(keys [][]byte) ([][]byte, error) {
		i, err := findKey(keys, id)
		if err != nil {
			return nil, err
		}
		return slices.Insert(slices.Delete(slices.Clone(keys), i, i+1), 0, keys[i]), nil
	})
}

// RemoveKey takes a key away that is not used for sending.
func RemoveKey(path, id string) error {
	return changeKeys(path, func(keys [][]byte) ([][]byte, error) {
		i, err := findKey(keys, id)
		if err != nil {
			return nil, err
		}
		if i == 0 {
			return nil, fmt.Errorf("key %s is used for sending; promote another one first, on every node", id)
		}
		return slices.Delete(keys, i, i+1), nil
	})
}

// ListKeys tells which keys are in a file, the one used for sending first.
func ListKeys(path string) ([]KeyInfo, error) {
	keys, err := readKeys(path)
	if err != nil {
		return nil, err
	}
	infos := make([]KeyInfo, len(keys))
	for i, k := range keys {
		infos[i] = KeyInfo{ID: keyID(k), Primary: i == 0, Bytes: len(k)}
	}
	return infos, nil
}

// KeySecret returns a key in base64, for AddKeyTo on another node.
func KeySecret(path, id string) (string, error) {
	keys, err := readKeys(path)
	if err != nil {
		return "", err
	}
	i, err := findKey(keys, id)
	if err != nil {
		return "", err
	}
	return base64.StdEncoding.EncodeToString(keys[i]), nil
}

func freshKey() ([]byte, error) {
	key := make([]byte, keyBytes)
	_, err := rand.Read(key)
	return key, err
}

func keyID(key []byte) string {
	sum := sha256.Sum256(key)
	return hex.EncodeToString(sum[:4])
}

func findKey(keys [][]byte, id string) (int, error) {
	ids := make([]string, len(keys))
	for i, k := range keys {
		ids[i] = keyID(k)
	}
	if i := slices.Index(ids, id); i >= 0 {
		return i, nil
	}
	return 0, fmt.Errorf("there is no key %.32q; the file holds %s", id, strings.Join(ids, ", "))
}

// readKeys reads a key file. It refuses one that others than its owner may read or write.
func readKeys(path string) ([][]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&^keyMode != 0 {
		return nil, fmt.Errorf("%s: mode %04o lets others at the keys, want %04o: chmod 600 %s", path, info.Mode().Perm(), keyMode, path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return nil, err
	}
	keys, err := ParseKeys(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return keys, nil
}

// ParseKeys reads the content of a key file. Errors never repeat what was written.
func ParseKeys(data []byte) ([][]byte, error) {
	if len(data) > maxKeyFile {
		return nil, fmt.Errorf("larger than the %d bytes a key file may have", maxKeyFile)
	}
	var keys [][]byte
	number := 0
	for line := range strings.Lines(string(data)) {
		number++
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, err := parseKey(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		if slices.ContainsFunc(keys, func(k []byte) bool { return bytes.Equal(k, key) }) {
			return nil, fmt.Errorf("line %d: the key is there twice", number)
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 || len(keys) > MaxKeys {
		return nil, fmt.Errorf("%d keys; 1 to %d are right", len(keys), MaxKeys)
	}
	return keys, nil
}

func parseKey(text string) ([]byte, error) {
	key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
	if err != nil || memberlist.ValidateKey(key) != nil {
		return nil, errors.New("no key; write 16, 24 or 32 bytes in base64")
	}
	return key, nil
}

func changeKeys(path string, change func([][]byte) ([][]byte, error)) error {
	path, err := filepath.EvalSymlinks(path) // what a link points to is replaced, not the link
	if err != nil {
		return err
	}
	return replaceKeys(path, func() ([][]byte, error) {
		keys, err := readKeys(path)
		if err != nil {
			return nil, err
		}
		if keys, err = change(keys); err == nil && len(keys) > MaxKeys {
			err = fmt.Errorf("%s holds %d keys already; remove one first", path, MaxKeys)
		}
		return keys, err
	})
}

// replaceKeys holds path's one FILE.new, asks for the keys to write, and puts it in the
// place of path, durably.
func replaceKeys(path string, content func() ([][]byte, error)) (err error) {
	fresh := path + ".new"
	f, err := os.OpenFile(fresh, os.O_WRONLY|os.O_CREATE|os.O_EXCL, keyMode)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s: is there: another change is under way; if none is, one was cut off: remove that file", fresh)
	}
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(fresh)
		}
	}()
	keys, err := content()
	if err != nil {
		return err
	}
	var text strings.Builder
	text.WriteString("# Keys of the gossip, the first is used for sending. Whoever has one is a member.\n")
	for _, k := range keys {
		fmt.Fprintln(&text, base64.StdEncoding.EncodeToString(k))
	}
	if _, err = f.WriteString(text.String()); err != nil {
		return err
	}
	if err = errors.Join(f.Chmod(keyMode), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err = os.Rename(fresh, path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
