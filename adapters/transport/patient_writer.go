package transport

import (
	"context"
	"net/http"
	"time"
)

// patientWriter gives the reader of a response a deadline for each write, and ends
// the call when it is missed. grpc's ServeHTTP ignores errors of a write: without
// that a reader that stopped would hold its handler, and a graceful stop, for ever.
type patientWriter struct {
	http.ResponseWriter
	wire    *http.ResponseController
	timeout time.Duration
	end     context.CancelCauseFunc
	buffer  []byte // what was written since the last Flush: one frame per message
}

// maxKept is the size of a buffer that is kept for the next message.
const maxKept = 64 << 10

func newPatientWriter(w http.ResponseWriter, timeout time.Duration, end context.CancelCauseFunc) *patientWriter {
	return &patientWriter{ResponseWriter: w, wire: http.NewResponseController(w), timeout: timeout, end: end}
}

// Write keeps p until Flush, which grpc calls after each message.
func (w *patientWriter) Write(p []byte) (int, error) {
	w.buffer = append(w.buffer, p...)
	return len(p), nil
}

// Flush sends what was written. grpc calls it before the trailers too, which are
// under the same deadline.
func (w *patientWriter) Flush() {
	err := w.wire.SetWriteDeadline(time.Now().Add(w.timeout))
	if err == nil {
		_, err = w.ResponseWriter.Write(w.buffer)
	}
	if err == nil {
		err = w.wire.Flush()
	}
	if w.buffer = w.buffer[:0]; cap(w.buffer) > maxKept {
		w.buffer = nil
	}
	if err != nil {
		w.end(err)
	}
}
