package core

import "testing"

func TestTextThatSteersTheReaderIsRefused(t *testing.T) {
	for text, ok := range map[string]bool{
		"kernel update": true, "Störung, 2 × 3 — fertig": true, "": true,
		"a\nb": false, "a\x1b[2Jb": false, "a\u009b2Jb": false, "abc\u202edef": false, "a\u2066b": false, "a\xff": false,
	} {
		if err := checkText("why", text, 100); (err == nil) != ok {
			t.Errorf("%q: %v", text, err)
		}
	}
}
