// Package supervisor runs a command only while a scope is led: it and all its
// descendants are dead before the registry can let anybody else lead.
//
// Three processes stand around the command, each a run of the same program:
//
//	supervisor   the one that was called: it holds the leadership
//	└─ fuse      a session of its own; a kernel timer kills it at the deadline
//	   └─ init   reaps, tells the command to end; PID 1 of a namespace where that works
//	      └─ CMD and its descendants
//
// The supervisor tells the fuse after each renewal until when the command may live. The
// fuse sets a timer of the kernel that sends SIGKILL to the fuse itself: no process has
// to run for that, so it holds when the supervisor and the fuse are stopped. The death of
// the fuse is the death of init (PR_SET_PDEATHSIG), and with PID 1 of a namespace the
// kernel kills whatever is in it. That timer could not be init's own: the kernel spares a
// PID 1 its own signals.
//
// A program that uses this package calls Enter first of all in main.
package supervisor
