package harness

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/omnirelay/leadership/core"
)

// Effect is an action on a guarded resource, and a line of its log.
type Effect struct {
	Scope string `json:"scope"`
	Fence uint64 `json:"fence"`
	What  string `json:"what"`
}

// Resource is a guarded resource in a process of its own: this test binary, run
// again. Its log on disk is what it accepted and, by the highest fence in it, its
// mark; a line is synced before it is acknowledged.
type Resource struct {
	t       testing.TB
	dir     string
	url     string
	process *Process
}

// StartResource starts one with an empty log.
func StartResource(t testing.TB) *Resource {
	t.Helper()
	r := &Resource{t: t, dir: t.TempDir()}
	r.start()
	return r
}

func (r *Resource) start() {
	r.t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), resourceEnv+"="+r.dir)
	out, in, err := os.Pipe()
	must(r.t, err)
	defer out.Close()
	cmd.Stdout, cmd.Stderr = in, os.Stderr
	r.process = Start(r.t, cmd)
	must(r.t, in.Close())
	must(r.t, out.SetReadDeadline(time.Now().Add(10*time.Second)))
	address, err := bufio.NewReader(out).ReadString('\n')
	must(r.t, err)
	r.url = "http://" + address[:len(address)-1]
}

// Restart kills the process and starts it on its log.
func (r *Resource) Restart() {
	r.t.Helper()
	r.process.Kill()
	r.start()
}

// Act asks for an effect. refused is the resource's word against it, empty when
// the effect was accepted.
func (r *Resource) Act(e Effect) (refused string) {
	r.t.Helper()
	body, err := json.Marshal(e)
	must(r.t, err)
	a, err := Ask(http.DefaultClient, 10*time.Second, http.MethodPost, r.url+"/act", bytes.NewReader(body), nil)
	must(r.t, err)
	switch a.Status {
	case http.StatusOK:
		return ""
	case http.StatusConflict:
		return string(a.Body)
	}
	r.t.Fatalf("the resource failed: status %d: %s", a.Status, a.Body)
	return ""
}

// Log is what the resource accepted, as its disk has it.
func (r *Resource) Log() []Effect {
	r.t.Helper()
	effects, _, err := readEffects(filepath.Join(r.dir, resourceLog))
	must(r.t, err)
	return effects
}

const resourceLog = "effects.jsonl"

// guarded is the process's side.
type guarded struct {
	mu    sync.Mutex
	guard *core.Guard
	log   *os.File
}

// serveResource is the main function of the resource's process.
func serveResource(dir string) int {
	if err := runResource(dir); err != nil {
		fmt.Fprintln(os.Stderr, "resource:", err)
		return 1
	}
	return 0
}

func runResource(dir string) error {
	path := filepath.Join(dir, resourceLog)
	effects, size, err := readEffects(path)
	if err != nil {
		return err
	}
	marks := map[string]uint64{}
	for _, e := range effects {
		marks[e.Scope] = max(marks[e.Scope], e.Fence)
	}
	log, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	if err := log.Truncate(size); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(listener.Addr())
	g := &guarded{guard: core.NewGuard(marks), log: log}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /act", g.act)
	return (&http.Server{Handler: mux, ReadHeaderTimeout: time.Second}).Serve(listener)
}

// readEffects reads the log and tells how long it is without a last line that was
// cut off, and so never acknowledged.
func readEffects(path string) (effects []Effect, size int64, err error) {
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, 0, err
	}
	for line := range bytes.Lines(data) {
		if !bytes.HasSuffix(line, []byte("\n")) {
			break
		}
		var e Effect
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, 0, err
		}
		effects = append(effects, e)
		size += int64(len(line))
	}
	return effects, size, nil
}

// act applies an effect: the guard first, then one synced line that is effect and
// mark in one.
func (g *guarded) act(w http.ResponseWriter, r *http.Request) {
	var e Effect
	if err := json.NewDecoder(io.LimitReader(r.Body, 4096)).Decode(&e); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.guard.Check(e.Scope, e.Fence); err != nil {
		var stale *core.StaleError
		if errors.As(err, &stale) {
			http.Error(w, err.Error(), http.StatusConflict)
		} else {
			http.Error(w, err.Error(), http.StatusBadRequest)
		}
		return
	}
	line, err := json.Marshal(e)
	if err == nil {
		_, err = g.log.Write(append(line, '\n'))
	}
	if err == nil {
		err = g.log.Sync()
	}
	if err == nil {
		err = g.guard.Admit(e.Scope, e.Fence)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}
