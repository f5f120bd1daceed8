package terminal

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
)

func TestTextFromOutsideCommandsNothing(t *testing.T) {
	for text, want := range map[string]string{
		"plain text, ümlaut, 漢字": "plain text, ümlaut, 漢字",
		"\x1b[2J":                `\x1b[2J`,
		"a\nb\tc\r":              `a\nb\tc\r`,
		"\u202eevil":             `\u202eevil`, // would turn the line around
		"\x9b31m":                `\x9b31m`,    // no UTF-8: an escape in one byte
		"\u009b31m":              `\u009b31m`,  // the same as a rune
		"zero\u200bwidth":        `zero\u200bwidth`,
	} {
		if got := Clean(text); got != want {
			t.Errorf("Clean(%q) = %q, want %q", text, got, want)
		}
	}
}

func TestTableIsAlignedByRunes(t *testing.T) {
	table := NewTable("NAME", "STATE", "WHY")
	table.Add(Cell{Text: "köln"}, Cell{Text: "ok", Style: Green}, Cell{})
	table.Add(Text("x", "suspect", "a\x1b[2Jb")...)
	var plain, coloured bytes.Buffer
	if err := table.Write(&plain, false); err != nil {
		t.Fatal(err)
	}
	want := "NAME  STATE    WHY\nköln  ok\nx     suspect  a\\x1b[2Jb\n"
	if plain.String() != want {
		t.Errorf("got\n%swant\n%s", plain.String(), want)
	}
	if err := table.Write(&coloured, true); err != nil {
		t.Fatal(err)
	}
	bare := coloured.String()
	for _, style := range []Style{Bold, Green, reset} {
		bare = strings.ReplaceAll(bare, string(style), "")
	}
	if bare != want {
		t.Errorf("colours move the columns:\n%s", coloured.String())
	}
	if !strings.Contains(coloured.String(), string(Green)+"ok"+reset) {
		t.Errorf("no colours: %q", coloured.String())
	}
}

func TestClipCountsWhatIsSeen(t *testing.T) {
	line := string(Red) + "dead" + reset + " köln"
	for width, want := range map[int]string{
		0: string(Red) + reset, 2: string(Red) + "de" + reset,
		6: string(Red) + "dead" + reset + " k", 7: string(Red) + "dead" + reset + " kö", 80: line,
	} {
		if got := clip(line, width); got != want {
			t.Errorf("clip(%d) = %q, want %q", width, got, want)
		}
	}
}

func TestColoursOnATerminalOnly(t *testing.T) {
	var auto ColourMode
	var out bytes.Buffer
	always, never := ColourAlways, ColourNever
	if auto.On(&out) || !always.On(&out) || never.On(&out) {
		t.Error("colours into a buffer")
	}
	if err := auto.Set("sometimes"); err == nil || auto.String() != "auto" {
		t.Errorf("%v, %q", err, auto)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if Is(null) {
		t.Error("/dev/null is a terminal")
	}
}

func TestProgressWithoutATerminal(t *testing.T) {
	var out bytes.Buffer
	p := NewProgress(&out)
	for i := range 100 {
		p.Tell("%d of 100", i)
		p.Tell("%d of 100", i)
	}
	p.Done()
	p.Done()
	if got := out.String(); got != "0 of 100\n99 of 100\n" {
		t.Errorf("%q; want the first word and the last", got)
	}
}

func TestKeysAreTakenApart(t *testing.T) {
	got := fmt.Sprintf("%q", splitKeys([]byte("q\x1b[Ak\x1b[5~\x1bOB\x1b")))
	if want := `["q" "\x1b[A" "k" "\x1b[5~" "\x1bOB" "\x1b"]`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
