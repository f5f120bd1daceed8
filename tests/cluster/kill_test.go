package cluster_test

import (
	"testing"
	"time"

	"github.com/omnirelay/leadership/tests/cluster/harness"
)

// failoverWithin is the time within which a killed leader must be succeeded.
const failoverWithin = 5 * time.Second

// TestKilledLeadersAreSucceeded kills the process that leads most, or the
// registrar, twenty times in a row; each comes back on its data and follows.
func TestKilledLeadersAreSucceeded(t *testing.T) {
	kills, leastRegistrars := 20, 5
	if testing.Short() {
		kills, leastRegistrars = 3, 1
	}
	c := harness.New(t, harness.Options{})
	watch := c.WatchHeld()
	var ofRegistrar, ofOther []time.Duration
	for i := range kills {
		before := c.AwaitSettled(20 * time.Second)
		registrar := c.Registrar()
		victim := leadsMost(c, before)
		if i%3 == 2 && registrar != nil && len(before.LedBy(registrar.ID)) > 0 {
			victim = registrar
		}
		start := time.Now()
		victim.Kill()
		harness.Await(t, failoverWithin, victim.ID+" succeeded in all its scopes", func() error {
			return succeeded(c.Others(victim), victim.ID, before)
		})
		took := time.Since(start)
		if victim == registrar {
			ofRegistrar = append(ofRegistrar, took)
		} else {
			ofOther = append(ofOther, took)
		}
		t.Logf("kill %2d: %s led %d, registrar: %5t, succeeded after %v", i+1, victim.ID, len(before.LedBy(victim.ID)), victim == registrar, took.Round(time.Millisecond))
		victim.Start()
	}
	c.AwaitSettled(20 * time.Second)
	verifyTrail(t, c, watch)
	t.Logf("FIGURE failover after SIGKILL, all:           %s", distribution(append(append([]time.Duration{}, ofOther...), ofRegistrar...)))
	t.Logf("FIGURE failover after SIGKILL, not registrar: %s", distribution(ofOther))
	t.Logf("FIGURE failover after SIGKILL, registrar:     %s", distribution(ofRegistrar))
	if len(ofRegistrar) < leastRegistrars || len(ofOther) == 0 {
		t.Errorf("%d kills of the registrar and %d of others: want at least %d and 1", len(ofRegistrar), len(ofOther), leastRegistrars)
	}
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
