package api

import (
	"fmt"
	"time"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/wire/controlpb"
)

// sender sends from a goroutine of its own, since a send has no deadline: it waits for
// a reader that stopped for as long as the call lasts. The end of the call frees it.
type sender struct {
	batches chan []*controlpb.AttachResponse
	sent    chan error // one for each batch
}

func newSender(stream memberStream) *sender {
	s := &sender{batches: make(chan []*controlpb.AttachResponse), sent: make(chan error, 1)}
	go func() {
		for batch := range s.batches {
			var err error
			for _, m := range batch {
				if err = stream.Send(m); err != nil {
					break
				}
			}
			s.sent <- err
		}
	}()
	return s
}

func (s *sender) stop() { close(s.batches) }

// send sends a batch. After an error it must not be called again.
func (s *sender) send(batch []*controlpb.AttachResponse, within time.Duration) error {
	s.batches <- batch
	late := time.NewTimer(within)
	defer late.Stop()
	select {
	case err := <-s.sent:
		return err
	case <-late.C:
		return &core.Error{Code: core.CodeUnavailable, Message: fmt.Sprintf("cut: nothing was read for %v; attach again", within)}
	}
}
