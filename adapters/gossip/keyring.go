package gossip

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/hashicorp/memberlist"
)

// keyLook is how often the key file is asked whether it changed.
const keyLook = time.Second

// keySettled is how old a file's time must be when it is read, so that a later change
// cannot leave it with the same one.
const keySettled = 2 * time.Second

// keyring keeps memberlist's keys as the file has them. While the file cannot be used
// the last good keys stay in force.
type keyring struct {
	path   string
	logger *slog.Logger
	counts *counters
	ring   *memberlist.Keyring

	every   time.Duration
	seen    os.FileInfo // of the file when it was read last; nil: it was missing
	readAt  time.Time
	problem string // of the last reading; logged once
}

// openKeyring reads the file and fails when it cannot be used.
func openKeyring(path string, logger *slog.Logger, counts *counters) (*keyring, error) {
	k := &keyring{path: path, logger: logger, counts: counts, readAt: time.Now(), every: keyLook}
	k.seen, _ = os.Stat(path) // a missing file is readKeys' to report
	keys, err := readKeys(path)
	if err != nil {
		return nil, err
	}
	if k.ring, err = memberlist.NewKeyring(keys, keys[0]); err != nil {
		return nil, err
	}
	counts.keys.Store(int64(len(keys)))
	return k, nil
}

// follow takes changes of the file over until ctx ends.
func (k *keyring) follow(ctx context.Context) {
	tick := time.NewTicker(k.every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			k.look()
		}
	}
}

func (k *keyring) look() {
	info, _ := os.Stat(k.path)
	if k.unchanged(info) {
		return
	}
	k.seen, k.readAt = info, time.Now()
	keys, err := readKeys(k.path)
	if err == nil {
		err = k.install(keys)
	}
	if err != nil {
		if err.Error() != k.problem {
			k.problem = err.Error()
			k.counts.keyReloadsFailed.Add(1)
			k.logger.Warn("the gossip keys cannot be read again; the last good ones stay in force", "error", err)
		}
		return
	}
	k.problem = ""
}

func (k *keyring) unchanged(info os.FileInfo) bool {
	if info == nil || k.seen == nil {
		return info == nil && k.seen == nil
	}
	return os.SameFile(info, k.seen) && info.Size() == k.seen.Size() && info.Mode() == k.seen.Mode() &&
		info.ModTime().Equal(k.seen.ModTime()) && k.readAt.Sub(info.ModTime()) >= keySettled
}

// install makes the ring hold these keys, the first of them for sending. A key is there
// before it is used for sending, and used no more before it goes.
func (k *keyring) install(keys [][]byte) error {
	if same(k.ring.GetKeys(), keys) {
		return nil
	}
	for _, key := range keys {
		if err := k.ring.AddKey(key); err != nil {
			return err
		}
	}
	if err := k.ring.UseKey(keys[0]); err != nil {
		return err
	}
	if err := k.drop(keys); err != nil {
		return err
	}
	k.counts.keys.Store(int64(len(keys)))
	k.counts.keyReloads.Add(1)
	k.logger.Info("gossip keys read again", "file", k.path, "keys", len(keys), "sending", keyID(keys[0]))
	return nil
}

// drop takes the keys away that are not to be kept. memberlist removes a key within the
// very array that its readers go through, unless it is the last one: so keys are taken
// off the end, and those that are to be kept are put back.
func (k *keyring) drop(keep [][]byte) error {
	kept := func(key []byte) bool {
		return slices.ContainsFunc(keep, func(other []byte) bool { return bytes.Equal(key, other) })
	}
	for {
		ring := k.ring.GetKeys()
		if !slices.ContainsFunc(ring, func(key []byte) bool { return !kept(key) }) {
			break
		}
		if err := k.ring.RemoveKey(ring[len(ring)-1]); err != nil {
			return err
		}
	}
	for _, key := range keep {
		if err := k.ring.AddKey(key); err != nil {
			return err
		}
	}
	return nil
}

// same tells whether both have the same keys and send with the same one.
func same(a, b [][]byte) bool {
	return len(a) == len(b) && bytes.Equal(a[0], b[0]) && !slices.ContainsFunc(a, func(key []byte) bool {
		return !slices.ContainsFunc(b, func(other []byte) bool { return bytes.Equal(key, other) })
	})
}
