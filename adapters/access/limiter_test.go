package access

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

func newLimiter(t testing.TB, l Limits, c *clock) *Limiter {
	t.Helper()
	limiter, err := NewLimiter(l)
	if err != nil {
		t.Fatal(err)
	}
	limiter.now = c.now
	return limiter
}

func wantExceeded(t testing.TB, err error, what string, limit int) (wait time.Duration) {
	t.Helper()
	var e *Exceeded
	if !errors.As(err, &e) || e.What != what || e.Limit != limit || e.RetryAfter <= 0 {
		t.Fatalf("have %v, want %s over %d", err, what, limit)
	}
	return e.RetryAfter
}

func TestLimitsAreAtLeastOne(t *testing.T) {
	for _, l := range []Limits{{0, 1, 1, 1}, {1, 0, 1, 1}, {1, 1, 0, 1}, {1, 1, 1, 0}, {-1, 1, 1, 1}} {
		if _, err := NewLimiter(l); err == nil {
			t.Errorf("%+v was taken", l)
		}
	}
}

func TestRequestsOfOneCaller(t *testing.T) {
	c := newClock()
	l := newLimiter(t, Limits{RequestsPerSecond: 10, Burst: 3, StreamsPerCaller: 1, SessionsPerMember: 1}, c)
	a, b := Caller{Key: "a"}, Caller{Key: "b"}
	for range 3 {
		if err := l.Request(a); err != nil {
			t.Fatal(err)
		}
	}
	wait := wantExceeded(t, l.Request(a), "requests per second of one caller", 10)
	if wait != 100*time.Millisecond {
		t.Errorf("come back after %v", wait)
	}
	if err := l.Request(b); err != nil {
		t.Errorf("another caller pays for it: %v", err)
	}
	c.pass(wait)
	if err := l.Request(a); err != nil {
		t.Errorf("come back as told: %v", err)
	}
	wantExceeded(t, l.Request(a), "requests per second of one caller", 10)
	c.pass(time.Hour)
	for range 3 {
		if err := l.Request(a); err != nil {
			t.Fatal(err)
		}
	}
	wantExceeded(t, l.Request(a), "requests per second of one caller", 10)
}

func TestStreamsAndSessionsAreGivenBack(t *testing.T) {
	l := newLimiter(t, Limits{RequestsPerSecond: 1, Burst: 1, StreamsPerCaller: 2, SessionsPerMember: 2}, newClock())
	a := Caller{Key: "a"}
	for name, open := range map[string]func() (func(), error){
		"streams of one caller":  func() (func(), error) { return l.Stream(a) },
		"sessions of one member": func() (func(), error) { return l.Session("a") },
	} {
		first, err1 := open()
		second, err2 := open()
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		_, err := open()
		wantExceeded(t, err, name, 2)
		first()
		first() // gives back once
		third, err := open()
		if err != nil {
			t.Fatal(err)
		}
		_, err = open()
		wantExceeded(t, err, name, 2)
		second()
		third()
	}
	if len(l.sessions) != 0 || l.idle.Len() != len(l.accounts) {
		t.Errorf("left behind: %v, %d idle of %d", l.sessions, l.idle.Len(), len(l.accounts))
	}
	if other, err := l.Session("b"); err != nil {
		t.Error(err)
	} else {
		other()
	}
}

// TestAMillionCallers: what is remembered stays bounded, and whoever is busy is not
// forgotten for it.
func TestAMillionCallers(t *testing.T) {
	c := newClock()
	l := newLimiter(t, Limits{RequestsPerSecond: 1, Burst: 2, StreamsPerCaller: 1, SessionsPerMember: 1}, c)
	streaming, busy := Caller{Key: "streaming"}, Caller{Key: "busy"}
	release, err := l.Stream(streaming)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	for range 2 {
		if err := errors.Join(l.Request(streaming), l.Request(busy)); err != nil {
			t.Fatal(err)
		}
	}
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	callers := 1_000_000
	if testing.Short() {
		callers = 50_000
	}
	for i := range callers {
		if err := l.Request(Anonymous(fmt.Sprintf("[2001:db8:%x:%x::1]:443", i>>16, i&0xffff))); err != nil {
			t.Fatal(err)
		}
		if i%1000 == 0 {
			wantExceeded(t, l.Request(busy), "requests per second of one caller", 1) // it stays in use, and stays refused
		}
	}
	wantExceeded(t, l.Request(streaming), "requests per second of one caller", 1)
	if len(l.accounts) != MaxCallers || l.idle.Len() != MaxCallers-1 {
		t.Errorf("%d callers kept, %d of them idle; want %d", len(l.accounts), l.idle.Len(), MaxCallers)
	}
	if grown := int64(heap()) - int64(before); grown > 16<<20 {
		t.Errorf("%d distinct callers left %d bytes", callers, grown)
	} else {
		t.Logf("%d distinct callers left %d KiB", callers, grown>>10)
	}
	runtime.KeepAlive(l)
}

// TestEveryAccountBusy: when all are in use newcomers are refused, and nobody else.
func TestEveryAccountBusy(t *testing.T) {
	l := newLimiter(t, Limits{RequestsPerSecond: 1, Burst: 1, StreamsPerCaller: 1, SessionsPerMember: 1}, newClock())
	l.most = 3
	var releases []func()
	for i := range 3 {
		name := fmt.Sprint(i)
		stream, err1 := l.Stream(Caller{Key: name})
		session, err2 := l.Session(name)
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		releases = append(releases, stream, session)
	}
	_, err := l.Stream(Caller{Key: "new"})
	wantExceeded(t, err, "callers with open streams", 3)
	wantExceeded(t, l.Request(Caller{Key: "new"}), "callers with open streams", 3)
	_, err = l.Session("new")
	wantExceeded(t, err, "members with sessions", 3)
	if err := l.Request(Caller{Key: "1"}); err != nil {
		t.Error(err)
	}
	for _, release := range releases {
		release()
	}
	if err := l.Request(Caller{Key: "new"}); err != nil {
		t.Error(err)
	}
}

