package control

import (
	"net/http"
	"time"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/docs"
	"github.com/omnirelay/leadership/wire"
)

// held tells what this process's member believes, whether or not this node can
// vouch for its copy: a member that lost the cluster must still be asked.
func (s *Server) held(w http.ResponseWriter, _ *request) error {
	// Read before the holdings: their ends are then told too early, never too late.
	boottime := s.options.Boottime()
	now, held := s.options.Source.Held()
	writeJSON(w, http.StatusOK, wire.HeldOf(s.options.Source.MemberID(), held, now, boottime))
	return nil
}

// vouch refuses to answer from a copy that may be behind without bound.
func vouch(st *core.Status) error {
	if st.Ready {
		return nil
	}
	return later(core.CodeUnavailable, time.Second, "%s", st.NotReadyReason)
}

func unknownScope(scope string) error {
	return &core.Error{Code: core.CodeNotFound, Field: "scope", Message: "no scope " + scope + " is declared; GET /control/leaders lists those that are led"}
}

func (s *Server) expiry(t core.Token) time.Time {
	if wall, ok := s.options.Source.ExpiresAt(t.Session); ok {
		return time.Unix(0, wall)
	}
	return time.Time{}
}

// health tells that the process answers.
func (s *Server) health(w http.ResponseWriter, _ *request) error {
	writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
	return nil
}

// ready tells that this node can vouch for its copy, or why not.
func (s *Server) ready(w http.ResponseWriter, _ *request) error {
	var st core.Status
	s.options.Source.View(func(_ *core.Registry, now core.Status) { st = now })
	if err := vouch(&st); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, map[string]any{"status": "ready", "revision": st.Applied, "registrar": st.IsRegistrar})
	return nil
}

func (s *Server) metrics(w http.ResponseWriter, r *request) error {
	s.options.Metrics.Handler().ServeHTTP(w, r.Request)
	return nil
}

// keysMaxAge is how long a resource may go without asking for the keys again. A new key
// is published for longer than that before anything is signed with it.
const keysMaxAge = "max-age=60"

// keys tells the public half of the keys that tokens are signed with. It asks for no
// credential: the keys are public by nature, and a resource that checks tokens needs
// nothing else from us.
func (s *Server) keys(w http.ResponseWriter, _ *request) error {
	if s.options.Keys == nil {
		return refuse(http.StatusNotFound, core.CodeNotFound, "path", "this node signs no tokens; the setting tokens.keys makes it")
	}
	w.Header().Set("Content-Type", "application/jwk-set+json")
	w.Header().Set("Cache-Control", keysMaxAge)
	_, _ = w.Write(s.options.Keys()) // the caller left: nobody to tell
	return nil
}

// openAPI tells what this API is.
func (s *Server) openAPI(w http.ResponseWriter, _ *request) error {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(docs.OpenAPI) // the caller left: nobody to tell
	return nil
}
