package cluster_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/omnirelay/leadership/tests/cluster/harness"
	"github.com/omnirelay/leadership/wire"
)

// TestDevClusterTellsTheSameEverywhere: three processes of leaderd dev elect
// everything, evenly, and HTTP, gRPC and the CLI tell the same of it.
func TestDevClusterTellsTheSameEverywhere(t *testing.T) {
	dev := harness.StartDev(t)
	var all harness.Leaders
	harness.Await(t, 20*time.Second, "HTTP, gRPC and CLI of three nodes telling the same at one revision", func() (err error) {
		all, err = toldAlike(t, dev)
		return err
	})
	t.Logf("at revision %d every node says the same by HTTP, gRPC and CLI", all.Revision)
	for _, n := range dev.Cluster.Nodes {
		led := len(all.LedBy(n.ID))
		t.Logf("%s leads %d of %d", n.ID, led, len(all.ByScope))
		if led < harness.ScopeCount/3 || led > harness.ScopeCount/3+1 {
			t.Errorf("%s leads %d of %d scopes, want a third", n.ID, led, harness.ScopeCount)
		}
	}
	if _, led := all.ByScope["global-control"]; !led {
		t.Error("global-control is unled")
	}
	if code := dev.Stop(); code != 0 {
		t.Errorf("leaderd dev ended with code %d:\n%s", code, dev.Output())
	}
	if left := harness.LeftBehind(); len(left) > 0 {
		t.Errorf("leaderd dev left %v behind", left)
	}
}

// toldAlike asks every node by every way for what is led.
func toldAlike(t *testing.T, dev *harness.Dev) (all harness.Leaders, err error) {
	for i, n := range dev.Cluster.Nodes {
		for j, ask := range []func() (harness.Leaders, error){
			n.Leaders,
			n.Subscribed,
			func() (harness.Leaders, error) { return leadersByCLI(t, "--cluster", dev.Manifest, "--url", n.URL) },
			func() (harness.Leaders, error) {
				return leadersByCLI(t, "--cluster", dev.Manifest, "--grpc-url", n.GRPC)
			},
		} {
			here, err := ask()
			if err != nil {
				return all, fmt.Errorf("%s: %w", n.ID, err)
			}
			if i+j == 0 {
				all = here
			}
			if here.Revision != all.Revision || len(here.ByScope) != harness.ScopeCount {
				return all, fmt.Errorf("%s tells of %d scopes at revision %d, another of %d at %d", n.ID, len(here.ByScope), here.Revision, len(all.ByScope), all.Revision)
			}
			if err := here.SameTokens(all); err != nil {
				t.Fatalf("%s tells something else at revision %d: %v", n.ID, here.Revision, err)
			}
		}
	}
	return all, nil
}

// leadersByCLI runs omnirelay mesh leaders status.
func leadersByCLI(t *testing.T, args ...string) (harness.Leaders, error) {
	out, code := harness.Output(t, 15*time.Second, "omnirelay", append([]string{"mesh", "leaders", "status", "-o", "json"}, args...)...)
	if code != 0 {
		return harness.Leaders{}, fmt.Errorf("omnirelay ended with code %d: %s", code, out)
	}
	var answer wire.LeadersResponse
	if err := json.Unmarshal([]byte(out), &answer); err != nil {
		return harness.Leaders{}, fmt.Errorf("omnirelay wrote %s: %w", out, err)
	}
	return harness.LeadersOf(&answer), nil
}

// TestKilledDevLeavesNothingBehind: even SIGKILL of leaderd dev stops its nodes.
func TestKilledDevLeavesNothingBehind(t *testing.T) {
	dev := harness.StartDev(t)
	if !strings.Contains(strings.Join(harness.LeftBehind(), " "), "leaderd") {
		t.Fatal("no process of leaderd dev was found: this test would see nothing")
	}
	dev.Kill()
	harness.Await(t, 25*time.Second, "the nodes of a killed leaderd dev to end", func() error {
		if left := harness.LeftBehind(); len(left) > 0 {
			return fmt.Errorf("still there: %v", left)
		}
		return nil
	})
}

// TestDevOnEveryStore: leaderd dev starts a server for its registry, whose data it finds
// again, and of which nothing is left behind, even by SIGKILL.
func TestDevOnEveryStore(t *testing.T) {
	for _, store := range harness.ExternalStores {
		t.Run(store, func(t *testing.T) {
			dir := t.TempDir()
			first := harness.StartDevIn(t, dir, "--store", store)
			before := first.Cluster.AwaitSettled(20 * time.Second)
			awaitStore(t, first, store, true)
			if code := first.Stop(); code != 0 {
				t.Errorf("leaderd dev ended with code %d:\n%s", code, first.Output())
			}
			awaitStore(t, first, store, false)

			again := harness.StartDevIn(t, dir, "--store", store)
			after := awaitElectedAnew(t, again.Cluster, before)
			if after.Revision <= before.Revision {
				t.Errorf("revision %d after %d: another registry", after.Revision, before.Revision)
			}
			again.Kill()
			awaitStore(t, again, store, false)
			harness.Await(t, 25*time.Second, "the nodes of a killed leaderd dev to end", func() error {
				if left := harness.LeftBehind(); len(left) > 0 {
					return fmt.Errorf("still there: %v", left)
				}
				return nil
			})
		})
	}
}

func awaitStore(t *testing.T, dev *harness.Dev, kind string, running bool) {
	t.Helper()
	if dev.Store == nil || dev.Store.Kind != kind || dev.Store.Address == "" {
		t.Fatalf("cluster.json tells of the store %+v", dev.Store)
	}
	harness.Await(t, 10*time.Second, fmt.Sprintf("the server running: %t", running), func() error {
		if dev.Store.Running() != running {
			return fmt.Errorf("process %d running: %t", dev.Store.PID, !running)
		}
		return nil
	})
}
