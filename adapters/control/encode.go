package control

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// encode writes m as this API shows messages: fields in the order of their numbers, in
// camelCase, none left out but messages and optional fields that are absent; 64-bit
// integers as numbers, where Proto JSON has strings; times as RFC 3339, durations as
// seconds. So the answers are the same as before they were described by a schema.
func encode(m proto.Message) []byte { return appendMessage(nil, m.ProtoReflect()) }

func appendMessage(b []byte, m protoreflect.Message) []byte {
	switch known := m.Interface().(type) {
	case *timestamppb.Timestamp:
		return appendString(b, known.AsTime().Format(time.RFC3339Nano))
	case *durationpb.Duration:
		return appendString(b, seconds(known))
	}
	b = append(b, '{')
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		if field.HasPresence() && !m.Has(field) {
			continue
		}
		if b[len(b)-1] != '{' {
			b = append(b, ',')
		}
		b = append(appendString(b, field.JSONName()), ':')
		b = appendField(b, field, m.Get(field))
	}
	return append(b, '}')
}

func appendField(b []byte, field protoreflect.FieldDescriptor, v protoreflect.Value) []byte {
	switch {
	case field.IsMap():
		return appendMap(b, v.Map())
	case field.IsList():
		b = append(b, '[')
		for i := range v.List().Len() {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendValue(b, field, v.List().Get(i))
		}
		return append(b, ']')
	}
	return appendValue(b, field, v)
}

// appendMap writes a map of texts, which is the only kind there is, in the order of its keys.
func appendMap(b []byte, m protoreflect.Map) []byte {
	texts := make(map[string]string, m.Len())
	m.Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
		texts[k.String()] = v.String()
		return true
	})
	return appendJSON(b, texts)
}

func appendValue(b []byte, field protoreflect.FieldDescriptor, v protoreflect.Value) []byte {
	switch field.Kind() {
	case protoreflect.MessageKind:
		return appendMessage(b, v.Message())
	case protoreflect.StringKind:
		return appendString(b, v.String())
	case protoreflect.BoolKind:
		return strconv.AppendBool(b, v.Bool())
	case protoreflect.Uint32Kind, protoreflect.Uint64Kind:
		return strconv.AppendUint(b, v.Uint(), 10)
	case protoreflect.Int32Kind, protoreflect.Int64Kind:
		return strconv.AppendInt(b, v.Int(), 10)
	case protoreflect.EnumKind:
		if value := field.Enum().Values().ByNumber(v.Enum()); value != nil {
			return appendString(b, string(value.Name()))
		}
		return strconv.AppendInt(b, int64(v.Enum()), 10) // of a later version
	}
	panic(fmt.Sprintf("control: %s is a %s, which has no form in JSON here", field.FullName(), field.Kind()))
}

func appendString(b []byte, s string) []byte { return appendJSON(b, s) }

func appendJSON(b []byte, v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err) // texts always encode
	}
	return append(b, data...)
}

// seconds writes d as Proto JSON does, without zeros at the end: 1.8s.
func seconds(d *durationpb.Duration) string {
	sign, whole, nanos := "", d.GetSeconds(), d.GetNanos()
	if whole < 0 || nanos < 0 {
		sign, whole, nanos = "-", -whole, -nanos
	}
	text := fmt.Sprintf("%s%d", sign, whole)
	if nanos != 0 {
		text += strings.TrimRight(fmt.Sprintf(".%09d", nanos), "0")
	}
	return text + "s"
}
