package raftlog

import (
	"errors"
	"fmt"
)

// ErrClosed is what a log returns once Close was called.
var ErrClosed = errors.New("the log is closed")

// ErrShut is wrapped by everything a log returns after its first storage error.
var ErrShut = errors.New("the log is shut since its first storage error; remove the cause and restart the node")

// Reason says why a data directory was refused. The set is closed.
type Reason uint8

const (
	ReasonInvalid    Reason = iota + 1 // the options or the path cannot be used
	ReasonInUse                        // another process holds the directory
	ReasonForeign                      // what is there is not a log of this program
	ReasonOtherOwner                   // the log of another cluster or another node
	ReasonNewer                        // written by a newer program
	ReasonDamaged                      // the log lost or changed content
	ReasonOtherStore                   // the registry of this node was kept elsewhere
	ReasonSealed                       // the registry moved elsewhere, or is being moved in
)

// Refusal is why Open did not open a data directory: what it found where, and
// what to do about it. Nothing was changed on disk.
type Refusal struct {
	Reason Reason
	Path   string // the file or directory
	Found  string
	Remedy string
	Err    error // the cause from below, nil when there is none
}

func (r *Refusal) Error() string {
	if r.Err != nil {
		return fmt.Sprintf("%s: %s: %v; %s", r.Path, r.Found, r.Err, r.Remedy)
	}
	return fmt.Sprintf("%s: %s; %s", r.Path, r.Found, r.Remedy)
}

func (r *Refusal) Unwrap() error { return r.Err }

// replaceRemedy is the only honest way back after damage. A voter that starts
// empty has forgotten its votes and the entries it acknowledged: with the wrong
// peer down at that moment it helps to elect a registrar that lacks committed
// entries. It does no harm when all others hold everything and have moved on to
// a later term, and stay up until it has caught up.
const replaceRemedy = "do not simply delete it: this voter would forget its votes and the entries it acknowledged. " +
	"When every other voter is up, has caught up, and follows a registrar elected after this node stopped, " +
	"move the whole data directory away and start this node empty; keep the others up until it is ready. " +
	"Without other voters, restore a backup"

func damaged(path, format string, args ...any) *Refusal {
	return &Refusal{Reason: ReasonDamaged, Path: path, Found: fmt.Sprintf(format, args...), Remedy: replaceRemedy}
}

func foreign(path, found string) *Refusal {
	return &Refusal{Reason: ReasonForeign, Path: path, Found: found,
		Remedy: "check the configured data directory; if the file belongs to something else, give this node a directory of its own"}
}
