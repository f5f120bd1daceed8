package api

import (
	"bytes"
	"context"
	"crypto/tls"
	"log/slog"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/omnirelay/leadership/adapters/access"
	"github.com/omnirelay/leadership/adapters/clock"
	"github.com/omnirelay/leadership/adapters/control"
	"github.com/omnirelay/leadership/adapters/telemetry"
	"github.com/omnirelay/leadership/adapters/transport"
	"github.com/omnirelay/leadership/wire/controlpb"
)

// web serves the JSON side of n.
func (n *node) web(gate access.Gate) string {
	t := n.world.t
	t.Helper()
	logger := slog.New(slog.DiscardHandler)
	s, err := control.New(control.Options{Source: n.Host, Service: n.service, Gate: gate, Logger: logger, Boottime: clock.Boottime,
		Metrics: telemetry.NewMetrics(telemetry.Options{Logger: logger, View: n.View}), MaxStreams: 10, MaxBody: 64 << 10,
		WriteTimeout: 5 * time.Second, Heartbeat: time.Second, ReadTimeout: 3 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(s.Handler())
	server.TLS = &tls.Config{Certificates: []tls.Certificate{n.world.pair(n.world.authority.IssueNode(n.service.o.NodeID))},
		ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: n.world.roots(), MinVersion: tls.VersionTLS13}
	server.StartTLS()
	t.Cleanup(server.Close)
	return server.URL
}

// documented is the script of docs/members.md.
func documented(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile("../../docs/members.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(page), "\n```sh\n")
	script, _, closed := strings.Cut(rest, "\n```\n")
	quick := strings.Replace(script, "ttl=30 ", "ttl=5 ", 1) // renews every second
	if !found || !closed || quick == script {
		t.Fatal("docs/members.md has no shell script with a TTL of 30 seconds any more")
	}
	path := filepath.Join(t.TempDir(), "lead.sh")
	if err := os.WriteFile(path, []byte(quick), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// The script of the documentation leads, on nodes of which the first is down, hands over
// when it is asked, and gives up in order when it is stopped.
func TestTheScriptOfTheDocumentationLeads(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	w.declare("job")
	folder := t.TempDir()
	pair, err := w.authority.IssueMember("worker-1")
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"ca.pem": w.authority.CertPEM(), "worker-1.pem": pair.Cert, "worker-1-key.pem": pair.Key} {
		if err := os.WriteFile(filepath.Join(folder, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	nodes := []string{"https://127.0.0.1:1"}
	for _, n := range w.nodes {
		nodes = append(nodes, n.web(n.gate))
	}
	ctx, cancel := context.WithTimeout(w.ctx(), 25*time.Second)
	defer cancel()
	steps := filepath.Join(folder, "steps")
	script := exec.CommandContext(ctx, "sh", documented(t), "job", "sh", "-c", `echo "$LEADERSHIP_SCOPE $LEADERSHIP_FENCE" >> "`+steps+`"`)
	script.Env = append(os.Environ(), "NODES="+strings.Join(nodes, " "), "MEMBER=worker-1", "TLS="+folder)
	var said bytes.Buffer
	script.Stdout, script.Stderr = &said, &said
	if err := script.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if t.Failed() {
			t.Logf("the script said:\n%s", said.String())
		}
	}()
	did := func(what string) bool {
		data, _ := os.ReadFile(steps) // not there before the first step
		return strings.Contains(string(data), what)
	}
	w.until("a step is done", func() bool { return did("job 1\n") })
	if token, led := w.nodes[0].Token("job"); !led || token.LeaderID != "worker-1" {
		t.Errorf("token %+v", token)
	}
	w.nodes[0].member("worker-2").open("worker-2", "job")
	if _, err := w.nodes[0].client(transport.RoleOperate).registry.Transfer(w.ctx(), &controlpb.TransferRequest{Scope: "job", ToMember: "worker-2"}); err != nil {
		t.Fatal(err)
	}
	w.until("it is handed over", func() bool { token, _ := w.nodes[0].Token("job"); return token.LeaderID == "worker-2" })
	if err := script.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := script.Wait(); err != nil {
		t.Errorf("the script ended with %v", err)
	}
	var live int
	if sessions, err := w.nodes[0].client(transport.RoleRead).registry.ListSessions(w.ctx(), &controlpb.ListSessionsRequest{MemberId: "worker-1", Linearizable: true}); err != nil {
		t.Error(err)
	} else if live = len(sessions.Sessions); live != 0 {
		t.Errorf("%d sessions are left behind", live)
	}
}
