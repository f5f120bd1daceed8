// Grpcdoc makes docs/grpc.md: every service, method and message of the public schemas,
// with what their comments say.
//
// usage: grpcdoc IMAGE, with the schemas as buf builds them; writes to standard output
package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
)

// pkg is the package of the public schemas.
const pkg = "omnirelay.mesh.control.v1"

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: grpcdoc IMAGE")
		os.Exit(64)
	}
	if err := write(os.Stdout, os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "grpcdoc:", err)
		os.Exit(1)
	}
}

func write(w io.Writer, image string) error {
	files, err := public(image)
	if err != nil {
		return fmt.Errorf("%s: %w", image, err)
	}
	d := &page{}
	d.line("# The gRPC API\n\nMade from `wire/controlpb/*.proto` by `make generate`. Package `%s`; JSON for the same calls: `docs/openapi.json`; what codes mean: `docs/api.md`.", pkg)
	for _, f := range files {
		each(f.Services(), d.service)
	}
	d.line("\n## Messages")
	for _, f := range files {
		each(f.Messages(), d.message)
		each(f.Enums(), d.enum)
	}
	_, err = io.WriteString(w, d.String())
	return err
}

// public are the files of the package, by name.
func public(image string) ([]protoreflect.FileDescriptor, error) {
	data, err := os.ReadFile(image)
	if err != nil {
		return nil, err
	}
	set := &descriptorpb.FileDescriptorSet{}
	if err := proto.Unmarshal(data, set); err != nil {
		return nil, err
	}
	all, err := protodesc.NewFiles(set)
	if err != nil {
		return nil, err
	}
	var files []protoreflect.FileDescriptor
	all.RangeFilesByPackage(pkg, func(f protoreflect.FileDescriptor) bool {
		files = append(files, f)
		return true
	})
	slices.SortFunc(files, func(a, b protoreflect.FileDescriptor) int { return strings.Compare(a.Path(), b.Path()) })
	return files, nil
}

// list is what descriptors come in.
type list[D any] interface {
	Len() int
	Get(i int) D
}

func each[D any](all list[D], f func(D)) {
	for i := range all.Len() {
		f(all.Get(i))
	}
}

// page is the text being written.
type page struct{ strings.Builder }

func (d *page) line(format string, args ...any) { fmt.Fprintf(d, format+"\n", args...) }

func (d *page) service(s protoreflect.ServiceDescriptor) {
	d.line("\n## %s\n\n%s\n", s.Name(), comment(s))
	d.line("| method | request | response | what it does |\n|---|---|---|---|")
	each(s.Methods(), func(m protoreflect.MethodDescriptor) {
		d.line("| `%s` | %s | %s | %s |", m.Name(), flow(m.IsStreamingClient(), m.Input()), flow(m.IsStreamingServer(), m.Output()), cell(m))
	})
}

func flow(streaming bool, m protoreflect.MessageDescriptor) string {
	if streaming {
		return "stream of " + link(m)
	}
	return link(m)
}

func (d *page) message(m protoreflect.MessageDescriptor) {
	if m.IsMapEntry() {
		return
	}
	d.line("\n### %s", m.Name())
	if text := comment(m); text != "" {
		d.line("\n%s", text)
	}
	if m.Fields().Len() == 0 {
		return
	}
	d.line("\n| field | number | type | meaning |\n|---|---|---|---|")
	each(m.Fields(), func(f protoreflect.FieldDescriptor) {
		d.line("| `%s` | %d | %s | %s |", f.Name(), f.Number(), kind(f), cell(f))
	})
}

func kind(f protoreflect.FieldDescriptor) string {
	switch {
	case f.IsMap():
		return fmt.Sprintf("map of %s to %s", f.MapKey().Kind(), scalar(f.MapValue()))
	case f.IsList():
		return "list of " + scalar(f)
	case f.HasOptionalKeyword():
		return "optional " + scalar(f)
	case f.ContainingOneof() != nil:
		return scalar(f) + ", one of `" + string(f.ContainingOneof().Name()) + "`"
	}
	return scalar(f)
}

func scalar(f protoreflect.FieldDescriptor) string {
	switch {
	case f.Message() != nil:
		return link(f.Message())
	case f.Enum() != nil:
		return link(f.Enum())
	}
	return f.Kind().String()
}

func link(t protoreflect.Descriptor) string {
	if t.ParentFile().Package() != pkg {
		return "`" + string(t.FullName()) + "`"
	}
	return fmt.Sprintf("[%s](#%s)", t.Name(), strings.ToLower(string(t.Name())))
}

func (d *page) enum(e protoreflect.EnumDescriptor) {
	d.line("\n### %s", e.Name())
	if text := comment(e); text != "" {
		d.line("\n%s", text)
	}
	d.line("\n| value | number | meaning |\n|---|---|---|")
	each(e.Values(), func(v protoreflect.EnumValueDescriptor) { d.line("| `%s` | %d | %s |", v.Name(), v.Number(), cell(v)) })
}

func comment(of protoreflect.Descriptor) string {
	text := of.ParentFile().SourceLocations().ByDescriptor(of).LeadingComments
	var lines []string
	for line := range strings.Lines(text) {
		lines = append(lines, strings.TrimSpace(line))
	}
	return strings.TrimSpace(strings.Join(lines, "\n"))
}

// cell is a comment within one row of a table.
func cell(of protoreflect.Descriptor) string {
	return strings.ReplaceAll(strings.Join(strings.Fields(comment(of)), " "), "|", `\|`)
}
