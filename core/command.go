package core

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/omnirelay/leadership/core/logpb"
)

// whyVersion is the protocol version from which on commands say why.
const whyVersion = 3

// commandVersion is the protocol version from which on a command may be proposed.
func commandVersion(c *logpb.Command) uint32 {
	switch c.Kind.(type) {
	case *logpb.Command_ObserveMembers, *logpb.Command_ReportSplitBrain, *logpb.Command_AddNode, *logpb.Command_RemoveNode,
		*logpb.Command_ReplaceNode, *logpb.Command_MoveRegistrar:
		return 3
	}
	switch {
	case c.GetAnnounceVersion().GetNode() != nil:
		return nodesVersion
	case c.Why != "":
		return whyVersion
	case c.GetCordon().GetDrain():
		return 2
	}
	return baseVersion
}

// decodeEntry reads the payload of a log entry. A command that this build does
// not understand, in kind or in any field, is an error: it must not be skipped.
func decodeEntry(payload []byte, maxVersion uint32) (*logpb.Entry, error) {
	e := &logpb.Entry{}
	if err := proto.Unmarshal(payload, e); err != nil {
		return nil, fmt.Errorf("the entry does not decode: %w", err)
	}
	if len(e.ProtoReflect().GetUnknown()) > 0 {
		return nil, fmt.Errorf("the entry has fields that this build does not know; run a newer build")
	}
	for i, c := range e.Commands {
		if c.Kind == nil || hasUnknown(c.ProtoReflect()) {
			return nil, fmt.Errorf("command %d of the entry is of a kind, or has a field or value, that this build does not know; run a newer build", i)
		}
		if v := commandVersion(c); v > maxVersion {
			return nil, fmt.Errorf("command %d of the entry needs protocol version %d; this build understands %d", i, v, maxVersion)
		}
	}
	return e, nil
}

// hasUnknown reports whether a message, or any message within it, holds a field or
// an enum value that this build's schema does not have.
func hasUnknown(m protoreflect.Message) bool {
	found := len(m.GetUnknown()) > 0
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		found = found || unknownWithin(f, v)
		return !found
	})
	return found
}

// unknownWithin looks into one field. No message of the schema has a map of messages.
func unknownWithin(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
	switch {
	case f.Enum() != nil && !f.IsList():
		return f.Enum().Values().ByNumber(v.Enum()) == nil
	case f.Message() == nil || f.IsMap():
		return false
	case !f.IsList():
		return hasUnknown(v.Message())
	}
	for i := range v.List().Len() {
		if hasUnknown(v.List().Get(i).Message()) {
			return true
		}
	}
	return false
}

// CompleteCommand fills in what a requester may leave out: the kind and labels
// that a scope's id implies, a member's weight of 1. It is done once, before the
// command is validated and proposed.
func CompleteCommand(c *logpb.Command) error {
	for _, spec := range c.GetDeclareScopes().GetScopes() {
		if err := completeSpec(spec); err != nil {
			return err
		}
	}
	if o := c.GetOpenSession(); o != nil && o.Weight == 0 {
		o.Weight = 1
	}
	completeNode(c.GetAddNode().GetNode())
	completeNode(c.GetReplaceNode().GetBy())
	if t := c.GetTransfer(); t != nil && t.Reason == "" {
		t.Reason = AskTransfer
	}
	return nil
}

// ValidateCommand checks everything about a command that does not depend on the
// registry. The error is an *Error that names the field.
func ValidateCommand(c *logpb.Command) error {
	if c.RequestId == "" {
		return invalid("requestId", "empty; every request carries an id of its own so that a retry has one effect")
	}
	if err := checkText("requestId", c.RequestId, MaxRequestID); err != nil {
		return err
	}
	if err := checkText("correlationId", c.CorrelationId, MaxCorrelationID); err != nil {
		return err
	}
	if err := checkText("actor", c.Actor, MaxActor); err != nil {
		return err
	}
	if err := checkText("why", c.Why, MaxWhy); err != nil {
		return err
	}
	if err := validateKind(c); err != nil {
		return err
	}
	if n := proto.Size(c); n > MaxCommandBytes {
		return &Error{Code: CodeLimit, Field: "command", Message: fmt.Sprintf("%d bytes; at most %d are allowed", n, MaxCommandBytes)}
	}
	return nil
}

