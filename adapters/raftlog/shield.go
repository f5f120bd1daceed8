package raftlog

import (
	"fmt"
	"runtime/debug"
)

// panicError is a panic of bbolt, or a fault on its memory map, as an error.
type panicError struct{ value any }

func (p *panicError) Error() string { return fmt.Sprintf("bbolt gave up: %v", p.value) }

// shield runs fn, which calls bbolt. bbolt panics on pages that make no sense, and
// a file that shrank or a sector that cannot be read faults on the memory map;
// both become errors. It holds only for the calling goroutine, so fn must not use
// what starts others: Tx.Check, and opening without a stored freelist.
func shield(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = &panicError{value: p}
		}
	}()
	return fn()
}
