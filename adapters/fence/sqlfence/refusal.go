package sqlfence

import (
	"context"
	"errors"
	"math/rand/v2"
	"regexp"
	"strconv"
	"time"

	"github.com/omnirelay/leadership/core"
)

// SQLSTATEs of refusals.
const (
	CodeStale   = "LD003" // the fence was overtaken
	CodeNoFence = "LD004" // scope or fence is missing, malformed, or of another scope
)

// MaxTries is how often Run tries a transaction that the database wants repeated.
const MaxTries = 10

// stateOf is the SQLSTATE of a driver's error, empty for others.
func stateOf(err error) string {
	var e interface{ SQLState() string }
	if errors.As(err, &e) {
		return e.SQLState()
	}
	return ""
}

// staleText is how the function admit refuses; a scope id has no quotes.
var staleText = regexp.MustCompile(`stale leader of "([^"]{1,256})": fence ([0-9]{1,16}), at least ([0-9]{1,16}) is required`)

// Translate turns what the guard in the database refused into a *core.StaleError, or
// into a *core.Error when scope or fence was malformed or missing. It is also for
// statements on guarded tables. Other errors, nil too, stay as they are.
func Translate(err error) error {
	switch stateOf(err) {
	case CodeStale:
		if m := staleText.FindStringSubmatch(err.Error()); m != nil {
			return &core.StaleError{Scope: m[1], Fence: number(m[2]), Required: number(m[3])}
		}
	case CodeNoFence:
		return &core.Error{Code: core.CodeInvalid, Field: "fence", Message: err.Error()}
	}
	return err
}

func number(digits string) uint64 {
	n, _ := strconv.ParseUint(digits, 10, 64) // it matched
	return n
}

// repeatable is a transaction that may succeed when it is tried again: a serialization
// failure, or a deadlock.
func repeatable(err error) bool {
	s := stateOf(err)
	return s == "40001" || s == "40P01"
}

// Repeat calls try until it succeeds, fails for good, or failed MaxTries times.
func Repeat(ctx context.Context, try func() error) error {
	for n := 1; ; n++ {
		err := try()
		if !repeatable(err) || n == MaxTries {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(rand.N(time.Duration(n) * 5 * time.Millisecond)):
		}
	}
}
