package raftlog

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"io"
)

// Before bbolt maps a file, its pages are walked here. bbolt trusts them: it
// follows a page number into itself for ever, falls back to the state before the
// last transaction when the newest meta page is damaged, and later overwrites
// live pages when its free list is wrong. Its own check runs in a goroutine where
// a fault ends the process. The walk reads plain bytes, visits each page once,
// and accounts for every page of the file.

const (
	pageHeader    = 16
	element       = 16
	bucketHeader  = 16
	metaBytes     = 64
	metaSummed    = 56 // the bytes of a meta that its checksum covers
	maxTreeDepth  = 32
	boltMagic     = 0xED0CDAED
	boltVersion   = 2
	branchFlag    = 0x01
	leafFlag      = 0x02
	metaFlag      = 0x04
	freelistFlag  = 0x10
	bucketElement = 0x01
)

var order = binary.NativeEndian // bbolt stores what the processor uses

// boltMeta is the root of one transaction.
type boltMeta struct {
	root, freelist, pages, tx uint64
}

// page is a page with those that overflow from it.
type page struct {
	id    uint64
	flags uint16
	count int
	data  []byte
}

// walk accounts for the pages of one file.
type walk struct {
	file  io.ReaderAt
	pages uint64 // pages in use or free; what lies behind was never written
	seen  []bool
}

// notBolt says that a file was never one of bbolt's.
type notBolt struct{}

func (notBolt) Error() string { return "not a bbolt file" }

// checkStructure returns what is wrong with the pages of a bbolt file: nil,
// notBolt, or what bbolt would stumble over.
func checkStructure(file io.ReaderAt, size int64) error {
	meta, err := readMetas(file, size)
	if err != nil {
		return err
	}
	if meta.pages > uint64(size)/pageSize {
		return fmt.Errorf("the file is cut short: %d bytes, want %d", size, meta.pages*pageSize)
	}
	w := &walk{file: file, pages: meta.pages, seen: make([]bool, meta.pages)}
	w.seen[0], w.seen[1] = true, true
	if err := w.tree(meta.root, nil, nil, 0); err != nil {
		return err
	}
	if err := w.freelist(meta.freelist); err != nil {
		return err
	}
	for id, seen := range w.seen {
		if !seen {
			return fmt.Errorf("page %d is neither used nor free", id)
		}
	}
	return nil
}

// readMetas returns the newest of the two meta pages. Both must be sound, and of
// consecutive transactions: with the newer one damaged the older one shows a log
// without what was acknowledged last. A crash does not tear them, since all of a
// meta lies in one disk sector.
func readMetas(file io.ReaderAt, size int64) (boltMeta, error) {
	head := make([]byte, 2*pageSize)
	n, err := file.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return boltMeta{}, err
	}
	first, err0 := parseMeta(head[:pageSize])
	second, err1 := parseMeta(head[pageSize:])
	_, foreign0 := err0.(notBolt)
	_, foreign1 := err1.(notBolt)
	switch {
	case foreign0 && foreign1:
		return boltMeta{}, notBolt{}
	case n < len(head) || size < 4*pageSize:
		return boltMeta{}, fmt.Errorf("the file is cut short: %d bytes", size)
	case err0 != nil:
		return boltMeta{}, fmt.Errorf("meta page 0: %w", err0)
	case err1 != nil:
		return boltMeta{}, fmt.Errorf("meta page 1: %w", err1)
	case first.tx == second.tx+1:
		return first, nil
	case second.tx == first.tx+1:
		return second, nil
	}
	return boltMeta{}, fmt.Errorf("the meta pages are of transactions %d and %d, not of consecutive ones", first.tx, second.tx)
}

