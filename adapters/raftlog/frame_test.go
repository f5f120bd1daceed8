package raftlog

import (
	"bytes"
	"testing"
)

// No flip of one byte, and no value under another key or in another bucket, may
// pass; and no input at all may panic.
func FuzzUnframe(f *testing.F) {
	f.Add([]byte("entries"), []byte("key"), []byte("payload"), uint16(3), byte(1))
	f.Add([]byte{}, []byte{}, []byte{}, uint16(0), byte(0))
	f.Fuzz(func(t *testing.T, bucket, key, payload []byte, at uint16, mask byte) {
		if len(bucket) > 255 || len(key) > 255 {
			return
		}
		if _, err := unframe(bucket, key, payload); err == nil && len(payload) < checksumBytes {
			t.Error("accepted without a checksum")
		}
		value := frame(bucket, key, payload)
		got, err := unframe(bucket, key, value)
		if err != nil || !bytes.Equal(got, payload) {
			t.Fatalf("%q, %v; want %q", got, err, payload)
		}
		if mask == 0 {
			return
		}
		for _, b := range [][]byte{value, bucket, key} {
			if len(b) == 0 {
				continue
			}
			i := int(at) % len(b)
			b[i] ^= mask
			if _, err := unframe(bucket, key, value); err == nil {
				t.Errorf("byte %d xor %#x passed", i, mask)
			}
			b[i] ^= mask
		}
	})
}
