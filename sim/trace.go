package sim

import (
	"fmt"
	"strings"
	"time"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/sim/check"
)

// trace is what happened, line by line, when a run is traced.
type trace struct{ lines []line }

type line struct {
	at    int64
	about string // a scope or process; empty: everybody
	text  string
}

func (t *trace) add(at int64, about, text string) {
	t.lines = append(t.lines, line{at, about, text})
}

// explanationLines is how many lines explain a violation.
const explanationLines = 40

// aboutRequests marks lines on requests, which explain only what concerns no scope.
const aboutRequests = "requests"

// explain returns the last lines before a violation that concern its scope, or
// everybody.
func (t *trace) explain(v check.Violation) string {
	var picked []string
	for i := len(t.lines) - 1; i >= 0 && len(picked) < explanationLines; i-- {
		l := t.lines[i]
		if l.at <= v.At && l.concerns(v) {
			picked = append(picked, fmt.Sprintf("  %12v  %s", time.Duration(l.at), l.full()))
		}
	}
	for i, j := 0, len(picked)-1; i < j; i, j = i+1, j-1 {
		picked[i], picked[j] = picked[j], picked[i]
	}
	return strings.Join(picked, "\n")
}

func (l line) concerns(v check.Violation) bool {
	switch {
	case v.Scope == "" || l.about == v.Scope:
		return true
	case l.about == aboutRequests:
		return false
	}
	return !strings.Contains(l.about, "/") && l.about != core.GlobalControl
}

func (l line) full() string {
	if strings.HasPrefix(l.about, "replica-") {
		return l.about + " " + l.text
	}
	return l.text
}

// Explain runs a failing seed again with a trace and returns its violation with
// the lines that led to it.
func Explain(o Options) string {
	o.Trace = true
	w := newWorld(o)
	report := w.play()
	if len(report.Violations) == 0 {
		return "no violation when run again: the run is not deterministic"
	}
	v := report.Violations[len(report.Violations)-1]
	return v.String() + "\n" + w.trace.explain(v)
}
