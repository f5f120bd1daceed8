package gossip

import (
	"bufio"
	"encoding/binary"
)

// What memberlist writes in front of its messages: a label that names the cluster, and
// in front of what is encrypted a byte for how.
const (
	labelMark      = 244
	encryptedMark  = 10 // in front of an encrypted stream, and four bytes of length behind it
	encryptionGCM  = 1  // AES-GCM without padding
	gcmOverhead    = 1 + 12 + 16
	maxLabelHeader = 2 + 255
	streamHeader   = 5 + 1
)

// seal knows how every packet and stream of the own cluster begins.
type seal struct {
	label     string
	encrypted bool
}

// refusePacket returns why a packet must not reach memberlist; empty: it may. memberlist
// would panic over an encrypted message with wrong padding or with nothing in it, which
// whoever has a key can make.
func (s seal) refusePacket(b []byte) string {
	if len(b) < 2 || b[0] != labelMark || len(b) < 2+int(b[1]) || string(b[2:2+int(b[1])]) != s.label {
		return refusedLabel
	}
	body := b[2+len(s.label):]
	switch {
	case !s.encrypted && len(body) < 1:
		return refusedMalformed
	case s.encrypted && (len(body) < 1 || body[0] != encryptionGCM):
		return refusedKey
	case s.encrypted && len(body) <= gcmOverhead:
		return refusedMalformed
	}
	return ""
}

// refuseStream is the same for a stream. It only looks ahead.
func (s seal) refuseStream(r *bufio.Reader) string {
	header, err := r.Peek(2 + len(s.label))
	if err != nil || header[0] != labelMark || int(header[1]) != len(s.label) || string(header[2:]) != s.label {
		return refusedLabel
	}
	if !s.encrypted {
		return ""
	}
	header, err = r.Peek(2 + len(s.label) + streamHeader)
	if err != nil {
		return refusedMalformed
	}
	body := header[2+len(s.label):]
	length := binary.BigEndian.Uint32(body[1:5])
	switch {
	case body[0] != encryptedMark || body[5] != encryptionGCM:
		return refusedKey
	case length <= gcmOverhead || length > maxStream:
		return refusedMalformed
	}
	return ""
}
