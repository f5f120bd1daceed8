package harness

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Node is one leaderd, over all lives of its process.
type Node struct {
	ID               string
	URL              string // of the HTTP API
	HTTP, GRPC, Peer string // addresses
	Gossip           string // address, where the nodes gossip
	Config           string
	DataDir          string
	Log              string

	cluster   *Cluster
	process   *Process
	namespace string // path of a network namespace; empty: that of the test
}

// Start runs leaderd serve on the node's configuration and data.
func (n *Node) Start() {
	n.cluster.t.Helper()
	log, err := os.OpenFile(n.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	must(n.cluster.t, err)
	defer log.Close()
	cmd := exec.Command(leaderd(), "serve", "--config", n.Config)
	if n.namespace != "" {
		cmd = exec.Command("nsenter", "--net="+n.namespace, leaderd(), "serve", "--config", n.Config) // the same process
	}
	cmd.Stdout, cmd.Stderr = log, log
	n.process = Start(n.cluster.t, cmd)
}

// Kill ends the process by SIGKILL and returns when it is gone.
func (n *Node) Kill() {
	if n.process != nil {
		n.process.Kill()
	}
}

// Pause stops the process by SIGSTOP: it stays and does nothing.
func (n *Node) Pause() { n.process.Signal(syscall.SIGSTOP) }

// Resume lets a paused process go on.
func (n *Node) Resume() { n.process.Signal(syscall.SIGCONT) }

// Terminate asks the process to end by SIGTERM.
func (n *Node) Terminate() { n.process.Signal(syscall.SIGTERM) }

// AwaitExit returns the exit code of a process that is ending.
func (n *Node) AwaitExit(within time.Duration) int {
	n.cluster.t.Helper()
	code, err := n.process.AwaitExit(within)
	if err != nil {
		n.cluster.t.Fatalf("%s: %v", n.ID, err)
	}
	return code
}

// Running reports whether the process is there, paused or not.
func (n *Node) Running() bool { return n.process != nil && !n.process.Ended() }

// LogSize is how long the log is now, in bytes.
func (n *Node) LogSize() int64 {
	n.cluster.t.Helper()
	info, err := os.Stat(n.Log)
	must(n.cluster.t, err)
	return info.Size()
}

// LoggedSince reports whether the log contains the text behind a place in it.
func (n *Node) LoggedSince(size int64, text string) bool {
	n.cluster.t.Helper()
	data, err := os.ReadFile(n.Log)
	must(n.cluster.t, err)
	return strings.Contains(string(data[size:]), text)
}

// LogTail returns the last lines of the log but those of transitions, which the
// audit trail has too.
func (n *Node) LogTail(lines int) string {
	data, err := os.ReadFile(n.Log)
	if err != nil {
		return err.Error()
	}
	var kept []string
	for line := range strings.Lines(string(data)) {
		if !strings.Contains(line, `"correlationId":`) {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept[max(0, len(kept)-lines):], "")
}

// CPU is the processor time that the node's process has used, in user and kernel mode.
func (n *Node) CPU() time.Duration {
	n.cluster.t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", n.process.PID()))
	must(n.cluster.t, err)
	// proc(5): utime and stime are the fields 14 and 15; the name, field 2, ends with ')'.
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	var ticks int64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			break
		}
		ticks += n
	}
	const perSecond = 100 // USER_HZ, the same on every architecture that Go runs on
	return time.Duration(ticks) * time.Second / perSecond
}
