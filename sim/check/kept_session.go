package check

import "github.com/omnirelay/leadership/core"

// KeptSession: what others say of a member costs it nothing. One that is untouched, in
// reach of a registry that is untouched, keeps its session.
type KeptSession struct{ report Report }

func NewKeptSession(report Report) *KeptSession { return &KeptSession{report: report} }

// Lost tells that a member, untouched for long, lost a session that it did not close.
func (c *KeptSession) Lost(at int64, process string, id core.SessionID, reason string) {
	c.report.session(KeptSessionProperty, at, id, "%s lost session %d (%s) although nothing troubled it or the registry", process, id, reason)
}
