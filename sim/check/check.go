// Package check holds one checker per property of the design. Each is fed with
// what an outside observer who knows true time would see, and knows nothing of
// the world that produced it: its tests are histories written by hand.
package check

import (
	"fmt"
	"time"

	"github.com/omnirelay/leadership/core"
)

// Property is a named promise of the service.
type Property string

const (
	ExclusiveLeaseProperty  Property = "ExclusiveLease"
	HolderIsLeaderProperty  Property = "HolderIsLeader"
	FenceMonotonicProperty  Property = "FenceMonotonic"
	NoStaleEffectProperty   Property = "NoStaleEffect"
	AgreementProperty       Property = "Agreement"
	DurableProperty         Property = "Durable"
	ExactlyOnceProperty     Property = "ExactlyOnce"
	LiveSessionOnlyProperty Property = "LiveSessionOnly"
	NoResurrectionProperty  Property = "NoResurrection"
	BoundedExpiryProperty   Property = "BoundedExpiry"
	FaithfulStreamProperty  Property = "FaithfulStream"
	ElectionSLAProperty     Property = "ElectionSLA"
	LinearizableProperty    Property = "Linearizable"
	// KeptSession, EligibleOnly and SplitBrainReported are about gossip.
	KeptSessionProperty        Property = "KeptSession"
	EligibleOnlyProperty       Property = "EligibleOnly"
	SplitBrainReportedProperty Property = "SplitBrainReported"
	OrderlyNodesProperty       Property = "OrderlyNodes"
	// NoPanicProperty is broken by a panic or a halt that no injected fault explains.
	NoPanicProperty Property = "NoPanic"
	// NoSpinProperty is broken by a process that never sleeps: its deadline stays in
	// the past.
	NoSpinProperty Property = "NoSpin"
)

// Liveness reports whether the property says that something happens in time,
// rather than that something never happens.
func (p Property) Liveness() bool {
	return p == BoundedExpiryProperty || p == ElectionSLAProperty || p == KeptSessionProperty || p == SplitBrainReportedProperty
}

// Violation is one broken property, with the shortest explanation there is.
type Violation struct {
	Property Property
	// At is the true time in nanoseconds since the start of the run.
	At int64
	// Scope and Session name whom it concerns; empty and 0 when nobody in particular.
	Scope   string
	Session core.SessionID
	// Unknown says that the checker could not decide. That is no pass.
	Unknown bool
	Text    string
}

func (v Violation) String() string {
	return fmt.Sprintf("%s at %v: %s", v.Property, time.Duration(v.At), v.Text)
}

// Report receives violations.
type Report func(Violation)

func (r Report) session(p Property, at int64, id core.SessionID, format string, args ...any) {
	r(Violation{Property: p, At: at, Session: id, Text: fmt.Sprintf(format, args...)})
}

func (r Report) scope(p Property, at int64, scope, format string, args ...any) {
	r(Violation{Property: p, At: at, Scope: scope, Text: fmt.Sprintf(format, args...)})
}

func (r Report) plain(p Property, at int64, format string, args ...any) {
	r(Violation{Property: p, At: at, Text: fmt.Sprintf(format, args...)})
}
