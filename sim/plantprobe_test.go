package sim

import (
	"fmt"
	"os"
	"sort"
	"strconv"
	"strings"
	"testing"

	"github.com/omnirelay/leadership/core/plant"
	"github.com/omnirelay/leadership/sim/check"
)

func TestPlantProbe(t *testing.T) {
	if os.Getenv("PLANTS") == "" {
		t.Skip()
	}
	n, _ := strconv.Atoi(os.Getenv("N"))
	from, _ := strconv.Atoi(os.Getenv("FROM"))
	for _, p := range plant.All() {
		if os.Getenv("PLANTS") != "all" && !strings.Contains(","+os.Getenv("PLANTS")+",", ","+p.String()+",") {
			continue
		}
		for _, s := range Scenarios() {
			if sc := os.Getenv("SCS"); sc != "" && !strings.Contains(","+sc+",", ","+s.Name+",") {
				continue
			}
			hits := map[string]int{}
			for seed := from + 1; seed <= from+n; seed++ {
				r := Run(Options{Seed: uint64(seed), Scenario: s, Plants: plant.Of(p), StopAt: []check.Property{"none"}})
				for _, v := range r.Violations {
					hits[string(v.Property)]++
				}
			}
			if len(hits) > 0 {
				var l []string
				for k, v := range hits {
					l = append(l, fmt.Sprintf("%s:%d", k, v))
				}
				sort.Strings(l)
				fmt.Printf("%s %s %v\n", p, s.Name, l)
			}
		}
	}
}
