package raftlog

import (
	"encoding/binary"
	"errors"
	"hash/crc32"

	"go.etcd.io/bbolt"
)

// Every value is stored as a checksum followed by its payload. bbolt itself does
// not notice a flipped byte. CRC-32C finds every damage within four consecutive
// bytes and all but one in four billion of the rest; it covers the bucket and the
// key too, so that no record can pose as another.

const checksumBytes = 4

var (
	castagnoli  = crc32.MakeTable(crc32.Castagnoli)
	errShort    = errors.New("too short for its checksum")
	errChecksum = errors.New("the checksum does not match")
)

func checksum(bucket, key, payload []byte) uint32 {
	sum := crc32.Update(0, castagnoli, bucket)
	// The length keeps the end of the bucket's name apart from the start of the key.
	sum = crc32.Update(sum, castagnoli, []byte{byte(len(bucket)), byte(len(key))})
	sum = crc32.Update(sum, castagnoli, key)
	return crc32.Update(sum, castagnoli, payload)
}

// frame returns what is stored for payload. Keys are at most 255 bytes.
func frame(bucket, key, payload []byte) []byte {
	value := make([]byte, checksumBytes, checksumBytes+len(payload))
	binary.BigEndian.PutUint32(value, checksum(bucket, key, payload))
	return append(value, payload...)
}

// unframe returns the payload of a stored value. It shares value's memory.
func unframe(bucket, key, value []byte) ([]byte, error) {
	if len(value) < checksumBytes {
		return nil, errShort
	}
	payload := value[checksumBytes:]
	if binary.BigEndian.Uint32(value) != checksum(bucket, key, payload) {
		return nil, errChecksum
	}
	return payload, nil
}

func put(tx *bbolt.Tx, bucket, key, payload []byte) error {
	b := tx.Bucket(bucket)
	b.FillPercent = 0.9 // keys only ever grow: fuller pages, a smaller file
	return b.Put(key, frame(bucket, key, payload))
}

// position is the key of an entry or a record: order of keys is order of numbers.
func position(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }
