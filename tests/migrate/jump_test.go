package migrate_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/omnirelay/leadership/adapters/storeserver"
	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/tests/cluster/harness"
)

// pair is a primary with a replica that is promoted in its place.
type pair struct {
	primary, replica *storeserver.Server
	clients          *storeserver.Proxy // how nodes reach the primary
	link             *storeserver.Proxy // how the replica does
	// level returns nil when the replica has all that the primary has.
	level func() error
	// promote makes a primary of the replica.
	promote func() error
	// damage changes the newest entry, behind the back of everybody.
	damage func() error
}

// A replica that lagged is promoted: the service stops and says why, and one command
// starts it again, with higher fences, under the nodes that run.
func TestJumpAfterALaggingReplicaWasPromoted(t *testing.T) {
	for kind, replicate := range map[storeserver.Kind]func(*testing.T) *pair{
		storeserver.Redis: redisPair, storeserver.Postgres: postgresPair,
	} {
		t.Run(string(kind), func(t *testing.T) {
			p := replicate(t)
			at := &place{kind: string(kind), address: p.clients.Address(), name: "leadership"}
			c := harness.New(t, harness.Options{Settings: strings.Replace(settings, raftBlock, at.block(), 1)})
			fences := map[string]uint64{}
			grown(t, fences, c.AwaitSettled(harness.StartWithin))
			config := c.Nodes[0].Config
			refusedBy(t, "nothing waits for a jump", "fence", "jump", "--yes", "--config", config)

			harness.Await(t, 10*time.Second, "the replica follows", p.level)
			p.link.Refuse(true)
			p.link.Cut()
			moveAll(t, c, fences)

			p.primary.Kill()
			harness.Await(t, 30*time.Second, "the replica is promoted", p.promote)
			p.clients.SetTarget(p.replica.Address())
			p.clients.Cut()
			awaitNotReady(t, c.Nodes, "forgot")
			awaitNotReady(t, c.Nodes, "leaderd fence jump")

			refusedBy(t, "add --yes", "fence", "jump", "--config", config)
			// One look may be a glimpse of another server: the second closes the log.
			harness.Await(t, 10*time.Second, "the log is closed", func() error {
				if lead := at.lead(t); !strings.Contains(lead.Closed, "forgot") {
					return fmt.Errorf("it is closed by %q", lead.Closed)
				}
				return nil
			})
			t.Log("\n" + leaderd(t, "fence", "jump", "--yes", "--config", config))
			now := c.AwaitSettled(harness.StartWithin)
			grown(t, fences, now)
			for scope, token := range now.ByScope {
				if token.FenceToken < core.JumpAhead {
					t.Errorf("%s has fence %d after the jump", scope, token.FenceToken)
				}
			}
			must(t, c.AwaitTrail(10*time.Second).Verify())
			records := at.trail(t)
			if must(t, core.VerifyChain(nil, records)); records[0].Seq != 1 {
				t.Errorf("the published trail begins with record %d", records[0].Seq)
			}
			refusedBy(t, "nothing waits for a jump", "fence", "jump", "--yes", "--config", config)

			must(t, p.damage())
			before := at.lead(t)
			refusedBy(t, "Nothing was changed", "fence", "jump", "--yes", "--force", "--config", config)
			if after := at.lead(t); after.Term != before.Term || after.Generation != before.Generation {
				t.Errorf("a damaged log was replaced: %v", after)
			}
		})
	}
}

// moveAll makes another node lead what one node led, for which fences are given.
func moveAll(t *testing.T, c *harness.Cluster, fences map[string]uint64) {
	t.Helper()
	n, rest := c.Nodes[0], c.Nodes[1:]
	n.Terminate()
	n.AwaitExit(stopWithin)
	harness.Await(t, 10*time.Second, "others lead", func() error {
		for _, other := range rest {
			l, err := other.Leaders()
			if err != nil {
				return err
			}
			if len(l.ByScope) != harness.ScopeCount || len(l.LedBy(n.ID)) > 0 {
				return fmt.Errorf("%s tells of %d led scopes, %d by %s", other.ID, len(l.ByScope), len(l.LedBy(n.ID)), n.ID)
			}
		}
		return nil
	})
	n.Start()
	for scope, token := range c.AwaitSettled(harness.StartWithin).ByScope {
		fences[scope] = max(fences[scope], token.FenceToken)
	}
}

