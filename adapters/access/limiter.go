package access

import (
	"container/list"
	"crypto/sha256"
	"fmt"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// MaxCallers is how many callers a Limiter keeps apart at the same time.
const MaxCallers = 16_384

// Bounds of answers that their callers have not read yet, in bytes.
const (
	MaxUnread    = 32 << 20  // of one caller
	MaxAllUnread = 256 << 20 // of all together
	// MinUnread is the size from which an answer is counted.
	MinUnread = 4 << 10
)

// Limits bound what one caller may take. Each is at least 1.
type Limits struct {
	RequestsPerSecond int // in the long run
	Burst             int // at once
	StreamsPerCaller  int // open at the same time
	SessionsPerMember int // attached at the same time
}

// Limiter counts what callers take. What it remembers is bounded whoever calls: of
// more than MaxCallers the one that has been idle longest is forgotten, and starts
// anew when it comes back. Safe for concurrent use.
type Limiter struct {
	limits Limits
	most   int
	now    func() time.Time

	mu       sync.Mutex
	accounts map[[sha256.Size]byte]*account
	idle     *list.List // of accounts without a stream, the last used in front
	sessions map[string]int
	unread   map[[sha256.Size]byte]int // bytes, of callers that have any
	all      int                       // bytes, of all
}

// account is one caller's.
type account struct {
	key     [sha256.Size]byte
	bucket  *rate.Limiter
	streams int
	place   *list.Element // in idle; nil while there are streams
}

// NewLimiter refuses limits below 1.
func NewLimiter(l Limits) (*Limiter, error) {
	for _, n := range []struct {
		name  string
		value int
	}{
		{"requests per second", l.RequestsPerSecond}, {"burst", l.Burst},
		{"streams per caller", l.StreamsPerCaller}, {"sessions per member", l.SessionsPerMember},
	} {
		if n.value < 1 {
			return nil, fmt.Errorf("access: %d %s; want at least 1", n.value, n.name)
		}
	}
	return &Limiter{limits: l, most: MaxCallers, now: time.Now, idle: list.New(),
		accounts: map[[sha256.Size]byte]*account{}, sessions: map[string]int{}, unread: map[[sha256.Size]byte]int{}}, nil
}

// Request counts one request of the caller. *Exceeded: it comes too soon.
func (l *Limiter) Request(c Caller) error { return l.take(c.Key) }

func (l *Limiter) take(key string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	a, err := l.account(key)
	if err != nil {
		return err
	}
	now := l.now()
	if a.bucket.AllowN(now, 1) {
		return nil
	}
	return l.tooMany(a, now)
}

// spent reports, without counting, whether the account of key would refuse.
func (l *Limiter) spent(key string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	a, known := l.accounts[digest(key)]
	now := l.now()
	if !known || a.bucket.TokensAt(now) >= 1 {
		return nil
	}
	return l.tooMany(a, now)
}

func (l *Limiter) tooMany(a *account, now time.Time) error {
	missing := 1 - a.bucket.TokensAt(now)
	wait := time.Duration(missing / float64(l.limits.RequestsPerSecond) * float64(time.Second))
	return &Exceeded{What: "requests per second of one caller", Limit: l.limits.RequestsPerSecond, RetryAfter: max(wait, time.Millisecond)}
}

// Stream counts a stream of the caller until release is called; again does nothing.
func (l *Limiter) Stream(c Caller) (release func(), err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a, err := l.account(c.Key)
	if err != nil {
		return nil, err
	}
	if a.streams >= l.limits.StreamsPerCaller {
		return nil, &Exceeded{What: "streams of one caller", Limit: l.limits.StreamsPerCaller, RetryAfter: time.Second}
	}
	if a.streams++; a.place != nil {
		l.idle.Remove(a.place)
		a.place = nil
	}
	return l.once(func() {
		if a.streams--; a.streams == 0 {
			a.place = l.idle.PushFront(a)
		}
	}), nil
}

// Session counts a session of a member until release is called; again does nothing.
func (l *Limiter) Session(member string) (release func(), err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sessions[member] >= l.limits.SessionsPerMember {
		return nil, &Exceeded{What: "sessions of one member", Limit: l.limits.SessionsPerMember, RetryAfter: time.Second}
	}
	if len(l.sessions) >= l.most && l.sessions[member] == 0 {
		return nil, &Exceeded{What: "members with sessions", Limit: l.most, RetryAfter: time.Second}
	}
	l.sessions[member]++
	return l.once(func() {
		if l.sessions[member]--; l.sessions[member] == 0 {
			delete(l.sessions, member)
		}
	}), nil
}

// Answer counts an answer of this size as unread until release is called; again does
// nothing. A caller who asks on and reads nothing is refused in time.
func (l *Limiter) Answer(c Caller, size int) (release func(), err error) {
	if size < MinUnread {
		return func() {}, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	key := digest(c.Key)
	if own := l.unread[key]; own > 0 && own+size > MaxUnread { // one answer always finds room
		return nil, &Exceeded{What: "bytes of answers that one caller has not read", Limit: MaxUnread, RetryAfter: time.Second}
	}
	if l.all > 0 && l.all+size > MaxAllUnread {
		return nil, &Exceeded{What: "bytes of answers that nobody has read", Limit: MaxAllUnread, RetryAfter: time.Second}
	}
	l.unread[key] += size
	l.all += size
	return l.once(func() {
		l.all -= size
		if l.unread[key] -= size; l.unread[key] == 0 {
			delete(l.unread, key)
		}
	}), nil
}

// once returns a function that gives something back the first time it is called.
func (l *Limiter) once(give func()) func() {
	given := false
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if !given {
			given = true
			give()
		}
	}
}

// account finds or makes the caller's account and marks it used. l.mu is held.
func (l *Limiter) account(key string) (*account, error) {
	id := digest(key)
	a, known := l.accounts[id]
	switch {
	case known && a.place != nil:
		l.idle.MoveToFront(a.place)
	case known:
	case len(l.accounts) >= l.most && l.idle.Len() == 0:
		return nil, &Exceeded{What: "callers with open streams", Limit: l.most, RetryAfter: time.Second}
	default:
		if len(l.accounts) >= l.most {
			oldest := l.idle.Remove(l.idle.Back()).(*account)
			delete(l.accounts, oldest.key)
		}
		a = &account{key: id, bucket: rate.NewLimiter(rate.Limit(l.limits.RequestsPerSecond), l.limits.Burst)}
		a.place = l.idle.PushFront(a)
		l.accounts[id] = a
	}
	return a, nil
}

// digest keeps an account's size from depending on what a caller is named.
func digest(key string) [sha256.Size]byte { return sha256.Sum256([]byte(key)) }
