package control

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/omnirelay/leadership/core"
)

// decode reads data into m as Proto JSON, with three differences that a caller is helped
// by: what is wrong is named by its place, like stands[2].selector; a field that does not
// exist is an error, as it is a misspelt one; a whole number is written in digits. It goes
// no deeper than the schema does, and keeps nothing of data.
func decode(data []byte, m proto.Message) error {
	if len(bytes.TrimSpace(data)) == 0 {
		return nil // as {}
	}
	if !utf8.Valid(data) {
		return wrong("body", "it is not UTF-8")
	}
	d := &decoder{json.NewDecoder(bytes.NewReader(data))}
	d.json.UseNumber()
	t, err := d.next("body")
	if err != nil {
		return err
	}
	if t != json.Delim('{') {
		return wrong("body", "it is %s; want an object", describe(t))
	}
	if err := d.message(m.ProtoReflect(), ""); err != nil {
		return err
	}
	if _, err := d.json.Token(); !errors.Is(err, io.EOF) {
		return wrong("body", "something follows the object; send one object and nothing else")
	}
	return nil
}

func wrong(field, format string, args ...any) *core.Error {
	return &core.Error{Code: core.CodeInvalid, Field: field, Message: fmt.Sprintf(format, args...)}
}

type decoder struct{ json *json.Decoder }

// next reads a token; place is what a broken text is blamed on.
func (d *decoder) next(place string) (json.Token, error) {
	t, err := d.json.Token()
	if err != nil {
		return nil, wrong(place, "it is no JSON: %v at byte %d", err, d.json.InputOffset())
	}
	return t, nil
}

// message reads the fields of an object whose brace was read.
func (d *decoder) message(m protoreflect.Message, place string) error {
	fields := m.Descriptor().Fields()
	seen := map[protoreflect.FieldNumber]bool{}
	for d.json.More() {
		name, err := d.next(placeOrBody(place))
		if err != nil {
			return err
		}
		at := join(place, name.(string))
		field := fields.ByJSONName(name.(string))
		if field == nil {
			field = fields.ByTextName(name.(string)) // as in the schema; Proto JSON takes it too
		}
		if field == nil {
			return wrong(at, "unknown field; known here: %s", strings.Join(names(fields), ", "))
		}
		if seen[field.Number()] {
			return wrong(at, "it is written twice")
		}
		seen[field.Number()] = true
		if err := d.field(m, field, at); err != nil {
			return err
		}
	}
	_, err := d.next(placeOrBody(place)) // the brace
	return err
}

func placeOrBody(place string) string {
	if place == "" {
		return "body"
	}
	return place
}

// join names a field within place, cut where a caller wrote more than is told back.
func join(place, name string) string {
	if place == "" {
		return placeOrBody(clip(name))
	}
	return place + "." + clip(name)
}

func names(fields protoreflect.FieldDescriptors) []string {
	out := make([]string, fields.Len())
	for i := range out {
		out[i] = fields.Get(i).JSONName()
	}
	return out
}

func (d *decoder) field(m protoreflect.Message, field protoreflect.FieldDescriptor, at string) error {
	t, err := d.next(at)
	switch {
	case err != nil:
		return err
	case t == nil:
		return nil // null: as if it were not there
	case field.IsMap():
		return d.texts(m.Mutable(field).Map(), t, at)
	case field.IsList():
		return d.list(m.Mutable(field).List(), field, t, at)
	}
	v, err := d.value(field, t, m.NewField(field), at)
	if err == nil {
		m.Set(field, v)
	}
	return err
}

func (d *decoder) list(list protoreflect.List, field protoreflect.FieldDescriptor, t json.Token, at string) error {
	if t != json.Delim('[') {
		return wrong(at, "it is %s; want a list", describe(t))
	}
	for d.json.More() {
		place := fmt.Sprintf("%s[%d]", at, list.Len())
		t, err := d.next(place)
		if err != nil {
			return err
		}
		v, err := d.value(field, t, list.NewElement(), place)
		if err != nil {
			return err
		}
		list.Append(v)
	}
	_, err := d.next(at)
	return err
}

// texts reads a map of texts, which is the only kind of map there is.
func (d *decoder) texts(m protoreflect.Map, t json.Token, at string) error {
	if t != json.Delim('{') {
		return wrong(at, "it is %s; want an object", describe(t))
	}
	for d.json.More() {
		name, err := d.next(at)
		if err != nil {
			return err
		}
		place := join(at, name.(string))
		t, err := d.next(place)
		if err != nil {
			return err
		}
		key := protoreflect.ValueOfString(name.(string)).MapKey()
		text, ok := t.(string)
		switch {
		case !ok:
			return wrong(place, "it is %s; want a text", describe(t))
		case m.Has(key):
			return wrong(place, "it is written twice")
		}
		m.Set(key, protoreflect.ValueOfString(text))
	}
	_, err := d.next(at)
	return err
}

