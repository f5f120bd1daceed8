package signing

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// Defaults of URLOptions.
const (
	DefaultFetchTimeout = 5 * time.Second
	DefaultMaxAge       = 5 * time.Minute
	DefaultMinRefresh   = 10 * time.Second
)

// URLOptions say where keys are published.
type URLOptions struct {
	URL        string        // https; the registry serves its keys under /control/keys
	TLS        *tls.Config   // roots and client certificate; nil: the system's
	Timeout    time.Duration // of one fetch; 0: DefaultFetchTimeout
	MaxAge     time.Duration // after which keys are fetched again; 0: DefaultMaxAge
	MinRefresh time.Duration // between two fetches, whatever asks for them; 0: DefaultMinRefresh
	Logger     *slog.Logger  // nil: silent
	Now        func() time.Time
}

// URLKeys are published keys that are fetched, kept, and fetched again when they are
// old or a token names a key that is not among them. Nobody can make them fetch more
// often than MinRefresh. While a fetch fails the keys fetched before stay in force.
// Close them. Safe for concurrent use.
type URLKeys struct {
	o      URLOptions
	client *http.Client
	ctx    context.Context // ends with Close
	stop   context.CancelFunc
	work   sync.WaitGroup

	mu      sync.Mutex
	keys    *PublicKeys   // nil: none fetched yet
	fetched time.Time     // when keys were
	tried   time.Time     // when the last fetch began
	failed  error         // of the last fetch
	running chan struct{} // closed when the fetch under way ends; nil: none is
}

// NewURLKeys checks the options. Nothing is fetched before the first Key.
func NewURLKeys(o URLOptions) (*URLKeys, error) {
	u, err := url.Parse(o.URL)
	if err != nil {
		return nil, fmt.Errorf("keys URL: %w", err)
	}
	if u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("keys URL %q: want https://HOST/PATH: whoever can change the answer on its way can sign tokens", o.URL)
	}
	for _, d := range []struct {
		name      string
		value     *time.Duration
		byDefault time.Duration
	}{{"timeout", &o.Timeout, DefaultFetchTimeout}, {"max age", &o.MaxAge, DefaultMaxAge}, {"min refresh", &o.MinRefresh, DefaultMinRefresh}} {
		if *d.value == 0 {
			*d.value = d.byDefault
		}
		if *d.value < 0 || *d.value > 24*time.Hour {
			return nil, fmt.Errorf("keys URL: %s %v; want more than 0 and at most 24h", d.name, *d.value)
		}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	k := &URLKeys{o: o, client: newClient(o), failed: errors.New("none was tried")}
	k.ctx, k.stop = context.WithCancel(context.Background())
	return k, nil
}

// newClient follows no redirect, since that could lead to another's keys, and keeps
// no connection: fetches are minutes apart.
func newClient(o URLOptions) *http.Client {
	settings := &tls.Config{}
	if o.TLS != nil {
		settings = o.TLS.Clone()
	}
	settings.MinVersion = tls.VersionTLS13
	return &http.Client{
		Transport: &http.Transport{TLSClientConfig: settings, DisableKeepAlives: true, ForceAttemptHTTP2: true,
			MaxResponseHeaderBytes: 16 << 10, Proxy: http.ProxyFromEnvironment},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Close ends a fetch under way. Keys fetched before stay in force.
func (k *URLKeys) Close() error {
	k.mu.Lock()
	k.stop()
	k.mu.Unlock()
	k.work.Wait()
	return nil
}

// Key finds a key by name. It waits for a fetch, at most Timeout and ctx, only when
// the key is not known or all keys are twice as old as MaxAge though nothing failed:
// an endpoint that is down delays no token whose key is known.
func (k *URLKeys) Key(ctx context.Context, kid string) (ed25519.PublicKey, error) {
	keys, running := k.look(kid)
	if running != nil {
		select {
		case <-running:
		case <-ctx.Done():
			return nil, refuse(NoKeys, "kid", "the keys were not fetched in time: %v", context.Cause(ctx))
		}
		k.mu.Lock()
		keys = k.keys
		k.mu.Unlock()
	}
	if keys != nil {
		return keys.Key(ctx, kid)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return nil, refuse(NoKeys, "kid", "no keys could be fetched from %s yet: %v", k.o.URL, k.failed)
}

// look returns the keys at hand, and what to wait for before they are used. It
// begins a fetch when one is due.
func (k *URLKeys) look(kid string) (*PublicKeys, <-chan struct{}) {
	k.mu.Lock()
	defer k.mu.Unlock()
	known := false
	if k.keys != nil {
		_, known = k.keys.keys[kid]
	}
	now := k.o.Now()
	age := now.Sub(k.fetched)
	fresh := age >= 0 && age < k.o.MaxAge
	if (!known || !fresh) && k.running == nil && k.mayFetch(now) {
		k.begin(now)
	}
	if known && (fresh || age < 2*k.o.MaxAge || k.failed != nil) {
		return k.keys, nil
	}
	return k.keys, k.running
}

func (k *URLKeys) mayFetch(now time.Time) bool {
	since := now.Sub(k.tried)
	return k.ctx.Err() == nil && (since < 0 || since >= k.o.MinRefresh)
}

func (k *URLKeys) begin(now time.Time) {
	k.tried = now
	done := make(chan struct{})
	k.running = done
	k.work.Go(func() {
		keys, err := k.fetch()
		k.mu.Lock()
		defer k.mu.Unlock()
		k.take(keys, err, now)
		k.running = nil
		close(done)
	})
}

func (k *URLKeys) take(keys *PublicKeys, err error, now time.Time) {
	if err == nil {
		k.keys, k.fetched, k.failed = keys, now, nil
		return
	}
	if k.failed == nil || k.failed.Error() != err.Error() {
		k.o.Logger.Warn("keys cannot be fetched; those fetched before stay in force", "error", err)
	}
	k.failed = err
}

func (k *URLKeys) fetch() (*PublicKeys, error) {
	ctx, cancel := context.WithTimeout(k.ctx, k.o.Timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, k.o.URL, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept", ContentType+", application/json")
	response, err := k.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answered %s; want 200 with a JWK Set", k.o.URL, response.Status)
	}
	data, err := readLimited(response.Body)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", k.o.URL, err)
	}
	keys, err := ParseKeys(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", k.o.URL, err)
	}
	return keys, nil
}
