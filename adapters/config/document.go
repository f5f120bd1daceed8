package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// MaxFile is the most bytes a configuration file may have.
const MaxFile = 1 << 20

// document turns YAML nodes into nested maps, guided by the type they are for,
// and remembers where each key was written.
type document struct {
	lines    map[string]int
	problems Problems
}

// readDocument reads a whole file of type t.
func readDocument(data []byte, t reflect.Type) (map[string]any, *document) {
	d := &document{lines: map[string]int{}}
	if len(data) > MaxFile {
		d.problem(1, "", fmt.Sprintf("the file has %d bytes", len(data)), fmt.Sprintf("at most %d are read", MaxFile))
		return nil, d
	}
	root, ok := d.parse(data)
	if !ok {
		return nil, d
	}
	values, isMapping := d.value(root, t, "").(map[string]any)
	if !isMapping && len(d.problems) == 0 {
		d.problem(root.Line, "", "the file is plain text, no settings", "start with mesh: and leadership: below it")
	}
	return values, d
}

// parse returns the root node of the only document in data.
func (d *document) parse(data []byte) (*yaml.Node, bool) {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var first, second yaml.Node
	switch err := dec.Decode(&first); {
	case errors.Is(err, io.EOF):
		d.problem(1, "", "there are no settings", "start with mesh: and leadership: below it")
		return nil, false
	case err != nil:
		d.syntax(err)
		return nil, false
	}
	if err := dec.Decode(&second); !errors.Is(err, io.EOF) {
		d.problem(max(second.Line, first.Line), "", "a second document or trailing text follows", "keep one YAML document in the file")
		return nil, false
	}
	return first.Content[0], true
}

// syntax reports what the YAML parser said, "yaml: line N: ...".
func (d *document) syntax(err error) {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	line := 1
	if rest, ok := strings.CutPrefix(text, "line "); ok {
		number, message, _ := strings.Cut(rest, ": ")
		if n, err := strconv.Atoi(number); err == nil {
			line, text = n, message
		}
	}
	d.problem(line, "", "not YAML: "+clip(text), "mind the indentation and quote special characters")
}

func (d *document) problem(line int, key, what, want string) {
	d.problems = append(d.problems, Problem{Line: line, Key: key, What: what, Want: want})
}

// value returns what n holds: text, a list or a map. nil: nothing usable.
func (d *document) value(n *yaml.Node, t reflect.Type, path string) any {
	d.lines[path] = n.Line
	switch {
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		d.problem(n.Line, path, "anchors and aliases are not read", "write the value out")
	case n.Kind == yaml.ScalarNode:
		return d.scalar(n, path)
	case n.Kind == yaml.SequenceNode && t.Kind() == reflect.Slice:
		return d.list(n, t.Elem(), path)
	case n.Kind == yaml.MappingNode && t.Kind() == reflect.Struct:
		return d.settings(n, t, path)
	case n.Kind == yaml.MappingNode && t.Kind() == reflect.Map:
		return d.free(n, t.Elem(), path)
	default:
		d.problem(n.Line, path, "a "+shapeName(n)+" does not fit", "write "+describe(t))
	}
	return nil
}

func (d *document) scalar(n *yaml.Node, path string) any {
	switch n.ShortTag() {
	case "!!str", "!!int", "!!float", "!!bool", "!!timestamp":
		return n.Value
	case "!!null":
		d.problem(n.Line, path, "has no value", "write one, or leave the key out to get the default")
	default:
		d.problem(n.Line, path, fmt.Sprintf("the tag %s is not read", clip(n.Tag)), "write the plain value")
	}
	return nil
}

func (d *document) list(n *yaml.Node, elem reflect.Type, path string) any {
	list := make([]any, 0, len(n.Content))
	for i, item := range n.Content {
		if v := d.value(item, elem, fmt.Sprintf("%s[%d]", path, i)); v != nil {
			list = append(list, v)
		}
	}
	return list
}

// settings reads a mapping whose keys are those of the struct t.
func (d *document) settings(n *yaml.Node, t reflect.Type, path string) any {
	fields := fieldTypes(t)
	values := map[string]any{}
	d.pairs(n, path, ".", "", func(key string, keyNode, valueNode *yaml.Node, at string) {
		field, known := fields[key]
		if !known {
			d.problem(keyNode.Line, at, "unknown key", suggest(key, fields))
			return
		}
		if v := d.value(valueNode, field, at); v != nil {
			values[key] = v
		}
		d.lines[at] = keyNode.Line
	})
	return values
}

// free reads a mapping whose keys the user chooses.
func (d *document) free(n *yaml.Node, elem reflect.Type, path string) any {
	values := map[string]any{}
	d.pairs(n, path, "[", "]", func(key string, keyNode, valueNode *yaml.Node, at string) {
		if v := d.value(valueNode, elem, at); v != nil {
			values[key] = v
		}
	})
	return values
}

// pairs visits each key once; a repeated one is a problem, as is a key that is no text.
func (d *document) pairs(n *yaml.Node, path, before, after string, visit func(key string, keyNode, valueNode *yaml.Node, at string)) {
	firstLine := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if k.Kind != yaml.ScalarNode || k.ShortTag() == "!!null" || k.ShortTag() == "!!merge" {
			d.problem(k.Line, path, "a key is no plain text", "write key: value")
			continue
		}
		at := strings.TrimPrefix(path+before+k.Value+after, ".")
		if line, twice := firstLine[k.Value]; twice {
			d.problem(k.Line, at, fmt.Sprintf("written twice, first in line %d", line), "keep one of them")
			continue
		}
		firstLine[k.Value] = k.Line
		visit(k.Value, k, v, at)
	}
}

// line is where key was written, or the nearest key above it that was.
func (d *document) line(key string) int {
	for {
		if line, ok := d.lines[key]; ok {
			return line
		}
		cut := strings.LastIndexAny(key, ".[")
		if cut < 0 {
			return 1
		}
		key = key[:cut]
	}
}

// notWritten is the tag of a field that no key of the struct's mapping sets.
const notWritten = "-"

// fieldTypes are the keys of a struct of settings.
func fieldTypes(t reflect.Type) map[string]reflect.Type {
	fields := make(map[string]reflect.Type, t.NumField())
	for i := range t.NumField() {
		if tag := t.Field(i).Tag.Get("koanf"); tag != notWritten {
			fields[tag] = t.Field(i).Type
		}
	}
	return fields
}

func shapeName(n *yaml.Node) string {
	if n.Kind == yaml.SequenceNode {
		return "list"
	}
	return "mapping"
}

// describe says in words what a setting of type t takes.
func describe(t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[Scope]():
		return "a scope id, or a mapping with id and options"
	case t == reflect.TypeFor[GrantScope]():
		return `a scope id, "*", or a mapping with id, kind, namespace or labels`
	case t.Kind() == reflect.Slice:
		return "a list, each item " + describe(t.Elem())
	case t.Kind() == reflect.Map:
		return "a mapping of names to text"
	case t.Kind() == reflect.Struct:
		return "a mapping with keys like " + strings.Join(sortedFields(t), ", ")
	}
	return "one plain value"
}

func sortedFields(t reflect.Type) []string {
	return slices.Sorted(maps.Keys(fieldTypes(t)))
}
