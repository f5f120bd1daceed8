package supervisor

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// timer kills its own process at a moment of CLOCK_BOOTTIME. The kernel does it, whether
// the process runs, waits or is stopped.
type timer struct{ id int32 }

// sigevent is struct sigevent of the kernel, 64 bytes.
type sigevent struct {
	value  uint64
	signo  int32
	notify int32 // 0: SIGEV_SIGNAL
	_      [48]byte
}

func newTimer() (timer, error) {
	event := sigevent{signo: int32(unix.SIGKILL)}
	var t timer
	_, _, errno := unix.Syscall(unix.SYS_TIMER_CREATE, unix.CLOCK_BOOTTIME, uintptr(unsafe.Pointer(&event)), uintptr(unsafe.Pointer(&t.id)))
	if errno != 0 {
		return t, fmt.Errorf("timer_create: %w", errno)
	}
	return t, nil
}

// set replaces the moment. One that is past kills at once.
func (t timer) set(at int64) error {
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(max(at, 1))} // 0 would disarm it
	const absolute = 1                                              // TIMER_ABSTIME
	_, _, errno := unix.Syscall6(unix.SYS_TIMER_SETTIME, uintptr(t.id), absolute, uintptr(unsafe.Pointer(&spec)), 0, 0, 0)
	if errno != 0 {
		return fmt.Errorf("timer_settime: %w", errno)
	}
	return nil
}
