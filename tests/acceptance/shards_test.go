// Package acceptance_test is the mission as a test: members that are no leaderd compete
// on a real cluster, their leaders are killed and paused, and a guarded resource says
// what came of it.
package acceptance_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/tests/cluster/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

const (
	members   = 12
	shards    = 16
	playFor   = 27 * time.Second
	endWithin = playFor + time.Minute // to start, settle and stop on a busy machine
)

// report is what the play says of itself; the test holds its files against it.
type report struct {
	Accepted, Acknowledged, Stale, HeldBack, Kills, Pauses, ResourceRestarts, Successions int

	SlowestSuccessionNs time.Duration
	Problems            []string
}

// effect is a line of the resource's log, in the order of effects.
type effect struct {
	At                int64
	Scope, Leader, ID string
	Fence, Term       uint64
}

// answer is a line of what a member was told.
type answer struct {
	At              int64
	What, Scope, ID string
	Fence           uint64
}

type deed struct {
	At         int64
	What, Whom string
}

// TestShardsAreLedByOneWhileLeadersAreKilledAndPaused: only one leader per shard has
// assignments accepted, in the order of fences that the registry gave; every stale
// attempt is refused and counted; none that was acknowledged is lost; and after each
// kill another leads on within five seconds.
func TestShardsAreLedByOneWhileLeadersAreKilledAndPaused(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "play")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	program := build(t)
	dev := harness.StartDev(t)
	out := filepath.Join(t.TempDir(), "output")
	if code := play(t, program, out, "play", "-cluster", dev.Manifest, "-ca-key", filepath.Join(filepath.Dir(dev.Manifest), "tls", "ca-key.pem"),
		"-dir", dir, "-for", playFor.String(), "-members", fmt.Sprint(members), "-shards", fmt.Sprint(shards)); code != 0 {
		t.Fatalf("shards play ended with %d:\n%s\n%s", code, contents(out), lastLines(dir))
	}
	said := told(t, dir)
	t.Logf("accepted %d, acknowledged %d, stale %d, ended by their own clock %d, kills %d, pauses %d, restarts of the resource %d, successions %d, the slowest after %v",
		said.Accepted, said.Acknowledged, said.Stale, said.HeldBack, said.Kills, said.Pauses, said.ResourceRestarts, said.Successions, said.SlowestSuccessionNs.Round(time.Millisecond))
	if said.Kills < 2 || said.Pauses < 2 || said.ResourceRestarts < 1 {
		t.Errorf("too little was done: %+v", said)
	}
	effects := records[effect](t, filepath.Join(dir, "accepted.jsonl"))
	trail, err := dev.Cluster.Nodes[0].Audit()
	if err != nil {
		t.Fatal(err)
	}
	if err := harness.Trail(trail).Verify(); err != nil {
		t.Errorf("the audit trail: %v", err)
	}
	ledAsElected(t, effects, harness.Trail(trail))
	answersHold(t, dir, effects, said)
	killedAreSucceeded(t, effects, records[deed](t, filepath.Join(dir, "deeds.jsonl")))
	if code := dev.Stop(); code != 0 {
		t.Errorf("leaderd dev ended with %d:\n%s", code, dev.Output())
	}
}

func build(t *testing.T) (program string) {
	t.Helper()
	program = filepath.Join(t.TempDir(), "shards")
	cmd := exec.Command("go", "build", "-o", program, "github.com/omnirelay/leadership/adapters/client/examples/shards")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building shards: %v\n%s", err, text)
	}
	return program
}

// play runs the program to its end; its processes end with it.
func play(t *testing.T, program, output string, args ...string) (code int) {
	t.Helper()
	out, err := os.Create(output)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = out, out
	code, err = harness.Start(t, cmd).AwaitExit(endWithin)
	if err != nil {
		t.Fatalf("%v\n%s", err, contents(output))
	}
	if left := stillRunning(program); len(left) > 0 {
		t.Errorf("processes were left behind: %v", left)
	}
	return code
}

func stillRunning(program string) (left []string) {
	executables, _ := filepath.Glob("/proc/[0-9]*/exe") // the pattern is good
	for _, link := range executables {
		if target, err := os.Readlink(link); err == nil && target == program {
			left = append(left, filepath.Dir(link))
		}
	}
	return left
}

