package redislog

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strconv"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
)

// A snapshot is written and read in pieces: one write of all of it would hold the
// server up, and with it the registrar's beats, for as long as the disk takes for
// 64 MiB. The pieces lie aside until they are complete; then one script puts them in
// the place of the snapshot before. Who begins an upload drops what another left.
const pieceBytes = 512 << 10

func pieces(size int) int { return max(1, (size+pieceBytes-1)/pieceBytes) }

func pieceName(i int) string { return "piece" + strconv.Itoa(i) }

// upload writes the pieces of a snapshot aside, as long as the guard holds. It
// returns the id of the upload, or the refusal.
func (s *Store) upload(ctx context.Context, snapshot *logpb.StoredSnapshot, guard [4]string) (string, *core.StoreReply, error) {
	if n := len(snapshot.GetData()); n > core.MaxSnapshotBytes {
		return "", nil, unfitError(fmt.Sprintf("the snapshot has %d bytes: want at most %d: a fault of the caller", n, core.MaxSnapshotBytes))
	}
	var random [16]byte
	rand.Read(random[:])
	id := hex.EncodeToString(random[:])
	data := snapshot.GetData()
	for i := range pieces(len(data)) {
		piece := data[i*pieceBytes : min(len(data), (i+1)*pieceBytes)]
		r, err := s.plain(ctx, uploadScript, guard[0], guard[1], guard[2], guard[3], id, pieceName(i), piece)
		if err != nil || r.Status != core.StoreOK {
			return "", r, err
		}
	}
	return id, nil, nil
}

// description is what the scripts take of a snapshot beside its pieces.
func description(snapshot *logpb.StoredSnapshot) []any {
	size := len(snapshot.GetData())
	return []any{digits(snapshot.GetIndex()), digits(snapshot.GetTerm()), snapshot.GetChain(), size, pieces(size)}
}

func (s *Store) checkpoint(ctx context.Context, c *core.StoreCheckpoint) (*core.StoreReply, error) {
	index := c.Snapshot.GetIndex()
	id, refused, err := s.upload(ctx, c.Snapshot, [4]string{digits(c.Term), digits(index)})
	if err != nil || refused != nil {
		return refused, err
	}
	// Never is an entry dropped that no snapshot holds.
	keep := item(min(c.TrimTo, index) + 1)
	return s.plain(ctx, checkpointScript, append([]any{digits(c.Term), id, keep}, description(c.Snapshot)...)...)
}

func (s *Store) replace(ctx context.Context, p *core.StoreReplace) (*core.StoreReply, error) {
	if err := s.ours(p.Lead); err != nil {
		return nil, err
	}
	guard := []any{digits(p.Guard.Term), digits(p.Guard.Last)}
	id := ""
	if p.Snapshot != nil {
		var refused *core.StoreReply
		var err error
		id, refused, err = s.upload(ctx, p.Snapshot, [4]string{2: digits(p.Guard.Term), 3: digits(p.Guard.Last)})
		if err != nil || refused != nil {
			return refused, err
		}
	}
	args := append(guard, digits(p.Published), id)
	args = append(args, description(p.Snapshot)...)
	return s.plain(ctx, replaceScript, append(args, leadFields(p.Lead)...)...)
}

// snapshotPieces says how a snapshot lies in the store.
type snapshotPieces struct {
	id          string
	size, count int
}

func (s *Store) decodeSnapshot(d *decoder, meta []any) (*logpb.StoredSnapshot, snapshotPieces) {
	d = d.in("the key " + s.keys.snapshot)
	snapshot := &logpb.StoredSnapshot{Index: d.number(d.at(meta, 1)), Term: d.number(d.at(meta, 2)), Chain: []byte(d.at(meta, 3))}
	size, count := d.number(d.at(meta, 4)), d.number(d.at(meta, 5))
	if size > core.MaxSnapshotBytes || count != uint64(pieces(int(min(size, core.MaxSnapshotBytes)))) {
		d.fail("a snapshot of %d bytes in %d pieces", size, count)
	}
	return snapshot, snapshotPieces{id: d.at(meta, 0), size: int(size), count: int(count)}
}

// download reads the pieces into snapshot.Data. It reports whether they were all of
// the snapshot described; otherwise it was replaced meanwhile.
func (s *Store) download(ctx context.Context, p snapshotPieces, snapshot *logpb.StoredSnapshot) (bool, error) {
	snapshot.Data = make([]byte, 0, p.size)
	for i := range p.count {
		answer, err := s.calls.HMGet(ctx, s.keys.snapshot, "id", pieceName(i)).Result()
		if err != nil {
			return false, s.failure(err)
		}
		if answer[0] != p.id {
			return false, nil
		}
		d := &decoder{place: "the key " + s.keys.snapshot}
		piece := d.at(answer, 1)
		if d.err != nil {
			return false, d.err
		}
		snapshot.Data = append(snapshot.Data, piece...)
	}
	if len(snapshot.Data) != p.size {
		return false, unfitError(fmt.Sprintf("the key %s: its pieces have %d bytes, not %d: it was damaged, or another program wrote it",
			s.keys.snapshot, len(snapshot.Data), p.size))
	}
	return true, nil
}
