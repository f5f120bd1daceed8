package main

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// A migration writes at each end why that one does not serve: a note, in words, that
// it reads itself when it is run again. The source first says that the registry is
// moving, and that it moved just before the target is opened: so the source alone
// tells whether the target may ever have served.

// noteKind is what a note says.
type noteKind string

const (
	noteMoving  noteKind = "moving to"         // the target was never opened
	noteMoved   noteKind = "moved to"          // the target was opened, or is about to be
	noteFilling noteKind = "being filled from" // at the target, until it is opened
)

// note is why an end of a migration does not serve.
type note struct {
	kind       noteKind
	place      string // the other end
	id         string // of the migration
	generation uint64 // of noteMoved: of the log at the target
}

var noteText = regexp.MustCompile(`^(moving to|moved to|being filled from) (.*) \(migration ([0-9a-f]{16})(?:, generation (\d{1,20}))?\)$`)

// maxNotePlace bounds the name of the other end in a note, in bytes.
const maxNotePlace = 512

func (n note) String() string {
	place := n.place
	if len(place) > maxNotePlace {
		place = strings.ToValidUTF8(place[:maxNotePlace], "")
	}
	if n.kind == noteMoved {
		return fmt.Sprintf("%s %s (migration %s, generation %d)", n.kind, place, n.id, n.generation)
	}
	return fmt.Sprintf("%s %s (migration %s)", n.kind, place, n.id)
}

// parseNote reads why a log is closed, or sealed; false: not by a migration.
func parseNote(text string) (n note, ok bool) {
	m := noteText.FindStringSubmatch(text)
	if m == nil {
		return note{}, false
	}
	n = note{kind: noteKind(m[1]), place: m[2], id: m[3]}
	if m[4] != "" {
		var err error
		if n.generation, err = strconv.ParseUint(m[4], 10, 64); err != nil {
			return note{}, false
		}
	}
	return n, (n.kind == noteMoved) == (m[4] != "")
}
