package ci_test

import (
	"fmt"
	"go/ast"
	"go/token"
	"go/types"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Why core may not do what its syntax tree is searched for.
const (
	noConcurrency = "core has no goroutine and no channel: the host owns both, and the simulator has neither"
	noFloat       = "floats round differently from machine to machine: integer arithmetic only"
	noMapOrder    = "the order of a map differs from run to run: range over sortedKeys"
	noClock       = "time enters core as an argument; of package time only types and constants are of use"
	noGlobalRand  = "randomness comes from a source seeded for the instance, never from the process's"
	noLinkname    = "a directive that reaches past the imports"
)

// packageMembers lists the functions and variables of a package that core may use
// although the others are refused; types, constants and methods are always allowed.
var packageMembers = map[string]struct {
	allowed []string
	why     string
}{
	"time":         {why: noClock},
	"math/rand":    {why: noGlobalRand},
	"math/rand/v2": {allowed: []string{"New", "NewPCG", "NewChaCha8", "NewZipf"}, why: noGlobalRand},
	"hash/maphash": {why: "its seed differs in every process"},
}

// mapOrder names the functions of package maps that hand out a map's order. They
// may only be the argument of slices.Sorted.
var mapOrder = []string{"Keys", "Values", "All"}

// excuse ends a line whose map order is a planted bug: //order: and a reason.
const excuse = "//order:"

func TestCoreIsPure(t *testing.T) {
	load := newLoader(t, "./core", "./core/plant")
	for _, p := range listPackages(t, "./core", "./core/plant") {
		report(t, load.check(t, p.ImportPath, load.parse(t, p)))
	}
}

// purity walks one package's files.
type purity struct {
	fset     *token.FileSet
	info     *types.Info
	fn       *ast.FuncDecl     // the function walked, nil outside of any
	sorted   map[ast.Node]bool // calls whose result is sorted at once
	excused  map[string]bool   // file:line of each excuse; true once it was needed
	problems map[string]bool
}

// impurities says where the files do what core must not do, in order.
func impurities(fset *token.FileSet, info *types.Info, files []*ast.File) []string {
	p := &purity{fset: fset, info: info, sorted: map[ast.Node]bool{}, excused: map[string]bool{}, problems: map[string]bool{}}
	for _, file := range files {
		p.comments(file)
		for _, decl := range file.Decls {
			p.fn, _ = decl.(*ast.FuncDecl)
			ast.Inspect(decl, p.visit)
		}
	}
	p.staleExcuses()
	var all []string
	for problem := range p.problems {
		all = append(all, problem)
	}
	slices.Sort(all)
	return all
}

func (p *purity) visit(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.GoStmt:
		p.found(n, "a go statement", noConcurrency)
	case *ast.SelectStmt:
		p.found(n, "a select", noConcurrency)
	case *ast.SendStmt:
		p.found(n, "a send", noConcurrency)
	case *ast.UnaryExpr:
		if n.Op == token.ARROW {
			p.found(n, "a receive", noConcurrency)
		}
	case *ast.RangeStmt:
		p.rangeOver(n)
	case *ast.CallExpr:
		p.call(n)
	case *ast.Ident:
		p.use(n)
	case *ast.BasicLit:
		if n.Kind == token.FLOAT || n.Kind == token.IMAG {
			p.found(n, "a float literal", noFloat)
		}
	}
	if expr, ok := n.(ast.Expr); ok {
		p.typeOf(expr)
	}
	return true
}

// typeOf refuses types wherever a value or a name of them stands.
func (p *purity) typeOf(expr ast.Expr) {
	typ := p.info.TypeOf(expr)
	if typ == nil {
		return
	}
	switch typ := typ.Underlying().(type) {
	case *types.Chan:
		p.found(expr, "a channel", noConcurrency)
	case *types.Basic:
		if typ.Info()&(types.IsFloat|types.IsComplex) != 0 {
			p.found(expr, "a float", noFloat)
		}
	}
}

