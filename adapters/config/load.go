package config

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/knadh/koanf/v2"
)

// rootKey is where our settings stand in the file.
const rootKey = "mesh.leadership"

// file is the shape of a whole configuration file.
type file struct {
	Mesh mesh `koanf:"mesh"`
}

type mesh struct {
	Leadership Config `koanf:"leadership"`
	Gossip     Gossip `koanf:"gossip"`
}

// layer is a koanf provider of values that were read already.
type layer map[string]any

func (l layer) Read() (map[string]any, error) { return l, nil }

func (l layer) ReadBytes() ([]byte, error) { return nil, fmt.Errorf("a layer has no bytes") }

// Load reads the file at path, lets environ (NAME=value each) override it, and
// validates the whole. The error is Problems unless the file cannot be read.
func Load(path string, environ []string) (*Config, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the configuration: %w", err)
	}
	c, problems := parse(path, data, environ)
	if len(problems) > 0 {
		return nil, problems
	}
	c.anchorPaths(filepath.Dir(path))
	return c, nil
}

// readFile reads one byte more than allowed, so that parse sees the excess.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, MaxFile+1))
}

// parse does all of Load that needs no disk.
func parse(path string, data []byte, environ []string) (*Config, Problems) {
	values, doc := readDocument(data, reflect.TypeFor[file]())
	env := readEnvironment(environ, reflect.TypeFor[mesh]())
	problems := append(doc.problems, env.problems...)

	f := file{mesh{Default(), defaultGossip()}}
	c := &f.Mesh.Leadership
	if values == nil {
		return c, located(problems, path, doc, env)
	}
	problems = append(problems, merge(&f, values, env.values)...)
	written := func(root string) func(key string) bool {
		return func(key string) bool {
			_, inFile := doc.lines[root+"."+key]
			return inFile || env.variable(root+"."+key) != ""
		}
	}
	c.derive(written(rootKey))
	_, inFile := doc.lines[gossipKey]
	_, inEnv := env.variableBelow(gossipKey)
	c.Gossip = f.Mesh.Gossip
	c.Gossip.derive(c, inFile || inEnv, written(gossipKey))
	problems = append(problems, c.strayBlocks(doc, env)...)
	for _, p := range c.problems() {
		if !problems.concern(p.Key) {
			problems = append(problems, p)
		}
	}
	return c, located(problems, path, doc, env)
}

// concern reports whether a problem with the setting itself is known: what else
// is wrong with it would only repeat that.
func (ps Problems) concern(key string) bool {
	return slices.ContainsFunc(ps, func(p Problem) bool {
		return p.Key != "" && (strings.HasPrefix(p.Key, key) || strings.HasPrefix(key, p.Key+"[") || strings.HasPrefix(key, p.Key+"."))
	})
}

// located says of each problem where it was written.
func located(problems Problems, path string, doc *document, env *environment) Problems {
	for i := range problems {
		p := &problems[i]
		if p.Env == "" {
			p.Env = env.variable(p.Key)
		}
		if p.Env == "" {
			p.File = path
			if p.Line == 0 {
				p.Line = doc.line(p.Key)
			}
		}
	}
	return problems.sorted()
}

// merge lays the environment over the file and decodes both into f.
func merge(f *file, values, overrides map[string]any) Problems {
	layers := koanf.New(".")
	for _, l := range []layer{values, {"mesh": overrides}} {
		if err := layers.Load(l, nil); err != nil {
			return Problems{{What: err.Error()}}
		}
	}
	return decode(layers, f)
}

// anchorPaths lets relative paths start at the folder of the file.
func (c *Config) anchorPaths(folder string) {
	c.Gossip.anchor(folder)
	paths := append(c.Registry.paths(), &c.DataDir, &c.TLS.Cert, &c.TLS.Key, &c.TLS.CA)
	for _, p := range append(paths, c.accessPaths()...) {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(folder, *p)
		}
	}
}
