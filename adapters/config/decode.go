package config

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/go-viper/mapstructure/v2"
	"github.com/knadh/koanf/v2"

	"github.com/omnirelay/leadership/core"
)

// wrong is a value that does not fit its setting.
type wrong struct{ what, want string }

func (w *wrong) Error() string { return w.what + "; " + w.want }

// decode writes the layers into out and returns what does not fit. Every scalar
// comes as the text that was written: the setting's own type reads it, so a file
// and the environment mean the same by it.
func decode(layers *koanf.Koanf, out any) Problems {
	err := layers.UnmarshalWithConf("", out, koanf.UnmarshalConf{DecoderConfig: &mapstructure.DecoderConfig{
		DecodeHook: mapstructure.DecodeHookFuncValue(readText),
		MatchName:  func(key, field string) bool { return key == field },
	}})
	return decodeProblems(err, "")
}

// decodeProblems flattens what the decoder joined.
func decodeProblems(err error, name string) Problems {
	var all Problems
	switch e := err.(type) {
	case nil:
	case *wrong:
		all = Problems{{Key: name, What: e.what, Want: e.want}}
	case *mapstructure.DecodeError:
		all = decodeProblems(e.Unwrap(), e.Name())
	case interface{ Unwrap() []error }:
		for _, one := range e.Unwrap() {
			all = append(all, decodeProblems(one, name)...)
		}
	default:
		if inner := errors.Unwrap(err); inner != nil {
			return decodeProblems(inner, name)
		}
		all = Problems{{Key: name, What: err.Error()}}
	}
	return all
}

// readText turns written text into the value of a setting.
func readText(from, to reflect.Value) (any, error) {
	if from.Kind() != reflect.String {
		return from.Interface(), nil
	}
	text := from.String()
	switch to.Interface().(type) {
	case time.Duration:
		return parseDuration(text)
	case Interval:
		return parseInterval(text)
	case core.Epsilon:
		return parseDrift(text)
	case Scope:
		return Scope{ID: text}, nil
	case GrantScope:
		id, err := parseCondition(text)
		if err != nil {
			return nil, err
		}
		return GrantScope{ID: id.(Condition)}, nil
	case Condition:
		return parseCondition(text)
	}
	switch to.Kind() {
	case reflect.String:
		return text, nil
	case reflect.Bool:
		return parseBool(text)
	case reflect.Int, reflect.Int32, reflect.Uint32, reflect.Uint64:
		return parseInteger(text, to.Type())
	}
	return nil, &wrong{fmt.Sprintf("%q does not fit", clip(text)), "write " + describe(to.Type())}
}

func parseBool(text string) (any, error) {
	switch strings.ToLower(text) {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return nil, &wrong{fmt.Sprintf("%q is neither true nor false", clip(text)), "write true or false"}
}

func parseInteger(text string, t reflect.Type) (any, error) {
	v := reflect.New(t).Elem()
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		if v.CanInt() && !v.OverflowInt(n) {
			v.SetInt(n)
			return v.Interface(), nil
		}
		if v.CanUint() && n >= 0 && !v.OverflowUint(uint64(n)) {
			v.SetUint(uint64(n))
			return v.Interface(), nil
		}
	}
	low, high := integerBounds(t)
	return nil, &wrong{fmt.Sprintf("%q is no whole number in range", clip(text)),
		fmt.Sprintf("write decimal digits for a number from %d to %d", low, high)}
}

func integerBounds(t reflect.Type) (low, high int64) {
	switch t.Kind() {
	case reflect.Int32:
		return math.MinInt32, math.MaxInt32
	case reflect.Uint32:
		return 0, math.MaxUint32
	case reflect.Uint64:
		return 0, math.MaxInt64
	}
	return math.MinInt64, math.MaxInt64
}

var clockText = regexp.MustCompile(`^(\d{1,4}):([0-5]\d):([0-5]\d)(\.\d{1,9})?$`)

// parseDuration reads a Go duration or hh:mm:ss with an optional fraction.
func parseDuration(text string) (time.Duration, error) {
	if m := clockText.FindStringSubmatch(text); m != nil {
		text = m[1] + "h" + m[2] + "m" + m[3] + m[4] + "s"
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, &wrong{fmt.Sprintf("%q is no duration", clip(text)), "write one with its unit, like 1500ms or 2s, or hh:mm:ss, like 00:00:02"}
	}
	return d, nil
}

func parseInterval(text string) (Interval, error) {
	if text == "off" {
		return Off, nil
	}
	d, err := parseDuration(text)
	if err != nil || d < 0 {
		return 0, &wrong{fmt.Sprintf("%q is neither a duration nor off", clip(text)), "write a duration like 1s, or off"}
	}
	return Interval(d), nil
}

var driftText = regexp.MustCompile(`^(\d{1,4})(?:\.(\d))? ?(%|‰|permille)$`)

// parseDrift reads 1%, 0.5%, 5‰ or 5 permille.
func parseDrift(text string) (core.Epsilon, error) {
	bad := &wrong{fmt.Sprintf("%q is no bound on a clock's rate", clip(text)), "write it with its unit and at most one digit behind the point, like 1%, 0.5% or 5 permille"}
	m := driftText.FindStringSubmatch(text)
	if m == nil {
		return 0, bad
	}
	tenths, err := strconv.ParseInt(m[1]+(m[2] + "0")[:1], 10, 64)
	if err != nil {
		return 0, bad
	}
	if m[3] == "%" {
		return core.Epsilon(tenths), nil
	}
	if tenths%10 != 0 {
		return 0, bad
	}
	return core.Epsilon(tenths / 10), nil
}

// secret is what may hold a password in a URL or in a list of key=value.
var secret = regexp.MustCompile(`(?is).*@|(password\s*[=:]\s*)\S+`)

// clip keeps a message readable whatever was written, and passwords out of it.
func clip(text string) string {
	const most = 60
	text = secret.ReplaceAllString(text, "$1***")
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}
