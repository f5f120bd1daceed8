package sim

import (
	"encoding/binary"
	"fmt"
	"math/bits"
)

// digest folds everything that happens in a run into one number: two runs of one
// seed must end with the same. It is no cryptographic hash; it only has to be
// fast and to depend on every word and on their order.
type digest struct{ a, b uint64 }

func (d *digest) word(v uint64) {
	d.a = bits.RotateLeft64(d.a^v, 27)*0x9e3779b97f4a7c15 + 0x52dce729
	d.b = bits.RotateLeft64(d.b+v, 31)*0xbf58476d1ce4e5b9 ^ d.a
}

func (d *digest) words(vs ...uint64) {
	for _, v := range vs {
		d.word(v)
	}
}

func (d *digest) bytes(p []byte) {
	d.word(uint64(len(p)))
	for len(p) >= 8 {
		d.word(binary.LittleEndian.Uint64(p))
		p = p[8:]
	}
	var last uint64
	for i, b := range p {
		last |= uint64(b) << (8 * i)
	}
	d.word(last)
}

func (d *digest) text(s string) {
	d.word(uint64(len(s)))
	var v uint64
	for i := 0; i < len(s); i++ {
		v = v<<8 | uint64(s[i])
		if i%8 == 7 {
			d.word(v)
			v = 0
		}
	}
	d.word(v)
}

func (d *digest) String() string { return fmt.Sprintf("%016x%016x", d.a, d.b) }
