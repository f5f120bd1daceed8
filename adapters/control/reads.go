package control

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/wire"
)

// Bounds of one answer of /control/audit.
const (
	defaultAuditRecords = 100
	maxAuditRecords     = 1000
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

func (s *Server) leaders(w http.ResponseWriter, r *request) error {
	scope, err := r.scopeParam()
	if err != nil {
		return err
	}
	linearizable, err := r.boolParam("linearizable")
	if err != nil {
		return err
	}
	if linearizable {
		if err := s.barrier(r.Context()); err != nil {
			return err
		}
	}
	revision, tokens, err := s.tokens(scope)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, wire.LeadersOf(revision, tokens, time.Now(), s.expiry))
	return nil
}

// barrier waits until the copy holds all that was acknowledged before.
func (s *Server) barrier(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.options.ReadTimeout)
	defer cancel()
	err := s.options.Source.ReadBarrier(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		return later(core.CodeUnavailable, time.Second, "no registrar confirmed this read within %v", s.options.ReadTimeout)
	}
	return err
}

// tokens reads the leaders of one scope, or of all.
func (s *Server) tokens(scope string) (revision uint64, tokens []core.Token, err error) {
	s.options.Source.View(func(g *core.Registry, st core.Status) {
		if err = vouch(&st); err != nil {
			return
		}
		revision = g.Revision()
		if scope == "" {
			tokens = g.Tokens()
			return
		}
		status, known := g.Scope(scope)
		if !known {
			err = unknownScope(scope)
		} else if status.Led {
			tokens = []core.Token{status.Leader}
		}
	})
	return revision, tokens, err
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

// audit tells the records that follow after, or the newest without it.
func (s *Server) audit(w http.ResponseWriter, r *request) error {
	scope, err := r.scopeParam()
	if err != nil {
		return err
	}
	after, given, err := r.numberParam("after", 0, 1<<53)
	if err != nil {
		return err
	}
	limit, limited, err := r.numberParam("limit", 1, maxAuditRecords)
	if err != nil {
		return err
	}
	if !limited {
		limit = defaultAuditRecords
	}
	var records []*core.Record
	s.options.Source.View(func(g *core.Registry, st core.Status) {
		switch err = vouch(&st); {
		case err != nil:
		case given:
			records, err = following(g.History(), after, scope, int(limit))
		default:
			records = newest(g.History(), scope, int(limit))
		}
	})
	if err != nil {
		return err
	}
	answer := wire.AuditResponse{Records: make([]wire.AuditRecord, 0, len(records))}
	for _, record := range records {
		answer.Records = append(answer.Records, wire.AuditRecordOf(record))
	}
	writeJSON(w, http.StatusOK, answer)
	return nil
}

// following copies what is told: the history moves on behind the lock.
func following(h *core.History, after uint64, scope string, limit int) ([]*core.Record, error) {
	all, kept := h.AfterSeq(after, h.Len())
	if !kept {
		return nil, refuse(http.StatusGone, core.CodeTooOld, "after", "records up to %d are no longer kept in memory; the oldest is %d", after, h.First().GetSeq())
	}
	var records []*core.Record
	for _, r := range all {
		if len(records) == limit {
			break
		}
		if scope == "" || r.Scope == scope {
			records = append(records, r)
		}
	}
	return records, nil
}

// newest copies the last records, oldest of them first.
func newest(h *core.History, scope string, limit int) []*core.Record {
	first := h.First()
	if first == nil {
		return nil
	}
	all, _ := h.AfterSeq(first.Seq-1, h.Len())
	records := make([]*core.Record, limit)
	n := limit
	for i := len(all) - 1; i >= 0 && n > 0; i-- {
		if scope == "" || all[i].Scope == scope {
			n--
			records[n] = all[i]
		}
	}
	return records[n:]
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
