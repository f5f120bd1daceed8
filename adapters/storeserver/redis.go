package storeserver

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

type redisServer struct {
	options Options
	binary  string
}

func newRedis(o Options) (*redisServer, error) {
	binary, err := find(o, "redis-server", "redis-server")
	if err != nil {
		return nil, err
	}
	return &redisServer{options: o, binary: binary}, nil
}

// prepare writes the configuration as a file: CONFIG REWRITE and Sentinel need one.
// It is written anew at every start.
func (r *redisServer) prepare(context.Context) error {
	if err := makeData(r.options.Dir); err != nil {
		return err
	}
	lines := []string{
		"bind 127.0.0.1", "protected-mode yes", "daemonize no",
		"dir " + strconv.Quote(filepath.Join(r.options.Dir, "data")),
		"appendonly yes", "appendfsync always", `save ""`,
	}
	if t := r.options.TLS; t != nil {
		lines = append(lines, "port 0", fmt.Sprintf("tls-port %d", r.options.Port),
			"tls-cert-file "+strconv.Quote(t.Cert), "tls-key-file "+strconv.Quote(t.Key))
		if t.ClientCA != "" {
			lines = append(lines, "tls-auth-clients yes", "tls-ca-cert-file "+strconv.Quote(t.ClientCA))
		} else {
			lines = append(lines, "tls-auth-clients no", "tls-ca-cert-file "+strconv.Quote(t.Cert))
		}
	} else {
		lines = append(lines, fmt.Sprintf("port %d", r.options.Port))
	}
	if err := os.WriteFile(r.file(), []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		return fmt.Errorf("storeserver: %w", err)
	}
	return nil
}

func (r *redisServer) file() string { return filepath.Join(r.options.Dir, "redis.conf") }

func (r *redisServer) command() command {
	args := append([]string{r.file()}, r.options.Args...)
	return command{path: r.binary, args: args, dir: r.options.Dir, stop: syscall.SIGTERM}
}

// answers pings. A server that wants a password first serves as well; one that
// still loads its data does not.
func (r *redisServer) answers(ctx context.Context) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", r.options.Port))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if end, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(end); err != nil {
			return err
		}
	}
	if r.options.TLS != nil {
		config, err := selfClient(r.options.TLS)
		if err != nil {
			return err
		}
		conn = tls.Client(conn, config)
	}
	if _, err := conn.Write([]byte("PING\r\n")); err != nil {
		return err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return err
	}
	if !strings.HasPrefix(line, "+PONG") && !strings.HasPrefix(line, "-NOAUTH") {
		return fmt.Errorf("PING was answered with %q", line)
	}
	return nil
}