func contents(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// lastLines are those of every process's log.
func lastLines(dir string) string {
	var b strings.Builder
	logs, _ := filepath.Glob(filepath.Join(dir, "*.log")) // the pattern is good
	for _, path := range logs {
		lines := strings.Split(strings.TrimSpace(contents(path)), "\n")
		fmt.Fprintf(&b, "%s:\n%s\n", filepath.Base(path), strings.Join(lines[max(0, len(lines)-8):], "\n"))
	}
	return b.String()
}

func told(t *testing.T, dir string) (r report) {
	t.Helper()
	if err := json.Unmarshal([]byte(contents(filepath.Join(dir, "report.json"))), &r); err != nil {
		t.Fatal(err)
	}
	for _, p := range r.Problems {
		t.Error(p)
	}
	return r
}

// records reads lines of JSON; a last one that was cut by a kill does not count.
func records[T any](t *testing.T, path string) (all []T) {
	t.Helper()
	for line := range bytes.Lines([]byte(contents(path))) {
		var r T
		if !bytes.HasSuffix(line, []byte("\n")) {
			break
		}
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		all = append(all, r)
	}
	return all
}

// ledAsElected: what took effect is of the leader whom the registry elected under that
// fence, and its fences never go back.
func ledAsElected(t *testing.T, effects []effect, trail harness.Trail) {
	t.Helper()
	type election struct {
		scope, leader string
		term          uint64
	}
	elected := map[uint64]election{}
	for _, r := range trail {
		if r.Kind == core.EventElected.String() {
			elected[r.FenceToken] = election{r.Scope, r.MemberID, r.Term}
		}
	}
	highest, leaders := map[string]uint64{}, map[string]bool{}
	for _, e := range effects {
		if got := (election{e.Scope, e.Leader, e.Term}); elected[e.Fence] != got {
			t.Fatalf("%s took effect under fence %d as %+v; the registry elected %+v", e.ID, e.Fence, got, elected[e.Fence])
		}
		if e.Fence < highest[e.Scope] {
			t.Fatalf("%s: fence %d took effect after %d", e.Scope, e.Fence, highest[e.Scope])
		}
		highest[e.Scope] = e.Fence
		leaders[e.Leader] = true
	}
	if len(highest) != shards || len(leaders) < members/2 {
		t.Errorf("assignments of %d shards by %d members took effect, want %d by half of %d at least", len(highest), len(leaders), shards, members)
	}
}

// answersHold: what a member was told is what the resource has on its disk.
func answersHold(t *testing.T, dir string, effects []effect, said report) {
	t.Helper()
	at := map[string]int64{}
	for _, e := range effects {
		if _, twice := at[e.ID]; twice {
			t.Errorf("%s took effect twice", e.ID)
		}
		at[e.ID] = e.At
	}
	refused := map[string]int64{}
	for _, r := range records[answer](t, filepath.Join(dir, "refused.jsonl")) {
		refused[r.ID] = r.At
		if effective, ok := at[r.ID]; ok && effective > r.At {
			t.Errorf("%s took effect after it had been refused", r.ID)
		}
	}
	acknowledged := 0
	for n := 1; n <= members; n++ {
		member := fmt.Sprintf("member-%02d", n)
		for _, a := range records[answer](t, filepath.Join(dir, member+".jsonl")) {
			_, effective := at[a.ID]
			_, counted := refused[a.ID]
			switch {
			case a.What == "acknowledged" && !effective:
				t.Errorf("%s was acknowledged to %s and is lost", a.ID, member)
			case a.What == "stale" && !counted:
				t.Errorf("%s was refused to %s and not counted", a.ID, member)
			}
			if a.What == "acknowledged" {
				acknowledged++
			}
		}
	}
	if len(effects) != said.Accepted || len(refused) == 0 || len(refused) > said.Stale || acknowledged != said.Acknowledged {
		t.Errorf("the files have %d accepted, %d refused, %d acknowledged; the report says %+v", len(effects), len(refused), acknowledged, said)
	}
}

// killedAreSucceeded: each shard that a killed member led is led on in time.
func killedAreSucceeded(t *testing.T, effects []effect, deeds []deed) {
	t.Helper()
	const within = 5 * time.Second
	succeeded := 0
	for _, d := range deeds {
		if d.What != "kill" || d.Whom == "resource" {
			continue
		}
		last := map[string]effect{}
		for _, e := range effects {
			if e.At <= d.At {
				last[e.Scope] = e
			}
		}
		for scope, before := range last {
			if before.Leader != d.Whom {
				continue
			}
			took := time.Duration(-1)
			for _, e := range effects {
				if e.Scope == scope && e.Fence > before.Fence {
					took = time.Duration(e.At - d.At)
					break
				}
			}
			if took < 0 || took > within {
				t.Errorf("%s: the next leader after %s was killed had an assignment accepted after %v, want within %v (-1ns: never)", scope, d.Whom, took, within)
			}
			succeeded++
		}
	}
	if succeeded == 0 {
		t.Error("no killed member led anything")
	}
}
