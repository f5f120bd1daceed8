package raftlog

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/omnirelay/leadership/core"
)

// The tests of this file run a process of their own, this very binary, that
// writes the story into a log and says on its standard output what was
// acknowledged.

const (
	childDir   = "RAFTLOG_CHILD_DIR"
	childLimit = "RAFTLOG_CHILD_FILE_LIMIT" // bytes a file may grow to, in decimal
	childMark  = "RAFTLOG_CHILD_MARK"       // not empty: of a node with an external store
	childSteps = 2_000
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		os.Exit(runChild(dir, os.Getenv(childLimit)))
	}
	os.Exit(m.Run())
}

// runChild continues the story where the log ends. Its lines: "open ERROR",
// "ack N", then on the first error "failed N ERROR", and after it how the log
// answers: "shut persist", "shut session", "shut records".
func runChild(dir, limit string) int {
	runtime.LockOSThread() // strace counts calls per thread
	if limit != "" {
		limitFiles(limit)
	}
	if os.Getenv(childMark) != "" {
		return runMarkChild(dir)
	}
	log, boot, err := Open(options(dir))
	if err != nil {
		fmt.Println("open", err)
		return 1
	}
	for i := storyEnd(boot) + 1; i <= childSteps; i++ {
		if err := log.Persist(storyBatch(i)); err != nil {
			fmt.Println("failed", i, err)
			reportShut(log, i)
			return 1
		}
		fmt.Println("ack", i)
	}
	return 0
}

func limitFiles(limit string) {
	var bytes uint64
	if _, err := fmt.Sscan(limit, &bytes); err != nil {
		fmt.Println("open", err)
		os.Exit(1)
	}
	signal.Ignore(syscall.SIGXFSZ)
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: bytes, Max: bytes}); err != nil {
		fmt.Println("open", err)
		os.Exit(1)
	}
}

func reportShut(log *Log, i uint64) {
	_, records := log.Records(0, 10)
	for _, c := range []struct {
		name string
		err  error
	}{{"persist", log.Persist(storyBatch(i))}, {"session", log.SetSession(1)}, {"records", records}} {
		if errors.Is(c.err, ErrShut) {
			fmt.Println("shut", c.name)
		}
	}
}

// storyEnd is the last step of the story that a boot holds.
func storyEnd(b core.Boot) uint64 {
	if n := len(b.Entries); n > 0 {
		return b.Entries[n-1].GetIndex() - originIndex
	}
	return 0
}

// child is a running writer.
type child struct {
	cmd    *exec.Cmd
	out    *bufio.Scanner
	stderr *strings.Builder
	acked  uint64
	failed string
	shut   []string
}

// startChild runs this binary as a writer, behind the words of wrapper if any.
func startChild(t *testing.T, dir, limit string, wrapper ...string) *child {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	words := append(wrapper, self)
	c := &child{cmd: exec.Command(words[0], words[1:]...), stderr: new(strings.Builder)}
	c.cmd.Env = append(os.Environ(), childDir+"="+dir, childLimit+"="+limit)
	c.cmd.Stderr = c.stderr
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatalf("%s: %v (ci/setup installs what the tests need)", words[0], err)
	}
	c.out = bufio.NewScanner(io.LimitReader(stdout, 1<<20))
	t.Cleanup(func() { c.cmd.Process.Kill(); _ = c.cmd.Wait() })
	return c
}

// next reads a line; false: the child has ended.
func (c *child) next(t *testing.T) bool {
	t.Helper()
	if !c.out.Scan() {
		return false
	}
	kind, rest, _ := strings.Cut(c.out.Text(), " ")
	switch kind {
	case "ack":
		if _, err := fmt.Sscan(rest, &c.acked); err != nil {
			t.Fatalf("the child acknowledged %q: %v", rest, err)
		}
	case "failed":
		c.failed = rest
	case "shut":
		c.shut = append(c.shut, rest)
	case "open":
		c.failed = c.out.Text()
	default:
		t.Fatalf("the child said %q; %s", c.out.Text(), c.stderr)
	}
	return true
}

func (c *child) finish(t *testing.T) {
	t.Helper()
	for c.next(t) {
	}
	var exit *exec.ExitError
	if err := c.cmd.Wait(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if c.stderr.Len() > 0 {
		t.Fatalf("the child crashed or its wrapper complained: %s", c.stderr)
	}
}

// mustBeShut checks how the log of a finished child took its failure.
func (c *child) mustBeShut(t *testing.T, cause string) {
	t.Helper()
	if !strings.Contains(c.failed, cause) || !strings.Contains(c.failed, fileName) {
		t.Fatalf("failed with %q, want %q and the file named", c.failed, cause)
	}
	if got := strings.Join(c.shut, " "); got != "persist session records" {
		t.Fatalf("after %q shut: %q, want all", c.failed, got)
	}
}

// mustHold opens a child's log: all that was acknowledged is there, and of the
// rest at most the one step that was under way. It returns the last step found.
func (c *child) mustHold(t *testing.T, dir string) (end uint64) {
	t.Helper()
	log, boot, err := Open(options(dir))
	if err != nil {
		t.Fatalf("reopen after %d acknowledged: %v", c.acked, err)
	}
	defer mustClose(t, log)
	end = storyEnd(boot)
	if end < c.acked || end > c.acked+1 {
		t.Fatalf("%d steps acknowledged, %d found", c.acked, end)
	}
	want := storyTwin(end)
	if d := difference(boot, want.boot()); d != "" {
		t.Fatalf("after %d steps: %s", end, d)
	}
	records, err := log.Records(0, MaxRecordsRead)
	if d := recordsDifference(records, want.records); err != nil || d != "" {
		t.Fatalf("after %d steps: %v %s", end, err, d)
	}
	if err := log.Persist(storyBatch(end + 1)); err != nil {
		t.Fatalf("after %d steps, cannot go on: %v", end, err)
	}
	return end
}
