package harness

import (
	"fmt"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// The streams are those of the HTML standard's own examples, and its corners.
func TestEventStream(t *testing.T) {
	for name, c := range map[string]struct{ stream, want string }{
		"lines of data":     {"data: YHOO\ndata: +2\ndata: 10\n\n", "[message|YHOO\n+2\n10|]<>"},
		"comment and ids":   {": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n", "[message|first event|1][message|second event|][message| third event|]<>"},
		"empty data":        {"data\n\ndata\ndata\n\ndata:", "[message||][message|\n|]<>"},
		"with and without":  {"data:test\n\ndata: test\n\n", "[message|test|][message|test|]<>"},
		"types":             {"event: add\ndata: 7\n\ndata: 8\n\n", "[add|7|][message|8|]<>"},
		"all line ends":     {"data: a\r\ndata: b\rdata: c\n\r\ndata: d\r\r", "[message|a\nb\nc|][message|d|]<>"},
		"byte order mark":   {"\uFEFFdata: a\n\n\uFEFFdata: b\n\n", "[message|a|]<>"},
		"unfinished":        {"data: a\n\ndata: b\n", "[message|a|]<>"},
		"null in an id":     {"id: 1\ndata: a\n\nid: 2\x00\ndata: b\n\n", "[message|a|1][message|b|1]<1>"},
		"id without data":   {"id: 5\n\ndata: a\n\n", "[message|a|5]<5>"},
		"unknown field":     {"datum: a\ndata : b\ndata: c\n\n", "[message|c|]<>"},
		"retry":             {"retry: 250\nretry: 1e3\nretry: -1\nretry:\ndata: a\n\n", "{250ms}[message|a|]<>"},
		"an id forgotten":   {"id: 5\ndata: a\n\nid\n\n", "[message|a|5]<>"},
		"a stream without":  {"retry: 1\n\n", "{1ms}<>"},
		"an id unfinished":  {"id: 5\n\nid: 6\n", "<5>"},
		"type without data": {"event: add\n\ndata: a\n\n", "[message|a|]<>"},
	} {
		for _, oneByte := range []bool{false, true} {
			var got strings.Builder
			var last string
			s := &eventStream{
				dispatch: func(m Message) { fmt.Fprintf(&got, "[%s|%s|%s]", m.Type, m.Data, m.LastEventID) },
				remember: func(id string) { last = id },
				retry:    func(d time.Duration) { fmt.Fprintf(&got, "{%v}", d) },
			}
			var r = strings.NewReader(c.stream)
			if oneByte {
				_ = s.read(iotest.OneByteReader(r)) // ends with io.EOF
			} else {
				_ = s.read(r)
			}
			got.WriteString("<" + last + ">")
			if got.String() != c.want {
				t.Errorf("%s: %q, want %q", name, got.String(), c.want)
			}
		}
	}
}
