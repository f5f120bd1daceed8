package signing

import (
	"errors"
	"fmt"
	"strings"
	"unicode"

	"github.com/omnirelay/leadership/core"
)

// Reason says why a token was refused. The set is closed: it may label a metric.
type Reason string

const (
	Malformed   Reason = "malformed"        // not a token at all, or one of another type
	Algorithm   Reason = "algorithm"        // signed with anything but EdDSA, or not signed
	UnknownKey  Reason = "unknown-key"      // no published key has the name it gives
	Signature   Reason = "signature"        // forged or altered
	Expired     Reason = "expired"          // a fresh one is to be asked for
	NotYetValid Reason = "not-yet-valid"    // issued in the future: a clock is wrong
	Foreign     Reason = "foreign"          // of another cluster
	WrongClaims Reason = "claims"           // signed, but what it says breaks a limit
	NoKeys      Reason = "keys-unavailable" // no key could be had yet: nothing is known of the token
)

// TokenError refuses a token.
type TokenError struct {
	Reason  Reason
	Field   string // the header member or claim; empty: the token as a whole
	Message string // what is wrong and what would be right
}

func (e *TokenError) Error() string {
	if e.Field != "" {
		return fmt.Sprintf("leadership token refused (%s): %s: %s", e.Reason, e.Field, e.Message)
	}
	return fmt.Sprintf("leadership token refused (%s): %s", e.Reason, e.Message)
}

func refuse(reason Reason, field, format string, args ...any) *TokenError {
	return &TokenError{Reason: reason, Field: field, Message: fmt.Sprintf(format, args...)}
}

func wrongClaim(err error) *TokenError {
	var wrong *core.Error
	if errors.As(err, &wrong) {
		return refuse(WrongClaims, wrong.Field, "%s", wrong.Message)
	}
	return refuse(WrongClaims, "", "%v", err)
}

// brief makes text from outside fit for a line of a log: what nobody can see is shown as
// a question mark, and it is cut where it gets long.
func brief(text string) string {
	const most = 80
	cut := text
	if len(text) > most {
		cut = text[:most]
	}
	cut = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == unicode.ReplacementChar {
			return '?'
		}
		return r
	}, cut)
	if len(text) > most {
		cut += "…"
	}
	return cut
}
