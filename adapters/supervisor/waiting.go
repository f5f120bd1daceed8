package supervisor

import (
	"context"
	"os"
	"sync"
	"time"
)

// waiting is the time before a job leads.
type waiting struct {
	once  sync.Once
	ended chan struct{} // closed when the election ended it, or err
	over  chan struct{} // closed when signals are not read here any more
	err   error
	// missed is a signal that was read here, but came after the election. Read once over.
	missed os.Signal
}

func (j *Job) wait(ctx context.Context, cancel context.CancelFunc) *waiting {
	w := &waiting{ended: make(chan struct{}), over: make(chan struct{})}
	var late <-chan time.Time
	if j.WaitFor > 0 {
		late = time.After(j.WaitFor)
	}
	go func() {
		defer close(w.over)
		if w.settle(w.fail(ctx, late, j.Signals)) {
			cancel() // else it would end what the election began
		}
	}()
	return w
}

// fail returns why the job will not lead; nil: it does.
func (w *waiting) fail(ctx context.Context, late <-chan time.Time, signals <-chan os.Signal) error {
	for {
		select {
		case <-w.ended:
			return nil
		case <-late:
			return ErrNotElected
		case s := <-signals:
			if !Ends(s) {
				continue
			}
			w.missed = s
			return &Interrupted{s}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// end is called by the election, and reports whether it came first. Signals are the
// caller's from then on.
func (w *waiting) end(err error) bool {
	first := w.settle(err)
	<-w.over
	return first
}

func (w *waiting) settle(err error) (first bool) {
	w.once.Do(func() {
		first, w.err = true, err
		close(w.ended)
	})
	return first
}
