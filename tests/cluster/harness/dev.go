package harness

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// devStopWithin is more than leaderd dev gives its nodes to stop.
const devStopWithin = 25 * time.Second

// Dev is a running leaderd dev.
type Dev struct {
	Cluster  *Cluster
	Manifest string // path of cluster.json
	Store    *ManifestStore

	t       testing.TB
	output  string
	process *Process
}

// StartDev runs leaderd dev in a folder of its own and waits for its cluster.json.
func StartDev(t testing.TB, args ...string) *Dev {
	t.Helper()
	return StartDevIn(t, t.TempDir(), args...)
}

// StartDevIn is StartDev in a folder that may hold the data of an earlier one.
func StartDevIn(t testing.TB, dir string, args ...string) *Dev {
	t.Helper()
	d := &Dev{t: t, Manifest: filepath.Join(dir, "cluster.json"), output: filepath.Join(dir, "output")}
	_ = os.Remove(d.Manifest) // of an earlier one
	out, err := os.Create(d.output)
	must(t, err)
	defer out.Close()
	cmd := exec.Command(leaderd(), append([]string{"dev", "--dir", dir, "--base-port", "0"}, args...)...)
	cmd.Stdout, cmd.Stderr = out, out
	d.process = Start(t, cmd)
	t.Cleanup(d.stop)
	var m *Manifest
	Await(t, StartWithin, "cluster.json", func() (err error) {
		if d.process.Ended() {
			t.Fatalf("leaderd dev ended:\n%s", d.Output())
		}
		m, err = ReadManifest(d.Manifest)
		return err
	})
	d.Cluster, d.Store = Open(t, m), m.Store
	return d
}

// Output is what it wrote so far.
func (d *Dev) Output() string {
	d.t.Helper()
	data, err := os.ReadFile(d.output)
	must(d.t, err)
	return string(data)
}

// Stop ends it by SIGTERM and returns its exit code.
func (d *Dev) Stop() int {
	d.t.Helper()
	d.process.Signal(syscall.SIGTERM)
	code, err := d.process.AwaitExit(devStopWithin)
	must(d.t, err)
	return code
}

// Kill ends it by SIGKILL.
func (d *Dev) Kill() { d.process.Kill() }

// stop is for tests that failed: nodes outlive a killed leaderd dev for a moment.
func (d *Dev) stop() {
	d.process.Signal(syscall.SIGTERM)
	_, _ = d.process.AwaitExit(devStopWithin) // then it is killed
}
