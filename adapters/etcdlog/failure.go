package etcdlog

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/omnirelay/leadership/core"
)

// damage is data that is not what this build wrote: no call can be answered from it.
type damage struct{ key, text string }

func (d *damage) Error() string { return fmt.Sprintf("key %s: %s", d.key, d.text) }

func damaged(key, format string, args ...any) error {
	return &damage{key: key, text: fmt.Sprintf(format, args...)}
}

// failed says why there is no answer.
type failed struct{ text string }

func (f *failed) Error() string { return f.text }

func fail(format string, args ...any) error { return &failed{text: fmt.Sprintf(format, args...)} }

// unfitError is a refusal to open a store that will be the same at the next attempt.
type unfitError struct{ error }

// Unfit tells that trying again cannot help.
func (unfitError) Unfit() bool { return true }

func (u unfitError) Unwrap() error { return u.error }

// opening is the error of Open. What a running store waits for, an operator who sets
// its user right, is at the start a mistake in the settings.
func (s *Store) opening(err error) error {
	refusal := fmt.Errorf("etcdlog: %s%s", s.explain(err), s.hint(err))
	for _, e := range []error{rpctypes.ErrAuthFailed, rpctypes.ErrUserEmpty, rpctypes.ErrPermissionDenied} {
		if errors.Is(err, e) {
			return unfitError{refusal}
		}
	}
	if mustNotBeUsed(err) {
		return unfitError{refusal}
	}
	return refusal
}

// verdict turns an error into a reply.
func (s *Store) verdict(err error) *core.StoreReply {
	status := core.StoreFailed
	if mustNotBeUsed(err) {
		status = core.StoreUnfit
	}
	return &core.StoreReply{Status: status, Text: s.explain(err)}
}

func mustNotBeUsed(err error) bool {
	return errors.As(err, new(*damage)) || errors.As(err, new(unfitError)) ||
		errors.Is(err, rpctypes.ErrCorrupt) || errors.Is(err, rpctypes.ErrRequestTooLarge) || errors.Is(err, rpctypes.ErrTooManyOps)
}

// explain says what is wrong and what would be right.
func (s *Store) explain(err error) string {
	switch {
	case errors.Is(err, rpctypes.ErrNoSpace):
		return "etcd is out of space and takes no more writes: compact it (etcdctl compact), give the space free (etcdctl defrag), " +
			"or raise --quota-backend-bytes; then lift the alarm (etcdctl alarm disarm). --auto-compaction-retention keeps it from coming back"
	case errors.Is(err, rpctypes.ErrPermissionDenied):
		return fmt.Sprintf("etcd denies user %q: give its role readwrite on the prefix %s (etcdctl role grant-permission ROLE --prefix=true readwrite %[2]s)", s.options.Username, s.options.Prefix)
	case errors.Is(err, rpctypes.ErrAuthFailed):
		return fmt.Sprintf("etcd does not accept the password of user %q: set Username and Password right", s.options.Username)
	case errors.Is(err, rpctypes.ErrUserEmpty):
		return "etcd asks who we are: set Username and Password, or TLS with a client certificate"
	case errors.Is(err, rpctypes.ErrCorrupt):
		return "etcd's members disagree about their data (alarm CORRUPT): restore the member that is wrong from the others"
	case errors.Is(err, rpctypes.ErrRequestTooLarge), errors.Is(err, rpctypes.ErrTooManyOps):
		return fmt.Sprintf("etcd's limits are below its defaults (%v): --max-request-bytes must be at least 1572864 and --max-txn-ops 128", err)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return fmt.Sprintf("etcd did not answer in time (%v)%s", err, s.trouble.text())
	}
	return "etcd: " + err.Error()
}

// hint names what may be wrong when no connection was made by TLS: the alert of a
// server that wants a certificate is lost more often than not.
func (s *Store) hint(err error) string {
	if codeOf(err) != codes.Unavailable || !strings.HasPrefix(s.options.Endpoints[0], "https:") {
		return ""
	}
	return "; if etcd listens there: TLS must name the authority of its certificate, and a client certificate if it asks for one"
}

// untouched reports whether a request that ended with err changed nothing, so that
// another attempt cannot be a second one: no connection took it, or a member turned
// it away that has no leader, is a learner, or did not know the token.
func untouched(err error) bool {
	return errors.As(err, new(unsent)) || refusedToken(err) || errors.Is(err, rpctypes.ErrNoLeader) || errors.Is(err, errLearner)
}

var errLearner = rpctypes.Error(rpctypes.ErrGRPCNotSupportedForLearner)

func codeOf(err error) codes.Code {
	var e rpctypes.EtcdError
	if errors.As(err, &e) {
		return e.Code()
	}
	return status.Code(err)
}
