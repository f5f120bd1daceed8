package main

import (
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"simrun": func() { os.Exit(run(os.Args[1:])) }})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata", RequireExplicitExec: true})
}

func TestParseSeeds(t *testing.T) {
	if a, b, err := parseSeeds("3..10"); err != nil || a != 3 || b != 10 {
		t.Error(a, b, err)
	}
	for _, bad := range []string{"", "3", "3..", "10..3", "a..b", "-1..3", "1...3"} {
		if _, _, err := parseSeeds(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestParseBound(t *testing.T) {
	b, err := parseBound("failover.p99<3s")
	if err != nil || b.percentile != 99 || b.limit.Seconds() != 3 {
		t.Error(b, err)
	}
	for _, bad := range []string{"", "failover", "failover.p99", "failover.p0<3s", "failover.99<3s", "failover.p99<3", "failover.max<-1s", "gain.p50<1s"} {
		if _, err := parseBound(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}
