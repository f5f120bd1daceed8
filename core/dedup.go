package core

// replyWindow remembers the replies to the latest MaxReplies requests, so that a
// retry has one effect and the same reply. A request carries a base: a revision
// its sender had seen before it first sent the request. If it was executed, that
// was after its base; so a retry whose base is at or behind the newest forgotten
// reply cannot be told from a new request and is refused.
type replyWindow struct {
	replies map[string]*keptReply
	order   []*keptReply // oldest first
	horizon uint64       // the revision of the newest forgotten reply
	limit   int
}

type keptReply struct {
	requestID string
	index     uint64
	result    *Result
}

func newReplyWindow() replyWindow {
	return replyWindow{replies: map[string]*keptReply{}, limit: MaxReplies}
}

// lookup returns the reply that was given to the request, a refusal when the
// request is too old to tell, or nil when it is new.
func (w *replyWindow) lookup(requestID string, base uint64) *Result {
	if r := w.replies[requestID]; r != nil {
		return r.result
	}
	if base < w.horizon {
		return &Result{Code: string(CodeTooOld), Field: "base", Revision: w.horizon,
			Message: "the request may have been executed before the replies kept; read the state, then ask anew with a base at or above the revision given"}
	}
	return nil
}

func (w *replyWindow) keep(requestID string, index uint64, result *Result) {
	r := &keptReply{requestID: requestID, index: index, result: result}
	w.replies[requestID] = r
	w.order = append(w.order, r)
	for len(w.order) > w.limit {
		old := w.order[0]
		w.order[0] = nil
		w.order = w.order[1:]
		w.horizon = old.index
		delete(w.replies, old.requestID)
	}
}
