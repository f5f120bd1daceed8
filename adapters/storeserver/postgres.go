package storeserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"
)

// PostgresURL is the connection URL of the superuser, over plain TCP, at host:port.
func PostgresURL(address string) string {
	return "postgres://postgres@" + address + "/postgres?sslmode=disable"
}

type postgresServer struct {
	options Options
	bin     string              // the folder of its programs
	user    *syscall.Credential // nil: as we are
}

func newPostgres(o Options) (*postgresServer, error) {
	p := &postgresServer{options: o}
	var err error
	if p.bin, err = postgresBin(o); err != nil {
		return nil, err
	}
	p.user, err = unprivileged()
	return p, err
}

// postgresBin finds the folder with the newest version's programs. Debian keeps
// them off PATH.
func postgresBin(o Options) (string, error) {
	if o.Binary == "" {
		found, err := filepath.Glob("/usr/lib/postgresql/[0-9]*/bin/postgres")
		if err == nil && len(found) > 0 {
			version := func(path string) int {
				n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path))))
				return n
			}
			return filepath.Dir(slices.MaxFunc(found, func(a, b string) int { return version(a) - version(b) })), nil
		}
	}
	path, err := find(o, "postgres", "postgresql")
	if err == nil {
		path, err = filepath.EvalSymlinks(path)
	}
	return filepath.Dir(path), err
}

// unprivileged is who PostgreSQL runs as: it refuses to run as root.
func unprivileged() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		u, err = user.Lookup("nobody")
	}
	if err != nil {
		return nil, fmt.Errorf("storeserver: PostgreSQL does not run as root, and there is neither a user postgres nor nobody: %w", err)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(err, err2); err != nil {
		return nil, fmt.Errorf("storeserver: user %s: %w", u.Username, err)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

func (p *postgresServer) data() string { return filepath.Join(p.options.Dir, "data") }

func (p *postgresServer) prepare(ctx context.Context) error {
	if err := makeData(p.options.Dir); err != nil {
		return err
	}
	if p.user != nil {
		if err := os.Lchown(p.data(), int(p.user.Uid), int(p.user.Gid)); err != nil {
			return fmt.Errorf("storeserver: %w", err)
		}
		if err := openWay(p.options.Dir); err != nil {
			return err
		}
	}
	if err := p.takeKey(); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(p.data(), "PG_VERSION")); err == nil {
		return nil
	}
	// A directory that was half made is made again.
	if err := empty(p.data()); err != nil {
		return err
	}
	err := run(ctx, command{path: filepath.Join(p.bin, "initdb"), user: p.user, dir: "/", args: []string{
		"--pgdata=" + p.data(), "--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync",
	}}, p.options.Log)
	if err != nil {
		return fmt.Errorf("storeserver: making a PostgreSQL directory in %s: %w", p.data(), err)
	}
	return nil
}

func (p *postgresServer) file(name string) string { return filepath.Join(p.options.Dir, name) }

// takeKey copies what TLS needs to where the server's user may read it: it takes no
// key that others may read, nor one of another user.
func (p *postgresServer) takeKey() error {
	t := p.options.TLS
	if t == nil {
		return nil
	}
	files := map[string]string{"server.crt": t.Cert, "server.key": t.Key}
	if t.ClientCA != "" {
		files["client-ca.crt"] = t.ClientCA
	}
	for name, from := range files {
		data, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(p.file(name), data, 0o600)
		}
		if err == nil && p.user != nil {
			err = os.Chown(p.file(name), int(p.user.Uid), int(p.user.Gid))
		}
		if err != nil {
			return fmt.Errorf("storeserver: %w", err)
		}
	}
	return p.demandCertificates()
}

// demandCertificates has clients over TLS show a certificate. Without TLS, loopback is
// still enough: so we ask whether the server answers.
func (p *postgresServer) demandCertificates() error {
	if p.options.TLS.ClientCA == "" {
		return nil
	}
	rules := "hostssl all all 127.0.0.1/32 trust clientcert=verify-ca\nhostnossl all all 127.0.0.1/32 trust\n"
	if err := os.WriteFile(p.file("pg_hba.conf"), []byte(rules), 0o644); err != nil {
		return fmt.Errorf("storeserver: %w", err)
	}
	return nil
}

// No Unix socket: its path may be no longer than 107 bytes, and tests' are.
func (p *postgresServer) command() command {
	args := []string{"-D", p.data(), "-p", strconv.Itoa(p.options.Port), "-h", "127.0.0.1", "-k", ""}
	for _, setting := range []string{
		"fsync=on", "full_page_writes=on", "synchronous_commit=on",
		"shared_buffers=16MB", "max_connections=100", "dynamic_shared_memory_type=mmap",
	} {
		args = append(args, "-c", setting)
	}
	if t := p.options.TLS; t != nil {
		args = append(args, "-c", "ssl=on", "-c", "ssl_cert_file="+p.file("server.crt"), "-c", "ssl_key_file="+p.file("server.key"))
		if t.ClientCA != "" {
			args = append(args, "-c", "ssl_ca_file="+p.file("client-ca.crt"), "-c", "hba_file="+p.file("pg_hba.conf"))
		}
	}
	// SIGINT ends sessions and shuts down in order; SIGTERM would wait for clients.
	return command{path: filepath.Join(p.bin, "postgres"), args: append(args, p.options.Args...),
		dir: "/", user: p.user, stop: syscall.SIGINT}
}

// answers connects as a client does: until recovery is over, that is refused.
func (p *postgresServer) answers(ctx context.Context) error {
	conn, err := pgconn.Connect(ctx, PostgresURL(fmt.Sprintf("127.0.0.1:%d", p.options.Port)))
	if err != nil {
		return err
	}
	return conn.Close(ctx)
}

// openWay lets another user through to dir. Folders for temporary files that only
// their owner may enter, as tests get, are opened for passing through.
func openWay(dir string) error {
	temporary := false
	for _, path := range wayTo(dir) {
		info, err := os.Stat(path)
		if err != nil {
			return fmt.Errorf("storeserver: %w", err)
		}
		if info.Mode().Perm()&0o001 == 0 {
			if !temporary && path != dir {
				return fmt.Errorf("storeserver: PostgreSQL does not run as root, and its user cannot enter %s: run as another user, choose another directory, or chmod o+x it", path)
			}
			if err := os.Chmod(path, info.Mode().Perm()|0o011); err != nil {
				return fmt.Errorf("storeserver: %w", err)
			}
		}
		temporary = temporary || info.Mode()&os.ModeSticky != 0
	}
	return nil
}

// wayTo lists the folders from the root to dir.
func wayTo(dir string) []string {
	way := []string{dir}
	for dir != "/" && dir != "." {
		dir = filepath.Dir(dir)
		way = append(way, dir)
	}
	slices.Reverse(way)
	return way
}
