package gossip

import (
	"context"
	"log"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"time"
)

const (
	maxLine = 300 // bytes of a line of memberlist's that are kept
	// Of what others can provoke, so many lines are logged in so long; a debug log has all.
	linesAtOnce = 10
	linesEvery  = 10 * time.Second
)

// memberlistLog turns memberlist's lines into ours, at our levels. Gossip is advice: an
// error of it is a warning here.
type memberlistLog struct {
	logger *slog.Logger
	counts *counters
	// suspected is told of members that memberlist itself suspects: it has no event for
	// it, and says so only here.
	suspected func(id string)

	mu      sync.Mutex
	since   time.Time
	written int
	dropped int
}

// newMemberlistLog returns the logger that memberlist is given.
func newMemberlistLog(l *memberlistLog) *log.Logger { return log.New(l, "", 0) }

var memberlistLevels = map[string]slog.Level{
	"[DEBUG]": slog.LevelDebug, "[INFO]": slog.LevelInfo, "[WARN]": slog.LevelWarn, "[ERR]": slog.LevelWarn, "[ERROR]": slog.LevelWarn,
}

// Write takes one line.
func (l *memberlistLog) Write(line []byte) (int, error) {
	text := strings.TrimRight(string(line), "\n")
	mark, rest, _ := strings.Cut(text, " ")
	level, known := memberlistLevels[mark]
	if !known {
		level, rest = slog.LevelWarn, text
	}
	rest = strings.TrimPrefix(rest, "memberlist: ")
	l.notice(rest)
	switch {
	case strings.HasSuffix(rest, errEnded.Error()): // it takes a while until everybody knows who left
		level = slog.LevelDebug
	case strings.HasPrefix(rest, "Suspect "), strings.HasPrefix(rest, "Conflicting address for "): // said by us
		level = slog.LevelDebug
	}
	if !l.logger.Enabled(context.Background(), level) {
		return len(line), nil
	}
	if level > slog.LevelDebug && !l.admits() {
		return len(line), nil
	}
	if len(rest) > maxLine {
		rest = strings.ToValidUTF8(rest[:maxLine], "") + "…"
	}
	l.logger.Log(context.Background(), level, "gossip: "+rest)
	return len(line), nil
}

// notice counts what only a line tells.
func (l *memberlistLog) notice(text string) {
	switch {
	case strings.Contains(text, "no installed keys could decrypt"):
		l.counts.refuse(refusedKey)
	case strings.HasPrefix(text, "Failed to decode"), strings.HasPrefix(text, "failed to receive"), strings.HasPrefix(text, "Failed to read remote state"),
		strings.HasPrefix(text, "Failed to decompress"), strings.HasPrefix(text, "msg type ("), strings.HasPrefix(text, "Got invalid checksum"):
		l.counts.refuse(refusedMalformed)
	case strings.HasPrefix(text, "Suspect "):
		if id, _, ok := strings.Cut(strings.TrimPrefix(text, "Suspect "), " has failed"); ok {
			l.suspected(id)
		}
	}
}

// admits tells whether another line may be logged now.
func (l *memberlistLog) admits() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if now.Sub(l.since) >= linesEvery {
		if l.dropped > 0 {
			l.logger.Warn("gossip: lines were left out", "lines", l.dropped)
		}
		l.since, l.written, l.dropped = now, 0, 0
	}
	if l.written >= linesAtOnce {
		l.dropped++
		return false
	}
	l.written++
	return true
}

// complaints are made once in a while each.
type complaints struct {
	mu   sync.Mutex
	made map[string]time.Time
}

const (
	complainEvery = time.Minute
	maxComplaints = 256
)

func (c *complaints) once(about string, complain func()) {
	c.mu.Lock()
	now := time.Now()
	if len(c.made) >= maxComplaints {
		maps.DeleteFunc(c.made, func(_ string, at time.Time) bool { return now.Sub(at) >= complainEvery })
	}
	last, made := c.made[about]
	if made && now.Sub(last) < complainEvery || !made && len(c.made) >= maxComplaints {
		c.mu.Unlock()
		return
	}
	if c.made == nil {
		c.made = map[string]time.Time{}
	}
	c.made[about] = now
	c.mu.Unlock()
	complain()
}
