package cluster_test

import (
	"slices"
	"testing"
	"time"

	"github.com/omnirelay/leadership/tests/cluster/harness"
)

// failoverWithin is the time within which a killed leader must be succeeded.
const failoverWithin = 5 * time.Second

// TestKilledLeadersAreSucceeded kills the process that leads most, or the
// registrar, ten times in a row, twenty in the long version; each comes back on its
// data and follows.
func TestKilledLeadersAreSucceeded(t *testing.T) {
	kills, leastRegistrars := 10, 3
	if long() {
		kills, leastRegistrars = 20, 5
	}
	if testing.Short() {
		kills, leastRegistrars = 3, 1
	}
	c := harness.New(t, harness.Options{})
	watch := c.WatchHeld()
	f := killInTurn(t, c, kills)
	verifyTrail(t, c, watch)
	f.report(t, harness.Raft)
	if len(f.registrar) < leastRegistrars || len(f.other) == 0 {
		t.Errorf("%d kills of the registrar and %d of others: want at least %d and 1", len(f.registrar), len(f.other), leastRegistrars)
	}
}

// failovers are the times from a kill until all that was led is led by others.
type failovers struct{ registrar, other []time.Duration }

func (f failovers) report(t *testing.T, store string) {
	t.Logf("FIGURE %s: failover after SIGKILL, all:           %s", store, distribution(slices.Concat(f.other, f.registrar)))
	t.Logf("FIGURE %s: failover after SIGKILL, not registrar: %s", store, distribution(f.other))
	t.Logf("FIGURE %s: failover after SIGKILL, registrar:     %s", store, distribution(f.registrar))
}

// killInTurn kills the process that leads most and the registrar in turn; each comes
// back on its data.
func killInTurn(t *testing.T, c *harness.Cluster, kills int) (f failovers) {
	for i := range kills {
		before := c.AwaitSettled(20 * time.Second)
		registrar := c.Registrar()
		victim := leadsMost(c.Others(registrar), before)
		if i%2 == 1 && registrar != nil && len(before.LedBy(registrar.ID)) > 0 {
			victim = registrar
		}
		start := time.Now()
		victim.Kill()
		harness.Await(t, failoverWithin, victim.ID+" succeeded in all its scopes", func() error {
			return succeeded(c.Others(victim), victim.ID, before)
		})
		took := time.Since(start)
		if victim == registrar {
			f.registrar = append(f.registrar, took)
		} else {
			f.other = append(f.other, took)
		}
		t.Logf("kill %2d: %s led %d, registrar: %5t, succeeded after %v", i+1, victim.ID, len(before.LedBy(victim.ID)), victim == registrar, took.Round(time.Millisecond))
		victim.Start()
	}
	c.AwaitSettled(20 * time.Second)
	return f
}

// verifyTrail checks the audit trail of every node, and by it what was held.
func verifyTrail(t *testing.T, c *harness.Cluster, watch *harness.Watch) harness.Trail {
	t.Helper()
	trail := c.AwaitTrail(10 * time.Second)
	if err := trail.Verify(); err != nil {
		t.Errorf("audit: %v", err)
	}
	t.Logf("audit: %d records, the same on every node; %d leaderships watched ended by silence", len(trail), watch.Expired(trail))
	watch.Stop()
	return trail
}
