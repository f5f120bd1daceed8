package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/omnirelay/leadership/adapters/terminal"
)

// format is how answers are printed. It is a flag; its zero value is a table.
type format string

const (
	formatTable format = "table"
	formatWide  format = "wide"
	formatJSON  format = "json"
	formatYAML  format = "yaml"
)

// Set is of the interface of flags.
func (f *format) Set(text string) error {
	switch format(text) {
	case formatTable, formatWide, formatJSON, formatYAML:
		*f = format(text)
		return nil
	}
	return fmt.Errorf("%q: want table, wide, json or yaml", text)
}

func (f format) String() string {
	if f == "" {
		return string(formatTable)
	}
	return string(f)
}

// Type is of the interface of flags.
func (f format) Type() string { return "format" }

// data reports whether programs read the output.
func (f format) data() bool { return f == formatJSON || f == formatYAML }

// errOutput is an output that takes no more: a pipe whose reader left.
var errOutput = errors.New("cannot write")

// printData prints an answer of a node for programs: as it came, or as YAML.
func (a *asker) printData(raw []byte) error {
	text := append(bytes.TrimRight(raw, "\n"), '\n')
	if a.format == formatYAML {
		var err error
		if text, err = yamlOf(raw); err != nil {
			return err
		}
	}
	if _, err := a.out.Write(text); err != nil {
		return fmt.Errorf("%w: %w", errOutput, err)
	}
	return nil
}

// print prints an answer in the form that was asked for.
func (a *asker) print(raw []byte, table func(wide bool) *terminal.Table) error {
	if a.format.data() {
		return a.printData(raw)
	}
	return table(a.format == formatWide).Write(a.out, a.colours)
}

// yamlOf writes JSON as YAML, in the order that it has.
func yamlOf(raw []byte) ([]byte, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	node, err := yamlNode(d)
	if err != nil {
		return nil, fmt.Errorf("the node's answer is no JSON: %w", err)
	}
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := errors.Join(e.Encode(node), e.Close()); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// ambiguous are texts that YAML 1.1, which many still read, takes for something else.
var ambiguous = regexp.MustCompile(`^(?i:=|<<|y|n|yes|no|on|off|[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?)$`)

// yamlNode reads one JSON value.
func yamlNode(d *json.Decoder) (*yaml.Node, error) {
	token, err := d.Token()
	if err != nil {
		return nil, err
	}
	scalar := func(tag, text string) (*yaml.Node, error) {
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: text}, nil
	}
	switch value := token.(type) {
	case json.Delim:
		return yamlChildren(d, value)
	case string:
		node, err := scalar("!!str", value)
		if ambiguous.MatchString(value) {
			node.Style = yaml.DoubleQuotedStyle
		}
		return node, err
	case json.Number:
		if _, err := value.Int64(); err != nil {
			return scalar("!!float", value.String())
		}
		return scalar("!!int", value.String())
	case bool:
		return scalar("!!bool", fmt.Sprint(value))
	}
	return scalar("!!null", "null")
}

func yamlChildren(d *json.Decoder, open json.Delim) (*yaml.Node, error) {
	node := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
	if open == '{' {
		node = &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	}
	for d.More() {
		child, err := yamlNode(d) // of an object, the names come as strings
		if err != nil {
			return nil, err
		}
		node.Content = append(node.Content, child)
	}
	if len(node.Content) == 0 {
		node.Style = yaml.FlowStyle
	}
	_, err := d.Token() // the end
	return node, err
}

func newTable(heads ...string) *terminal.Table { return terminal.NewTable(heads...) }

// note writes a line for people, beside the output.
func note(notes io.Writer, format string, args ...any) {
	fmt.Fprintln(notes, terminal.Clean(fmt.Sprintf(format, args...)))
}

// ago says how long ago that was, in words.
func ago(t, now time.Time) string {
	d := now.Sub(t)
	switch {
	case t.IsZero():
		return "never"
	case d < time.Second:
		return "now"
	case d < time.Minute:
		return fmt.Sprintf("%ds ago", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh ago", int(d.Hours()))
	}
	return fmt.Sprintf("%dd ago", int(d.Hours())/24)
}
