package main

import (
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestKeyScripts tells what omnirelay keys does. It needs no node.
func TestKeyScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:  "testdata/keys",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"code": codeCommand},
	})
}
