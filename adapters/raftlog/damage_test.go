package raftlog

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/omnirelay/leadership/core"
)

// storyBatch is step i of a story that uses every part of the log. Its content
// depends on i alone, so that whoever reads the log back knows what must be there.
func storyBatch(i uint64) core.Batch {
	index, term := originIndex+i, 1+i/50
	b := core.Batch{
		HardState: hardState(term, 1, index-1),
		Entries:   []*raftpb.Entry{entry(index, term, content(i, int(i*37%900)))},
	}
	if i%25 == 0 {
		b.Checkpoint, b.CompactTo = snapshot(index-5, 1+(i-5)/50, content(i, 9000)), index-20
	}
	if i%3 == 0 {
		b.Records, b.AuditedTo = []*core.Record{record(i/3, index-1)}, index-1
	}
	return b
}

// storyTwin is what a log must hold after steps 1 to n.
func storyTwin(n uint64) *twin {
	w := new(twin)
	for i := uint64(1); i <= n; i++ {
		w.apply(storyBatch(i))
	}
	return w
}

// writeStory writes n steps and a session into a new log and returns the file's bytes.
func writeStory(t *testing.T, dir string, n uint64) []byte {
	t.Helper()
	log := mustOpen(t, dir)
	for i := uint64(1); i <= n; i++ {
		if err := log.Persist(storyBatch(i)); err != nil {
			t.Fatalf("persist %d: %v", i, err)
		}
	}
	if err := log.SetSession(77); err != nil {
		t.Fatal(err)
	}
	mustClose(t, log)
	data, err := os.ReadFile(filepath.Join(dir, fileName))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func mustOpen(t testing.TB, dir string) *Log {
	t.Helper()
	log, _, err := Open(options(dir))
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	return log
}

func mustClose(t testing.TB, log *Log) {
	t.Helper()
	if err := log.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
}

// damage is one way in which a file was changed behind the program's back.
type damage struct {
	name string
	file []byte
}

// judge opens a damaged file. Refused with a message that names the file, or
// exactly the content that was written and a log that goes on: nothing else.
func judge(t *testing.T, dir string, d damage, steps uint64) (refused bool) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, fileName)
	if err := os.WriteFile(path, d.file, 0o600); err != nil {
		t.Fatal(err)
	}
	log, boot, err := Open(options(dir))
	if err != nil {
		var refusal *Refusal
		if !errors.As(err, &refusal) || !strings.Contains(err.Error(), path) {
			t.Fatalf("%s: refused without naming the file: %v", d.name, err)
		}
		return true
	}
	want := storyTwin(steps)
	if diff := difference(boot, want.boot()); diff != "" {
		t.Fatalf("%s: opened with other content: %s", d.name, diff)
	}
	if records, err := log.Records(0, 1000); err != nil || recordsDifference(records, want.records) != "" {
		t.Fatalf("%s: opened with other records: %v %s", d.name, err, recordsDifference(records, want.records))
	}
	if log.LastSession() != 77 {
		t.Fatalf("%s: opened with session %d", d.name, log.LastSession())
	}
	for i := steps + 1; i <= steps+4; i++ { // a wrong free list would show now
		if err := log.Persist(storyBatch(i)); err != nil {
			t.Fatalf("%s: opened, but cannot go on: %v", d.name, err)
		}
	}
	mustClose(t, log)
	log, boot, err = Open(options(dir))
	if err != nil {
		t.Fatalf("%s: opened once, then refused: %v", d.name, err)
	}
	defer mustClose(t, log)
	if diff := difference(boot, storyTwin(steps+4).boot()); diff != "" {
		t.Fatalf("%s: went on to other content: %s", d.name, diff)
	}
	return false
}

const damageSteps = 164

// judgeAll expects both outcomes: all refused, or none, would say that the test
// does not reach what it is about.
func judgeAll(t *testing.T, each func(file []byte, yield func(damage))) {
	dir := memoryDir(t)
	file := writeStory(t, filepath.Join(dir, "sound"), damageSteps)
	var total, refused int
	each(file, func(d damage) {
		total++
		if judge(t, filepath.Join(dir, fmt.Sprint(total)), d, damageSteps) {
			refused++
		}
	})
	t.Logf("%d pages, %d damages: %d refused, %d without effect", len(file)/pageSize, total, refused, total-refused)
	if refused == 0 || refused == total {
		t.Errorf("%d of %d refused", refused, total)
	}
}

func changed(file []byte, at int, by ...byte) []byte {
	out := bytes.Clone(file)
	copy(out[at:], by)
	return out
}

func TestFlippedBytesAreRefusedOrWithoutEffect(t *testing.T) {
	judgeAll(t, func(file []byte, yield func(damage)) {
		rng := rand.New(rand.NewPCG(1, 2))
		flip := func(at int) {
			mask := byte(1 << rng.IntN(8))
			yield(damage{fmt.Sprintf("byte %d xor %#x", at, mask), changed(file, at, file[at]^mask)})
		}
		for page := 0; page+pageSize <= len(file); page += pageSize {
			for at := range 2 * pageHeader { // header and first element
				flip(page + at)
			}
			for range 16 {
				flip(page + rng.IntN(pageSize))
			}
		}
		for at := range pageHeader + metaBytes { // all of both metas
			flip(at)
			flip(pageSize + at)
		}
	})
}

