package redislog

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/omnirelay/leadership/core"
)

// unfitError says why the server, or what lies in it, must not be used.
type unfitError string

func (e unfitError) Error() string { return string(e) }

// Unfit says that trying again cannot help.
func (e unfitError) Unfit() bool { return true }

// failedError says why a call was not answered; whether it took effect is unknown.
type failedError string

func (e failedError) Error() string { return string(e) }

// cures says of the errors of a server what they mean for us, by their first word.
var cures = []struct {
	word  string
	unfit bool
	text  string
}{
	{"OOM", false, "the server's memory is full: raise maxmemory (docs/redis.md says what a log needs), or move other data elsewhere"},
	{"MISCONF", false, "the server refuses writes because its last RDB snapshot failed: make room on its disk, or set stop-writes-on-bgsave-error no"},
	{"NOREPLICAS", false, "the server refuses writes because min-replicas-to-write replicas are not there: start them, or set it to 0"},
	{"LOADING", false, "the server is still loading its data: wait"},
	{"BUSY ", false, "a script of another program holds the server up: end it with SCRIPT KILL, or wait"},
	{"ERR max number of clients", false, "raise maxclients, or close connections of other programs"},
	{"READONLY", true, "the server is a replica: name the primary in the address"},
	{"MASTERDOWN", true, "the server is a replica: name the primary in the address"},
	{"NOPERM", true, "the user may not do what the log needs: docs/redis.md has its ACL"},
	{"ERR The user executing the script", true, "the user may not do what the log needs: docs/redis.md has its ACL"},
	{"NOAUTH", true, "the server wants a password: set one, and a user name if it has one"},
	{"WRONGPASS", true, "the server knows no such user and password: correct them"},
	{"ERR AUTH", true, "the server has no password, or wants a user name: correct them"},
	{"ERR DB index", true, "the server has fewer databases: choose a smaller number"},
	{"ERR unknown command", true, "the server lacks a command: use Redis 7.0 or newer, as a single primary, with no command renamed"},
	{"WRONGTYPE", true, "another program uses this prefix: choose another one"},
	{"MOVED", true, clusterReason},
	{"CLUSTERDOWN", true, clusterReason},
	{"CROSSSLOT", true, clusterReason},
}

// failure turns an error of the library into an unfitError or a failedError.
func (s *Store) failure(err error) error {
	var already unfitError
	var answered redis.Error
	switch {
	case errors.As(err, &already):
		return err
	case errors.As(err, &answered):
		return judged(answered)
	case errors.Is(err, redis.ErrClosed):
		return failedError("the store was closed")
	case errors.Is(err, context.DeadlineExceeded):
		return failedError(fmt.Sprintf("no answer of %s in time", s.options.Address))
	}
	return failedError(fmt.Sprintf("no answer of %s: %v", s.options.Address, err))
}

func judged(answered redis.Error) error {
	text := answered.Error()
	for _, c := range cures {
		if !strings.HasPrefix(text, c.word) {
			continue
		}
		text = fmt.Sprintf("%s (it said: %.200s)", c.text, text)
		if c.unfit {
			return unfitError(text)
		}
		return failedError(text)
	}
	return failedError(fmt.Sprintf("the server answered with an error: %.500s", text))
}

// failed is the reply to a call that was not answered.
func failed(c *core.StoreCall, err error) *core.StoreReply {
	r := &core.StoreReply{ID: c.ID, Status: core.StoreFailed, Text: err.Error()}
	if unfit := unfitError(""); errors.As(err, &unfit) {
		r.Status = core.StoreUnfit
	}
	return r
}
