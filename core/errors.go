package core

import (
	"errors"
	"fmt"
)

// Code says why a request was refused. The set is closed: a client may switch on it.
type Code string

const (
	CodeOK             Code = ""
	CodeInvalid        Code = "invalid"       // the request itself is wrong; Field names where
	CodeNotFound       Code = "not-found"     // no such scope, session or member
	CodeConflict       Code = "conflict"      // it contradicts what is there
	CodeSessionEnded   Code = "session-ended" // the session expired or was closed; open a new one
	CodeNotLeader      Code = "not-leader"    // the session does not lead the scope at that fence
	CodeRetiring       Code = "retiring"      // the scope is being given up by its holder; retry when it is gone
	CodeLimit          Code = "limit"         // a limit of limits.go is reached
	CodeTooOld         Code = "too-old"       // a retry from before the deduplication window: it may have been executed
	CodeUnsupported    Code = "unsupported"   // not every replica understands the command yet
	CodeUnavailable    Code = "unavailable"   // no registrar within the time allowed; the outcome is unknown, retry with the same request id
	CodeOverloaded     Code = "overloaded"    // too much in flight; nothing was done, retry later
	CodeHalted         Code = "halted"        // this replica stopped and says why
	CodeAlreadyStarted Code = "already-bootstrapped"
)

// Error is a refused request.
type Error struct {
	Code    Code
	Field   string // the offending field, for CodeInvalid and CodeLimit
	Message string // what is wrong and what would be right
}

func (e *Error) Error() string {
	if e.Field != "" {
		return fmt.Sprintf("%s: %s: %s", e.Code, e.Field, e.Message)
	}
	return fmt.Sprintf("%s: %s", e.Code, e.Message)
}

func invalid(field, format string, args ...any) *Error {
	return &Error{Code: CodeInvalid, Field: field, Message: fmt.Sprintf(format, args...)}
}

// asRefusal is a check's error, as one that refuses a command.
func asRefusal(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return &Error{Code: CodeInvalid, Message: err.Error()}
}

func refuse(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}
