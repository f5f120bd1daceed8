package harness

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/omnirelay/leadership/wire"
)

// Watcher is a running omnirelay mesh leaders status --watch -o json.
type Watcher struct {
	t           testing.TB
	out, errors string // files
	process     *Process
}

// StartWatcher follows the cluster; args choose nodes and API.
func (c *Cluster) StartWatcher(args ...string) *Watcher {
	c.t.Helper()
	dir := c.t.TempDir()
	w := &Watcher{t: c.t, out: filepath.Join(dir, "out"), errors: filepath.Join(dir, "errors")}
	cmd := exec.Command(omnirelay(), append([]string{"mesh", "leaders", "status", "--watch", "-o", "json", "--cluster", c.ManifestPath()}, args...)...)
	stdout, err := os.Create(w.out)
	must(c.t, err)
	defer stdout.Close()
	stderr, err := os.Create(w.errors)
	must(c.t, err)
	defer stderr.Close()
	cmd.Stdout, cmd.Stderr = stdout, stderr
	w.process = Start(c.t, cmd)
	return w
}

// Told is what it wrote so far, a line for each event.
func (w *Watcher) Told() (told Told, err error) {
	data, err := os.ReadFile(w.out)
	if err != nil {
		return nil, err
	}
	for line := range bytes.Lines(data) {
		if !bytes.HasSuffix(line, []byte("\n")) {
			return told, nil // not yet whole
		}
		var e wire.Event
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, fmt.Errorf("%w: %s", err, line)
		}
		told = append(told, e)
	}
	return told, nil
}

// Reconnected is how often it says that it reconnected.
func (w *Watcher) Reconnected() int {
	w.t.Helper()
	data, err := os.ReadFile(w.errors)
	must(w.t, err)
	return bytes.Count(data, []byte("reconnecting\n"))
}

// Close ends it as Ctrl-C does.
func (w *Watcher) Close() {
	w.t.Helper()
	w.process.Signal(syscall.SIGINT)
	code, err := w.process.AwaitExit(10 * time.Second)
	must(w.t, err)
	if code != 0 {
		w.t.Errorf("omnirelay ended with code %d", code)
	}
}
