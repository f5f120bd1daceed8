package supervisor

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// self is the program that runs, even when its file has been replaced.
const self = "/proc/self/exe"

// Names that the helpers run under; ps shows them.
const (
	fuseName  = "omnirelay-fuse"
	initName  = "omnirelay-init"
	probeName = "omnirelay-probe"
)

// Enter is called first of all in main. In a helper process it does not return.
func Enter() {
	var body func() error
	switch os.Args[0] {
	case probeName:
		body = probe
	case fuseName:
		body = fuse
	case initName:
		body = initiate
	default:
		return
	}
	// Death signals come of the death of a thread: this one lasts as long as the process.
	runtime.LockOSThread()
	if name, err := unix.ByteSliceFromString(os.Args[0]); err == nil {
		_ = unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&name[0])), 0, 0, 0) // else ps shows the program's own
	}
	if err := body(); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", os.Args[0], err)
		os.Exit(1)
	}
	os.Exit(0)
}

// probe shows that a namespace could be made.
func probe() error {
	if len(os.Args) > 1 {
		return nil // of a cgroup: that it runs is all
	}
	if pid := os.Getpid(); pid != 1 {
		return fmt.Errorf("process id %d, want 1", pid)
	}
	return nil
}

// helperCommand is what the fuse and init are called with: the site, the descriptor of
// the line up, and CMD.
func helperCommand(name string, site Site, line int, command []string) []string {
	return append([]string{name, site.encode(), strconv.Itoa(line)}, command...)
}

// helperArguments reads what helperCommand wrote.
func helperArguments() (Site, control, []string, error) {
	if len(os.Args) < 4 {
		return Site{}, control{}, nil, errByHand
	}
	site, err := decodeSite(os.Args[1])
	if err != nil {
		return Site{}, control{}, nil, err
	}
	line, err := strconv.ParseUint(os.Args[2], 10, 31)
	if err != nil {
		return Site{}, control{}, nil, errByHand
	}
	up, err := controlOf(uintptr(line))
	return site, up, os.Args[3:], err
}

var errByHand = errors.New("is started by mesh run, not by hand")
