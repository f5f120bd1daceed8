package ci_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// namedTest is how docs/security.md names a test: its folder and its name.
var namedTest = regexp.MustCompile("`([a-z][a-z0-9/]*): ((?:Test|Fuzz)[A-Za-z0-9_]+)`")

// TestSecurityNamesTestsThatExist: a line of docs/security.md whose test is gone is a
// promise that nobody keeps. A line of its tables of attempts and limits names one.
func TestSecurityNamesTestsThatExist(t *testing.T) {
	data, err := os.ReadFile("../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	named := namedTest.FindAllStringSubmatch(string(data), -1)
	if len(named) < 50 {
		t.Errorf("%d tests are named: this test reads another text than it means", len(named))
	}
	sources := map[string]string{}
	for _, match := range named {
		folder, name := match[1], match[2]
		if _, read := sources[folder]; !read {
			sources[folder] = testsIn(t, folder)
		}
		if !strings.Contains(sources[folder], "\nfunc "+name+"(") {
			t.Errorf("docs/security.md names %s of %s, which is not there", name, folder)
		}
	}
	for i, line := range strings.Split(string(data), "\n") {
		if attempt := strings.Count(line, "|") >= 3 && strings.Contains(line, "shown by"); attempt {
			lines := strings.Split(string(data), "\n")[i+2:]
			checkTable(t, lines)
		}
	}
}

// checkTable wants a test in every row.
func checkTable(t *testing.T, rows []string) {
	t.Helper()
	for _, row := range rows {
		if !strings.HasPrefix(row, "|") {
			return
		}
		if !namedTest.MatchString(row) {
			t.Errorf("docs/security.md: no test shows %q", row)
		}
	}
}

func testsIn(t *testing.T, folder string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", folder, "*_test.go"))
	if err != nil || len(files) == 0 {
		t.Errorf("docs/security.md names tests of %s, which has none (%v)", folder, err)
	}
	var all strings.Builder
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(data)
	}
	return all.String()
}
