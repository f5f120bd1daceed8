package host

import (
	"time"

	"github.com/omnirelay/leadership/core"
)

// Gossip tells the replica what gossip says of a member now; see core.GossipNews. It is
// what holds, not what changed: told again it changes nothing but how long claims live.
// False when too much waits for the loop: then it is to be told again. It does not block.
func (h *Host) Gossip(n core.GossipNews) bool {
	if h.inbox.offer(core.Input{Gossip: &n}) {
		return true
	}
	h.dropped("inbox full")
	return false
}

// Claims is what the own member believes to lead at this moment, for gossip to tell: at
// most core.MaxClaims, in turn when there are more, and for how long it may believe that
// without a further word. 0: it leads nothing.
func (h *Host) Claims() (claims []core.Claim, remaining time.Duration) {
	h.memberMu.Lock()
	defer h.memberMu.Unlock()
	if h.member == nil {
		return nil, 0
	}
	now := h.clock.Now()
	if claims = h.member.Claims(now); len(claims) == 0 {
		return nil, 0
	}
	return claims, h.member.Until(now).Sub(now)
}