func TestZeroedPagesAreRefusedOrWithoutEffect(t *testing.T) {
	judgeAll(t, func(file []byte, yield func(damage)) {
		for page := 0; page+pageSize <= len(file); page += pageSize {
			yield(damage{fmt.Sprintf("page %d zeroed", page/pageSize), changed(file, page, make([]byte, pageSize)...)})
		}
	})
}

// A disk may also write one page where another belongs, or keep an old one.
func TestMisplacedPagesAreRefusedOrWithoutEffect(t *testing.T) {
	judgeAll(t, func(file []byte, yield func(damage)) {
		rng := rand.New(rand.NewPCG(3, 4))
		pages := len(file) / pageSize
		for page := range pages {
			other := rng.IntN(pages)
			yield(damage{fmt.Sprintf("page %d over page %d", other, page),
				changed(file, page*pageSize, file[other*pageSize:(other+1)*pageSize]...)})
		}
	})
}

func TestTruncatedFileIsRefusedOrWithoutEffect(t *testing.T) {
	judgeAll(t, func(file []byte, yield func(damage)) {
		for _, size := range []int{0, 1, 79, 80, 4095, 4096, 8191, 8192, 12288} {
			yield(damage{fmt.Sprintf("cut to %d", size), file[:size]})
		}
		for size := 4 * pageSize; size < len(file); size += 3*pageSize + 513 {
			yield(damage{fmt.Sprintf("cut to %d", size), file[:size]})
		}
		yield(damage{"cut by one byte", file[:len(file)-1]})
		yield(damage{"longer", append(bytes.Clone(file), content(1, 5000)...)})
	})
}

// A sector that was written as something else.
func TestGarbledSectorsAreRefusedOrWithoutEffect(t *testing.T) {
	judgeAll(t, func(file []byte, yield func(damage)) {
		const sector = 512
		for at := 0; at < len(file); at += 3 * sector {
			yield(damage{fmt.Sprintf("sector at %d garbled", at), changed(file, at, content(uint64(at), sector)...)})
		}
	})
}

// Damage that bbolt would take for a sound file, and that shows only later or in
// what is missing. Each is tried after an even and an odd number of transactions:
// the two meta pages take turns.
func TestSubtleDamageIsRefused(t *testing.T) {
	branchOf := func(file []byte) int {
		for at := 2 * pageSize; at < len(file); at += pageSize {
			if order.Uint16(file[at+8:]) == branchFlag && reached(file, at) {
				return at
			}
		}
		t.Fatal("the story is too short for a branch page")
		return 0
	}
	cases := []struct {
		name  string
		spoil func(file, before []byte) []byte
	}{
		{"meta page 0", func(file, _ []byte) []byte { return changed(file, pageHeader+50, file[pageHeader+50]^1) }},
		{"meta page 1", func(file, _ []byte) []byte {
			return changed(file, pageSize+pageHeader+50, file[pageSize+pageHeader+50]^1)
		}},
		{"meta page 0 of the past", func(file, before []byte) []byte { return changed(file, 0, before[:pageSize]...) }},
		{"meta page 1 of the past", func(file, before []byte) []byte { return changed(file, pageSize, before[pageSize:2*pageSize]...) }},
		{"a free page forgotten", func(file, _ []byte) []byte {
			at := newestFreelist(t, file) + 10
			return changed(file, at, file[at]-1)
		}},
		{"a key cut short in a branch", func(file, _ []byte) []byte {
			at := branchOf(file) + pageHeader + 4
			return changed(file, at, file[at]-1)
		}},
	}
	dir := memoryDir(t)
	for n := uint64(damageSteps); n < damageSteps+2; n++ {
		before := writeStory(t, filepath.Join(dir, fmt.Sprint(n, "before")), n-8)
		file := writeStory(t, filepath.Join(dir, fmt.Sprint(n)), n)
		for i, c := range cases {
			d := damage{fmt.Sprintf("%s after %d steps", c.name, n), c.spoil(file, before)}
			if !judge(t, filepath.Join(dir, fmt.Sprint(n, "-", i)), d, n) {
				t.Errorf("%s: opened", d.name)
			}
		}
	}
}

// reached tells whether the page at an offset is in use: with its number changed, a
// free one would not be missed.
func reached(file []byte, at int) bool {
	spoiled := changed(file, at, file[at]^0xFF)
	return checkStructure(bytes.NewReader(spoiled), int64(len(spoiled))) != nil
}

func newestFreelist(t *testing.T, file []byte) int {
	t.Helper()
	meta, err := readMetas(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		t.Fatal(err)
	}
	return int(meta.freelist) * pageSize
}