// value converts t; of an object it reads the rest into empty, a new value of field's type.
func (d *decoder) value(field protoreflect.FieldDescriptor, t json.Token, empty protoreflect.Value, at string) (protoreflect.Value, error) {
	if field.Kind() != protoreflect.MessageKind {
		return scalar(field, t, at)
	}
	switch field.Message().FullName() {
	case "google.protobuf.Duration":
		return empty, known(empty, t, at, `seconds, like "2s" or "0.5s"`)
	case "google.protobuf.Timestamp":
		return empty, known(empty, t, at, `a time, like "2026-01-02T15:04:05Z"`)
	}
	if t != json.Delim('{') {
		return empty, wrong(at, "it is %s; want an object", describe(t))
	}
	return empty, d.message(empty.Message(), at)
}

// known reads a type that has a form of its own in Proto JSON.
func known(empty protoreflect.Value, t json.Token, at, want string) error {
	text, ok := t.(string)
	if !ok || protojson.Unmarshal(appendString(nil, text), empty.Message().Interface()) != nil {
		return wrong(at, "it is %s; want %s", describe(t), want)
	}
	return nil
}

func scalar(field protoreflect.FieldDescriptor, t json.Token, at string) (v protoreflect.Value, err error) {
	switch field.Kind() {
	case protoreflect.StringKind:
		if text, ok := t.(string); ok {
			return protoreflect.ValueOfString(text), nil
		}
		return v, wrong(at, "it is %s; want a text", describe(t))
	case protoreflect.BoolKind:
		if is, ok := t.(bool); ok {
			return protoreflect.ValueOfBool(is), nil
		}
		return v, wrong(at, "it is %s; want true or false", describe(t))
	case protoreflect.EnumKind:
		return enum(field.Enum(), t, at)
	}
	return number(field.Kind(), t, at)
}

// number takes digits, or a text of digits: some languages cannot write a whole number
// above 2^53 without breaking it.
func number(kind protoreflect.Kind, t json.Token, at string) (v protoreflect.Value, err error) {
	digits := fmt.Sprint(t)
	switch t.(type) {
	case json.Number, string:
	default:
		digits = "" // of no kind
	}
	switch kind {
	case protoreflect.Uint64Kind:
		n, err := strconv.ParseUint(digits, 10, 64)
		return protoreflect.ValueOfUint64(n), bounds(err, t, at, 0, math.MaxUint64)
	case protoreflect.Uint32Kind:
		n, err := strconv.ParseUint(digits, 10, 32)
		return protoreflect.ValueOfUint32(uint32(n)), bounds(err, t, at, 0, math.MaxUint32)
	case protoreflect.Int64Kind:
		n, err := strconv.ParseInt(digits, 10, 64)
		return protoreflect.ValueOfInt64(n), bounds(err, t, at, math.MinInt64, math.MaxInt64)
	case protoreflect.Int32Kind:
		n, err := strconv.ParseInt(digits, 10, 32)
		return protoreflect.ValueOfInt32(int32(n)), bounds(err, t, at, math.MinInt32, math.MaxInt32)
	}
	panic("control: a " + kind.String() + " has no form in JSON here")
}

func bounds(err error, t json.Token, at string, low int64, high uint64) error {
	if err == nil {
		return nil
	}
	return wrong(at, "it is %s; want a whole number from %d to %d", describe(t), low, high)
}

func enum(e protoreflect.EnumDescriptor, t json.Token, at string) (protoreflect.Value, error) {
	var all []string
	for i := range e.Values().Len() {
		value := e.Values().Get(i)
		number := json.Number(strconv.Itoa(int(value.Number())))
		if t == string(value.Name()) || t == number {
			return protoreflect.ValueOfEnum(value.Number()), nil
		}
		all = append(all, string(value.Name()))
	}
	return protoreflect.Value{}, wrong(at, "it is %s; want %s", describe(t), strings.Join(slices.Compact(all), " or "))
}

// describe says what a token is, in a caller's words.
func describe(t json.Token) string {
	switch v := t.(type) {
	case nil:
		return "null"
	case string:
		return strconv.Quote(clip(v))
	case json.Number:
		return clip(v.String())
	case bool:
		return strconv.FormatBool(v)
	case json.Delim:
		return map[json.Delim]string{'{': "an object", '[': "a list"}[v]
	}
	return fmt.Sprintf("%v", t)
}
