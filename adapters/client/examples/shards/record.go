package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"sync"
)

// Files of a play, in its folder. Each line is one record, appended when it happened.
const (
	acceptedFile = "accepted.jsonl" // by the resource: its effects
	refusedFile  = "refused.jsonl"  // by the resource: stale attempts
	deedsFile    = "deeds.jsonl"    // by the director: who was killed and paused
	reportFile   = "report.json"    // by the director: the verdict
)

// assignment is an effect on the resource.
type assignment struct {
	At     int64  `json:"at"` // CLOCK_BOOTTIME in nanoseconds, which all processes share
	Scope  string `json:"scope"`
	Fence  uint64 `json:"fence"`
	Term   uint64 `json:"term"`
	Leader string `json:"leader"`
	ID     string `json:"id"`     // of the assignment, the same at a repetition
	Worker string `json:"worker"` // to whom the shard's work is assigned
}

// refusal is a stale attempt that the resource refused.
type refusal struct {
	At       int64  `json:"at"`
	Scope    string `json:"scope"`
	Fence    uint64 `json:"fence"`
	Required uint64 `json:"required"`
	Leader   string `json:"leader"`
	ID       string `json:"id"`
}

// attempt is what a member was told, or did not dare.
type attempt struct {
	At    int64   `json:"at"`
	What  outcome `json:"what"`
	Scope string  `json:"scope"`
	Fence uint64  `json:"fence"`
	ID    string  `json:"id"`
}

type outcome string

const (
	acknowledged outcome = "acknowledged"
	refusedStale outcome = "stale"
	heldBack     outcome = "held-back" // the own clock said that the lease was over
)

// deed is what the director did to a process.
type deed struct {
	At   int64  `json:"at"`
	What string `json:"what"` // kill, pause, resume, start
	Whom string `json:"whom"` // a member, or resource
}

// journal is a file of records.
type journal struct {
	mu   sync.Mutex
	file *os.File
}

func openJournal(path string) (*journal, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	return &journal{file: file}, nil
}

// write appends a record in one call, so that a killed process leaves whole lines and
// at most one that is cut.
func (j *journal) write(record any) error {
	line, err := json.Marshal(record)
	if err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	_, err = j.file.Write(append(line, '\n'))
	return err
}

// tail reads what is appended to a file of records.
type tail[T any] struct {
	path   string
	offset int64
}

// more returns the whole lines since the last call.
func (t *tail[T]) more() (records []T, err error) {
	file, err := os.Open(t.path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil || info.Size() <= t.offset {
		return nil, err
	}
	data := make([]byte, info.Size()-t.offset)
	if _, err := file.ReadAt(data, t.offset); err != nil {
		return nil, err
	}
	for line := range bytes.Lines(data) {
		if !bytes.HasSuffix(line, []byte("\n")) {
			break
		}
		var record T
		if err := json.Unmarshal(line, &record); err != nil {
			return nil, err
		}
		records = append(records, record)
		t.offset += int64(len(line))
	}
	return records, nil
}

// readAll reads a whole file of records.
func readAll[T any](path string) ([]T, error) { return (&tail[T]{path: path}).more() }
