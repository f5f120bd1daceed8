package supervisor_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/omnirelay/leadership/tests/cluster/harness"
)

const (
	scope = "jobs/nightly"
	// ttl is short, so that many losses fit in a test.
	ttl      = time.Second
	patience = 30 * time.Second
	grants   = `access:
  grants:
    - {match: "spiffe://cluster-test/member/*", scopes: [{kind: custom}], maxPriority: 100}
`
)

// field is a cluster, a network that can be cut, and a ledger.
type field struct {
	t       *testing.T
	cluster *harness.Cluster
	ledger  *ledger
	public  string // a folder that every user may read
	next    int    // group id of the next supervisor
}

func newField(t *testing.T, nodes int) *field {
	t.Helper()
	public, err := os.MkdirTemp("", "supervisor-")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(public) })
	must(t, os.Chmod(public, 0o755)) //nolint:gosec // as it says
	f := &field{t: t, cluster: harness.New(t, harness.Options{Settings: grants, Nodes: nodes}), public: public, ledger: newLedger(t, public), next: 5000}
	nft(t, "add table inet field\ndelete table inet field\nadd table inet field\n"+
		"add chain inet field tag { type filter hook output priority -10; }\n"+
		"add chain inet field leave { type filter hook output priority 0; }\n"+
		"add chain inet field arrive { type filter hook input priority 0; }\n")
	return f
}

func nft(t testing.TB, script string) {
	t.Helper()
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("nft: %v: %s", err, out)
	}
}

// runner is one omnirelay mesh run.
type runner struct {
	f      *field
	cmd    *exec.Cmd
	group  int // its packets are known by it
	output string
	done   chan struct{}
}

// settings of a runner; the zero value will do.
type settings struct {
	member string // empty: of its own
	user   int    // 0: root
	flags  []string
	scope  string     // empty: scope
	files  []*os.File // left open for the command, from descriptor 3 on
}

// run starts mesh run with this program as the command.
func (f *field) run(s settings, traits ...string) *runner {
	f.t.Helper()
	return f.runCommand(s, strings.Join(append([]string{actorMain}, traits...), ","), thisProgram)
}

// runCommand starts mesh run with any command.
func (f *field) runCommand(s settings, actor string, command ...string) *runner {
	f.t.Helper()
	f.next++
	r := &runner{f: f, group: f.next, output: filepath.Join(f.t.TempDir(), "output"), done: make(chan struct{})}
	if s.member == "" {
		s.member = fmt.Sprintf("runner-%d", r.group)
	}
	if s.scope == "" {
		s.scope = scope
	}
	program := filepath.Join(filepath.Dir(harness.Leaderd().Path), "omnirelay")
	if command[0] == thisProgram {
		self, err := os.Executable()
		must(f.t, err)
		command[0] = self
	}
	if s.user != 0 {
		program, command[0] = f.publish(program, 0o755), f.publish(command[0], 0o755)
	}
	r.cmd = exec.Command(program, "mesh", "run", "--scope", s.scope, "--ttl", ttl.String(), "-v")
	r.cmd.Args = append(r.cmd.Args, f.identity(s.member, s.user)...)
	r.cmd.Args = append(append(append(r.cmd.Args, s.flags...), "--"), command...)
	r.cmd.Env = append(os.Environ(), actorEnv+"="+actor, logEnv+"="+f.ledger.path)
	out, err := os.Create(r.output)
	must(f.t, err)
	defer out.Close()
	r.cmd.Stdout, r.cmd.Stderr, r.cmd.ExtraFiles = out, out, s.files
	r.cmd.SysProcAttr = &syscall.SysProcAttr{
		Setpgid: true, Pdeathsig: syscall.SIGKILL, Credential: &syscall.Credential{Uid: uint32(s.user), Gid: uint32(r.group)},
	}
	nft(f.t, fmt.Sprintf("add rule inet field tag meta skgid %d ct mark set %d\n", r.group, r.group))
	r.start()
	return r
}

