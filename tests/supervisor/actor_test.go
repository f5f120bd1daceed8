package supervisor_test

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/omnirelay/leadership/adapters/clock"
)

// This test binary is also the command that is supervised: it writes a line to a log that
// all share, again and again, and so do those that it starts.
const (
	actorEnv = "SUPERVISOR_TEST_ACTOR" // what it does, see act
	logEnv   = "SUPERVISOR_TEST_LOG"
)

// Kinds of actors. The value of actorEnv is one of them, or several of the traits of main
// with commas between.
const (
	actorMain   = "main"   // traits may follow
	actorHelper = "helper" // starts a daemon, and ends
	actorDaemon = "daemon" // in a session of its own; ignores all signals that can be
	// Traits of main.
	traitDeaf    = "deaf"    // ignores SIGTERM
	traitDaemons = "daemons" // starts a daemon by double fork, and a child in a new session
	traitBusy    = "busy"    // never rests
	traitQuick   = "quick"   // ends with code 7 after a moment
	traitPolite  = "polite"  // ends with code 0 on SIGTERM
)

func act() {
	kind, traits, _ := strings.Cut(os.Getenv(actorEnv), ",")
	has := func(trait string) bool { return strings.Contains(","+traits+",", ","+trait+",") }
	if kind == actorHelper {
		spawn(actorDaemon + "," + traits)
		os.Exit(0)
	}
	if kind == actorDaemon || has(traitDeaf) {
		signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	}
	if kind == actorMain && has(traitDaemons) {
		spawn(actorHelper + "," + traits)
		spawn(actorDaemon + "," + traits)
	}
	if has(traitPolite) {
		asked := make(chan os.Signal, 1)
		signal.Notify(asked, syscall.SIGTERM)
		go func() {
			<-asked
			os.Exit(0)
		}()
	}
	var ends time.Time
	if has(traitQuick) {
		ends = time.Now().Add(200 * time.Millisecond)
	}
	write(kind, has(traitBusy), ends)
}

// spawn starts this program as another kind of actor, in a session of its own.
func spawn(as string) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), actorEnv+"="+as)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "actor:", err)
		os.Exit(99)
	}
	if strings.HasPrefix(as, actorHelper) {
		_ = cmd.Wait() // it ends at once: its daemon is an orphan
	}
}

// write is the effect: lines of one shared log, whose order is that of the effects.
func write(kind string, busy bool, ends time.Time) {
	runtime.GOMAXPROCS(1)
	log, err := os.OpenFile(os.Getenv(logEnv), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		fmt.Fprintln(os.Stderr, "actor:", err)
		os.Exit(99)
	}
	fence := os.Getenv("LEADERSHIP_FENCE")
	for {
		if _, err := fmt.Fprintf(log, "%d %s %s\n", clock.Boottime(), fence, kind); err != nil {
			os.Exit(98)
		}
		if !ends.IsZero() && time.Now().After(ends) {
			os.Exit(7)
		}
		if !busy {
			time.Sleep(500 * time.Microsecond)
		}
	}
}
