package ci_test

import (
	"go/ast"
	"slices"
	"strings"
	"testing"
)

// fixtureImports stands above each fixture; the blank uses keep it compiling.
const fixtureImports = `package p

import (
	"hash/maphash"
	"maps"
	oldrand "math/rand"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/omnirelay/leadership/core/plant"
)

type (
	_ maphash.Hash
	_ oldrand.Rand
	_ rand.Rand
	_ time.Duration
	_ plant.Set
)

func sink(...any) {}

var _ = maps.Clone[map[int]int]
var _ = slices.Contains[[]int]

`

func TestPurityFires(t *testing.T) {
	tests := map[string]struct {
		source string
		want   string
	}{
		"go statement":           {`func f() { go f() }`, noConcurrency},
		"select":                 {`func f() { select {} }`, noConcurrency},
		"channel type":           {`type c chan int`, noConcurrency},
		"channel field":          {`type c struct { in <-chan struct{} }`, noConcurrency},
		"send":                   {`func f(c chan int) { c <- 1 }`, "a send: "},
		"receive":                {`func f(c chan int) { <-c }`, "a receive: "},
		"range of channel":       {"func f(t *time.Timer) {\nfor range t.C {} }", "a channel: "},
		"now":                    {`var x = time.Now()`, noClock},
		"now as a value":         {`var clock = time.Now`, noClock},
		"since":                  {`func f(t time.Time) { sink(time.Since(t)) }`, noClock},
		"until":                  {`func f(t time.Time) { sink(time.Until(t)) }`, noClock},
		"sleep":                  {`func f() { time.Sleep(1) }`, noClock},
		"after":                  {`func f() { sink(time.After(1)) }`, noClock},
		"tick":                   {`func f() { sink(time.Tick(1)) }`, noClock},
		"timer":                  {`func f() { sink(time.NewTimer(1)) }`, noClock},
		"time zone":              {`func f(t time.Time) { sink(t.In(time.Local)) }`, noClock},
		"float type":             {`func f(x float64) {}`, noFloat},
		"float field":            {`type s struct { x float32 }`, noFloat},
		"float literal":          {`const half = 0.5`, noFloat},
		"float as integer":       {`const n int = 1e3`, noFloat},
		"hidden float":           {`func f(d time.Duration) bool { return d.Seconds() > 1 }`, noFloat},
		"named float":            {"type f float64", noFloat},
		"complex":                {`var c = 1i`, noFloat},
		"maphash":                {`var seed = maphash.MakeSeed()`, "its seed differs"},
		"global rand":            {`func f() int { return rand.IntN(3) }`, noGlobalRand},
		"generic rand":           {`func f() int { return rand.N(3) }`, noGlobalRand},
		"old rand":               {`func f() int { return oldrand.Intn(3) }`, noGlobalRand},
		"map range":              {`func f(m map[int]int) { for k := range m { sink(k) } }`, noMapOrder},
		"named map":              {`type m map[int]int; func (m m) f() { for range m {} }`, noMapOrder},
		"generic map":            {`func f[M ~map[int]int](m M) { for k := range m { sink(k) } }`, noMapOrder},
		"union of maps":          {`type n map[int]int; func f[M map[int]int | n](m M) { for k := range m { sink(k) } }`, noMapOrder},
		"method sortedKeysWhere": {`type s struct{}; func (s) sortedKeysWhere(m map[int]int) { for k := range m { sink(k) } }`, noMapOrder},
		"maps.Keys":              {`func f(m map[int]int) { for k := range maps.Keys(m) { sink(k) } }`, noMapOrder},
		"maps.Values":            {`func f(m map[int]int) { sink(slices.Collect(maps.Values(m))) }`, noMapOrder},
		"maps.All":               {`func f(m map[int]int) { for k, v := range maps.All(m) { sink(k, v) } }`, noMapOrder},
		"maps.Keys named":        {`var keys = maps.Keys[map[int]int]`, noMapOrder},
		"linkname":               {"//go:linkname nanotime runtime.nanotime\nfunc f() {}", noLinkname},
		"excuse unplanted":       {"func f(m map[int]int) {\nfor k := range m { //order: why not\nsink(k) } }", noMapOrder},
		"empty excuse":           {"func f() {\nsink() //order:\n}", "without a reason"},
		"stale excuse":           {"func f(p plant.Set) {\nif p.Has(plant.ApplyRangesOverMap) { sink() //order: gone\n} }", "excuses nothing"},
		"excused clock":          {"func f(p plant.Set) {\nif p.Has(plant.ApplyReadsClock) {\nfor range map[int]int{} { sink(time.Now()) //order: planted\n} } }", noClock},

		"pure":            {`func f(d time.Duration) time.Duration { return d * 2 / 5 * time.Second }`, ""},
		"seeded":          {`func f() uint64 { return rand.New(rand.NewPCG(1, 2)).Uint64() }`, ""},
		"sorted keys":     {`func f(m map[int]int) { for _, k := range slices.Sorted(maps.Keys(m)) { sink(k) } }`, ""},
		"sortedKeysWhere": {`func sortedKeysWhere[K ~int, V any](m map[K]V) (ks []K) { for k := range m { ks = append(ks, k) }; slices.Sort(ks); return ks }`, ""},
		"slice and int":   {`func f(s []int) { for range s {}; for range 3 {} }`, ""},
		"copies":          {`func f(m map[int]int) { n := maps.Clone(m); maps.Copy(n, m); clear(n); sink(len(m)) }`, ""},
		"planted":         {"func f(p plant.Set, m map[int]int) {\nif p.Has(plant.ApplyRangesOverMap) {\nfor k := range m { //order: planted\nsink(k) } } }", ""},
	}
	load := newLoader(t, "hash/maphash", "maps", "math/rand", "math/rand/v2", "slices", "time", "./core/plant")
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			file := load.parseSource(t, name+".go", []byte(fixtureImports+test.source))
			wantImpurity(t, load.check(t, "p", []*ast.File{file}), test.want)
		})
	}
}

// wantImpurity asks that one of the problems says want, or that there is none.
func wantImpurity(t *testing.T, problems []string, want string) {
	t.Helper()
	if want == "" && len(problems) > 0 {
		t.Errorf("reported without cause: %q", problems)
	}
	if !slices.ContainsFunc(problems, func(p string) bool { return strings.Contains(p, want) }) && want != "" {
		t.Errorf("reported %q, want a problem that says %q", problems, want)
	}
}