// use refuses functions and variables of packages that are let in for their types.
func (p *purity) use(id *ast.Ident) {
	obj := p.info.Uses[id]
	if obj == nil || obj.Pkg() == nil || obj.Parent() != obj.Pkg().Scope() {
		return
	}
	if _, isFunc := obj.(*types.Func); !isFunc {
		if _, isVar := obj.(*types.Var); !isVar {
			return
		}
	}
	members, restricted := packageMembers[obj.Pkg().Path()]
	if restricted && !slices.Contains(members.allowed, obj.Name()) {
		p.found(id, obj.Pkg().Path()+"."+obj.Name(), members.why)
	}
	if obj.Pkg().Path() == "maps" && slices.Contains(mapOrder, obj.Name()) && !p.sorted[id] {
		p.unordered(id, "maps."+obj.Name()+" outside slices.Sorted")
	}
}

// call notes the X of slices.Sorted(maps.X(m)). A call is visited before its parts.
func (p *purity) call(c *ast.CallExpr) {
	fn := p.member(c.Fun)
	if fn == nil || fn.Pkg() == nil || fn.Pkg().Path() != "slices" || fn.Name() != "Sorted" || len(c.Args) != 1 {
		return
	}
	if inner, ok := ast.Unparen(c.Args[0]).(*ast.CallExpr); ok {
		if sel, ok := inner.Fun.(*ast.SelectorExpr); ok {
			p.sorted[sel.Sel] = true
		}
	}
}

func (p *purity) member(fun ast.Expr) types.Object {
	if index, ok := fun.(*ast.IndexExpr); ok { // slices.Sorted[string]
		fun = index.X
	}
	if sel, ok := fun.(*ast.SelectorExpr); ok {
		return p.info.Uses[sel.Sel]
	}
	return nil
}

func (p *purity) rangeOver(r *ast.RangeStmt) {
	inSortedKeys := p.fn != nil && p.fn.Recv == nil && p.fn.Name.Name == "sortedKeysWhere"
	if hasMap(p.info.TypeOf(r.X)) && !inSortedKeys {
		p.unordered(r, "a range over a map")
	}
}

// hasMap reports whether a value of the type is or, for a type parameter, can be
// a map.
func hasMap(typ types.Type) bool {
	param, ok := typ.(*types.TypeParam)
	if !ok {
		_, isMap := typ.Underlying().(*types.Map)
		return isMap
	}
	constraint := param.Underlying().(*types.Interface)
	for i := range constraint.NumEmbeddeds() {
		if hasMapTerm(constraint.EmbeddedType(i)) {
			return true
		}
	}
	return false
}

func hasMapTerm(typ types.Type) bool {
	union, ok := typ.(*types.Union)
	if !ok {
		return hasMap(typ)
	}
	for i := range union.Len() {
		if hasMap(union.Term(i).Type()) {
			return true
		}
	}
	return false
}

// unordered reports map order, unless the line is excused in a function that turns
// on a plant: only planted bugs may depend on it.
func (p *purity) unordered(n ast.Node, what string) {
	line := p.line(n)
	if _, excused := p.excused[line]; excused && p.fn != nil && p.usesPlant(p.fn) {
		p.excused[line] = true
		return
	}
	p.found(n, what, noMapOrder)
}

func (p *purity) usesPlant(fn *ast.FuncDecl) bool {
	uses := false
	ast.Inspect(fn, func(n ast.Node) bool {
		if id, ok := n.(*ast.Ident); ok {
			obj, isConst := p.info.Uses[id].(*types.Const)
			uses = uses || isConst && obj.Pkg() != nil && obj.Pkg().Path() == module+"/core/plant"
		}
		return !uses
	})
	return uses
}

func (p *purity) comments(file *ast.File) {
	for _, group := range file.Comments {
		for _, c := range group.List {
			if strings.HasPrefix(c.Text, "//go:linkname") {
				p.found(c, "go:linkname", noLinkname)
			}
			if reason, ok := strings.CutPrefix(c.Text, excuse); ok && strings.TrimSpace(reason) == "" {
				p.found(c, "an excuse without a reason", noMapOrder)
			} else if ok {
				p.excused[p.line(c)] = false
			}
		}
	}
}

func (p *purity) staleExcuses() {
	for line, needed := range p.excused {
		if !needed {
			p.problems[line+": an "+excuse+" comment that excuses nothing, or stands outside a plant: remove it"] = true
		}
	}
}

func (p *purity) found(n ast.Node, what, why string) {
	p.problems[fmt.Sprintf("%s: %s: %s", p.line(n), what, why)] = true
}

func (p *purity) line(n ast.Node) string {
	at := p.fset.Position(n.Pos())
	return at.Filename + ":" + strconv.Itoa(at.Line)
}
