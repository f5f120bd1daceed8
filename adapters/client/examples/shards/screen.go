package main

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"time"
)

// screen shows a play to a person.
type screen interface {
	say(format string, args ...any)
	show(p *play)
	close(v *verdict)
}

// lines tells the story line by line, for files and pipes.
type lines struct {
	out   io.Writer
	begin time.Time
}

func (l *lines) say(format string, args ...any) {
	if l.begin.IsZero() {
		l.begin = time.Now()
	}
	fmt.Fprintf(l.out, "%5.1fs  %s\n", time.Since(l.begin).Seconds(), fmt.Sprintf(format, args...))
}

func (l *lines) show(*play) {}

func (l *lines) close(v *verdict) { fmt.Fprint(l.out, v.text()) }

// panel redraws a table on a terminal.
type panel struct {
	out   io.Writer
	begin time.Time
	story []string
	last  time.Time
}

const (
	home   = "\x1b[H"
	clear  = "\x1b[2J"
	toEnd  = "\x1b[K"
	below  = "\x1b[J"
	bold   = "\x1b[1m"
	dim    = "\x1b[2m"
	red    = "\x1b[31m"
	green  = "\x1b[32m"
	yellow = "\x1b[33m"
	plain  = "\x1b[0m"

	storyLines = 9
	redraw     = 200 * time.Millisecond
)

func (p *panel) say(format string, args ...any) {
	if p.begin.IsZero() {
		p.begin = time.Now()
		fmt.Fprint(p.out, clear)
	}
	p.story = append(p.story, fmt.Sprintf("%5.1fs  %s", time.Since(p.begin).Seconds(), fmt.Sprintf(format, args...)))
	p.last = time.Time{}
}

func (p *panel) show(play *play) {
	if time.Since(p.last) < redraw {
		return
	}
	p.last = time.Now()
	var b bytes.Buffer
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+toEnd+"\n", args...) }
	b.WriteString(home)
	line("%sshards: %d members compete to issue assignments; the resource takes them from leaders only%s", bold, play.members, plain)
	line("")
	p.table(line, play)
	line("")
	line("  accepted %s%d%s     stale attempts refused %s%d%s %s%s%s", green, play.scores.accepted, plain, red, play.scores.stale, plain, dim, blame(&play.scores), plain)
	line("")
	for _, s := range p.story[max(0, len(p.story)-storyLines):] {
		line("%s", s)
	}
	b.WriteString(below)
	_, _ = p.out.Write(b.Bytes()) // a terminal that is gone misses nothing
}

// table shows two columns of shards.
func (p *panel) table(line func(string, ...any), play *play) {
	states := map[string]state{}
	for _, a := range play.actors {
		states[a.id] = a.state
	}
	half := (len(play.shards) + 1) / 2
	title := fmt.Sprintf("  %-5s %-11s %6s %5s %9s  %-12s", "SHARD", "LEADER", "FENCE", "TERM", "ACCEPTED", "")
	line("%s%s%s%s", dim, title, title, plain)
	for i := range half {
		text := cell(play, states, play.shards[i])
		if i+half < len(play.shards) {
			text += cell(play, states, play.shards[i+half])
		}
		line("%s", text)
	}
}

func cell(play *play, states map[string]state, scope string) string {
	a, led := play.scores.latest[scope]
	name := scope[strings.LastIndexByte(scope, '/')+1:]
	colour, remark := green, ""
	switch {
	case !led:
		colour, remark = dim, "nobody yet"
	case states[a.Leader] == paused:
		colour, remark = yellow, "paused"
	case states[a.Leader] == killed && age(a) > time.Second:
		colour, remark = red, "killed"
	case age(a) > time.Second:
		colour, remark = red, fmt.Sprintf("silent %.0fs", age(a).Seconds())
	}
	return fmt.Sprintf("%s  %-5s %-11s %6d %5d %9d  %-12s%s", colour, name, a.Leader, a.Fence, a.Term, play.scores.counts[scope], remark, plain)
}

// blame says whose attempts were stale.
func blame(s *scores) string {
	var all []string
	for _, member := range s.sinners() {
		all = append(all, fmt.Sprintf("%s %d", member, s.bySinner[member]))
	}
	return strings.Join(all, ", ")
}

func (p *panel) close(v *verdict) { fmt.Fprint(p.out, "\n", v.text()) }

// text is the verdict for a person.
func (v *verdict) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\nassignments accepted      %6d, one leader for each shard and fence, fences never going back\n", v.Accepted)
	fmt.Fprintf(&b, "acknowledged to members   %6d, none lost\n", v.Acknowledged)
	fmt.Fprintf(&b, "stale attempts            %6d, all refused and counted\n", v.Stale)
	fmt.Fprintf(&b, "ended by their own clock  %6d leaderships of members that look before they act\n", v.HeldBack)
	fmt.Fprintf(&b, "leaders killed, paused    %6d, %d; the resource was killed %d times\n", v.Kills, v.Pauses, v.Restarts)
	fmt.Fprintf(&b, "shards led on by others   %6d, the slowest after %.1f s\n", v.Successions, v.Slowest.Seconds())
	if len(v.Problems) == 0 {
		fmt.Fprintf(&b, "\nVERDICT: holds\n")
		return b.String()
	}
	fmt.Fprintf(&b, "\nVERDICT: broken\n")
	for _, p := range v.Problems {
		fmt.Fprintf(&b, "  %s\n", p)
	}
	return b.String()
}
