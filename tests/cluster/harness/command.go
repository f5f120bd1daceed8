package harness

import "os/exec"

// Leaderd is a command of the leaderd under test, to be run with Start.
func Leaderd(args ...string) *exec.Cmd { return exec.Command(leaderd(), args...) }

// Omnirelay is a command of the omnirelay under test.
func Omnirelay(args ...string) *exec.Cmd { return exec.Command(omnirelay(), args...) }
