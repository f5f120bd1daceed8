package main

import (
	"os"
	"testing"

	"github.com/omnirelay/leadership/sim"
	"github.com/omnirelay/leadership/sim/check"
)

func TestExitOfARun(t *testing.T) {
	safety, liveness := check.Violation{Property: check.DurableProperty}, check.Violation{Property: check.ElectionSLAProperty}
	unknown := check.Violation{Property: check.LinearizableProperty, Unknown: true}
	for _, tt := range []struct {
		code int
		all  []check.Violation
	}{
		{exitPass, nil},
		{exitUnknown, []check.Violation{unknown}},
		{exitLiveness, []check.Violation{unknown, liveness}},
		{exitSafety, []check.Violation{unknown, liveness, safety}},
		{exitSafety, []check.Violation{safety, liveness, unknown}},
	} {
		if got := exitOf(&sim.Report{Violations: tt.all}); got != tt.code {
			t.Errorf("%v: exit %d, want %d", tt.all, got, tt.code)
		}
	}
}

// silently runs simrun with its output thrown away and returns the exit code.
func silently(t *testing.T, args ...string) int {
	t.Helper()
	stdout, stderr := os.Stdout, os.Stderr
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	os.Stdout, os.Stderr = null, null
	defer func() {
		os.Stdout, os.Stderr = stdout, stderr
		null.Close()
	}()
	return run(args)
}

func TestExitCodes(t *testing.T) {
	for _, tt := range []struct {
		code int
		args []string
	}{
		{exitPass, []string{"run", "--scenario", "steady", "--for", "5s"}},
		{exitSafety, []string{"run", "--plant", "successor-before-ack"}},
		{exitLiveness, []string{"run", "--plant", "no-prevote-checkquorum"}},
		{exitSLA, []string{"run", "--scenario", "steady", "--for", "20s", "--sla", "failover.max<1ns"}},
		{exitUnknown, []string{"swarm", "--seeds", "1..1", "--for", "2s"}},
		{exitUsage, []string{"run", "--no-such-flag"}},
		{exitUsage, []string{"fly"}},
		{exitUsage, []string{"determinism"}},
		{exitHarness, []string{"run", "--scenario", "steady", "--for", "1s", "--out", os.DevNull + "/x"}},
	} {
		if got := silently(t, tt.args...); got != tt.code {
			t.Errorf("simrun %v: exit %d, want %d", tt.args, got, tt.code)
		}
	}
}