func validateKind(c *logpb.Command) error {
	switch k := c.Kind.(type) {
	case *logpb.Command_OpenSession:
		return validateOpen(k.OpenSession)
	case *logpb.Command_CloseSession:
		return needSession(k.CloseSession.Session)
	case *logpb.Command_Stand:
		return validateStand(k.Stand)
	case *logpb.Command_Withdraw:
		if err := needSession(k.Withdraw.Session); err != nil {
			return err
		}
		return ValidateSelector(k.Withdraw.Selector)
	case *logpb.Command_Resign:
		return validateResign(k.Resign)
	case *logpb.Command_Transfer:
		return validateTransfer(k.Transfer)
	case *logpb.Command_CancelTransfer:
		return ParseScopeID(k.CancelTransfer.Scope)
	case *logpb.Command_DeclareScopes:
		return validateDeclare(k.DeclareScopes)
	case *logpb.Command_RetireScopes:
		return validateRetire(k.RetireScopes)
	case *logpb.Command_Cordon:
		if k.Cordon.Drain && !k.Cordon.Cordoned {
			return invalid("drain", "a drain goes with a cordon; set cordoned too")
		}
		return CheckMemberID("memberId", k.Cordon.MemberId)
	case *logpb.Command_Read:
		return nil
	case *logpb.Command_AddNode:
		return orNil(validateNode("node", k.AddNode.Node))
	case *logpb.Command_RemoveNode:
		return orNil(checkNodeName("name", k.RemoveNode.Name))
	case *logpb.Command_ReplaceNode:
		return orNil(validateReplace(k.ReplaceNode))
	case *logpb.Command_MoveRegistrar:
		if k.MoveRegistrar.To == "" {
			return nil
		}
		return orNil(checkNodeName("to", k.MoveRegistrar.To))
	case nil:
		return invalid("kind", "the command says nothing")
	}
	return invalid("kind", "%T is proposed by replicas only", c.Kind)
}

func needSession(id uint64) error {
	if id == 0 {
		return invalid("session", "0 is no session")
	}
	return nil
}

func validateOpen(o *logpb.OpenSession) error {
	if err := CheckMemberID("memberId", o.MemberId); err != nil {
		return err
	}
	if o.Weight < 1 || o.Weight > MaxWeight {
		return invalid("weight", "%d; want 1 to %d", o.Weight, MaxWeight)
	}
	if err := checkTTL(time.Duration(o.TtlNs)); err != nil {
		return err
	}
	if len(o.Stands) > MaxStands {
		return &Error{Code: CodeLimit, Field: "stands", Message: fmt.Sprintf("%d selectors; at most %d are allowed", len(o.Stands), MaxStands)}
	}
	for _, s := range o.Stands {
		if err := validateWish(s); err != nil {
			return err
		}
	}
	if n := standBytes(o.Stands); n > MaxStandBytes {
		return &Error{Code: CodeLimit, Field: "stands", Message: fmt.Sprintf("the selectors have %d bytes; at most %d are kept of one session", n, MaxStandBytes)}
	}
	return checkLabels("labels", o.Labels)
}

func validateStand(s *logpb.Stand) error {
	if err := needSession(s.Session); err != nil {
		return err
	}
	return validateWish(s)
}

func validateWish(s *logpb.Stand) error {
	if s.Priority > MaxPriority || s.Priority < -MaxPriority {
		return invalid("priority", "%d; want %d to %d", s.Priority, -MaxPriority, MaxPriority)
	}
	return ValidateSelector(s.Selector)
}

func validateResign(r *logpb.Resign) error {
	if err := needSession(r.Session); err != nil {
		return err
	}
	if r.Fence == 0 {
		return invalid("fence", "0 is no fence; name the one of the token that is given up")
	}
	return ParseScopeID(r.Scope)
}

func validateTransfer(t *logpb.Transfer) error {
	if t.ToMember != "" {
		if err := CheckMemberID("toMember", t.ToMember); err != nil {
			return err
		}
	}
	if t.Reason != AskTransfer && t.Reason != AskRebalance {
		return invalid("reason", "%q; want %q or %q", t.Reason, AskTransfer, AskRebalance)
	}
	return ParseScopeID(t.Scope)
}

func validateDeclare(d *logpb.DeclareScopes) error {
	if err := checkCount("scopes", len(d.Scopes)); err != nil {
		return err
	}
	named := make(map[string]bool, len(d.Scopes))
	for _, spec := range d.Scopes {
		if named[spec.Id] {
			return invalid("scopes", "%q is declared twice in one command", spec.Id)
		}
		named[spec.Id] = true
		complete := proto.Clone(spec).(*logpb.ScopeSpec)
		if err := completeSpec(complete); err != nil {
			return err
		}
		if complete.Kind != spec.Kind {
			return invalid("kind", "scope %q is proposed incomplete", spec.Id)
		}
	}
	return nil
}

func validateRetire(r *logpb.RetireScopes) error {
	if err := checkCount("scopes", len(r.Scopes)); err != nil {
		return err
	}
	for _, id := range r.Scopes {
		if err := ParseScopeID(id); err != nil {
			return err
		}
	}
	return nil
}

func checkCount(field string, n int) error {
	if n == 0 {
		return invalid(field, "empty; name at least one")
	}
	if n > MaxScopesPerCmd {
		return invalid(field, "%d in one command; at most %d are allowed", n, MaxScopesPerCmd)
	}
	return nil
}
