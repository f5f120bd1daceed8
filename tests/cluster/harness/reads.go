package harness

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/omnirelay/leadership/wire"
)

// readWithin bounds one read of a node: a paused one never answers.
const readWithin = 2 * time.Second

// maxAnswer bounds what a node may answer.
const maxAnswer = 8 << 20

func newHTTPClient(t testing.TB, config *tls.Config) *http.Client {
	transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// Answer is what a node answered to one request.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// Problem reads the answer as an RFC 9457 document.
func (a *Answer) Problem() (p wire.Problem, err error) {
	if got := a.Header.Get("Content-Type"); got != wire.ProblemContentType {
		return p, fmt.Errorf("status %d with content type %q: %s", a.Status, got, a.Body)
	}
	return p, json.Unmarshal(a.Body, &p)
}

// Ask sends a request with the given client.
func Ask(client *http.Client, within time.Duration, method, url string, body io.Reader, header http.Header) (*Answer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return nil, err
	}
	for name, values := range header {
		req.Header[name] = values
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	return &Answer{Status: resp.StatusCode, Header: resp.Header, Body: data}, err
}

// Ask sends a request to a path of the node's HTTP API.
func (n *Node) Ask(method, path string, body io.Reader, header http.Header) (*Answer, error) {
	return Ask(n.cluster.client, 5*time.Second, method, n.URL+path, body, header)
}

// AskHTTP1 is Ask by HTTP/1.1, whose client has no word on the size of headers.
func (n *Node) AskHTTP1(method, path string, header http.Header) (*Answer, error) {
	client := protocolClient(n.cluster.t, n.cluster.tlsConfig(), true)
	return Ask(client, 5*time.Second, method, n.URL+path, nil, header)
}

// tlsConfig is a copy of the settings of the cluster's client.
func (c *Cluster) tlsConfig() *tls.Config {
	config := c.client.Transport.(*http.Transport).TLSClientConfig.Clone()
	config.NextProtos = nil // the next user's to set
	return config
}

func protocolClient(t testing.TB, config *tls.Config, http1 bool) *http.Client {
	client := newHTTPClient(t, config)
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(!http1)
	client.Transport.(*http.Transport).Protocols = &protocols
	return client
}

// Get reads a path of the node's HTTP API.
func (n *Node) Get(path string) (*Answer, error) {
	return Ask(n.cluster.client, readWithin, http.MethodGet, n.URL+path, nil, nil)
}

func (n *Node) read(path string, into any) error {
	a, err := n.Get(path)
	if err != nil {
		return err
	}
	if a.Status != http.StatusOK {
		return fmt.Errorf("%s %s: status %d: %s", n.ID, path, a.Status, a.Body)
	}
	return json.Unmarshal(a.Body, into)
}

// Leaders is what a node tells of all scopes at one revision.
type Leaders struct {
	Revision uint64
	ByScope  map[string]wire.Token
}

// Leaders reads /control/leaders.
func (n *Node) Leaders() (Leaders, error) {
	var answer wire.LeadersResponse
	if err := n.read("/control/leaders", &answer); err != nil {
		return Leaders{}, err
	}
	return LeadersOf(&answer), nil
}

// LeadersOf indexes an answer by scope.
func LeadersOf(answer *wire.LeadersResponse) Leaders {
	l := Leaders{Revision: answer.Revision, ByScope: map[string]wire.Token{}}
	for _, t := range answer.Tokens {
		l.ByScope[t.Scope] = t
	}
	return l
}

// LedBy are the tokens of one member.
func (l Leaders) LedBy(id string) map[string]wire.Token {
	led := map[string]wire.Token{}
	for scope, t := range l.ByScope {
		if t.LeaderID == id {
			led[scope] = t
		}
	}
	return led
}

// sameAs compares revision, leaders, terms and fences.
func (l Leaders) sameAs(other Leaders) error {
	if l.Revision != other.Revision {
		return fmt.Errorf("revision %d against %d", l.Revision, other.Revision)
	}
	return l.SameTokens(other)
}

// SameTokens compares leaders, terms and fences.
func (l Leaders) SameTokens(other Leaders) error {
	if len(l.ByScope) != len(other.ByScope) {
		return fmt.Errorf("%d led scopes against %d", len(l.ByScope), len(other.ByScope))
	}
	for scope, a := range l.ByScope {
		b := other.ByScope[scope]
		if a.LeaderID != b.LeaderID || a.Term != b.Term || a.FenceToken != b.FenceToken {
			return fmt.Errorf("%s is led by %s in term %d with fence %d, against %s, %d, %d",
				scope, a.LeaderID, a.Term, a.FenceToken, b.LeaderID, b.Term, b.FenceToken)
		}
	}
	return nil
}

// Held reads /control/held.
func (n *Node) Held() (held wire.HeldResponse, err error) {
	return held, n.read("/control/held", &held)
}

// readiness is what /readyz tells of a node that is ready.
type readiness struct {
	Registrar bool `json:"registrar"`
}

// Ready returns nil when the node says that it can serve.
func (n *Node) Ready() error {
	var r readiness
	return n.read("/readyz", &r)
}

// IsRegistrar reports whether the node says that it is the registrar.
func (n *Node) IsRegistrar() bool {
	var r readiness
	return n.read("/readyz", &r) == nil && r.Registrar
}

// HeldUponWaking lets a paused node go on and returns the first thing that it says
// it holds: the question lies in its socket when it wakes.
func (n *Node) HeldUponWaking() (held wire.HeldResponse, err error) {
	sent := make(chan struct{})
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { close(sent) }})
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, n.URL+"/control/held", nil)
	if err != nil {
		return held, err
	}
	go func() {
		select {
		case <-sent:
		case <-ctx.Done():
		}
		n.Resume()
	}()
	resp, err := n.cluster.client.Do(req)
	if err != nil {
		return held, err
	}
	defer resp.Body.Close()
	return held, json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(&held)
}

// auditPage is how many records one read asks for: the most there is.
const auditPage = 1000

// Audit reads the whole trail, from its first record.
func (n *Node) Audit() (records []wire.AuditRecord, err error) {
	for {
		var after uint64
		if len(records) > 0 {
			after = records[len(records)-1].Seq
		}
		var page wire.AuditResponse
		path := "/control/audit?limit=" + strconv.Itoa(auditPage) + "&after=" + strconv.FormatUint(after, 10)
		if err := n.read(path, &page); err != nil {
			return nil, err
		}
		if len(page.Records) == 0 {
			return records, nil
		}
		records = append(records, page.Records...)
	}
}

// Boottime reads the clock that /control/held tells of, in nanoseconds.
func Boottime() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(err) // the nodes need it too
	}
	return ts.Nano()
}
