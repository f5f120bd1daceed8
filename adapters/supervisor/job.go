package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/omnirelay/leadership/adapters/client"
	"github.com/omnirelay/leadership/adapters/clock"
)

// What Job.Run returns for other ends than that of the command.
var (
	// ErrLost: leadership was lost, or was to be handed over, before the command ended.
	ErrLost = errors.New("leadership was lost")
	// ErrNotElected: Job.WaitFor is over.
	ErrNotElected = errors.New("not elected in time")
)

// Interrupted is a signal that came while the job waited to be elected.
type Interrupted struct{ Signal os.Signal }

func (i *Interrupted) Error() string { return "interrupted by a signal: " + i.Signal.String() }

// Job is a command to be run once, while a scope is led.
type Job struct {
	Client *client.Client // closed by the caller
	Scope  client.Scope   // with an ID
	TTL    time.Duration  // of the client's session
	// Margin is how long before the end of the lease everything is killed, Grace how long
	// before that CMD is told to end, by SIGTERM.
	Margin, Grace time.Duration
	// StopWithin bounds how long CMD may take to end when the scope is to be handed over.
	StopWithin time.Duration
	WaitFor    time.Duration // for an election; 0: for ever
	Command    Command
	Signals    <-chan os.Signal  // passed on to CMD
	Note       func(text string) // tells the user; not nil
}

// Validate reports what is wrong with the times.
func (j *Job) Validate() error {
	switch {
	case j.Margin <= 0 || j.Grace < 0 || j.Margin+j.Grace > j.TTL/2:
		return fmt.Errorf("grace: %v and the margin of %v for the killing take more than half the TTL of %v; shorten the grace, or lengthen the TTL", j.Grace, j.Margin, j.TTL)
	case j.StopWithin < 0 || j.WaitFor < 0:
		return errors.New("want no time below 0")
	}
	return nil
}

// Run stands for the scope, runs the command once it is led, and returns the command's
// exit code when that has ended, with all its descendants, and the scope was given up.
// Other ends are errors.
func (j *Job) Run(ctx context.Context) (code int, err error) {
	if err := j.Validate(); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w := j.wait(ctx, cancel)
	refused := j.Client.Run(ctx, []client.Scope{j.Scope}, func(ctx context.Context, t client.Token) error {
		defer cancel()
		if w.end(nil) {
			code, err = j.lead(ctx, t, w.missed)
		}
		return nil
	})
	w.settle(refused) // unless something came first
	<-w.over
	return code, errors.Join(w.err, err)
}

// tick is how often the fuse is told how long the lease is by now.
func (j *Job) tick() time.Duration { return max(j.TTL/20, 5*time.Millisecond) }

// left is the schedule of what is left of a leadership; false: nothing is.
func (j *Job) left(t client.Token) (schedule, bool) {
	now := clock.Boottime() // before the lease is asked for
	for _, h := range j.Client.Held() {
		if h.Scope == t.Scope && h.Fence == t.Fence {
			return scheduleOf(now, h.Remaining, j.Margin, j.Grace), true
		}
	}
	return schedule{}, false
}

// lead runs the command under a leadership, and returns when nothing of it lives. A signal
// that has come already is for the command; nil: none has.
func (j *Job) lead(ctx context.Context, t client.Token, early os.Signal) (int, error) {
	s, leads := j.left(t)
	if !leads {
		return 0, fmt.Errorf("%w: %w", ErrLost, context.Cause(ctx))
	}
	c := j.Command
	c.Env = append(c.Env[:len(c.Env):len(c.Env)],
		"LEADERSHIP_SCOPE="+t.Scope, "LEADERSHIP_TERM="+strconv.FormatUint(t.Term, 10), "LEADERSHIP_FENCE="+strconv.FormatUint(t.Fence, 10))
	k, err := start(c, s)
	if err != nil {
		return 0, err
	}
	defer k.line.close()
	j.Note(fmt.Sprintf("leading %s, term %d, fence %d", t.Scope, t.Term, t.Fence))
	l := &leading{job: j, token: t, child: k, last: s}
	l.pass(early)
	l.see(ctx)
	return l.verdict()
}
