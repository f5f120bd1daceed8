package harness

import (
	"io"
	"strconv"
	"strings"
	"time"
)

// Message is one event that a browser would dispatch.
type Message struct {
	Type        string
	Data        string
	LastEventID string
}

// eventStream interprets one response of type text/event-stream as the HTML
// standard says in "Interpreting an event stream".
type eventStream struct {
	dispatch func(Message)
	remember func(lastEventID string)
	retry    func(time.Duration)

	closed  bool // nothing more is dispatched
	line    []byte
	afterCR bool // a line feed that follows belongs to the same line end
	begun   bool // a byte order mark can only come before the first line

	data      strings.Builder
	eventType string
	id        string
}

// read interprets r until it ends. An event that no blank line completed is dropped.
func (s *eventStream) read(r io.Reader) error {
	buf := make([]byte, 4096)
	for {
		n, err := r.Read(buf)
		for _, b := range buf[:n] {
			if s.closed {
				return nil
			}
			s.feed(b)
		}
		if err != nil {
			return err
		}
	}
}

func (s *eventStream) feed(b byte) {
	follows := s.afterCR
	s.afterCR = b == '\r'
	switch {
	case b == '\n' && follows:
	case b == '\n' || b == '\r':
		s.endLine()
	default:
		s.line = append(s.line, b)
	}
}

func (s *eventStream) endLine() {
	line := strings.ToValidUTF8(string(s.line), "\uFFFD")
	s.line = s.line[:0]
	if !s.begun {
		line = strings.TrimPrefix(line, "\uFEFF")
		s.begun = true
	}
	if line == "" {
		s.complete()
		return
	}
	name, value, _ := strings.Cut(line, ":")
	s.field(name, strings.TrimPrefix(value, " ")) // an empty name: a comment
}

func (s *eventStream) field(name, value string) {
	switch name {
	case "event":
		s.eventType = value
	case "data":
		s.data.WriteString(value + "\n")
	case "id":
		if !strings.Contains(value, "\x00") {
			s.id = value
		}
	case "retry":
		if ms, err := strconv.ParseUint(value, 10, 31); err == nil && strings.Trim(value, "0123456789") == "" {
			s.retry(time.Duration(ms) * time.Millisecond)
		}
	}
}

// complete dispatches what was gathered. Without data there is nothing to dispatch,
// but the id counts all the same: also the empty one of a stream that named none.
func (s *eventStream) complete() {
	s.remember(s.id)
	m := Message{Type: s.eventType, Data: strings.TrimSuffix(s.data.String(), "\n"), LastEventID: s.id}
	empty := s.data.Len() == 0
	s.data.Reset()
	s.eventType = ""
	if empty {
		return
	}
	if m.Type == "" {
		m.Type = "message"
	}
	s.dispatch(m)
}
