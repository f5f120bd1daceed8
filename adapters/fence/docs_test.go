package fence_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The Go code of docs/fencing.md is that of examples, which run.
func TestDocsShowWhatRuns(t *testing.T) {
	text, err := os.ReadFile("../../docs/fencing.md")
	ok(t, err)
	files, err := filepath.Glob("*/example_test.go")
	ok(t, err)
	var code strings.Builder
	for _, name := range append(files, "example_test.go") {
		source, err := os.ReadFile(name)
		ok(t, err)
		code.Write(source)
	}
	shown := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllSubmatch(text, -1)
	if len(shown) < 7 {
		t.Errorf("only %d pieces of Go were found", len(shown))
	}
	for _, piece := range shown {
		if !strings.Contains(code.String(), string(piece[1])) {
			t.Errorf("no example has:\n%s", piece[1])
		}
	}
}
