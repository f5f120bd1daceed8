package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/omnirelay/leadership/core"
)

// answering is a store that answers everything.
type answering struct{ closed bool }

func (*answering) Do(_ context.Context, c *core.StoreCall) *core.StoreReply {
	return &core.StoreReply{ID: c.ID, Status: core.StoreOK}
}

func (a *answering) Close() error { a.closed = true; return nil }

// A store that comes up later is used then; until then each call is answered in its
// time, with the reason.
func TestStoreMayComeUpLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start, s := time.Now(), &answering{}
		l := &lateStore{there: make(chan struct{}), open: func(context.Context) (store, error) {
			if time.Since(start) < 10*time.Second {
				return nil, errors.New("connection refused")
			}
			return s, nil
		}}
		done := make(chan error, 1)
		go func() { done <- l.run(t.Context()) }()
		call := &core.StoreCall{ID: 7, Timeout: time.Second, Confirm: &core.StoreConfirm{}}
		if r := l.Do(t.Context(), call); r.Status != core.StoreFailed || r.ID != 7 || !strings.Contains(r.Text, "connection refused") || time.Since(start) != time.Second {
			t.Errorf("%+v after %v", r, time.Since(start))
		}
		call.Timeout = time.Minute
		if r := l.Do(t.Context(), call); r.Status != core.StoreOK || r.ID != 7 {
			t.Errorf("%+v", r)
		}
		if took := time.Since(start); took < 10*time.Second || took > 10*time.Second+maxOpenPause {
			t.Errorf("open after %v", took)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := l.Close(); err != nil || !s.closed {
			t.Errorf("closed: %t, %v", s.closed, err)
		}
	})
}

// A store that turns out unfit ends the node, with the reason.
func TestUnfitStoreIsRefusedLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		l := &lateStore{there: make(chan struct{}), open: func(context.Context) (store, error) {
			if tries++; tries < 3 {
				return nil, errors.New("connection refused")
			}
			return nil, unfit(errors.New("fsync is off"))
		}}
		if err := l.run(t.Context()); err == nil || !strings.Contains(err.Error(), "fsync is off") || tries != 3 {
			t.Errorf("%v after %d tries", err, tries)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
}

// A node that ends while its store is not there ends at once.
func TestWaitingForAStoreEnds(t *testing.T) {
	l := &lateStore{there: make(chan struct{}), open: func(context.Context) (store, error) { return nil, errors.New("connection refused") }}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.run(ctx); err != nil {
		t.Error(err)
	}
	if r := l.Do(ctx, &core.StoreCall{Timeout: time.Hour}); r.Status != core.StoreFailed {
		t.Errorf("%+v", r)
	}
}

func TestPasswordFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "password")
	for text, want := range map[string]string{"secret": "secret", "secret\n": "secret", "two words\r\nanother line": "two words"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := readPassword(path); err != nil || got != want {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "\nsecret", strings.Repeat("secret", 1000)} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := readPassword(path); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%d bytes: %q, %v", len(text), got, err)
		}
	}
	if _, err := readPassword(path + "-none"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
}
