// Openapi makes docs/openapi.json: what buf generated from each schema, joined, brought
// in line with the JSON that adapters/control really speaks, and joined with what is
// served beside the operations, which handwritten.json describes.
//
// usage: openapi IMAGE DIR, with the schemas as buf builds them and DIR/*.openapi.json as
// it generates them; writes to standard output
package main

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
)

// object is a JSON object; its keys are written in their order.
type object = map[string]any

//go:embed handwritten.json
var handwritten []byte

// pkg is what the names of schemas begin with, and what no reader needs.
const pkg = "omnirelay.mesh.control.v1."

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: openapi IMAGE DIR")
		os.Exit(64)
	}
	text, err := describe(os.Args[1], os.Args[2])
	if err != nil {
		fmt.Fprintln(os.Stderr, "openapi:", err)
		os.Exit(1)
	}
	_, _ = os.Stdout.Write(text)
}

// document is what is being written, and the schemas it is about.
type document struct {
	whole   object
	schemas *protoregistry.Files
}

func describe(image, dir string) ([]byte, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.openapi.json"))
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%s: no *.openapi.json; buf generate makes them", dir)
	}
	d := document{whole: object{}}
	if d.schemas, err = load(image); err != nil {
		return nil, fmt.Errorf("%s: %w", image, err)
	}
	if err := json.Unmarshal(handwritten, &d.whole); err != nil {
		return nil, fmt.Errorf("handwritten.json: %w", err)
	}
	for _, file := range files {
		if err := d.join(file); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
	}
	out, err := json.MarshalIndent(d.whole, "", "  ")
	return append(out, '\n'), err
}

func load(image string) (*protoregistry.Files, error) {
	data, err := os.ReadFile(image)
	if err != nil {
		return nil, err
	}
	set := &descriptorpb.FileDescriptorSet{}
	if err := proto.Unmarshal(data, set); err != nil {
		return nil, err
	}
	return protodesc.NewFiles(set)
}

// join adds the operations and messages of one generated document.
func (d document) join(file string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	part := object{}
	if err := json.Unmarshal([]byte(strings.ReplaceAll(string(data), "schemas/"+pkg, "schemas/")), &part); err != nil {
		return err
	}
	for path, item := range part["paths"].(object) {
		for method, operation := range item.(object) {
			if err := d.place(path, method, operation.(object)); err != nil {
				return fmt.Errorf("%s %s: %w", method, path, err)
			}
		}
	}
	schemas := d.whole["components"].(object)["schemas"].(object)
	for name, schema := range part["components"].(object)["schemas"].(object) {
		if name == "google.rpc.Status" {
			continue // problem documents are what errors look like here
		}
		if err := d.message(schema.(object), protoreflect.FullName(name)); err != nil {
			return err
		}
		schemas[strings.TrimPrefix(name, pkg)] = schema
	}
	d.whole["tags"] = append(d.whole["tags"].([]any), part["tags"].([]any)...)
	return nil
}

// place adds one operation.
func (d document) place(path, method string, operation object) error {
	name := strings.Replace(operation["operationId"].(string), "_", ".", 1)
	found, err := d.schemas.FindDescriptorByName(protoreflect.FullName(pkg + name))
	if err != nil {
		return err
	}
	input := found.(protoreflect.MethodDescriptor).Input()
	operation["operationId"] = string(found.Name())
	operation["responses"].(object)["default"] = object{"$ref": "#/components/responses/Refused"}
	parameters, _ := operation["parameters"].([]any)
	for _, p := range parameters {
		p := p.(object)
		field := fieldOf(input, p["name"].(string))
		path = strings.ReplaceAll(path, "{"+string(field.Name())+"}", "{"+field.JSONName()+"}")
		p["name"] = field.JSONName()
		exact(p["schema"].(object), field)
	}
	if body, ok := operation["requestBody"].(object); ok {
		delete(body, "required") // nothing is as good as {}
		schema := body["content"].(object)["application/json"].(object)["schema"].(object)
		if err := d.message(schema, input.FullName()); err != nil {
			return err
		}
		schema["additionalProperties"] = false
		parameters = append(parameters, headers(input)...)
	}
	if parameters != nil {
		operation["parameters"] = parameters
	}
	paths := d.whole["paths"].(object)
	if paths[path] == nil {
		paths[path] = object{}
	}
	paths[path].(object)[method] = operation
	return nil
}

// headers are those that stand for fields of the input.
func headers(input protoreflect.MessageDescriptor) (all []any) {
	if input.Fields().ByName("request_id") != nil {
		all = append(all, object{"$ref": "#/components/parameters/IdempotencyKey"})
	}
	if input.Fields().ByName("correlation_id") != nil {
		all = append(all, object{"$ref": "#/components/parameters/CorrelationID"})
	}
	return all
}

// message makes the schema of a message, or of a body without the fields of the path,
// say what is written and read of it.
func (d document) message(schema object, name protoreflect.FullName) error {
	found, err := d.schemas.FindDescriptorByName(name)
	if err != nil {
		return err
	}
	descriptor, ok := found.(protoreflect.MessageDescriptor)
	if !ok {
		return nil // an enum
	}
	properties, _ := schema["properties"].(object)
	var always []string // in every answer: what is not absent at times
	for _, key := range slices.Sorted(maps.Keys(properties)) {
		field := fieldOf(descriptor, key)
		exact(properties[key].(object), field)
		if !field.HasPresence() {
			always = append(always, key)
		}
	}
	if strings.HasSuffix(string(name), "Response") && always != nil {
		schema["required"] = always
	}
	return nil
}

func fieldOf(m protoreflect.MessageDescriptor, name string) protoreflect.FieldDescriptor {
	if field := m.Fields().ByJSONName(name); field != nil {
		return field
	}
	return m.Fields().ByTextName(name)
}

// exact corrects what Proto JSON writes otherwise than adapters/control does.
func exact(schema object, field protoreflect.FieldDescriptor) {
	if field.IsList() {
		if items, ok := schema["items"].(object); ok {
			schema = items
		}
	}
	switch field.Kind() {
	case protoreflect.Uint64Kind, protoreflect.Uint32Kind:
		schema["type"], schema["format"], schema["minimum"] = "integer", field.Kind().String(), 0
	case protoreflect.Int64Kind:
		schema["type"], schema["format"] = "integer", "int64"
	case protoreflect.MessageKind:
		if field.Message().FullName() == "google.protobuf.Duration" {
			schema["type"], schema["pattern"] = "string", `^-?[0-9]+(\.[0-9]{1,9})?s$`
			schema["examples"] = []string{"2s", "0.5s"}
		}
	}
}
