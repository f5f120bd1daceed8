// Package storeserver starts private servers of the stores that a registry can lie
// in: etcd, PostgreSQL and Redis, from the system's packages, on loopback, with
// their data in a given directory. It is for trying leaderd out and for tests: the
// servers ask nobody for a password. What they acknowledge they keep on disk, as a
// server in earnest must.
//
// A server is a child of this process and dies with it, however it ends.
package storeserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// Kind is a kind of server.
type Kind string

// The kinds there are.
const (
	Etcd     Kind = "etcd"
	Postgres Kind = "postgres"
	Redis    Kind = "redis"
)

// Kinds are all of them.
var Kinds = []Kind{Etcd, Postgres, Redis}

const (
	startWithin = 60 * time.Second // from the start to the first answer, recovery included
	stopWithin  = 15 * time.Second // from the polite signal to SIGKILL
	portTries   = 5                // ports tried when they are ours to choose
)

// Options say what to start.
type Options struct {
	Kind Kind
	// Dir holds everything of the server. It is made if it is missing; with data in
	// it, the server goes on with them. Only one server may use it at a time.
	Dir string
	// Binary is the program; empty: the system's.
	Binary string
	// Args are further arguments, behind our own, which they may override.
	Args []string
	// Port is the TCP port on 127.0.0.1; 0: a free one.
	Port int
	// TLS makes the server speak TLS to clients, PostgreSQL beside plain TCP; nil:
	// plain TCP.
	TLS *TLS
	// Log receives what the server prints. nil: nobody; an error holds the end of it.
	Log io.Writer
}

// TLS names PEM files.
type TLS struct {
	Cert, Key string
	// ClientCA makes the server admit only clients with a certificate of that
	// authority; empty: any client.
	ClientCA string
}

// program is what differs from kind to kind.
type program interface {
	// prepare makes what the server needs before its start, data included if there are none.
	prepare(ctx context.Context) error
	// command is what to run.
	command() command
	// answers asks the server something; nil: it serves.
	answers(ctx context.Context) error
}

// Server is a running or a stopped server. Its methods may be called concurrently.
type Server struct {
	options Options
	program program
	lock    *os.File

	mu      sync.Mutex
	process *process // of the latest start
}

// Start starts a server and returns when it answers. ctx bounds the start, not the
// life of the server. When the program is not installed, the error names the
// package to install.
func Start(ctx context.Context, o Options) (*Server, error) {
	if o.Dir == "" {
		return nil, errors.New("storeserver: Dir is empty: name a directory for the server's data")
	}
	dir, err := realDir(o.Dir)
	if err != nil {
		return nil, err
	}
	o.Dir = dir
	tries := 1
	if o.Port == 0 {
		tries = portTries
	}
	for try := 1; ; try++ {
		s, err := start(ctx, o)
		// A port that was free may be taken before the server binds it.
		if err == nil || try == tries || !errors.As(err, new(*endedError)) {
			return s, err
		}
	}
}

func start(ctx context.Context, o Options) (*Server, error) {
	if o.Port == 0 {
		port, err := freePort()
		if err != nil {
			return nil, err
		}
		o.Port = port
	}
	s := &Server{options: o}
	var err error
	if s.program, err = programOf(o); err != nil {
		return nil, err
	}
	if s.lock, err = lockDir(o.Dir); err != nil {
		return nil, err
	}
	if err := s.Restart(ctx); err != nil {
		s.lock.Close()
		return nil, err
	}
	return s, nil
}

func programOf(o Options) (program, error) {
	switch o.Kind {
	case Etcd:
		return newEtcd(o)
	case Postgres:
		return newPostgres(o)
	case Redis:
		return newRedis(o)
	}
	return nil, fmt.Errorf("storeserver: unknown kind %q, want etcd, postgres or redis", o.Kind)
}

// realDir makes the directory and returns its path without symbolic links.
func realDir(dir string) (string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("storeserver: %w", err)
	}
	dir, err := filepath.Abs(dir)
	if err == nil {
		dir, err = filepath.EvalSymlinks(dir)
	}
	if err != nil {
		return "", fmt.Errorf("storeserver: %w", err)
	}
	return dir, nil
}

// lockDir keeps two servers out of one directory: Redis would not notice.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("storeserver: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("storeserver: another server uses %s: stop it, or name another directory", dir)
	}
	return f, nil
}

// Kind is the kind of the server.
func (s *Server) Kind() Kind { return s.options.Kind }

// Dir is where everything of the server lies.
func (s *Server) Dir() string { return s.options.Dir }

// Address is where clients reach it: host:port. It stays the same through restarts.
func (s *Server) Address() string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.options.Port))
}

// URL is what a client of this kind is configured with: for PostgreSQL a connection
// URL of the superuser, for the others the address.
func (s *Server) URL() string {
	if s.options.Kind == Postgres {
		return PostgresURL(s.Address())
	}
	return s.Address()
}

// PID is the process id of the server's first process.
func (s *Server) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.process.pid()
}

// Restart starts a server that was killed or stopped, on the same data and port, and
// returns when it answers.
func (s *Server) Restart(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process != nil && !s.process.ended() {
		return fmt.Errorf("storeserver: %s still runs: stop it first", s.options.Kind)
	}
	if s.lock == nil {
		lock, err := lockDir(s.options.Dir)
		if err != nil {
			return err
		}
		s.lock = lock
	}
	ctx, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	if err := s.program.prepare(ctx); err != nil {
		return err
	}
	p, err := launch(s.program.command(), s.options.Log)
	if err != nil {
		return fmt.Errorf("storeserver: starting %s: %w", s.options.Kind, err)
	}
	if err := awaitAnswer(ctx, s.program, p); err != nil {
		p.kill()
		return fmt.Errorf("storeserver: %s at %s: %w", s.options.Kind, s.Address(), err)
	}
	s.process = p
	return nil
}

// endedError is a server that ended before it answered.
type endedError struct{ state, output string }

func (e *endedError) Error() string {
	return fmt.Sprintf("it ended before it answered (%s):\n%s", e.state, e.output)
}

func awaitAnswer(ctx context.Context, prog program, p *process) error {
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	for {
		once, cancel := context.WithTimeout(ctx, 2*time.Second)
		err := prog.answers(once)
		cancel()
		// Another server may hold the port: only the answer of one that lives counts.
		if err == nil && !p.ended() {
			return nil
		}
		select {
		case <-p.done:
			return &endedError{state: p.state(), output: p.output.String()}
		case <-ctx.Done():
			return fmt.Errorf("no answer in time: %w\n%s", err, p.output.String())
		case <-tick.C:
		}
	}
}

// Kill ends the server by SIGKILL, paused or not, and waits until all its processes
// are gone.
func (s *Server) Kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.process.kill()
	s.unlock()
}

// Stop asks the server to end, kills it when it takes more than 15 s, and waits
// until it is gone.
func (s *Server) Stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.process; !p.ended() {
		p.resume()
		p.signal(s.program.command().stop)
		select {
		case <-p.done:
		case <-time.After(stopWithin):
		}
		p.kill()
	}
	s.unlock()
}

func (s *Server) unlock() {
	if s.lock != nil {
		s.lock.Close()
		s.lock = nil
	}
}

// Pause stops all processes of the server where they are (SIGSTOP), as a machine
// that hangs does: connections stay open, nothing is answered.
func (s *Server) Pause() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.process.pause()
}

// Resume lets a paused server go on (SIGCONT).
func (s *Server) Resume() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.process.resume()
}
