package access

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/omnirelay/leadership/core"
)

// Denied refuses a call for who makes it.
type Denied struct {
	// Unauthenticated: nobody could be recognized, and a good credential may help
	// (gRPC UNAUTHENTICATED, HTTP 401). Otherwise the caller is known and may not
	// (PERMISSION_DENIED, 403).
	Unauthenticated bool
	Want, Have      string // what the call needs and what the caller has, in words
	Message         string // both, and whom it is about: what people are told
}

func (d *Denied) Error() string { return d.Message }

// Reason is the refusal for programs: unauthenticated or denied.
func (d *Denied) Reason() string {
	if d.Unauthenticated {
		return "unauthenticated"
	}
	return "denied"
}

func unauthenticated(want, format string, args ...any) *Denied {
	return &Denied{Unauthenticated: true, Want: want, Have: "no good credential", Message: fmt.Sprintf(format, args...)}
}

func refused(have, want, format string, args ...any) *Denied {
	return &Denied{Want: want, Have: have, Message: fmt.Sprintf(format, args...)}
}

// Exceeded refuses a call for how many there are (gRPC RESOURCE_EXHAUSTED, HTTP 429).
type Exceeded struct {
	What  string // what there is too much of
	Limit int    // how much is allowed
	// RetryAfter is how long to wait before it can be better.
	RetryAfter time.Duration
}

func (e *Exceeded) Error() string {
	return fmt.Sprintf("%s: at most %d are served; come back after %v", e.What, e.Limit, e.RetryAfter)
}

// RefusalOf says in a word why a caller was turned away: unauthenticated, forbidden, rate,
// or busy, when it is the node that has too much to do. Empty: err says nothing of that.
func RefusalOf(err error) string {
	var denied *Denied
	var exceeded *Exceeded
	var refused *core.Error
	switch {
	case errors.As(err, &denied) && denied.Unauthenticated:
		return "unauthenticated"
	case errors.As(err, &denied):
		return "forbidden"
	case errors.As(err, &exceeded):
		return "rate"
	case errors.As(err, &refused) && refused.Code == core.CodeOverloaded:
		return "busy"
	}
	return ""
}

// plain is what an error of core says is wrong, without its code.
func plain(err error) string {
	var e *core.Error
	if errors.As(err, &e) {
		return e.Field + ": " + e.Message
	}
	return err.Error()
}

// clip keeps what a caller wrote from filling a message or a log.
func clip(text string) string { return clipAt(80, text) }

func clipAt(most int, text string) string {
	if len(text) > most {
		return printable(text[:most]) + "…"
	}
	return printable(text)
}

// printable replaces what would break a line of a log.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, text)
}
