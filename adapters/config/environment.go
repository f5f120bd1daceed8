package config

import (
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// EnvPrefix and GossipEnvPrefix start the name of every variable that overrides a
// setting, in any case: MESH_LEADERSHIP__TLS__CERT is mesh.leadership.tls.cert.
const (
	EnvPrefix       = "MESH_LEADERSHIP__"
	GossipEnvPrefix = "MESH_GOSSIP__"
)

// envRoot starts the name of a variable of ours; what follows leads on from mesh.
const envRoot = "MESH_"

// environment is the layer of settings that variables override.
type environment struct {
	values   map[string]any    // as under mesh
	names    map[string]string // key of a setting -> variable
	problems Problems
}

// readEnvironment takes what concerns us out of environ, NAME=value each. t is the type
// of what stands under mesh.
func readEnvironment(environ []string, t reflect.Type) *environment {
	e := &environment{values: map[string]any{}, names: map[string]string{}}
	for _, pair := range slices.Sorted(slices.Values(environ)) {
		name, value, _ := strings.Cut(pair, "=")
		for _, prefix := range []string{EnvPrefix, GossipEnvPrefix} {
			if len(name) >= len(prefix) && strings.EqualFold(name[:len(prefix)], prefix) {
				e.override(name, value, t)
			}
		}
	}
	return e
}

func (e *environment) problem(name, key, what, want string) {
	e.problems = append(e.problems, Problem{Env: name, Key: key, What: what, Want: want})
}

// override follows the name from setting to setting and writes the value there.
func (e *environment) override(name, value string, t reflect.Type) {
	into, key := e.values, "mesh"
	parts := strings.Split(name[len(envRoot):], "__")
	for i, part := range parts {
		fields := map[string]reflect.Type{}
		if t.Kind() == reflect.Struct {
			fields = fieldTypes(t)
		}
		field, ok := foldedField(fields, part)
		if !ok {
			e.problem(name, "", "overrides no setting", suggest(part, fields))
			return
		}
		key, t = key+"."+field, fields[field]
		if i == len(parts)-1 {
			e.set(into, field, key, name, value, t)
			return
		}
		deeper, ok := into[field].(map[string]any)
		if !ok {
			deeper = map[string]any{}
			into[field] = deeper
		}
		into = deeper
	}
}

func (e *environment) set(into map[string]any, field, key, name, value string, t reflect.Type) {
	if other, twice := e.names[key]; twice {
		e.problem(name, key, "overridden by "+other+" too", "keep one of them")
		return
	}
	e.names[key] = name
	if k := t.Kind(); k != reflect.Slice && k != reflect.Map && k != reflect.Struct {
		into[field] = value
		return
	}
	var node yaml.Node
	if len(value) > MaxFile || yaml.Unmarshal([]byte(value), &node) != nil || len(node.Content) == 0 {
		e.problem(name, key, "not YAML", "write "+describe(t)+" in one line, like [a, b] or {a: b}")
		return
	}
	doc := &document{lines: map[string]int{}}
	if v := doc.value(node.Content[0], t, key); v != nil {
		into[field] = v
	}
	for _, p := range doc.problems {
		e.problem(name, p.Key, p.What, p.Want)
	}
}

// foldedField finds a key whatever its case.
func foldedField(fields map[string]reflect.Type, part string) (string, bool) {
	for field := range fields {
		if strings.EqualFold(field, part) {
			return field, true
		}
	}
	return "", false
}

// variable is the override that set key or what lies above it. Empty: none did.
func (e *environment) variable(key string) string {
	for key != "" {
		if name, ok := e.names[key]; ok {
			return name
		}
		key = key[:max(0, strings.LastIndexAny(key, ".["))]
	}
	return ""
}

// variableBelow is an override of key or of a setting inside it, the first by name.
func (e *environment) variableBelow(key string) (name string, found bool) {
	for k, n := range e.names {
		if (k == key || strings.HasPrefix(k, key+".")) && (!found || n < name) {
			name, found = n, true
		}
	}
	return name, found
}
