package config

import (
	"fmt"
	"slices"
	"strings"
)

// Problem is one thing wrong with a configuration.
type Problem struct {
	File string // empty: not from a file
	Line int    // in File, from 1
	Env  string // the environment variable at fault, instead of File and Line
	Key  string // mesh.leadership...
	What string // what is wrong
	Want string // what would be right
}

// String is FILE:LINE: key: problem; what would be right.
func (p Problem) String() string {
	var b strings.Builder
	switch {
	case p.Env != "":
		fmt.Fprintf(&b, "environment %s: ", p.Env)
	case p.File != "":
		fmt.Fprintf(&b, "%s:%d: ", p.File, max(p.Line, 1))
	}
	if p.Key != "" {
		b.WriteString(p.Key + ": ")
	}
	b.WriteString(p.What)
	if p.Want != "" {
		b.WriteString("; " + p.Want)
	}
	return strings.ReplaceAll(b.String(), "\n", " ")
}

// Problems is everything wrong with a configuration, in the order of the file and
// then of the environment. It is the error of Load and Validate.
type Problems []Problem

// Error has one line for each problem.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// orNil keeps an empty list from being an error.
func (ps Problems) orNil() error {
	if len(ps) == 0 {
		return nil
	}
	return ps
}

func (ps Problems) sorted() Problems {
	slices.SortStableFunc(ps, func(a, b Problem) int {
		if c := strings.Compare(a.Env, b.Env); c != 0 {
			return c
		}
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return strings.Compare(a.Key, b.Key)
	})
	return ps
}