// start runs it on a thread that lasts as long: with that it would die.
func (r *runner) start() {
	r.f.t.Helper()
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := r.cmd.Start()
		started <- err
		if err == nil {
			_ = r.cmd.Wait() // its state is kept in cmd
			close(r.done)
		}
	}()
	must(r.f.t, <-started)
	r.f.t.Cleanup(func() {
		_ = r.cmd.Process.Kill()
		<-r.done
		if r.f.t.Failed() {
			text, _ := os.ReadFile(r.output)
			r.f.t.Logf("output of runner %d:\n%s", r.group, text)
		}
	})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// thisProgram stands for this test binary, as the command to run.
const thisProgram = ""

// publish copies a file to where every user finds it.
func (f *field) publish(path string, mode os.FileMode) string {
	f.t.Helper()
	copied := filepath.Join(f.public, filepath.Base(path))
	if _, err := os.Stat(copied); err == nil {
		return copied
	}
	data, err := os.ReadFile(path)
	must(f.t, err)
	must(f.t, os.WriteFile(copied, data, mode))
	return copied
}

// identity issues a member's certificate that the user can read. The cluster file holds
// that of an administrator, and is root's.
func (f *field) identity(member string, user int) []string {
	f.t.Helper()
	pair, err := f.cluster.Authority.IssueMember(member)
	must(f.t, err)
	cert, key := filepath.Join(f.public, member+".pem"), filepath.Join(f.public, member+"-key.pem")
	must(f.t, pair.Save(cert, key))
	must(f.t, os.Chown(cert, user, user))
	must(f.t, os.Chown(key, user, user))
	flags := []string{"--cert", cert, "--key", key}
	if user == 0 {
		return append(flags, "--cluster", f.cluster.ManifestPath())
	}
	ca := filepath.Join(f.public, "ca.pem")
	must(f.t, os.WriteFile(ca, f.cluster.Authority.CertPEM(), 0o644)) //nolint:gosec // every user reads it
	for _, n := range f.cluster.Nodes {
		flags = append(flags, "--grpc-url", n.GRPC)
	}
	return append(flags, "--ca", ca)
}

func (r *runner) signal(s syscall.Signal) { _ = r.cmd.Process.Signal(s) } // it may have ended

// awaitExit returns the exit code, 128+n for a signal.
func (r *runner) awaitExit(within time.Duration) int {
	r.f.t.Helper()
	select {
	case <-r.done:
	case <-time.After(within):
		r.f.t.Fatalf("runner %d did not end within %v", r.group, within)
	}
	status := r.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}

func (r *runner) said(text string) bool {
	r.f.t.Helper()
	data, err := os.ReadFile(r.output)
	must(r.f.t, err)
	return strings.Contains(string(data), text)
}

// awaitStanding waits until the runner has a session: it can be elected.
func (r *runner) awaitStanding() {
	r.f.t.Helper()
	harness.Await(r.f.t, patience, "a session", func() error {
		if !r.said("session opened") {
			return fmt.Errorf("none")
		}
		return nil
	})
}

// below lists the processes below the runner: the fuse, init, the command.
func (r *runner) below() []int { return below(r.cmd.Process.Pid) }

func below(pid int) (all []int) {
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid)) // the pattern is good
	for _, list := range lists {
		data, err := os.ReadFile(list)
		if err != nil {
			continue // it ended
		}
		for _, text := range strings.Fields(string(data)) {
			if child, err := strconv.Atoi(text); err == nil {
				all = append(append(all, child), below(child)...)
			}
		}
	}
	return all
}

func (r *runner) fuse() int { return r.below()[0] }
func (r *runner) init() int { return r.below()[1] }

// cut takes the network away from the runner, both ways.
func (r *runner) cut() {
	r.f.t.Helper()
	nft(r.f.t, fmt.Sprintf("add rule inet field leave meta skgid %d drop\nadd rule inet field leave ct mark %d drop\nadd rule inet field arrive ct mark %d drop\n", r.group, r.group, r.group))
}

// heal gives everybody the network back.
func (f *field) heal() {
	f.t.Helper()
	nft(f.t, "flush chain inet field leave\nflush chain inet field arrive\n")
}
