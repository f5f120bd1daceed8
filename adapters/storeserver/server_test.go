package storeserver

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// note is a value kept in a server, through the client library of its kind.
type note interface {
	write(t *testing.T, value string)
	read(t *testing.T) string
}

func noteIn(s *Server) note {
	switch s.Kind() {
	case Etcd:
		return etcdNote{s}
	case Postgres:
		return postgresNote{s}
	default:
		return redisNote{s}
	}
}

type etcdNote struct{ s *Server }

func (n etcdNote) with(ctx context.Context, do func(context.Context, *clientv3.Client) error) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	c, err := clientv3.New(clientv3.Config{Context: ctx, Endpoints: []string{n.s.Address()}, Logger: zap.NewNop()})
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	return do(ctx, c)
}

func (n etcdNote) tryWrite(ctx context.Context, value string) error {
	return n.with(ctx, func(ctx context.Context, c *clientv3.Client) error {
		_, err := c.Put(ctx, "note", value)
		return err
	})
}

func (n etcdNote) write(t *testing.T, value string) {
	t.Helper()
	if err := n.tryWrite(t.Context(), value); err != nil {
		t.Fatal(err)
	}
}

func (n etcdNote) read(t *testing.T) (value string) {
	t.Helper()
	err := n.with(t.Context(), func(ctx context.Context, c *clientv3.Client) error {
		r, err := c.Get(ctx, "note")
		if err == nil && len(r.Kvs) > 0 {
			value = string(r.Kvs[0].Value)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return value
}

type postgresNote struct{ s *Server }

func (n postgresNote) with(t *testing.T, do func(context.Context, *pgx.Conn) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, err := pgx.Connect(ctx, n.s.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close(ctx) }()
	if err := do(ctx, c); err != nil {
		t.Fatal(err)
	}
}

func (n postgresNote) write(t *testing.T, value string) {
	t.Helper()
	n.with(t, func(ctx context.Context, c *pgx.Conn) error {
		if _, err := c.Exec(ctx, "CREATE TABLE IF NOT EXISTS note (value text)"); err != nil {
			return err
		}
		_, err := c.Exec(ctx, "INSERT INTO note VALUES ($1)", value)
		return err
	})
}

func (n postgresNote) read(t *testing.T) (value string) {
	t.Helper()
	n.with(t, func(ctx context.Context, c *pgx.Conn) error {
		return c.QueryRow(ctx, "SELECT value FROM note ORDER BY value DESC LIMIT 1").Scan(&value)
	})
	return value
}

type redisNote struct{ s *Server }

func (n redisNote) with(t *testing.T, do func(context.Context, *redis.Client) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c := redis.NewClient(&redis.Options{Addr: n.s.Address()})
	defer func() { _ = c.Close() }()
	if err := do(ctx, c); err != nil {
		t.Fatal(err)
	}
}

func (n redisNote) write(t *testing.T, value string) {
	t.Helper()
	n.with(t, func(ctx context.Context, c *redis.Client) error { return c.Set(ctx, "note", value, 0).Err() })
}

func (n redisNote) read(t *testing.T) (value string) {
	t.Helper()
	n.with(t, func(ctx context.Context, c *redis.Client) error {
		var err error
		value, err = c.Get(ctx, "note").Result()
		return err
	})
	return value
}

func mustStart(t *testing.T, o Options) *Server {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	s, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Kill)
	return s
}

func mustRestart(t *testing.T, s *Server) {
	t.Helper()
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestServer(t *testing.T) {
	for _, kind := range Kinds {
		t.Run(string(kind), func(t *testing.T) {
			s := mustStart(t, Options{Kind: kind})
			n := noteIn(s)
			address := s.Address()

			n.write(t, "1")
			pids := append(descendants(s.PID()), s.PID())
			s.Kill()
			for _, pid := range pids {
				if state := stateOf(pid); !gone(state) {
					t.Errorf("process %d is in state %c after Kill", pid, state)
				}
			}
			copied := filepath.Join(t.TempDir(), "copy")
			if err := s.Copy(copied); err != nil {
				t.Fatal(err)
			}
			mustRestart(t, s)
			if got := n.read(t); got != "1" || s.Address() != address {
				t.Fatalf("after a kill: %q at %s, want 1 at %s", got, s.Address(), address)
			}
			n.write(t, "2")
			s.Stop()
			mustRestart(t, s)
			if got := n.read(t); got != "2" {
				t.Fatalf("after a stop: %q, want 2", got)
			}
			if err := s.RestoreFrom(copied); err == nil {
				t.Error("a copy was restored under a running server")
			}
			s.Kill()
			if err := s.RestoreFrom(copied); err != nil {
				t.Fatal(err)
			}
			mustRestart(t, s)
			if got := n.read(t); got != "1" {
				t.Fatalf("from the copy: %q, want 1", got)
			}
		})
	}
}

func TestPauseHoldsEveryProcess(t *testing.T) {
	for _, kind := range Kinds {
		t.Run(string(kind), func(t *testing.T) {
			s := mustStart(t, Options{Kind: kind})
			n := noteIn(s)
			n.write(t, "1")
			s.Pause()
			pids := append(descendants(s.PID()), s.PID())
			for _, pid := range pids {
				rests := func() bool { state := stateOf(pid); return state == 'T' || gone(state) }
				await(rests)
				if state := stateOf(pid); !rests() {
					t.Errorf("process %d of %d is in state %c, want T", pid, len(pids), state)
				}
			}
			if kind == Postgres && len(pids) < 4 {
				t.Errorf("found %d processes of PostgreSQL, want the writers as well", len(pids))
			}
			s.Resume()
			if got := n.read(t); got != "1" {
				t.Fatalf("after the pause: %q, want 1", got)
			}
			s.Pause()
			s.Stop() // a paused server is stopped too
			if !s.process.ended() {
				t.Error("it still runs")
			}
		})
	}
}

func TestLimitFilesFillsPostgres(t *testing.T) {
	s := mustStart(t, Options{Kind: Postgres})
	grow := func(ctx context.Context, c *pgx.Conn) error {
		_, err := c.Exec(ctx, "CREATE TABLE large AS SELECT repeat('x', 1000) FROM generate_series(1, 30000)")
		return err
	}
	if err := s.LimitFiles(17 << 20); err != nil {
		t.Fatal(err)
	}
	n := postgresNote{s}
	n.with(t, func(ctx context.Context, c *pgx.Conn) error {
		if err := grow(ctx, c); err == nil || !strings.Contains(err.Error(), "could not extend file") {
			t.Errorf("a table grew beyond the limit: %v", err)
		}
		return nil
	})
	if err := s.LimitFiles(0); err != nil {
		t.Fatal(err)
	}
	n.with(t, grow)
}

func TestOneServerPerDirectory(t *testing.T) {
	dir := t.TempDir()
	s := mustStart(t, Options{Kind: Redis, Dir: dir})
	if _, err := Start(t.Context(), Options{Kind: Redis, Dir: dir}); err == nil || !strings.Contains(err.Error(), "another server uses") {
		t.Fatalf("a second server in one directory: %v", err)
	}
	s.Stop()
	mustStart(t, Options{Kind: Redis, Dir: dir})
}

func TestStartSaysWhatIsWrong(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	taken := l.Addr().(*net.TCPAddr).Port
	for name, c := range map[string]struct {
		o    Options
		want string
	}{
		"kind":      {Options{Kind: "mysql", Dir: t.TempDir()}, "want etcd, postgres or redis"},
		"directory": {Options{Kind: Etcd}, "Dir is empty"},
		"binary":    {Options{Kind: Etcd, Dir: t.TempDir(), Binary: "/nowhere/etcd"}, "/nowhere/etcd cannot be run"},
		"argument":  {Options{Kind: Redis, Dir: t.TempDir(), Args: []string{"--appendonly", "perhaps"}}, "argument must be 'yes' or 'no'"},
		"port":      {Options{Kind: Redis, Dir: t.TempDir(), Port: taken}, "ddress already in use"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Start(t.Context(), c.o); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("%v, want it to say %q", err, c.want)
			}
		})
	}
}

func TestMissingProgramNamesThePackage(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	for kind, want := range map[Kind]string{Etcd: "etcd-server", Redis: "redis-server"} {
		if _, err := Start(t.Context(), Options{Kind: kind, Dir: t.TempDir()}); err == nil || !strings.HasSuffix(err.Error(), "apt-get install "+want) {
			t.Errorf("%s: %v, want the package %s", kind, err, want)
		}
	}
}

// TestServersDieWithUs starts this test's binary again, as a process that starts a
// server and is then killed.
func TestServersDieWithUs(t *testing.T) {
	if dir := os.Getenv("STORESERVER_START_IN"); dir != "" {
		s, err := Start(t.Context(), Options{Kind: Kind(os.Getenv("STORESERVER_KIND")), Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		fmt.Println("STARTED", s.PID())
		select {}
	}
	for _, kind := range Kinds {
		t.Run(string(kind), func(t *testing.T) {
			cmd := command{path: os.Args[0], args: []string{"-test.run=^TestServersDieWithUs$", "-test.v"}}.exec()
			cmd.Env = append(cmd.Env, "STORESERVER_START_IN="+t.TempDir(), "STORESERVER_KIND="+string(kind))
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			pid := 0
			for lines := bufio.NewScanner(out); pid == 0 && lines.Scan(); {
				_, _ = fmt.Sscanf(lines.Text(), "STARTED %d", &pid)
			}
			pids := append(descendants(pid), pid)
			if pid == 0 {
				t.Fatal("no server was started")
			}
			if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait() // killed
			for _, pid := range pids {
				await(func() bool { return gone(stateOf(pid)) })
				if state := stateOf(pid); !gone(state) {
					t.Errorf("process %d is in state %c after its starter was killed", pid, state)
				}
			}
		})
	}
}
