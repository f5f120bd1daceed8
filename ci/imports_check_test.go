package ci_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

// listed is what go list says of a package.
type listed struct {
	ImportPath, Dir, Export                             string
	GoFiles, Imports, TestImports, XTestImports         []string
	CgoFiles, IgnoredGoFiles, SFiles, IgnoredOtherFiles []string
}

// listPackages asks go list about packages of the main module. A pattern that
// matches nothing fails the test: a rule about a package that vanished is no rule.
func listPackages(t *testing.T, args ...string) []listed {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json"}, args...)...)
	cmd.Dir = ".."
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	pkgs := decodePackages(t, out)
	if len(pkgs) == 0 {
		t.Fatalf("go list %s: no package: %s", strings.Join(args, " "), stderr.String())
	}
	return pkgs
}

func decodePackages(t *testing.T, out []byte) []listed {
	t.Helper()
	var pkgs []listed
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatalf("go list: %v", err)
		}
		pkgs = append(pkgs, p)
	}
}

// brokenWalls compares who imports whom with the table.
func brokenWalls(rooms []room, pkgs []listed) []string {
	problems := unknownRooms(rooms)
	inhabited := map[string]bool{}
	for _, p := range pkgs {
		r := roomOf(rooms, p.ImportPath)
		if r == nil {
			problems = append(problems, fmt.Sprintf("%s is in no room: add its folder to the table in ci/imports_test.go", p.ImportPath))
			continue
		}
		inhabited[r.path] = true
		problems = append(problems, crossings(rooms, r, p.ImportPath, p.Imports, r.may)...)
		tests := slices.Concat(p.TestImports, p.XTestImports)
		problems = append(problems, crossings(rooms, r, p.ImportPath+" (its tests)", tests, slices.Concat(r.may, r.tests))...)
	}
	for _, r := range rooms {
		if !inhabited[r.path] {
			problems = append(problems, fmt.Sprintf("room %s holds no package: a rule about nothing guards nothing", r.path))
		}
	}
	return problems
}

// unknownRooms finds names in the table that stand for no room.
func unknownRooms(rooms []room) []string {
	var problems []string
	for _, r := range rooms {
		if r.why == "" {
			problems = append(problems, fmt.Sprintf("room %s: its wall has no reason", r.path))
		}
		for _, name := range slices.Concat(r.may, r.tests) {
			if !slices.ContainsFunc(rooms, func(o room) bool { return matches(name, o.path) }) {
				problems = append(problems, fmt.Sprintf("room %s may import %s, which is no room", r.path, name))
			}
		}
	}
	return problems
}

func crossings(rooms []room, from *room, who string, imports, may []string) []string {
	var problems []string
	for _, imported := range imports {
		to := roomOf(rooms, imported)
		if !ours(imported) || to == nil || to.path == from.path {
			continue // a package of ours in no room is reported where it is listed
		}
		if !slices.ContainsFunc(may, func(name string) bool { return matches(name, to.path) }) {
			problems = append(problems, fmt.Sprintf("%s imports %s: %s may import of ours [%s], because %s",
				who, imported, from.path, strings.Join(may, " "), from.why))
		}
	}
	return problems
}

func matches(pattern, name string) bool {
	ok, err := path.Match(pattern, name)
	return ok && err == nil
}

func ours(importPath string) bool { return strings.HasPrefix(importPath+"/", module+"/") }

// roomOf finds the room with the longest path that holds the package.
func roomOf(rooms []room, importPath string) *room {
	var found *room
	for i := range rooms {
		r := &rooms[i]
		if strings.HasPrefix(importPath+"/", module+"/"+r.path+"/") && (found == nil || len(r.path) > len(found.path)) {
			found = r
		}
	}
	return found
}

// brokenAllowList checks what core's own files import, and that no file of core
// escapes the checks by a build constraint, cgo or assembly.
func brokenAllowList(pkgs []listed) []string {
	var problems []string
	for _, p := range pkgs {
		for _, imported := range p.Imports {
			if problem := refused(imported); problem != "" {
				problems = append(problems, p.ImportPath+" imports "+imported+": "+problem)
			}
		}
		for _, file := range slices.Concat(p.CgoFiles, p.IgnoredGoFiles, p.SFiles, p.IgnoredOtherFiles) {
			problems = append(problems, fmt.Sprintf("%s: %s: core is the same plain Go on every machine, without build constraints, cgo and assembly", p.ImportPath, file))
		}
	}
	return problems
}

// refused says why core may not import a package, or nothing.
func refused(imported string) string {
	if reason, banned := coreBans[imported]; banned {
		return reason
	}
	if coreImports[imported] != "" || ours(imported) { // ours: the table of rooms decides
		return ""
	}
	return "not on the allow-list in ci/imports_test.go: add it with a reason, or do it in an adapter"
}

// brokenClosure checks everything core is linked with.
func brokenClosure(pkgs []listed) []string {
	var problems []string
	for _, p := range pkgs {
		for _, imported := range p.Imports {
			if reason, banned := closureBans[imported]; banned {
				problems = append(problems, fmt.Sprintf("%s, which core is linked with, imports %s: %s", p.ImportPath, imported, reason))
			}
		}
	}
	return problems
}
