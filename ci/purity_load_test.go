package ci_test

import (
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
)

// loader type-checks sources against the compiled packages they import.
type loader struct {
	fset     *token.FileSet
	importer types.Importer
}

// newLoader compiles the packages that match the patterns and all they import.
func newLoader(t *testing.T, patterns ...string) *loader {
	t.Helper()
	compiled := map[string]string{}
	for _, p := range listPackages(t, append([]string{"-export", "-deps"}, patterns...)...) {
		compiled[p.ImportPath] = p.Export
	}
	fset := token.NewFileSet()
	open := func(path string) (io.ReadCloser, error) { return os.Open(compiled[path]) }
	return &loader{fset: fset, importer: importer.ForCompiler(fset, "gc", open)}
}

func (l *loader) parse(t *testing.T, p listed) []*ast.File {
	t.Helper()
	var files []*ast.File
	for _, name := range p.GoFiles {
		source, err := os.ReadFile(filepath.Join(p.Dir, name))
		if err != nil {
			t.Fatal(err)
		}
		shown := path.Join(strings.TrimPrefix(p.ImportPath, module+"/"), name)
		files = append(files, l.parseSource(t, shown, source))
	}
	return files
}

func (l *loader) parseSource(t *testing.T, name string, source []byte) *ast.File {
	t.Helper()
	file, err := parser.ParseFile(l.fset, name, source, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// check type-checks the files as one package and returns what is impure in them.
func (l *loader) check(t *testing.T, path string, files []*ast.File) []string {
	t.Helper()
	info := &types.Info{Types: map[ast.Expr]types.TypeAndValue{}, Uses: map[*ast.Ident]types.Object{}, Defs: map[*ast.Ident]types.Object{}}
	config := types.Config{Importer: l.importer}
	if _, err := config.Check(path, l.fset, files, info); err != nil {
		t.Fatal(err)
	}
	return impurities(l.fset, info, files)
}
