package redislog

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	oldestMajor = 7 // of the server's version
	// checkEvery is how old what we know of a server's settings may be when a call
	// is made.
	checkEvery = time.Second
	// sentinelChannel is where Sentinels talk about the servers they watch: each
	// subscribes on every one of them.
	sentinelChannel = "__sentinel__:hello"

	clusterReason  = "the server is in Cluster mode, which promotes replicas that lack acknowledged writes: use a single primary"
	sentinelReason = "a Sentinel watches the server and would promote a replica that lacks acknowledged writes: " +
		"take it off (SENTINEL REMOVE), or use another store"
)

// wanted are the settings that keep what was acknowledged. appendfsync always makes
// a reply mean that the disk has it: Redis writes and syncs the append-only file in
// beforeSleep, before any reply of that round goes out (server.c: "must be done
// before handleClientsWithPendingWritesUsingThreads, in case of appendfsync=always"),
// never writes to a connection in the round that read from it (the write barrier of
// installClientWriteHandler in networking.c), and exits when a write or a sync fails
// (flushAppendOnlyFile in aof.c). It holds for readers too: nobody is shown what is
// not on disk. A script's writes lie there between MULTI and EXEC, and a half one is
// cut off when the file is read again (loadSingleAppendOnlyFile).
var wanted = []struct{ name, value, why string }{
	{"appendonly", "yes", "what was acknowledged would be lost in a crash"},
	{"appendfsync", "always", "what was acknowledged in the last second would be lost in a crash"},
	{"no-appendfsync-on-rewrite", "no", "what was acknowledged during a rewrite of the file would be lost in a crash"},
	{"maxmemory-policy", "noeviction", "the server would drop parts of the log when its memory is full"},
}

// fitness knows whether the server may be used. Settings change under way, so
// they are looked at again whenever what is known is older than checkEvery or of
// another server. A change that comes and goes between two looks is harmless: what
// it lost shows after the crash that lost it, in another identity and the marks.
type fitness struct {
	turn     chan struct{} // held by who looks
	at       time.Time     // of the last look that was answered
	identity string        // of the server looked at
	err      error         // why it is unfit
}

// fit looks at the server if need be. With an identity it must be that server.
func (s *Store) fit(ctx context.Context, identity string) error {
	f := &s.fitness
	select {
	case f.turn <- struct{}{}:
		defer func() { <-f.turn }()
	case <-ctx.Done():
		return failedError("no answer of " + s.options.Address + " in time")
	}
	if time.Since(f.at) < checkEvery && (identity == "" || identity == f.identity) {
		return f.err
	}
	before := time.Now()
	found, err := s.look(ctx)
	if err != nil && found == "" {
		return err
	}
	s.tell(f.err, err)
	f.at, f.identity, f.err = before, found, err
	if err == nil && identity != "" && identity != found {
		return failedError("the server changed while it was asked")
	}
	return err
}

func (s *Store) tell(before, now error) {
	switch {
	case now != nil && before == nil:
		s.options.Logger.Error("the store is unfit", "store", "redis", "address", s.options.Address, "reason", now.Error())
	case now == nil && before != nil:
		s.options.Logger.Info("the store is fit again", "store", "redis", "address", s.options.Address)
	}
}

// look asks the server what it is. It returns its identity, empty when it did not
// answer, and an unfitError when it must not be used.
func (s *Store) look(ctx context.Context) (string, error) {
	pipe := s.calls.Pipeline()
	info := pipe.Info(ctx)
	get := []any{"CONFIG", "GET"}
	for _, w := range wanted {
		get = append(get, w.name)
	}
	settings := pipe.Do(ctx, get...)
	listeners := pipe.PubSubNumSub(ctx, sentinelChannel)
	// When logging in fails, the library says so here, and of no command.
	if _, err := pipe.Exec(ctx); err != nil && info.Val() == "" {
		return "", s.failure(err)
	}
	facts := factsOf(info.Val())
	identity := facts["run_id"] + "/" + facts["master_replid"]
	if err := unfitRole(facts); err != nil {
		return identity, err
	}
	found, err := s.settings(settings)
	if err != nil {
		return identity, err
	}
	for _, w := range wanted {
		if found[w.name] != w.value {
			return identity, unfitError(fmt.Sprintf("%s is %q: %s; set %s %s", w.name, found[w.name], w.why, w.name, w.value))
		}
	}
	if err := listeners.Err(); err != nil {
		return identity, s.unverified("whether a Sentinel watches it cannot be verified", "PUBSUB NUMSUB", err)
	}
	if listeners.Val()[sentinelChannel] > 0 {
		return identity, unfitError(sentinelReason)
	}
	return identity, nil
}

// settings reads the reply of CONFIG GET.
func (s *Store) settings(reply *redis.Cmd) (map[string]string, error) {
	list, err := reply.StringSlice()
	if err != nil {
		return nil, s.unverified("its settings cannot be verified", "CONFIG GET", err)
	}
	found := map[string]string{}
	for i := 0; i+1 < len(list); i += 2 {
		found[list[i]] = list[i+1]
	}
	return found, nil
}

// unverified says what could not be found out because the server declined to tell.
func (s *Store) unverified(what, command string, err error) error {
	var answered redis.Error
	if !errors.As(err, &answered) {
		return s.failure(err)
	}
	return unfitError(fmt.Sprintf("%s: allow %s, or use another server or store (it said: %.200s)", what, command, answered.Error()))
}

func unfitRole(facts map[string]string) error {
	major, _, _ := strings.Cut(facts["redis_version"], ".")
	version, err := strconv.Atoi(major)
	switch {
	case facts["run_id"] == "" || facts["master_replid"] == "":
		if facts["redis_mode"] != "sentinel" {
			return unfitError("the server does not say its run_id and master_replid: use Redis 7.0 or newer, and no proxy before it")
		}
		fallthrough
	case facts["redis_mode"] == "sentinel":
		return unfitError("the server is a Sentinel, which holds no data: name the primary, without a Sentinel, in the address")
	case facts["redis_mode"] == "cluster" || facts["cluster_enabled"] == "1":
		return unfitError(clusterReason)
	case err != nil || version < oldestMajor:
		return unfitError(fmt.Sprintf("the server has version %q: use Redis %d.0 or newer", facts["redis_version"], oldestMajor))
	case facts["role"] != "master":
		return unfitError(fmt.Sprintf("the server is a replica of %s:%s and may lack what was acknowledged: name the primary in the address",
			facts["master_host"], facts["master_port"]))
	case facts["aof_last_write_status"] != "ok":
		return unfitError("aof_last_write_status is " + facts["aof_last_write_status"] + ": make room on the server's disk")
	}
	return nil
}

// factsOf reads the reply of INFO.
func factsOf(info string) map[string]string {
	facts := map[string]string{}
	for line := range strings.SplitSeq(info, "\n") {
		if name, value, ok := strings.Cut(strings.TrimSuffix(line, "\r"), ":"); ok {
			facts[name] = value
		}
	}
	return facts
}
