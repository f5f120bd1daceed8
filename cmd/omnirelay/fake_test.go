package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/omnirelay/leadership/adapters/terminal/terminaltest"
)

// TestMeshScripts tells what the commands make of answers that a story gives them: what
// takes a cluster minutes, and what goes wrong in one, is an answer here. That real
// clusters answer so, tests/cluster shows.
func TestMeshScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/mesh",
		Setup: func(env *testscript.Env) error {
			tb := env.T().(testing.TB)
			f := newFake(tb, env)
			env.Values[fakeKey{}] = f
			env.Setenv("OMNIRELAY_CLUSTER", "cluster.json")
			env.Defer(f.stop)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"answer": answerCommand, "asked": askedCommand, "one-id": oneIDCommand, "forget": forgetCommand, "await": awaitCommand, "code": codeCommand,
			"terminal": terminalCommand, "shows": showsCommand, "type": typeCommand, "left": leftCommand,
		},
	})
}

type fakeKey struct{}

// fake is a cluster of two nodes that answer what they are told to.
type fake struct {
	tb      testing.TB
	env     *testscript.Env
	servers []*httptest.Server
	tty     *terminaltest.Terminal
	process *exec.Cmd
	seen    int // of what the terminal showed

	mu      sync.Mutex
	answers map[string][]string // by node, method and path; the last one stays
	asked   []string            // what was asked, without request ids
	ids     []string            // request ids of what changes something
}

func newFake(tb testing.TB, env *testscript.Env) *fake {
	f := &fake{tb: tb, env: env, answers: map[string][]string{}}
	var nodes []any
	for _, id := range []string{"node-1", "node-2"} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { f.serve(id, w, r) }))
		f.servers = append(f.servers, s)
		nodes = append(nodes, map[string]string{"id": id, "http": s.URL})
	}
	data, err := json.Marshal(map[string]any{"nodes": nodes})
	if err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(env.Getenv("WORK")+"/cluster.json", data, 0o600); err != nil {
		tb.Fatal(err)
	}
	return f
}

func (f *fake) stop() {
	for _, s := range f.servers {
		s.CloseClientConnections()
		s.Close()
	}
	if f.process != nil && f.process.ProcessState == nil {
		_ = f.process.Process.Kill()
		_ = f.process.Wait() // it was killed
	}
}

// serve gives the next answer that was told. A first line `HTTP 503` is a status, with
// a problem behind it; `HTTP cut` is a connection that breaks after the request.
func (f *fake) serve(node string, w http.ResponseWriter, r *http.Request) {
	text := f.next(node, r)
	status := http.StatusOK
	if line, rest, _ := strings.Cut(text, "\n"); strings.HasPrefix(line, "HTTP ") {
		if line == "HTTP cut" {
			f.cut(w)
			return
		}
		status, _ = strconv.Atoi(strings.TrimPrefix(line, "HTTP "))
		text = rest
		w.Header().Set("Retry-After", "1")
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text) // the caller left: nobody to tell
}

func (f *fake) cut(w http.ResponseWriter) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		f.tb.Error(err)
		return
	}
	_ = conn.(*net.TCPConn).SetLinger(0)
	_ = conn.Close()
}

func (f *fake) next(node string, r *http.Request) string {
	body, _ := io.ReadAll(r.Body)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.note(node, r, body)
	full := r.Method + " " + r.URL.RequestURI()
	for _, key := range []string{node + " " + full, full, node + " " + r.Method + " " + r.URL.Path, r.Method + " " + r.URL.Path} {
		queue := f.answers[key]
		if len(queue) == 0 {
			continue
		}
		if len(queue) > 1 {
			f.answers[key] = queue[1:]
		}
		return queue[0]
	}
	return `HTTP 404` + "\n" + `{"title":"There is no such thing","status":404,"detail":"` + r.URL.Path + ` is not served here","code":"not-found","field":"path"}`
}

// note remembers what was asked; what is random is left out.
func (f *fake) note(node string, r *http.Request, body []byte) {
	line := node + " " + r.Method + " " + r.URL.RequestURI()
	if r.Method == http.MethodPost {
		var m map[string]any
		if err := json.Unmarshal(body, &m); err != nil {
			f.tb.Errorf("%s: %v: %s", line, err, body)
		}
		id, _ := m["requestId"].(string)
		f.ids = append(f.ids, id)
		delete(m, "requestId")
		text, err := json.Marshal(m)
		if err != nil {
			f.tb.Error(err)
		}
		line += " " + string(text)
	}
	f.asked = append(f.asked, line)
}

