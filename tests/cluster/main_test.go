// Package cluster_test holds what must be seen on clusters of real processes:
// elections, kills, pauses, hand-overs, lost majorities, streams, and bad input.
package cluster_test

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/omnirelay/leadership/tests/cluster/harness"
)

func TestMain(m *testing.M) {
	if text := os.Getenv(memberEnv); text != "" {
		os.Exit(serveMember(text))
	}
	harness.Main(m)
}

// long asks for the long versions of the stories that run on every store.
func long() bool { return os.Getenv("LEADERSHIP_CHAOS") != "" }

// distribution summarizes durations for a report.
func distribution(all []time.Duration) string {
	if len(all) == 0 {
		return "none"
	}
	sorted := slices.Sorted(slices.Values(all))
	at := func(percent int) time.Duration {
		return sorted[(len(sorted)*percent+99)/100-1].Round(time.Millisecond)
	}
	return fmt.Sprintf("n=%d min=%v p50=%v p99=%v max=%v", len(sorted), sorted[0].Round(time.Millisecond), at(50), at(99), at(100))
}

// seed of what a test does at random; LEADERSHIP_TEST_SEED repeats one.
func seed(t *testing.T) uint64 {
	s := uint64(time.Now().UnixNano())
	if text := os.Getenv("LEADERSHIP_TEST_SEED"); text != "" {
		var err error
		if s, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("LEADERSHIP_TEST_SEED: %v", err)
		}
	}
	t.Logf("LEADERSHIP_TEST_SEED=%d", s)
	return s
}

// succeeded returns nil when all that was led before is led by others than the
// node that went, with higher fences where it had led.
func succeeded(survivors []*harness.Node, gone string, before harness.Leaders) error {
	var err error
	for _, n := range survivors {
		var now harness.Leaders
		if now, err = n.Leaders(); err == nil {
			err = succeededIn(now, gone, before)
		}
		if err == nil {
			return nil
		}
	}
	return err
}

func succeededIn(now harness.Leaders, gone string, before harness.Leaders) error {
	for scope, old := range before.ByScope {
		token, led := now.ByScope[scope]
		switch {
		case !led:
			return fmt.Errorf("%s is unled", scope)
		case token.LeaderID == gone:
			return fmt.Errorf("%s is still led by %s", scope, gone)
		case old.LeaderID == gone && token.FenceToken <= old.FenceToken:
			return fmt.Errorf("%s went from fence %d to %d", scope, old.FenceToken, token.FenceToken)
		}
	}
	return nil
}

// leadsMost is the node that leads most scopes.
func leadsMost(nodes []*harness.Node, l harness.Leaders) *harness.Node {
	return slices.MaxFunc(nodes, func(a, b *harness.Node) int { return len(l.LedBy(a.ID)) - len(l.LedBy(b.ID)) })
}
