package fuzz_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/wire"
)

// reader is the client of a response: one that leaves a stream when it has read the
// first of it.
type reader struct {
	*httptest.ResponseRecorder
	leave func()
}

func (r *reader) SetReadDeadline(time.Time) error { return nil }

func (r *reader) SetWriteDeadline(time.Time) error { return nil }

func (r *reader) FlushError() error {
	if strings.Contains(r.Body.String(), "\n\n") {
		r.leave()
	}
	return nil
}

// Whatever is asked over HTTP is answered in the form that the contract names: never as
// a failure of the node, never with what a browser could take for a page, and an event
// stream is one that every reader can take apart.
func FuzzHTTP(f *testing.F) {
	s := newSite(f)
	const admin, member, nobody = 0, 1, 6
	f.Add(uint8(admin), "GET", "/control/leaders?scope=a&linearizable=true", "", "", "")
	f.Add(uint8(admin), "GET", "/control/events/leadership", "4.0", "", "")
	f.Add(uint8(admin), "GET", "/control/events/leadership?scope=a", "99999999999.4294967295", "", "")
	f.Add(uint8(admin), "GET", "/control/events/leadership", "-1.0\r\n", "", "")
	f.Add(uint8(nobody), "GET", "/healthz", "", "", "")
	f.Add(uint8(nobody), "GET", "/readyz", "", "", "")
	f.Add(uint8(nobody), "GET", "/control/keys", "", "", "")
	f.Add(uint8(admin), "GET", "/metrics", "", "", "")
	f.Add(uint8(admin), "GET", "/control/openapi.json", "", "", "")
	f.Add(uint8(admin), "HEAD", "/control/held", "", "", "")
	f.Add(uint8(admin), "GET", "/control/audit?after=1&limit=2", "", "", "")
	f.Add(uint8(admin), "POST", "/control/members/m%2f..%2f/cordon", "", "application/json", "{}")
	f.Add(uint8(member), "POST", "/control/sessions/1/stand", "", "application/json", `{"requestId":"s","selector":{"id":"a"},"priority":3}`)
	f.Add(uint8(member), "POST", "/control/sessions", "", "application/json; charset=utf-8", `{"memberId":"m","ttl":"2s","stands":[{"selector":{}}]}`)
	f.Add(uint8(admin), "POST", "/control/scopes/declare", "", "application/json", `{"scopes":[{"id":"x","labels":{"<script>":"\u2028"}}]}`)
	f.Add(uint8(admin), "POST", "/control/transfer", "", "text/plain", `{"scope":"a"}`)
	f.Add(uint8(admin), "GET", "/control/leaders?=l", "", "", "")
	f.Add(uint8(admin), "POST", "/control/transfer", "", "application/json", `{"":1}`)
	f.Add(uint8(admin), "OPTIONS", "*", "", "", "")
	f.Fuzz(func(t *testing.T, caller uint8, method, target, cursor, contentType, body string) {
		if !strings.HasPrefix(target, "/") || len(target) > 4<<10 {
			return
		}
		s.httpNode.begin(t)
		r, err := s.request(method, target, s.callers[int(caller)%len(s.callers)], strings.NewReader(body))
		if err != nil {
			return // no server would read it
		}
		if cursor != "" {
			r.Header["Last-Event-Id"] = []string{cursor}
		}
		if contentType != "" {
			r.Header["Content-Type"] = []string{contentType}
		}
		if body == "" {
			r.Body, r.ContentLength = http.NoBody, 0
		}
		ctx, leave := context.WithTimeout(context.Background(), 5*time.Second)
		defer leave()
		w := &reader{httptest.NewRecorder(), leave}
		frugal(t, len(target)+len(cursor)+len(body), func() { s.http.ServeHTTP(w, r.WithContext(ctx)) })
		wantAnswer(t, r, w.ResponseRecorder, cursor)
	})
}

func wantAnswer(t *testing.T, r *http.Request, w *httptest.ResponseRecorder, cursor string) {
	t.Helper()
	kind := w.Header().Get("Content-Type")
	switch {
	case w.Code >= 500:
		t.Fatalf("%s %s failed the node: %d %s", r.Method, r.URL, w.Code, w.Body)
	case w.Code >= 300 && w.Code < 400:
		if !strings.HasPrefix(w.Header().Get("Location"), "/") {
			t.Fatalf("%s %s is sent away to %q", r.Method, r.URL, w.Header().Get("Location"))
		}
		return
	case w.Header().Get("X-Content-Type-Options") != "nosniff":
		t.Fatalf("%s %s: a browser may guess what %q is", r.Method, r.URL, kind)
	case w.Code >= 400:
		var p wire.Problem
		if err := json.Unmarshal(w.Body.Bytes(), &p); kind != wire.ProblemContentType || err != nil || p.Status != w.Code || p.Title == "" || p.Code == "" {
			t.Fatalf("%s %s: %d with %q %s: %v", r.Method, r.URL, w.Code, kind, w.Body, err)
		}
		if w.Code == http.StatusBadRequest && p.Field == "" {
			t.Fatalf("%s %s: a refusal that names no field: %s", r.Method, r.URL, w.Body)
		}
		wantLine(t, p.Detail)
	case strings.HasPrefix(kind, "application/json"):
		if !json.Valid(w.Body.Bytes()) {
			t.Fatalf("%s %s: no JSON: %s", r.Method, r.URL, w.Body)
		}
	case kind == "text/event-stream":
		wantStream(t, w.Body.String(), cursor)
	}
}

// wantStream fails unless text is a stream of events as the HTML standard has them,
// whose ids never go back.
func wantStream(t *testing.T, text, cursor string) {
	t.Helper()
	if !utf8.ValidString(text) || strings.Contains(text, "\r") {
		t.Fatalf("no event stream: %q", text)
	}
	var last core.Cursor
	if at, err := core.ParseCursor(cursor); err == nil && !strings.Contains(text, "event: SNAPSHOT") {
		last = at // it goes on from there, and has no reason to begin anew
	}
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		value = strings.TrimPrefix(value, " ")
		switch name {
		case "", "event", "retry":
		case "id":
			at, err := core.ParseCursor(value)
			if err != nil || at.Compare(last) < 0 {
				t.Fatalf("the id %q after %v: %v", value, last, err)
			}
			last = at
		case "data":
			if !json.Valid([]byte(value)) {
				t.Fatalf("an event of %q", value)
			}
		default:
			t.Fatalf("a line of %q", line)
		}
	}
}
