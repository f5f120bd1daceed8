package supervisor

import (
	"os"
	"syscall"
)

// Forwarded are the signals that are for the command.
var Forwarded = []os.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGWINCH}

// Ends reports whether a signal ends a process that does not care.
func Ends(s os.Signal) bool { return s != syscall.SIGWINCH }

// ofTerminal reports whether a terminal sends it to all of its foreground group. Shells
// rely on that: one that waits for what it started dies of a ^C only if that did.
func ofTerminal(s syscall.Signal) bool {
	switch s {
	case syscall.SIGINT, syscall.SIGQUIT, syscall.SIGHUP, syscall.SIGWINCH:
		return true
	}
	return false
}
