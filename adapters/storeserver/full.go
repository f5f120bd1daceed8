package storeserver

import (
	"context"
	"fmt"
	"os/exec"
	"strconv"
)

// LimitFiles lets no process of the server write beyond so many bytes of a file, as
// on a disk that is full; 0: no limit. What is in files already can be rewritten.
// PostgreSQL needs 16 MiB for its write-ahead log and reports a table that grows
// beyond; the others end when they cannot write.
func (s *Server) LimitFiles(bytes uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process.ended() {
		return fmt.Errorf("storeserver: %s does not run: its files cannot be limited", s.options.Kind)
	}
	// By a program that runs as the server does: even root may need a capability to
	// limit the processes of others.
	program, err := exec.LookPath("prlimit")
	if err != nil {
		return fmt.Errorf("storeserver: prlimit is not installed: install it with: apt-get install util-linux")
	}
	limit := "unlimited"
	if bytes > 0 {
		limit = strconv.FormatUint(bytes, 10)
	}
	c := command{path: program, dir: "/", user: s.program.command().user}
	// The first process first: the others that it starts meanwhile inherit it.
	for _, pid := range append([]int{s.process.pid()}, descendants(s.process.pid())...) {
		c.args = []string{"--pid", strconv.Itoa(pid), "--fsize=" + limit + ":unlimited"}
		if err := run(context.Background(), c, nil); err != nil && !gone(stateOf(pid)) {
			return fmt.Errorf("storeserver: limiting the files of process %d: %w", pid, err)
		}
	}
	return nil
}
