package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

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
	target := strings.TrimSuffix(base, "/") + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return nil, err
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

// leaders asks the nodes in turn until one answers. The bytes are the node's own.
func (c *httpClient) leaders(ctx context.Context, scope string) (raw []byte, leaders wire.LeadersResponse, err error) {
	query := url.Values{}
	if scope != "" {
		query.Set("scope", scope)
	}
	err = inTurn(ctx, c.nodes, func(ctx context.Context, node string) error {
		resp, err := c.get(ctx, node, "/control/leaders", query, nil)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if raw, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswerBytes)); err != nil {
			return err
		}
		if err := json.Unmarshal(raw, &leaders); err != nil {
			return fmt.Errorf("%s did not answer as a leadership node does: %w", node, err)
		}
		return nil
	})
	return raw, leaders, err
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