func TestManyAtOnce(t *testing.T) {
	l, err := NewLimiter(Limits{RequestsPerSecond: 1_000_000, Burst: 1_000_000, StreamsPerCaller: 4, SessionsPerMember: 4})
	if err != nil {
		t.Fatal(err)
	}
	l.most = 16
	var all sync.WaitGroup
	for i := range 32 {
		all.Go(func() {
			for n := range 500 {
				key := fmt.Sprint((i + n) % 24)
				_ = l.Request(Caller{Key: key})
				stream, err := l.Stream(Caller{Key: key})
				if err == nil {
					defer stream()
				}
				if session, err := l.Session(key); err == nil {
					session()
				}
				if err == nil && n%2 == 0 {
					stream()
				}
			}
		})
	}
	all.Wait()
	if len(l.accounts) > 16 || l.idle.Len() != len(l.accounts) || len(l.sessions) != 0 {
		t.Errorf("%d accounts, %d idle, %d sessions", len(l.accounts), l.idle.Len(), len(l.sessions))
	}
}

// TestTheGateCountsFailures: guessing is refused without a look, from one network
// only, and not for those who come with a certificate.
func TestTheGateCountsFailures(t *testing.T) {
	s := newSigner(t, "k1", jose.EdDSA)
	c := newClock()
	o := withKeys(t, s)
	o.now = c.now
	g := Gate{Authenticator: newAuthenticator(t, o), Limiter: newLimiter(t, Limits{RequestsPerSecond: 1, Burst: 3, StreamsPerCaller: 1, SessionsPerMember: 1}, c)}
	honest := bearer(s.sign(t, good(nil), nil))
	for range 3 {
		_, err := g.Admit(t.Context(), bearer("guess"))
		wantDenied(t, err, true, "no JSON Web Token")
	}
	_, err := g.Admit(t.Context(), bearer("guess"))
	wantExceeded(t, err, "requests per second of one caller", 1)
	_, err = g.Admit(t.Context(), honest)
	wantExceeded(t, err, "requests per second of one caller", 1)
	elsewhere := honest
	elsewhere.Remote = "192.0.2.2:1"
	if _, err := g.Admit(t.Context(), elsewhere); err != nil {
		t.Error(err)
	}
	worker := newAuthority(t, testCluster).show(t, memberNamed("worker-1"))
	for range 3 {
		if caller, err := g.Admit(t.Context(), worker); err != nil || caller.Member != "worker-1" {
			t.Error(err)
		}
	}
	_, err = g.Admit(t.Context(), worker)
	wantExceeded(t, err, "requests per second of one caller", 1)
	_, err = g.Admit(t.Context(), Evidence{Remote: "192.0.2.1:9"}) // shows nothing, and counts as well
	wantExceeded(t, err, "requests per second of one caller", 1)
	c.pass(time.Second)
	if _, err := g.Admit(t.Context(), honest); err != nil {
		t.Error(err)
	}
}

func TestUnreadAnswersAreBounded(t *testing.T) {
	l, err := NewLimiter(Limits{RequestsPerSecond: 1, Burst: 1, StreamsPerCaller: 1, SessionsPerMember: 1})
	if err != nil {
		t.Fatal(err)
	}
	if release, err := l.Answer(Caller{Key: "huge"}, 2*MaxAllUnread); err != nil {
		t.Errorf("the only answer: %v", err)
	} else {
		release()
	}
	var all []func()
	for i := range MaxAllUnread / MaxUnread {
		c := Caller{Key: fmt.Sprint(i)}
		for range 2 {
			release, err := l.Answer(c, MaxUnread/2)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, release)
		}
		_, err := l.Answer(c, MinUnread)
		wantExceeded(t, err, "bytes of answers that one caller has not read", MaxUnread)
		if _, err := l.Answer(c, MinUnread-1); err != nil {
			t.Errorf("a small one: %v", err)
		}
	}
	_, err = l.Answer(Caller{Key: "another"}, MinUnread)
	wantExceeded(t, err, "bytes of answers that nobody has read", MaxAllUnread)
	for _, release := range all {
		release()
		release() // once is enough
	}
	if l.all != 0 || len(l.unread) != 0 {
		t.Errorf("%d bytes of %d callers are left", l.all, len(l.unread))
	}
}

func BenchmarkAdmit(b *testing.B) {
	s := newSigner(b, "k1", jose.EdDSA)
	o := withKeys(b, s)
	o.Entries = entries()
	l, err := NewLimiter(Limits{RequestsPerSecond: 1 << 30, Burst: 1 << 30, StreamsPerCaller: 1, SessionsPerMember: 1})
	if err != nil {
		b.Fatal(err)
	}
	g := Gate{Authenticator: newAuthenticator(b, o), Limiter: l}
	for name, e := range map[string]Evidence{
		"certificate": newAuthority(b, testCluster).show(b, memberNamed("worker-1")), "token": bearer(s.sign(b, good(nil), nil)),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := g.Admit(b.Context(), e); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
