package ci_test

import (
	"slices"
	"strings"
	"testing"
)

var fixtureRooms = []room{
	{path: "core", may: []string{"core/plant"}, why: "it is pure"},
	{path: "core/plant", why: "it is small"},
	{path: "sim", may: []string{"core", "core/plant"}, why: "it is simulated"},
	{path: "adapters/host", may: []string{"core"}, tests: []string{"adapters/rpc"}, why: "it is below"},
	{path: "adapters/rpc", may: []string{"core", "adapters/host"}, why: "it is above"},
	{path: "cmd/leaderd", may: []string{"core", "adapters/*"}, why: "it wires"},
}

// inhabitants is one package for each room of the fixture, none of which breaks a rule.
func inhabitants() map[string]*listed {
	all := map[string]*listed{}
	for _, r := range fixtureRooms {
		all[r.path] = &listed{ImportPath: module + "/" + r.path, Imports: []string{"fmt", "net"}}
	}
	return all
}

func TestWallsHold(t *testing.T) {
	const rpc, host, core = module + "/adapters/rpc", module + "/adapters/host", module + "/core"
	tests := map[string]struct {
		change func(map[string]*listed)
		want   string // part of the one problem reported; empty: none
	}{
		"as it should be":  {func(map[string]*listed) {}, ""},
		"allowed":          {func(p map[string]*listed) { p["adapters/rpc"].Imports = []string{core, host} }, ""},
		"allowed by star":  {func(p map[string]*listed) { p["cmd/leaderd"].Imports = []string{core, host, rpc} }, ""},
		"allowed to tests": {func(p map[string]*listed) { p["adapters/host"].TestImports = []string{rpc} }, ""},
		"upwards":          {func(p map[string]*listed) { p["adapters/host"].Imports = []string{rpc} }, "adapters/host imports " + rpc},
		"core to adapter":  {func(p map[string]*listed) { p["core"].Imports = []string{host} }, "core imports " + host},
		"shipped plant":    {func(p map[string]*listed) { p["cmd/leaderd"].Imports = []string{core + "/plant"} }, "because it wires"},
		"adapter to sim":   {func(p map[string]*listed) { p["adapters/rpc"].Imports = []string{module + "/sim"} }, "adapters/rpc imports"},
		"deep in a room":   {func(p map[string]*listed) { p["adapters/rpc"].Imports = []string{module + "/sim/check"} }, "sim/check"},
		"tests of core":    {func(p map[string]*listed) { p["core"].XTestImports = []string{module + "/sim"} }, "(its tests) imports"},
		"tests of rpc":     {func(p map[string]*listed) { p["adapters/rpc"].TestImports = []string{module + "/sim"} }, "(its tests) imports"},
		"a new folder":     {func(p map[string]*listed) { p["x"] = &listed{ImportPath: module + "/utils"} }, "utils is in no room"},
		"the module root":  {func(p map[string]*listed) { p["x"] = &listed{ImportPath: module} }, "is in no room"},
		"like a room":      {func(p map[string]*listed) { p["x"] = &listed{ImportPath: module + "/corelike"} }, "corelike is in no room"},
		"vanished":         {func(p map[string]*listed) { delete(p, "sim") }, "room sim holds no package"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			all := inhabitants()
			test.change(all)
			var pkgs []listed
			for _, p := range all {
				pkgs = append(pkgs, *p)
			}
			wantProblem(t, brokenWalls(fixtureRooms, pkgs), test.want)
		})
	}
}

func TestTableNamesOnlyRooms(t *testing.T) {
	wantProblem(t, unknownRooms([]room{{path: "core", may: []string{"gone"}, why: "x"}}), "which is no room")
	wantProblem(t, unknownRooms([]room{{path: "core", tests: []string{"gone/*"}, why: "x"}}), "which is no room")
	wantProblem(t, unknownRooms([]room{{path: "core"}}), "has no reason")
}

func TestEveryBanOfCoreFires(t *testing.T) {
	for imported, reason := range coreBans {
		wantProblem(t, brokenAllowList([]listed{{ImportPath: "c", Imports: []string{imported}}}), reason)
		if coreImports[imported] != "" {
			t.Errorf("%s is both allowed and banned", imported)
		}
	}
	for imported, reason := range coreImports {
		if reason == "" {
			t.Errorf("%s is allowed for no reason", imported)
		}
	}
	for _, imported := range []string{"github.com/google/uuid", "encoding/json", "net/http", "C", "go.etcd.io/raft/v3/quorum"} {
		wantProblem(t, brokenAllowList([]listed{{ImportPath: "c", Imports: []string{imported}}}), "not on the allow-list")
	}
	wantProblem(t, brokenAllowList([]listed{{Imports: []string{"fmt", "time", module + "/core/plant"}}}), "")
}

func TestNoFileOfCoreEscapes(t *testing.T) {
	const want = "the same plain Go"
	wantProblem(t, brokenAllowList([]listed{{IgnoredGoFiles: []string{"a_windows.go"}}}), want)
	wantProblem(t, brokenAllowList([]listed{{CgoFiles: []string{"a.go"}}}), want)
	wantProblem(t, brokenAllowList([]listed{{SFiles: []string{"a.s"}}}), want)
}

func TestEveryBanOfTheClosureFires(t *testing.T) {
	for imported, reason := range closureBans {
		wantProblem(t, brokenClosure([]listed{{ImportPath: "lib", Imports: []string{"fmt", imported}}}), reason)
	}
	wantProblem(t, brokenClosure([]listed{{ImportPath: "lib", Imports: []string{"os", "sync"}}}), "")
}

// wantProblem asks for exactly one problem that says want, or for none.
func wantProblem(t *testing.T, problems []string, want string) {
	t.Helper()
	if want == "" {
		if len(problems) > 0 {
			t.Errorf("reported without cause: %q", problems)
		}
		return
	}
	if len(problems) != 1 || !slices.ContainsFunc(problems, func(p string) bool { return strings.Contains(p, want) }) {
		t.Errorf("reported %q, want one problem that says %q", problems, want)
	}
}
