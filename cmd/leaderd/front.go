package main

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/omnirelay/leadership/adapters/transport"
	"github.com/omnirelay/leadership/core"
)

// front is what the outside calls.
type front struct {
	http     *http.Server
	address  string
	listener net.Listener
}

func newFront(n *node) (*front, error) {
	mux := http.NewServeMux()
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) {
		n.host.View(func(_ *core.Registry, s core.Status) {
			if !s.Ready {
				http.Error(w, s.NotReadyReason, 503)
			}
		})
	})
	mux.HandleFunc("/debug", func(w http.ResponseWriter, _ *http.Request) {
		_, held := n.host.Held()
		rev, tok := n.host.Snapshot()
		n.host.View(func(_ *core.Registry, s core.Status) { json.NewEncoder(w).Encode([]any{len(held), rev, len(tok), s}) })
	})
	return &front{http: &http.Server{Handler: mux, TLSConfig: n.certificates.Server(transport.Optional, "http/1.1")}, address: n.config.Listeners.HTTP}, nil
}

func (f *front) listen() (err error) { f.listener, err = net.Listen("tcp", f.address); return err }
func (f *front) serve(n *node) {
	n.run(func() error {
		if err := f.http.ServeTLS(f.listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
}
func (f *front) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	f.http.Shutdown(ctx)
}
