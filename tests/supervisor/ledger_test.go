package supervisor_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/omnirelay/leadership/tests/cluster/harness"
)

// ledger is the log that all commands write to. The kernel appends one line after the
// other: its order is the order of the effects in true time.
type ledger struct {
	t    testing.TB
	path string

	offset int64 // read so far
	reigns []*reign
	broken error
}

func newLedger(t testing.TB, dir string) *ledger {
	t.Helper()
	l := &ledger{t: t, path: filepath.Join(dir, "effects")}
	if err := os.WriteFile(l.path, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(l.path, 0o666); err != nil { //nolint:gosec // commands of other users write to it
		t.Fatal(err)
	}
	return l
}

// reign is what was written under one fence.
type reign struct {
	fence       uint64
	first, last time.Duration // since boot
	lines       int
	kinds       map[string]int
}

// read returns the reigns in the order of their first lines. An effect under a lower
// fence than one before it is an overlap, and an error for good.
func (l *ledger) read() ([]*reign, error) {
	f, err := os.Open(l.path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.NewSectionReader(f, l.offset, math.MaxInt64-l.offset))
	if err != nil {
		return nil, err
	}
	whole := data[:bytes.LastIndexByte(data, '\n')+1]
	l.offset += int64(len(whole))
	for line := range strings.Lines(string(whole)) {
		if err := l.take(line); err != nil {
			l.broken = errors.Join(l.broken, err)
			break
		}
	}
	return l.reigns, l.broken
}

// take one line: when, under which fence, by which kind of actor.
func (l *ledger) take(line string) error {
	fields := strings.Fields(line)
	if len(fields) != 3 {
		return fmt.Errorf("line %q", line)
	}
	nanoseconds, err := strconv.ParseInt(fields[0], 10, 64)
	if err != nil {
		return err
	}
	fence, err := strconv.ParseUint(fields[1], 10, 64)
	if err != nil {
		return err
	}
	at, now := time.Duration(nanoseconds), &reign{}
	if n := len(l.reigns); n > 0 {
		now = l.reigns[n-1]
	}
	switch {
	case fence > now.fence:
		now = &reign{fence: fence, first: at, kinds: map[string]int{}}
		l.reigns = append(l.reigns, now)
	case fence < now.fence:
		return fmt.Errorf("overlap: %s wrote under fence %d, %v after the first effect under fence %d", fields[2], fence, at-now.first, now.fence)
	}
	now.last = max(now.last, at)
	now.lines++
	now.kinds[fields[2]]++
	return nil
}

// current is the last reign; the test fails on an overlap.
func (l *ledger) current() *reign {
	l.t.Helper()
	reigns, err := l.read()
	if err != nil {
		l.t.Fatal(err)
	}
	if len(reigns) == 0 {
		return &reign{}
	}
	return reigns[len(reigns)-1]
}

// awaitReign waits for a command under a fence above one, whose actors all write.
func (l *ledger) awaitReign(above uint64, within time.Duration, kinds ...string) *reign {
	l.t.Helper()
	var now *reign
	harness.Await(l.t, within, fmt.Sprintf("effects under a fence above %d", above), func() error {
		now = l.current()
		if now.fence <= above {
			return fmt.Errorf("the last fence is %d", now.fence)
		}
		for _, kind := range kinds {
			if now.kinds[kind] == 0 {
				return fmt.Errorf("nothing by %s under fence %d", kind, now.fence)
			}
		}
		return nil
	})
	return now
}

// awaitLines waits until that many more effects were made: time for a predecessor to show.
func (l *ledger) awaitLines(more int) {
	l.t.Helper()
	begun := *l.current()
	harness.Await(l.t, 10*time.Second, "more effects", func() error {
		now := l.current()
		if now.fence == begun.fence && now.lines < begun.lines+more {
			return fmt.Errorf("%d since %d", now.lines, begun.lines)
		}
		return nil
	})
}
