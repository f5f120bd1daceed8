package check

import (
	"fmt"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
)

// outcome is what the answer to a command says of the scopes it is about, when it
// changed nothing there: what each looked like at the moment it was executed.
func outcome(c *logpb.Command, r *core.Result) (scopes []string, such func(ScopeView) bool) {
	switch k := c.Kind.(type) {
	case *logpb.Command_DeclareScopes:
		for _, s := range k.DeclareScopes.Scopes {
			scopes = append(scopes, s.Id)
		}
		if len(scopes) > 1 && r.Code != "" {
			return nil, nil // one of them was the reason, and nobody says which
		}
		return scopes, declareSaw(core.Code(r.Code))
	case *logpb.Command_RetireScopes:
		if len(k.RetireScopes.Scopes) > 1 && r.Code != "" {
			return nil, nil
		}
		return k.RetireScopes.Scopes, retireSaw(core.Code(r.Code))
	case *logpb.Command_Transfer:
		return []string{k.Transfer.Scope}, transferSaw(r)
	case *logpb.Command_CancelTransfer:
		return []string{k.CancelTransfer.Scope}, cancelSaw(core.Code(r.Code))
	}
	return nil, nil
}

func declareSaw(code core.Code) func(ScopeView) bool {
	switch code {
	case core.CodeOK: // it was declared already
		return func(v ScopeView) bool { return v.Declared && !v.Retiring }
	case core.CodeRetiring:
		return func(v ScopeView) bool { return v.Retiring }
	}
	return anything
}

func retireSaw(code core.Code) func(ScopeView) bool {
	switch code {
	case core.CodeOK: // it was being retired already
		return func(v ScopeView) bool { return v.Retiring }
	case core.CodeNotFound:
		return func(v ScopeView) bool { return !v.Declared }
	}
	return anything
}

func transferSaw(r *core.Result) func(ScopeView) bool {
	switch core.Code(r.Code) {
	case core.CodeOK: // the one asked for led already, or the same had been asked
		return func(v ScopeView) bool { return v.Fence != 0 && v.Fence == r.Fence && !v.Retiring }
	case core.CodeNotFound:
		return func(v ScopeView) bool { return !v.Declared }
	case core.CodeRetiring:
		return func(v ScopeView) bool { return v.Retiring }
	case core.CodeConflict:
		return func(v ScopeView) bool { return v.Declared && !v.Retiring }
	}
	return anything
}

func cancelSaw(code core.Code) func(ScopeView) bool {
	switch code {
	case core.CodeOK: // a request that was withdrawn leaves a step behind
		return func(ScopeView) bool { return false }
	case core.CodeNotFound:
		return func(v ScopeView) bool { return !v.Declared }
	case core.CodeRetiring:
		return func(v ScopeView) bool { return v.Retiring }
	case core.CodeConflict:
		return func(v ScopeView) bool { return v.Declared && v.Ask == "" }
	}
	return anything
}

func anything(ScopeView) bool { return true }

func describeAnswer(c *logpb.Command, r *core.Result) string {
	code := r.Code
	if code == "" {
		code = "ok"
	}
	return fmt.Sprintf("command %s (%T) answered %s, fence %d, revision %d", c.RequestId, c.Kind, code, r.Fence, r.Revision)
}
