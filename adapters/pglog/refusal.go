package pglog

import (
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/omnirelay/leadership/core"
)

// SQLSTATEs. Those with LD are raised by our functions; applications meet the last
// two at the fence guard.
const (
	codeUnfit   = "LD001"
	codeStandby = "LD002"
	// CodeStale is raised by admit when the fence was overtaken.
	CodeStale = "LD003"
	// CodeNoFence is raised by admit and the trigger when scope or fence is missing.
	CodeNoFence = "LD004"

	codeReadOnly  = "25006"
	codeForbidden = "42501" // insufficient privilege
)

// Refusal is why a database cannot keep this log, and what would be right. Trying
// again cannot help.
type Refusal struct{ Text string }

func (r *Refusal) Error() string { return r.Text }

// Unfit tells a Refusal from an error that may pass.
func (r *Refusal) Unfit() bool { return true }

func unfit(format string, args ...any) *Refusal { return &Refusal{Text: fmt.Sprintf(format, args...)} }

// sorted returns err, as a Refusal if trying again cannot help: that is also so when
// the server does not let us in.
func sorted(err error, schema string) error {
	var e *pgconn.PgError
	status, text := judge(err, schema)
	if status == core.StoreUnfit || errors.As(err, &e) && (e.Code == "28P01" || e.Code == "28000" || e.Code == "3D000") {
		return &Refusal{Text: text}
	}
	return err
}

// judge says what an error means to the caller: StoreUnfit if trying again is of no
// use and an operator must act, else StoreFailed, with which all is open.
func judge(err error, schema string) (core.StoreStatus, string) {
	var r *Refusal
	if errors.As(err, &r) {
		return core.StoreUnfit, r.Text
	}
	var e *pgconn.PgError
	if !errors.As(err, &e) {
		return core.StoreFailed, err.Error()
	}
	switch e.Code {
	case codeUnfit:
		return core.StoreUnfit, fmt.Sprintf("schema %s: %s", schema, e.Message)
	case codeStandby:
		return core.StoreFailed, e.Message
	case "42P01", "42883", "3F000", "42703": // no such table, function, schema, column
		return core.StoreUnfit, fmt.Sprintf("schema %s is missing or of another version (%s): migrate it, or restore it", schema, e.Message)
	case codeForbidden:
		return core.StoreUnfit, fmt.Sprintf("%s: grant the role %s_runtime to this user", e.Message, schema)
	case "XX001", "XX002": // corrupted data, corrupted index
		return core.StoreUnfit, fmt.Sprintf("the database is damaged: %s: restore a backup", e.Message)
	case "23505", "23514": // unique, check
		return core.StoreUnfit, fmt.Sprintf("schema %s holds rows that are not of this log: %s %s", schema, e.Message, e.Detail)
	case "55P03": // lock not available
		return core.StoreFailed, "another transaction holds the log: " + e.Message
	}
	return core.StoreFailed, err.Error()
}
