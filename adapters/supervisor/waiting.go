package supervisor

import (
	"context"
	"sync"
	"time"
)

// waiting is the time before a job leads.
type waiting struct {
	once  sync.Once
	ended chan struct{} // closed when the election ended it, or err
	over  chan struct{} // closed when signals are not read here any more
	err   error
}

func (j *Job) wait(ctx context.Context, cancel context.CancelFunc) *waiting {
	w := &waiting{ended: make(chan struct{}), over: make(chan struct{})}
	var late <-chan time.Time
	if j.WaitFor > 0 {
		late = time.After(j.WaitFor)
	}
	go func() {
		defer close(w.over)
		var err error
		select {
		case <-w.ended:
			return
		case <-late:
			err = ErrNotElected
		case s := <-j.Signals:
			err = &Interrupted{s}
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		w.settle(err)
		cancel()
	}()
	return w
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
