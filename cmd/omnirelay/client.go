package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/wire"
)

// Limits on what a node may answer.
const (
	maxAnswerBytes = 64 << 20
	maxEventBytes  = 1 << 20
	// silenceLimit is how long a stream may be silent: nodes send a comment more often.
	silenceLimit = 45 * time.Second
)

// httpClient calls nodes over HTTP.
type httpClient struct {
	client *http.Client
	nodes  []string // base URLs, tried in turn

	first atomic.Int64 // of nodes: the one that answered last
}

// refusal is a node's answer that asking another node will not change.
type refusal struct{ problem wire.Problem }

func (r *refusal) Error() string {
	text := r.problem.Detail
	if text == "" {
		text = r.problem.Title
	}
	if r.problem.Field != "" {
		text = r.problem.Field + ": " + text
	}
	return text
}

// busy is a node's answer that it cannot say now.
type busy struct {
	refusal
	after time.Duration
}

func (c *httpClient) get(ctx context.Context, base, path string, query url.Values, header map[string]string) (*http.Response, error) {
	return c.send(ctx, http.MethodGet, base, path, query, nil, header)
}

// send makes one request of one node. The answer is 200.
func (c *httpClient) send(ctx context.Context, method, base, path string, query url.Values, body []byte, header map[string]string) (*http.Response, error) {
	target := strings.TrimSuffix(base, "/") + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/json")
	}
	for name, value := range header {
		req.Header.Set(name, value)
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, problemOf(resp)
}

// call makes a request of one node after another and reads its answer.
func (c *httpClient) call(ctx context.Context, method, path string, query url.Values, request, into proto.Message) (raw []byte, err error) {
	var body []byte
	if request != nil {
		if body, err = protojson.Marshal(request); err != nil {
			return nil, err
		}
	}
	return c.inTurn(ctx, method, path, query, body, func(raw []byte) error {
		proto.Reset(into)
		// A later version may tell more.
		return protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(raw, into)
	})
}

// fetch reads from one node after another. raw is JSON.
func (c *httpClient) fetch(ctx context.Context, path string, query url.Values) (raw []byte, err error) {
	return c.inTurn(ctx, http.MethodGet, path, query, nil, func(raw []byte) error {
		if !json.Valid(raw) {
			return errors.New("want JSON")
		}
		return nil
	})
}

// inTurn makes a request of one node after another, the one that answered last first,
// until one gives an answer that can be read. raw is the node's own JSON.
func (c *httpClient) inTurn(ctx context.Context, method, path string, query url.Values, body []byte, read func(raw []byte) error) (raw []byte, err error) {
	err = inTurn(ctx, c.inOrder(), func(ctx context.Context, node string) error {
		resp, err := c.send(ctx, method, node, path, query, body, nil)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if raw, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswerBytes)); err != nil {
			return err
		}
		if err := read(raw); err != nil {
			return fmt.Errorf("%s did not answer as a leadership node does: %w", node, err)
		}
		c.first.Store(int64(slices.Index(c.nodes, node)))
		return nil
	})
	return raw, err
}

// tls is how nodes are called.
func (c *httpClient) tls() *tls.Config { return c.client.Transport.(*http.Transport).TLSClientConfig }

// inOrder are the nodes, beginning with the one that answered last.
func (c *httpClient) inOrder() []string {
	first := max(0, int(c.first.Load()))
	return slices.Concat(c.nodes[first:], c.nodes[:first])
}

// problemOf turns an answer other than 200 into a refusal or busy.
func problemOf(resp *http.Response) error {
	var p wire.Problem
	data, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if json.Unmarshal(data, &p) != nil || p.Status == 0 {
		p = wire.Problem{Status: resp.StatusCode, Title: "answered " + resp.Status}
	}
	if resp.StatusCode != http.StatusServiceUnavailable && resp.StatusCode != http.StatusTooManyRequests {
		return &refusal{p}
	}
	after, err := strconv.Atoi(resp.Header.Get("Retry-After"))
	if err != nil || after < 1 {
		after = 1
	}
	return &busy{refusal{p}, min(time.Duration(after)*time.Second, 10*time.Second)}
}

// perNode bounds one attempt, so that a node that hangs leaves time for the others.
const perNode = 3 * time.Second

// inTurn tries the nodes until one does what is asked. When some say that they
// cannot now, all are tried again later, until ctx ends.
func inTurn(ctx context.Context, nodes []string, try func(ctx context.Context, node string) error) error {
	for {
		var failures []error
		pause := time.Duration(0)
		for _, node := range nodes {
			attempt, cancel := context.WithTimeout(ctx, perNode)
			err := try(attempt, node)
			cancel()
			var no *refusal
			var later *busy
			switch {
			case err == nil:
				return nil
			case errors.As(err, &no):
				return err
			case errors.As(err, &later):
				pause = max(pause, later.after)
				err = fmt.Errorf("%s: %w", node, err)
			case errors.Is(err, context.DeadlineExceeded):
				pause = max(pause, time.Second) // it may be paused, and wake up
			}
			failures = append(failures, err)
		}
		if ctx.Err() != nil {
			return giveUp(ctx, failures)
		}
		if pause == 0 {
			return fmt.Errorf("%w; is the cluster running? try another node with --url, or see the log of leaderd", errors.Join(failures...))
		}
		select {
		case <-ctx.Done():
			return giveUp(ctx, failures)
		case <-time.After(pause):
		}
	}
}

// giveUp says what the last round met.
func giveUp(ctx context.Context, failures []error) error {
	if errors.Is(context.Cause(ctx), context.Canceled) {
		return context.Canceled
	}
	return fmt.Errorf("%w; no node answered: %w; wait for the cluster to recover, or allow more with --timeout", errTimedOut, errors.Join(failures...))
}

// item is one event of a stream and the cursor behind it; raw is the node's own JSON.
type item struct {
	event  wire.Event
	cursor string // empty: none
	raw    []byte
}

// follow is a follower.
func (c *httpClient) follow(ctx context.Context, node, scope, cursor string, open func(), show func(item) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	silence := time.AfterFunc(silenceLimit, cancel)
	defer silence.Stop()
	query, header := url.Values{}, map[string]string{"Accept": "text/event-stream"}
	if scope != "" {
		query.Set("scope", scope)
	}
	if cursor != "" {
		header["Last-Event-ID"] = cursor
	}
	resp, err := c.get(ctx, node, "/control/events/leadership", query, header)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	open()
	return readEvents(resp.Body, func() { silence.Reset(silenceLimit) }, show)
}

// readEvents reads server-sent events; heard is called for every line.
func readEvents(body io.Reader, heard func(), show func(item) error) error {
	lines := bufio.NewScanner(body)
	lines.Buffer(make([]byte, 64<<10), maxEventBytes)
	var next item
	for lines.Scan() {
		heard()
		field, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "id":
			next.cursor = value
		case "data":
			next.raw = append(next.raw, value...)
		case "":
			if lines.Text() != "" || next.raw == nil {
				continue // a comment, or an event without data
			}
			if err := json.Unmarshal(next.raw, &next.event); err != nil {
				return fmt.Errorf("the stream holds what is no event: %w", err)
			}
			if err := show(next); err != nil {
				return err
			}
			next = item{}
		}
	}
	return lines.Err()
}
