// Package harness runs clusters of real leaderd processes for tests: it builds the
// programs, lays out configurations and certificates, starts, kills, pauses and
// restarts nodes, and reads what they say as a client would.
package harness

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// resourceEnv makes this test binary a guarded resource instead; see Resource.
const resourceEnv = "LEADERSHIP_TEST_RESOURCE"

// binaries is the folder of the programs under test, new in every run of the test
// binary: a process that runs from it was started by this run.
var binaries string

func leaderd() string   { return filepath.Join(binaries, "leaderd") }
func omnirelay() string { return filepath.Join(binaries, "omnirelay") }

// Main is the body of TestMain: it builds the programs once and runs the tests.
// Processes that the tests left behind fail the run.
func Main(m *testing.M) {
	if dir := os.Getenv(resourceEnv); dir != "" {
		os.Exit(serveResource(dir))
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "leadership-cluster-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binaries = dir
	module := "github.com/omnirelay/leadership"
	build := exec.Command("go", "build", "-o", dir, module+"/cmd/leaderd", module+"/cmd/omnirelay")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building the programs under test: %v\n%s", err, out)
		return 1
	}
	code := m.Run()
	if left := LeftBehind(); len(left) > 0 {
		fmt.Fprintf(os.Stderr, "the tests left processes behind: %v\n", left)
		return max(code, 1)
	}
	return code
}

// LeftBehind lists the processes that run the programs under test.
func LeftBehind() (left []string) {
	executables, _ := filepath.Glob("/proc/[0-9]*/exe") // the pattern is good
	for _, link := range executables {
		target, err := os.Readlink(link)
		if err == nil && strings.HasPrefix(target, binaries+"/") {
			left = append(left, filepath.Base(filepath.Dir(link))+" "+filepath.Base(target))
		}
	}
	return left
}
