// Package telemetry tells people and machines what this process does: one log
// line for each transition, and the metrics of one node.
package telemetry

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/lmittmann/tint"
	"golang.org/x/term"
)

// LogOptions settle what is logged and how.
type LogOptions struct {
	Level  string // debug, info, warn or error
	Format string // text, json, or auto: text on a terminal, else json
}

// NewLogger returns a logger that writes to w. Text is coloured on a terminal only.
func NewLogger(w io.Writer, o LogOptions) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(o.Level)); err != nil {
		return nil, fmt.Errorf("log level %q: want debug, info, warn or error", o.Level)
	}
	terminal := isTerminal(w)
	switch {
	case o.Format == "text", o.Format == "auto" && terminal:
		return slog.New(tint.NewTextHandler(w, &tint.Options{Level: level, TimeFormat: time.StampMilli, NoColor: !terminal})), nil
	case o.Format == "json", o.Format == "auto":
		return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level})), nil
	}
	return nil, fmt.Errorf("log format %q: want auto, text or json", o.Format)
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
