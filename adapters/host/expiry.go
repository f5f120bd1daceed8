package host

import (
	"time"

	"github.com/omnirelay/leadership/core"
)

// ExpiresAt is the registrar's published bound on a session, in Unix nanoseconds:
// it expires no earlier unless it is closed. Advisory; nothing decides by it. ok
// is false where it is not known: on every node but the registrar.
func (h *Host) ExpiresAt(id core.SessionID) (wall int64, ok bool) {
	h.mu.RLock()
	until, ok := h.replica.ExpiryOf(id)
	h.mu.RUnlock()
	if !ok {
		return 0, false
	}
	return time.Now().Add(until.Sub(h.clock.Now())).UnixNano(), true
}
