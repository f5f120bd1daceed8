package sim

import (
	"os"
	"strconv"
	"testing"
)

func TestProbe(t *testing.T) {
	name := os.Getenv("SC")
	n, _ := strconv.Atoi(os.Getenv("N"))
	from, _ := strconv.Atoi(os.Getenv("FROM"))
	if name == "" {
		t.Skip()
	}
	var all Stats
	s, err := ScenarioByName(name)
	if err != nil {
		t.Fatal(err)
	}
	bad := 0
	for i := from + 1; i <= from+n; i++ {
		r := Run(Options{Seed: uint64(i), Scenario: s})
		all.Add(&r.Stats)
		for _, v := range r.Violations {
			bad++
			txt := v.String()
			if len(txt) > 700 {
				txt = txt[:700]
			}
			t.Logf("seed %d %s", i, txt)
		}
	}
	t.Logf("bad %d %+v missing %v", bad, all, all.Missing())
}
func TestExplain(t *testing.T) {
	name := os.Getenv("SC")
	n, _ := strconv.Atoi(os.Getenv("SEED"))
	if n == 0 {
		t.Skip()
	}
	s, _ := ScenarioByName(name)
	t.Log(Explain(Options{Seed: uint64(n), Scenario: s}))
}
