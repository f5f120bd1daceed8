package raftlog

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestSyncFails lets every sync from the n-th on fail. Odd ones sync the pages of a
// transaction; even ones the meta page that commits it, and then the failed step is
// there after a restart although it was never acknowledged: what stands in the file
// after a failed sync proves nothing, hence the latch.
func TestSyncFails(t *testing.T) {
	for _, n := range []uint64{1, 2, 3, 4, 5, 6, 31, 32, 99, 100} {
		dir := memoryDir(t)
		mustClose(t, mustOpen(t, dir))
		c := startFailing(t, dir, "fdatasync", n)
		c.finish(t)
		c.mustBeShut(t, "persist: input/output error")
		if c.acked != (n-1)/2 {
			t.Errorf("sync %d: %d steps acknowledged, want %d", n, c.acked, (n-1)/2)
		}
		if end := c.mustHold(t, dir); end != n/2 {
			t.Errorf("sync %d: the log ends at step %d, want %d", n, end, n/2)
		}
	}
}

// bbolt syncs with fsync when the file grows.
func TestSyncFailsWhenTheFileGrows(t *testing.T) {
	for n := uint64(1); n <= 3; n++ {
		dir := memoryDir(t)
		mustClose(t, mustOpen(t, dir))
		c := startFailing(t, dir, "fsync", n)
		c.finish(t)
		c.mustBeShut(t, "input/output error")
		c.mustHold(t, dir)
	}
}

// startFailing starts a writer whose n-th and later calls fail.
func startFailing(t *testing.T, dir, call string, n uint64) *child {
	t.Helper()
	if _, err := exec.LookPath("strace"); err != nil {
		t.Fatalf("strace is missing: %v (ci/setup installs it)", err)
	}
	return startChild(t, dir, "", "strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace="+call,
		"-e", fmt.Sprintf("inject=%s:error=EIO:when=%d+", call, n))
}

// A creation whose sync fails leaves a directory that is still new.
func TestSyncFailsAtCreation(t *testing.T) {
	for n := uint64(1); n <= 3; n++ {
		dir := memoryDir(t)
		c := startFailing(t, dir, "fdatasync", n)
		c.finish(t)
		if !strings.Contains(c.failed, "input/output error") || c.acked != 0 {
			t.Fatalf("sync %d: acknowledged %d, failed %q", n, c.acked, c.failed)
		}
		c.mustHold(t, dir)
	}
}

// TestFullFileSystem fills a small file system, then gives it room.
func TestFullFileSystem(t *testing.T) {
	dir := t.TempDir()
	err := syscall.Mount("raftlog", dir, "tmpfs", 0, "size=128k")
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EACCES) {
		t.Skipf("mounting is not allowed here (%v): TestFileSizeLimit shows a write without room the other way", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	data := dir + "/data"
	c := startChild(t, data, "")
	c.finish(t)
	c.mustBeShut(t, "no space left on device (make room, then restart the node: what was acknowledged is kept)")
	if c.acked < 10 {
		t.Fatalf("only %d steps before the file system was full", c.acked)
	}
	again := startChild(t, data, "")
	again.finish(t)
	if again.failed == "" {
		t.Fatal("still full, yet it went on")
	}
	if err := syscall.Mount("raftlog", dir, "tmpfs", syscall.MS_REMOUNT, "size=16m"); err != nil {
		t.Fatal(err)
	}
	c.acked = max(c.acked, again.acked)
	c.mustHold(t, data)
}

// TestFileSizeLimit needs no privilege: the process may not grow a file any further.
func TestFileSizeLimit(t *testing.T) {
	dir := memoryDir(t)
	c := startChild(t, dir, fmt.Sprint(200_000))
	c.finish(t)
	c.mustBeShut(t, "file too large")
	if c.acked < 10 {
		t.Fatalf("only %d steps before the limit", c.acked)
	}
	c.mustHold(t, dir)
}

// TestKilledWriter kills the writer with SIGKILL, again and again on one log, each
// time a short random while after its n-th acknowledgement.
func TestKilledWriter(t *testing.T) {
	dir := t.TempDir()
	rng := rand.New(rand.NewPCG(5, 6))
	for round := range 20 {
		c := startChild(t, dir, "")
		for acks := 1 + rng.IntN(10); acks > 0; acks-- {
			if !c.next(t) {
				t.Fatalf("round %d: the writer ended: %s %s", round, c.failed, c.stderr)
			}
		}
		time.Sleep(time.Duration(rng.IntN(2000)) * time.Microsecond) // the random moment itself
		if err := c.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		c.finish(t)
		c.mustHold(t, dir)
	}
}

// A log that loses pages under the running process answers with an error, whether
// it reads or writes first, and can still be closed: bbolt's locks may be held then.
func TestFileCutUnderTheProcess(t *testing.T) {
	calls := map[string]func(*Log) error{
		"persist": func(l *Log) error { return l.Persist(storyBatch(41)) },
		"records": func(l *Log) error { _, err := l.Records(0, 10); return err },
	}
	for first, call := range calls {
		for _, pages := range []int64{1, 2} { // what is read may lie on any page behind
			dir := memoryDir(t)
			writeStory(t, dir, 40)
			log := mustOpen(t, dir)
			if err := os.Truncate(log.path, pages*pageSize); err != nil {
				t.Fatal(err)
			}
			if err := call(log); err == nil || !strings.Contains(err.Error(), fileName) {
				t.Errorf("%d pages, %s: %v, want an error that names the file", pages, first, err)
			}
			for second, call := range calls {
				if err := call(log); !errors.Is(err, ErrShut) {
					t.Errorf("%d pages, %s after %s: %v, want it shut", pages, second, first, err)
				}
			}
			mustClose(t, log)
			if _, _, err := Open(options(dir)); err == nil {
				t.Errorf("%d pages: opened again", pages)
			}
		}
	}
}
