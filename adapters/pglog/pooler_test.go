package pglog_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/omnirelay/leadership/adapters/pglog"
	"github.com/omnirelay/leadership/adapters/storeserver"
	"github.com/omnirelay/leadership/core"
)

// pooler runs pgbouncer in transaction mode before a server, on a Unix socket, with
// fewer connections to the server than clients use.
func pooler(t *testing.T, server *storeserver.Server) (url string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "pool") // short: it becomes the name of a socket
	ok(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	cmd := exec.Command("/usr/sbin/pgbouncer", filepath.Join(dir, "ini"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	ok(t, os.WriteFile(filepath.Join(dir, "ini"), fmt.Appendf(nil, `
[databases]
postgres = host=127.0.0.1 port=%d dbname=postgres user=postgres
[pgbouncer]
pool_mode = transaction
auth_type = any
unix_socket_dir = %s
listen_port = 6432
default_pool_size = 3
`, portOf(t, server), dir), 0o644))
	if os.Geteuid() == 0 { // as which it refuses to run
		u, err := user.Lookup("postgres")
		ok(t, err)
		uid, err := strconv.Atoi(u.Uid)
		ok(t, err)
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}
		ok(t, os.Chown(dir, uid, -1))
	}
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	ok(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("pgbouncer: %s", said.String())
		}
	})
	until(t, "the pooler to answer", func() bool {
		conn, err := net.Dial("unix", filepath.Join(dir, ".s.PGSQL.6432"))
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
	return "postgres://postgres@/postgres?host=" + dir + "&port=6432&sslmode=disable"
}

// lines collects what is logged.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) count(what string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), what)
}

// Through a pooler in transaction mode everything works, and new entries are found by
// polling alone, which is said once.
func TestTransactionPooler(t *testing.T) {
	server := start(t)
	url := pooler(t, server)
	var log lines
	o := pglog.Options{URL: url, ClusterID: cluster, Migrate: true, Logger: slog.New(slog.NewTextHandler(&log, nil))}
	first := opened(t, o)
	var stores []*pglog.Store
	for range 3 {
		o.Logger = nil
		stores = append(stores, opened(t, o))
	}
	write(t, first, 3)
	var wait sync.WaitGroup
	for _, s := range stores {
		for range 3 {
			wait.Go(func() {
				for range 30 {
					if r := try(s, &core.StoreCall{Confirm: &core.StoreConfirm{Term: 1, Beat: true}}); r.Status != core.StoreOK {
						t.Errorf("%+v", r)
					}
					if r := try(s, &core.StoreCall{Fetch: &core.StoreFetch{MaxBytes: 1 << 20}}); r.Status != core.StoreOK || len(r.Entries) != 3 {
						t.Errorf("%+v", r)
					}
				}
			})
		}
	}
	wait.Wait()
	if beat := confirmed(t, first).Lead.Beat; beat != 270 {
		t.Errorf("beat %d, want 270", beat)
	}
	if d := waited(t, server, stores[0], first); d > time.Second {
		t.Errorf("found after %s, at polls every %s", d, pglog.DefaultTailPoll)
	}
	until(t, "the line about polling", func() bool { return log.count("by polling alone") == 1 })
	admin := session(t, server.URL())
	if n := value[int](t, admin, listeners); n != 0 {
		t.Errorf("%d listeners were left in the pooler", n)
	}
	// Nothing of a transaction is left behind in the sessions that others get.
	behind := session(t, url+"&default_query_exec_mode=simple_protocol")
	for range 5 {
		if left := value[string](t, behind, "SELECT current_setting('statement_timeout') || current_setting('lock_timeout')"); left != "00" {
			t.Errorf("settings are left in the pooler: %s", left)
		}
	}
}