// answerCommand tells answers: answer 'METHOD PATH' FILE...; one after another, the last
// one stays.
func answerCommand(ts *testscript.TestScript, _ bool, args []string) {
	f := ts.Value(fakeKey{}).(*fake)
	var all []string
	for _, file := range args[1:] {
		all = append(all, ts.ReadFile(file))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answers[args[0]] = all
}

// askedCommand compares the changes that were asked for with a file, and forgets them;
// asked FILE all: reads too.
func askedCommand(ts *testscript.TestScript, _ bool, args []string) {
	f := ts.Value(fakeKey{}).(*fake)
	f.mu.Lock()
	defer f.mu.Unlock()
	var got strings.Builder
	for _, line := range f.asked {
		if strings.Contains(line, " POST ") || len(args) > 1 {
			fmt.Fprintln(&got, line)
		}
	}
	f.asked = nil
	if want := ts.ReadFile(args[0]); got.String() != want {
		ts.Fatalf("asked:\n%swant:\n%s", got.String(), want)
	}
}

// oneIDCommand wants that so many changes were asked for, all with one request id, and
// forgets them. Negated, that no two had the same.
func oneIDCommand(ts *testscript.TestScript, neg bool, args []string) {
	f := ts.Value(fakeKey{}).(*fake)
	f.mu.Lock()
	defer f.mu.Unlock()
	different := map[string]bool{}
	for _, id := range f.ids {
		different[id] = true
	}
	want := 1
	if neg {
		want = len(f.ids)
	}
	if strconv.Itoa(len(f.ids)) != args[0] || len(different) != want || different[""] {
		ts.Fatalf("request ids %q; want %s, %d different ones", f.ids, args[0], want)
	}
	f.ids = nil
}

// forgetCommand forgets what was asked so far.
func forgetCommand(ts *testscript.TestScript, _ bool, _ []string) {
	f := ts.Value(fakeKey{}).(*fake)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked, f.ids = nil, nil
}

// terminalCommand starts a command on a terminal of 100 columns and 12 rows.
func terminalCommand(ts *testscript.TestScript, _ bool, args []string) {
	f := ts.Value(fakeKey{}).(*fake)
	f.tty, f.seen = terminaltest.Open(f.tb, 100, 12), 0
	path, err := exec.LookPath(args[0])
	ts.Check(err)
	f.process = exec.Command(path, args[1:]...)
	f.process.Dir = ts.MkAbs(".")
	f.process.Env = append(f.env.Vars, "TERM=xterm", "OMNIRELAY_CLUSTER=cluster.json")
	f.process.Stdin, f.process.Stdout, f.process.Stderr = f.tty.File, f.tty.File, f.tty.File
	ts.Check(f.process.Start())
}

var escapes = regexp.MustCompile("\x1b\\[[0-9;?]*[A-Za-z]")

// showsCommand waits until the terminal shows what matches, behind what was waited for
// before. What moves the cursor and colours is left out, but for !, with which it counts.
func showsCommand(ts *testscript.TestScript, raw bool, args []string) {
	f := ts.Value(fakeKey{}).(*fake)
	pattern := regexp.MustCompile("(?m)" + args[0])
	var text string
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		text = f.tty.Said()
		if !raw {
			text = strings.ReplaceAll(text, "\x1b[H", "\n")
			text = strings.ReplaceAll(escapes.ReplaceAllString(text, ""), "\r", "\n")
		}
		if pattern.MatchString(text[min(f.seen, len(text)):]) {
			if !raw {
				f.seen += pattern.FindStringIndex(text[f.seen:])[1]
			}
			return
		}
	}
	ts.Fatalf("the terminal never showed %s:\n%q", args[0], text[max(0, len(text)-2000):])
}

func typeCommand(ts *testscript.TestScript, _ bool, args []string) {
	text, err := strconv.Unquote(`"` + args[0] + `"`)
	ts.Check(err)
	ts.Value(fakeKey{}).(*fake).tty.Type(text)
}

// leftCommand waits for the end of what runs on the terminal and wants its exit code.
func leftCommand(ts *testscript.TestScript, _ bool, args []string) {
	f := ts.Value(fakeKey{}).(*fake)
	_ = f.process.Wait() // the code tells
	if code := f.process.ProcessState.ExitCode(); strconv.Itoa(code) != args[0] {
		ts.Fatalf("exit code %d, want %s", code, args[0])
	}
}

func TestYAMLIsTheSameData(t *testing.T) {
	const raw = `{"revision":9007199254740991,"why":"yes","empty":[],"none":{},"text":"a: b\n\u001b[2J","labels":{"b":"1","a":"007"},"list":[{"x":null,"y":true,"z":1.5}]}` + "\n"
	got, err := yamlOf([]byte(raw))
	want := "revision: 9007199254740991\nwhy: \"yes\"\nempty: []\nnone: {}\ntext: \"a: b\\n\\e[2J\"\nlabels:\n  b: \"1\"\n  a: \"007\"\nlist:\n  - x: null\n    \"y\": true\n    z: 1.5\n"
	if err != nil || !bytes.Equal(got, []byte(want)) {
		t.Errorf("%v\n%s\nwant\n%s", err, got, want)
	}
	if _, err := yamlOf([]byte(`{"a":`)); err == nil {
		t.Error("half a document was written")
	}
	// Readers of YAML 1.1 take these, when plain, for values of other types, or for errors.
	for _, text := range []string{"=", "<<", "no", "Y", "on", "12:30", "~", "0o7", "0x1F", "1e3", "2026-01-01", ".inf", "1_000", ""} {
		raw, _ := json.Marshal([]string{text}) // strings always can be
		if got, err := yamlOf(raw); err != nil || string(got) != fmt.Sprintf("- %q\n", text) {
			t.Errorf("%q is written as %s (%v), want it in quotes", text, got, err)
		}
	}
}

func TestNearestNames(t *testing.T) {
	names := []string{"node-1", "node-2", "worker-1", "global-control", "shard/mesh.demo/00"}
	for name, want := range map[string]string{
		"nod-1": "[node-1 node-2]", "Global-Control": "[global-control]", "00": "[shard/mesh.demo/00]", "zzz": "[]", "global-contrl": "[global-control]",
		"globl": "[global-control]", "control": "[global-control]", "worker-2": "[worker-1]", "no": "[]",
	} {
		if got := fmt.Sprint(nearest(name, names)); got != want {
			t.Errorf("nearest(%s) = %s, want %s", name, got, want)
		}
	}
}