func parseMeta(p []byte) (boltMeta, error) {
	b := p[pageHeader : pageHeader+metaBytes]
	if order.Uint32(b) != boltMagic {
		return boltMeta{}, notBolt{}
	}
	if v := order.Uint32(b[4:]); v != boltVersion {
		return boltMeta{}, fmt.Errorf("bbolt format %d, want %d", v, boltVersion)
	}
	h := fnv.New64a()
	h.Write(b[:metaSummed])
	if h.Sum64() != order.Uint64(b[metaSummed:]) {
		return boltMeta{}, errChecksum
	}
	if size := order.Uint32(b[8:]); size != pageSize {
		return boltMeta{}, fmt.Errorf("pages of %d bytes, want %d", size, pageSize)
	}
	return boltMeta{root: order.Uint64(b[16:]), freelist: order.Uint64(b[32:]), pages: order.Uint64(b[40:]), tx: order.Uint64(b[48:])}, nil
}

// take reads page id with its overflow and marks it as seen.
func (w *walk) take(id uint64) (*page, error) {
	if id >= w.pages {
		return nil, fmt.Errorf("a reference to page %d, behind the last page %d", id, w.pages-1)
	}
	data := make([]byte, pageSize)
	if _, err := w.file.ReadAt(data, int64(id)*pageSize); err != nil {
		return nil, fmt.Errorf("page %d: %w", id, err)
	}
	if order.Uint64(data) != id {
		return nil, fmt.Errorf("page %d calls itself %d", id, order.Uint64(data))
	}
	overflow := uint64(order.Uint32(data[12:]))
	if overflow >= w.pages-id {
		return nil, fmt.Errorf("page %d runs over the end of the file", id)
	}
	if overflow > 0 {
		data = make([]byte, (overflow+1)*pageSize)
		if _, err := w.file.ReadAt(data, int64(id)*pageSize); err != nil {
			return nil, fmt.Errorf("page %d: %w", id, err)
		}
	}
	for i := id; i <= id+overflow; i++ {
		if err := w.mark(i); err != nil {
			return nil, err
		}
	}
	return &page{id: id, flags: order.Uint16(data[8:]), count: int(order.Uint16(data[10:])), data: data}, nil
}

func (w *walk) mark(id uint64) error {
	if id >= w.pages || w.seen[id] {
		return fmt.Errorf("page %d is referred to twice or out of range", id)
	}
	w.seen[id] = true
	return nil
}

// tree walks a page of a bucket and all below it. Its keys must start with low, as
// its parent says, and lie below high; nil: it is a root, or there is no bound.
func (w *walk) tree(id uint64, low, high []byte, depth int) error {
	if depth > maxTreeDepth {
		return fmt.Errorf("page %d: the tree is deeper than %d", id, maxTreeDepth)
	}
	p, err := w.take(id)
	if err != nil {
		return err
	}
	switch p.flags {
	case leafFlag:
		return w.leaf(p, low, high, depth)
	case branchFlag:
		return w.branch(p, low, high, depth)
	}
	return fmt.Errorf("page %d is neither leaf nor branch: flags %#x", id, p.flags)
}

