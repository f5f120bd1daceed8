package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/omnirelay/leadership/adapters/clock"
	"github.com/omnirelay/leadership/adapters/fence"
	"github.com/omnirelay/leadership/adapters/signing"
)

// runResource is the guarded resource: it takes assignments from the leader of their
// shard, in the order of fences, and keeps them in a file.
func runResource(ctx context.Context, args []string) (err error) {
	flags := newFlags("resource")
	dir := flags.String("dir", ".", "folder of its files")
	listen := flags.String("listen", "127.0.0.1:0", "address to serve on")
	keys := flags.String("keys", "", "https URL of the keys that the registry signs tokens with; empty: unsigned authority is believed")
	ca := flags.String("ca", "", "PEM file of the cluster's authority, for --keys")
	cluster := flags.String("cluster-id", "dev", "of the tokens, for --keys")
	if err := flags.Parse(args); err != nil {
		return err
	}
	verifier, closeKeys, err := verifierOf(*keys, *ca, *cluster)
	if err != nil {
		return err
	}
	defer closeKeys()
	marks, err := fence.OpenFile(filepath.Join(*dir, "marks"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, marks.Close()) }()
	guard, err := fence.New(ctx, fence.Options{Marks: marks, Verifier: verifier, Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err != nil {
		return err
	}
	l, err := openLedger(*dir)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("POST /{kind}/{namespace}/{shard}", l.countStale(guard.Handler(http.HandlerFunc(l.assign), scopeOf)))
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Second}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// scopeOf is the scope that a request acts on: only that scope's leader may make it.
func scopeOf(r *http.Request) (string, error) {
	return strings.Join([]string{r.PathValue("kind"), r.PathValue("namespace"), r.PathValue("shard")}, "/"), nil
}

// ledger is the resource's state: the assignments, in the order they took effect.
type ledger struct {
	mu       sync.Mutex
	accepted *journal
	refused  *journal
	known    map[string]bool // ids
}

func openLedger(dir string) (*ledger, error) {
	path := filepath.Join(dir, acceptedFile)
	accepted := &tail[assignment]{path: path}
	records, err := accepted.more()
	if err != nil {
		return nil, err
	}
	l := &ledger{known: make(map[string]bool, len(records))}
	for _, a := range records {
		l.known[a.ID] = true
	}
	if l.accepted, err = openJournal(path); err != nil {
		return nil, err
	}
	if err := l.accepted.file.Truncate(accepted.offset); err != nil { // a line that was cut was never acknowledged
		return nil, err
	}
	l.refused, err = openJournal(filepath.Join(dir, refusedFile))
	return l, err
}

// assign takes an assignment of a leader whom the guard admitted. It is durable when it
// is acknowledged, and a repetition changes nothing.
func (l *ledger) assign(w http.ResponseWriter, r *http.Request) {
	a, _ := fence.From(r.Context())
	id := r.FormValue("id")
	if id == "" || len(id) > 300 {
		http.Error(w, "id: want 1 to 300 bytes", http.StatusBadRequest)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.known[id] {
		return
	}
	err := r.Context().Err() // a leader that was overtaken while it waited for its turn
	if err == nil {
		err = l.accepted.write(assignment{
			At: clock.Boottime(), Scope: a.Scope, Fence: a.Fence, Term: a.Term, Leader: a.Leader, ID: id, Worker: r.FormValue("worker"),
		})
	}
	if err == nil {
		err = l.accepted.file.Sync()
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	l.known[id] = true
}

// countStale keeps a record of each stale attempt that next refused.
func (l *ledger) countStale(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen := &answer{ResponseWriter: w}
		next.ServeHTTP(seen, r)
		var p struct {
			Type            string
			Scope           string
			Fence, Required uint64
		}
		if seen.status != http.StatusConflict || json.Unmarshal(seen.body.Bytes(), &p) != nil || !strings.HasSuffix(p.Type, ":stale-token") {
			return
		}
		leader, _, _ := strings.Cut(r.FormValue("id"), "/")
		if err := l.refused.write(refusal{At: clock.Boottime(), Scope: p.Scope, Fence: p.Fence, Required: p.Required, Leader: leader, ID: r.FormValue("id")}); err != nil {
			slog.Error("a refusal was not recorded", "error", err)
		}
	})
}

// answer remembers what was answered.
type answer struct {
	http.ResponseWriter
	status int
	body   bytes.Buffer
}

func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

func (a *answer) WriteHeader(status int) {
	a.status = status
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) Write(p []byte) (int, error) {
	if a.status == http.StatusConflict && a.body.Len() < 4<<10 {
		a.body.Write(p)
	}
	return a.ResponseWriter.Write(p)
}

// verifierOf believes only what the registry signed; without an URL what callers say.
func verifierOf(url, ca, cluster string) (fence.Verifier, func(), error) {
	if url == "" {
		return nil, func() {}, nil
	}
	pem, err := os.ReadFile(ca)
	if err != nil {
		return nil, nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, nil, fmt.Errorf("%s: holds no PEM certificate", ca)
	}
	keys, err := signing.NewURLKeys(signing.URLOptions{URL: url, TLS: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}})
	if err != nil {
		return nil, nil, err
	}
	verifier, err := signing.NewVerifier(signing.VerifierOptions{Cluster: cluster, Keys: keys})
	if err != nil {
		return nil, nil, errors.Join(err, keys.Close())
	}
	return fence.VerifierFunc(func(ctx context.Context, token string) (fence.Claims, error) {
		c, err := verifier.Verify(ctx, token)
		var bad *signing.TokenError
		if errors.As(err, &bad) && bad.Reason == signing.NoKeys {
			return fence.Claims{}, &fence.NotReadyError{Reason: "the registry's keys cannot be had", RetryAfter: time.Second, Why: err}
		}
		return fence.Claims{Scope: c.Scope, Fence: c.Fence, Term: c.Term, Leader: c.Leader}, err
	}), func() { _ = keys.Close() }, nil
}
