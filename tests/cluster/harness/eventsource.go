package harness

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/wire"
)

// EventSource follows /control/events/leadership as a browser's does: it
// reconnects after every end with the last id it was given, and gives up for good
// on an answer that is no event stream.
type EventSource struct {
	t      testing.TB
	client *http.Client
	o      SourceOptions
	cancel context.CancelFunc
	done   chan struct{}

	mu          sync.Mutex
	events      []Arrival
	lastID      string
	retry       time.Duration
	connections int    // that were answered by a stream
	resumed     int    // of those, with a Last-Event-ID
	refused     int    // answers that make a browser give up
	refusal     string // the first of them
	brk         context.CancelFunc
	bad         error // the first event that could not be read
	protocol    string
}

// Arrival is an event and when it came.
type Arrival struct {
	Event wire.Event
	At    time.Time
}

// SourceOptions settle an EventSource.
type SourceOptions struct {
	// Pick chooses the node of each connection, counted from 0.
	Pick func(connection int) *Node
	// HTTP1 keeps it from HTTP/2.
	HTTP1 bool
	// BreakAfter says after how many events each connection breaks, be it in the
	// midst of what one log entry brought about; nil: it does not.
	BreakAfter func(resumed bool) int
}

// OpenEventSource follows until Close, at the latest until the test ends.
func (c *Cluster) OpenEventSource(o SourceOptions) *EventSource {
	c.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s := &EventSource{t: c.t, client: protocolClient(c.t, c.tlsConfig(), o.HTTP1), o: o, cancel: cancel, done: make(chan struct{}), retry: 3 * time.Second}
	go s.run(ctx)
	c.t.Cleanup(s.Close)
	return s
}

// Always picks the same node.
func Always(n *Node) func(int) *Node { return func(int) *Node { return n } }

// InTurn picks another node for every connection.
func (c *Cluster) InTurn() func(int) *Node {
	return func(i int) *Node { return c.Nodes[i%len(c.Nodes)] }
}

func (s *EventSource) run(ctx context.Context) {
	defer close(s.done)
	for attempt := 0; ctx.Err() == nil; attempt++ {
		s.connect(ctx, s.o.Pick(attempt))
		s.mu.Lock()
		pause := s.retry
		s.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-time.After(pause): // as the server asked
		}
	}
}

// connect follows one connection to its end.
func (s *EventSource) connect(ctx context.Context, n *Node) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, n.URL+"/control/events/leadership", nil)
	if err != nil {
		panic(err) // the URL is ours
	}
	req.Header.Set("Accept", "text/event-stream")
	req.Header.Set("Cache-Control", "no-store")
	s.mu.Lock()
	lastID := s.lastID
	s.brk = cancel
	s.mu.Unlock()
	if lastID != "" {
		req.Header.Set("Last-Event-ID", lastID)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return // the node is down; a browser tries again
	}
	defer resp.Body.Close()
	if !s.accept(resp, n, lastID != "") {
		return
	}
	stream := &eventStream{remember: s.setLastID, retry: s.setRetry}
	left := -1
	if s.o.BreakAfter != nil {
		left = s.o.BreakAfter(lastID != "")
	}
	stream.dispatch = func(m Message) {
		s.dispatch(m)
		left--
		stream.closed = left == 0
	}
	_ = stream.read(resp.Body) // it always ends somehow
}

// accept tells a stream from an answer at which a browser gives up.
func (s *EventSource) accept(resp *http.Response, n *Node, resumed bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/event-stream" {
		s.refused++
		if s.refusal == "" {
			s.refusal = fmt.Sprintf("%s: %s, %s", n.ID, resp.Status, resp.Header.Get("Content-Type"))
		}
		return false
	}
	s.connections++
	if resumed {
		s.resumed++
	}
	s.protocol = resp.Proto
	return true
}

func (s *EventSource) setLastID(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastID = id
}

func (s *EventSource) setRetry(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retry = d
}

func (s *EventSource) dispatch(m Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var e wire.Event
	err := json.Unmarshal([]byte(m.Data), &e)
	if err == nil && (e.Kind != m.Type || (e.Kind != core.EventSnapshot.String() && CursorOf(e).String() != m.LastEventID)) {
		err = fmt.Errorf("id %q and type %q do not match", m.LastEventID, m.Type)
	}
	if err != nil && s.bad == nil {
		s.bad = fmt.Errorf("%w: %s", err, m.Data)
	}
	s.events = append(s.events, Arrival{Event: e, At: time.Now()})
}

// Break ends the present connection, as a network does.
func (s *EventSource) Break() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.brk != nil {
		s.brk()
	}
}

// Close ends the source.
func (s *EventSource) Close() {
	s.cancel()
	<-s.done
}

// Events are what has arrived so far.
func (s *EventSource) Events() []Arrival {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.events[:len(s.events):len(s.events)]
}

// Connections is how many streams were opened, how many of them resumed, and how
// many answers would have made a browser give up, with the first of those.
func (s *EventSource) Connections() (opened, resumed, refused int, refusal string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.connections, s.resumed, s.refused, s.refusal
}

// Told is what arrived so far, or why it cannot be read.
func (s *EventSource) Told() (told Told, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.events {
		told = append(told, a.Event)
	}
	return told, s.bad
}
