package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/omnirelay/leadership/adapters/client"
	"github.com/omnirelay/leadership/adapters/clock"
)

// leading is the time from the start of a command to the death of all its descendants.
type leading struct {
	job   *Job
	token client.Token
	child *child
	last  schedule // told to the fuse

	told  bool // CMD was told to end since the lease was about to: it is not extended any more
	lost  error
	ended bool
	code  int
	err   error
}

// see returns when nothing of the command lives.
func (l *leading) see(ctx context.Context) {
	tick := time.NewTicker(l.job.tick())
	defer tick.Stop()
	lost, reports := ctx.Done(), l.child.reports
	var patience <-chan time.Time
	for {
		select {
		case <-tick.C:
			l.extend()
		case r, more := <-reports:
			if !more {
				reports = nil
				continue
			}
			l.heed(r)
		case s := <-l.job.Signals:
			l.pass(s)
		case <-lost:
			lost = nil
			l.hear() // of its end, if that was before
			patience = l.lose(context.Cause(ctx))
		case <-patience:
			l.job.Note(fmt.Sprintf("the command did not end in %v and is killed", l.job.StopWithin))
			l.child.kill()
		case <-l.child.dead:
			for r := range l.child.reports { // to the end of the line
				l.heed(r)
			}
			return
		}
	}
}

// pass hands a signal to CMD.
func (l *leading) pass(s os.Signal) {
	if s, ok := s.(syscall.Signal); ok {
		l.child.signal(s)
	}
}

// extend tells the fuse of a renewal.
func (l *leading) extend() {
	if s, leads := l.job.left(l.token); leads && !l.told {
		l.last = s
		l.child.extend(s)
	}
}

// hear takes the reports that have come.
func (l *leading) hear() {
	for {
		select {
		case r, more := <-l.child.reports:
			if !more {
				return
			}
			l.heed(r)
		default:
			return
		}
	}
}

func (l *leading) heed(r report) {
	switch {
	case r.Note != "":
		l.job.Note(r.Note)
	case r.Failed != "":
		l.err = fmt.Errorf("the command was not started: %s", r.Failed)
	case r.Told:
		l.told = true
		l.job.Note(fmt.Sprintf("no renewal of the lease came in time: the command was told to end, and is killed within %v", l.job.Grace))
		l.miss(client.ErrLeaseLapsed)
	case r.Ended:
		l.ended, l.code = true, r.Code
	}
}

// miss notes why leadership was lost, if the command has not ended before.
func (l *leading) miss(why error) {
	if l.lost == nil && !l.ended {
		l.lost = why
	}
}

// lose ends the command: at leisure when the scope is to be handed over, else at once.
func (l *leading) lose(why error) (patience <-chan time.Time) {
	l.miss(why)
	if !errors.Is(why, client.ErrHandOver) {
		l.child.kill()
		return nil
	}
	l.job.Note(fmt.Sprintf("%v: the command is told to end, and killed after %v", why, l.job.StopWithin))
	l.child.signal(syscall.SIGTERM)
	l.child.signal(syscall.SIGCONT)
	return time.After(l.job.StopWithin)
}

// verdict is what the job comes to.
func (l *leading) verdict() (int, error) {
	switch {
	case l.err != nil:
		return 0, l.err
	case l.lost != nil:
		return 0, fmt.Errorf("%w: %w", ErrLost, l.lost)
	case l.ended:
		return l.code, nil
	case clock.Boottime() >= l.last.killAt:
		return 0, fmt.Errorf("%w: %w", ErrLost, client.ErrLeaseLapsed)
	}
	return 0, fmt.Errorf("the command was killed with a helper process: %s and %s are not to be killed", fuseName, initName)
}
