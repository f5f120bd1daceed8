package api

import (
	"context"
	"fmt"

	"github.com/omnirelay/leadership/adapters/access"
	"github.com/omnirelay/leadership/core"
)

// sessionState is a session as this node's copy knows it.
type sessionState struct {
	known    bool // it was opened
	live     bool
	status   core.SessionStatus // while live
	revision uint64             // of the copy
	doubt    error              // why the copy cannot be vouched for; nil: it can
}

// ended reports whether the session is over for good. A copy that cannot be vouched for
// may have been told of an end that its store has lost.
func (st *sessionState) ended() bool { return st.known && !st.live && st.doubt == nil }

func (s *Service) session(id core.SessionID) (st sessionState) {
	s.o.Source.View(func(g *core.Registry, now core.Status) {
		st.revision, st.doubt = g.Revision(), vouch(&now)
		if st.status, st.live = g.Session(id); st.live {
			st.known = true
			return
		}
		_, st.known = g.View(id)
	})
	return st
}

// use looks a session up and holds it against the caller. One that this copy has not
// heard of may be news: then the copy is brought up to date first.
//
// A session that has ended is nobody's: nothing can be done with it, and a retry of
// what ended it is owed its reply. live is false then.
func (s *Service) use(ctx context.Context, c access.Caller, id core.SessionID) (st sessionState, err error) {
	if st = s.session(id); !st.known {
		if err := s.barrier(ctx); err != nil {
			return st, err
		}
		if st = s.session(id); !st.known {
			return st, &core.Error{Code: core.CodeNotFound, Field: "session", Message: fmt.Sprintf("session %d was never opened", id)}
		}
	}
	if st.live {
		return st, s.actAs(c, st.status.MemberID)
	}
	return st, st.doubt
}

func sessionEnded(id core.SessionID) error {
	return &core.Error{Code: core.CodeSessionEnded, Field: "session", Message: fmt.Sprintf("session %d has ended; open a new one", id)}
}
