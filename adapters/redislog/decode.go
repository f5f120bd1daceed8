package redislog

import (
	"fmt"
	"strconv"

	"google.golang.org/protobuf/proto"
)

// decoder reads what a server said. The first thing that makes no sense is kept as
// an unfitError that names the place; what is read after it means nothing.
type decoder struct {
	place string
	err   error
	outer *decoder
}

// in returns a decoder for a part of the same reply.
func (d *decoder) in(place string) *decoder { return &decoder{place: place, outer: d} }

func (d *decoder) fail(format string, args ...any) {
	err := unfitError(fmt.Sprintf("%s: found %s: it was damaged, or another program wrote it", d.place, fmt.Sprintf(format, args...)))
	for ; d != nil; d = d.outer {
		if d.err == nil {
			d.err = err
		}
	}
}

// at is the text at place i of a list.
func (d *decoder) at(list []any, i int) string {
	if i < len(list) {
		if text, ok := list[i].(string); ok {
			return text
		}
	}
	d.fail("no text at place %d", i)
	return ""
}

// list is the list at place i of a list.
func (d *decoder) list(list []any, i int) []any {
	if i < len(list) {
		if inner, ok := list[i].([]any); ok {
			return inner
		}
	}
	d.fail("no list at place %d", i)
	return nil
}

func (d *decoder) number(text string) uint64 {
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		d.fail("%.40q where a number is right", text)
	}
	return n
}

func (d *decoder) message(text string, m proto.Message) {
	if err := proto.Unmarshal([]byte(text), m); err != nil {
		d.fail("a value that cannot be decoded (%v)", err)
	}
}