// proxies puts one before a primary for clients, and one for its replica.
func proxies(t *testing.T, primary *storeserver.Server) (clients, link *storeserver.Proxy) {
	t.Helper()
	for _, p := range []**storeserver.Proxy{&clients, &link} {
		var err error
		*p, err = storeserver.NewProxy(primary.Address())
		must(t, err)
		t.Cleanup((*p).Close)
	}
	return clients, link
}

func redisPair(t *testing.T) *pair {
	dir := t.TempDir()
	p := &pair{primary: startServer(t, storeserver.Redis, filepath.Join(dir, "primary"))}
	p.clients, p.link = proxies(t, p.primary)
	host, port, err := net.SplitHostPort(p.link.Address())
	must(t, err)
	p.replica = startServer(t, storeserver.Redis, filepath.Join(dir, "replica"), "--replicaof", host, port)
	p.level = func() error {
		here, err := redisInfo(p.primary.Address(), "master_repl_offset")
		if err != nil {
			return err
		}
		there, err := redisInfo(p.replica.Address(), "slave_repl_offset")
		link, linkErr := redisInfo(p.replica.Address(), "master_link_status")
		if err = errors.Join(err, linkErr); err == nil && (link != "up" || len(there) < len(here)) {
			err = fmt.Errorf("the link is %s, offset %s of %s", link, there, here)
		}
		return err
	}
	p.promote = func() error {
		answer, err := redisAsk(p.replica.Address(), "REPLICAOF NO ONE")
		if err == nil && !strings.HasPrefix(answer, "+OK") {
			err = errors.New(answer)
		}
		return err
	}
	p.damage = func() error {
		entries := "/leadership/" + clusterID + "/entries"
		answer, err := redisAsk(p.replica.Address(), "EVAL \"local n = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1][1] return redis.call('XDEL', KEYS[1], n)\" 1 "+entries)
		if err == nil && !strings.HasPrefix(answer, ":1") {
			err = errors.New(answer)
		}
		return err
	}
	return p
}

// redisAsk sends one command and returns the first line of the answer, or all of a text.
func redisAsk(address, command string) (string, error) {
	conn, err := net.DialTimeout("tcp", address, time.Second)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return "", err
	}
	if _, err := fmt.Fprintf(conn, "%s\r\nPING\r\n", command); err != nil {
		return "", err
	}
	var text strings.Builder
	lines := bufio.NewScanner(conn)
	for lines.Scan() && lines.Text() != "+PONG" {
		text.WriteString(lines.Text() + "\n")
	}
	return text.String(), lines.Err()
}

func redisInfo(address, name string) (string, error) {
	text, err := redisAsk(address, "INFO replication")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(text) {
		if key, value, _ := strings.Cut(strings.TrimSpace(line), ":"); key == name {
			return value, nil
		}
	}
	return "", fmt.Errorf("%s says nothing of %s", address, name)
}

func postgresPair(t *testing.T) *pair {
	dir := t.TempDir()
	p := &pair{primary: startServer(t, storeserver.Postgres, filepath.Join(dir, "primary"))}
	p.clients, p.link = proxies(t, p.primary)
	p.primary.Stop()
	standby := filepath.Join(dir, "standby")
	must(t, os.Mkdir(standby, 0o755))
	must(t, p.primary.Copy(filepath.Join(standby, "data")))
	must(t, os.WriteFile(filepath.Join(standby, "data", "standby.signal"), nil, 0o644))
	must(t, p.primary.Restart(context.Background()))
	host, port, err := net.SplitHostPort(p.link.Address())
	must(t, err)
	p.replica = startServer(t, storeserver.Postgres, standby, "-c", fmt.Sprintf("primary_conninfo=host=%s port=%s user=postgres sslmode=disable", host, port))
	p.level = func() error {
		return postgresWant(p.primary, "SELECT count(*) = 1 AND bool_and(replay_lsn >= sent_lsn) FROM pg_stat_replication WHERE state = 'streaming'")
	}
	p.promote = func() error { return postgresWant(p.replica, "SELECT NOT pg_is_in_recovery() OR pg_promote(true, 20)") }
	p.damage = func() error {
		return postgresWant(p.replica, `WITH d AS (UPDATE leadership.entry SET data = data || '\x00'
			WHERE index = (SELECT max(index) FROM leadership.entry) RETURNING 1) SELECT count(*) = 1 FROM d`)
	}
	return p
}

// postgresWant asks a question that must be answered with true.
func postgresWant(s *storeserver.Server, question string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.URL())
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	var answer bool
	if err := conn.QueryRow(ctx, question).Scan(&answer); err != nil {
		return err
	}
	if !answer {
		return fmt.Errorf("%s: no", question)
	}
	return nil
}
