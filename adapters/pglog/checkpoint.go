package pglog

import (
	"context"

	"github.com/omnirelay/leadership/core"
)

// trimPiece bounds the entries that one transaction drops.
const trimPiece = 1_000

// checkpoint first stores the snapshot where it does not count, then makes it count,
// then trims. Only the second step takes the lock that appends take.
func (s *Store) checkpoint(ctx context.Context, c *core.StoreCheckpoint) (*core.StoreReply, error) {
	snap := c.Snapshot
	args := []any{int64(c.Term), int64(snap.GetIndex()), int64(snap.GetTerm()), full(snap.GetChain()), full(snap.GetData())}
	var uploaded int64
	r, err := s.call(ctx, "log_upload", args, ", a.uploaded", &uploaded)
	if err != nil || r.Status != core.StoreOK {
		return r, err
	}
	r, err = s.call(ctx, "log_checkpoint", []any{int64(c.Term), uploaded}, "")
	if err == nil && r.Status == core.StoreOK {
		s.trim(ctx, c.TrimTo)
	}
	return r, err
}

// trim drops what it has time for. The next checkpoint drops the rest.
func (s *Store) trim(ctx context.Context, to uint64) {
	for {
		row, err := s.ask(ctx, s.calling("log_trim", "a.a", []any{signed(to), int64(trimPiece)}))
		if err != nil {
			s.options.Logger.Warn("trimming goes on at the next checkpoint", "error", err)
			return
		}
		var dropped int64
		if err := row.scan(&dropped); err != nil || dropped == 0 {
			return
		}
	}
}