func (w *walk) branch(p *page, low, high []byte, depth int) error {
	keys, children, err := p.branches()
	if err != nil {
		return err
	}
	if err := p.checkOrder(keys, low, high); err != nil {
		return err
	}
	for i, child := range children {
		upper := high
		if i+1 < len(keys) {
			upper = keys[i+1]
		}
		if err := w.tree(child, keys[i], upper, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (p *page) branches() (keys [][]byte, children []uint64, err error) {
	if p.count == 0 {
		return nil, nil, fmt.Errorf("branch page %d is empty", p.id)
	}
	for i := range p.count {
		at := pageHeader + i*element
		e, err := p.slice(at, element)
		if err != nil {
			return nil, nil, err
		}
		key, err := p.slice(at+int(order.Uint32(e)), int(order.Uint32(e[4:])))
		if err != nil {
			return nil, nil, err
		}
		keys, children = append(keys, key), append(children, order.Uint64(e[8:]))
	}
	return keys, children, nil
}

// leaf walks the elements of a leaf page; those that are buckets are trees.
func (w *walk) leaf(p *page, low, high []byte, depth int) error {
	var keys [][]byte
	for i := range p.count {
		at := pageHeader + i*element
		e, err := p.slice(at, element)
		if err != nil {
			return err
		}
		start, keyLen, valueLen := at+int(order.Uint32(e[4:])), int(order.Uint32(e[8:])), int(order.Uint32(e[12:]))
		key, err := p.slice(start, keyLen)
		if err != nil {
			return err
		}
		value, err := p.slice(start+keyLen, valueLen)
		if err != nil {
			return err
		}
		keys = append(keys, key)
		switch flags := order.Uint32(e); {
		case flags == bucketElement:
			err = w.bucket(p.id, value, depth)
		case flags != 0:
			err = fmt.Errorf("page %d: an element with unknown flags %#x", p.id, flags)
		}
		if err != nil {
			return err
		}
	}
	return p.checkOrder(keys, low, high)
}

// bucket walks a bucket: a tree of its own, or, while it is small, a leaf page
// inside the value.
func (w *walk) bucket(holder uint64, value []byte, depth int) error {
	if len(value) < bucketHeader {
		return fmt.Errorf("page %d: a bucket without its header", holder)
	}
	if root := order.Uint64(value); root != 0 {
		return w.tree(root, nil, nil, depth+1)
	}
	inline := value[bucketHeader:]
	if len(inline) < pageHeader || order.Uint64(inline) != 0 || order.Uint16(inline[8:]) != leafFlag || order.Uint32(inline[12:]) != 0 {
		return fmt.Errorf("page %d: a small bucket that makes no sense", holder)
	}
	if depth > maxTreeDepth {
		return fmt.Errorf("page %d: buckets nested deeper than %d", holder, maxTreeDepth)
	}
	return w.leaf(&page{id: holder, flags: leafFlag, count: int(order.Uint16(inline[10:])), data: inline}, nil, nil, depth+1)
}

// slice returns length bytes of the page, and refuses what lies outside of it.
func (p *page) slice(at, length int) ([]byte, error) {
	if at < pageHeader || length < 0 || at > len(p.data) || length > len(p.data)-at {
		return nil, fmt.Errorf("page %d: content outside of the page", p.id)
	}
	return p.data[at : at+length], nil
}

// checkOrder asks for more than reading needs: with a key in a parent that is not
// its child's first, bbolt files the child twice when it writes it back.
func (p *page) checkOrder(keys [][]byte, low, high []byte) error {
	if len(keys) == 0 && low != nil {
		return fmt.Errorf("page %d is empty", p.id)
	}
	for i, key := range keys {
		switch {
		case len(key) == 0,
			i == 0 && low != nil && !bytes.Equal(key, low),
			i > 0 && bytes.Compare(key, keys[i-1]) <= 0,
			high != nil && bytes.Compare(key, high) >= 0:
			return fmt.Errorf("page %d: keys out of order", p.id)
		}
	}
	return nil
}

// freelist marks the free pages. One that is in use as well would be overwritten.
func (w *walk) freelist(id uint64) error {
	p, err := w.take(id)
	if err != nil {
		return err
	}
	if p.flags != freelistFlag {
		return fmt.Errorf("page %d is not the free list: flags %#x", id, p.flags)
	}
	list, count := p.data[pageHeader:], uint64(p.count)
	if p.count == 0xFFFF { // too many for the header: the first element counts
		count, list = order.Uint64(list), list[8:]
	}
	if count > uint64(len(list)/8) {
		return fmt.Errorf("page %d: a free list of %d pages does not fit", id, count)
	}
	for i := range count {
		if err := w.mark(order.Uint64(list[8*i:])); err != nil {
			return fmt.Errorf("free list: %w", err)
		}
	}
	return nil
}
