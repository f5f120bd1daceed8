package etcdlog

import (
	"fmt"
	"strconv"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/omnirelay/leadership/core"
)

// The keys below the prefix. Numbers in keys are 16 hexadecimal digits, so that the
// order of keys is that of numbers; values that are not ours to encode for core are
// text, so that etcdctl shows them.
//
//	head/lead           the lead record, its Beat apart
//	head/guard          term, last, open or closed, and identity of the lead record
//	head/term           its term
//	head/last           the index of its newest entry
//	head/beat           what Beat was when the key was made; each beat raises the key's version
//	head/snapshot       the pointer to the snapshot in force, as JSON
//	head/published      the number of the newest published audit record
//	entry/<index>       a StoredEntry
//	chunk/<name>/<n>    a piece of a snapshot
//	audit/<number>      an audit record
//	jump/<number>       the number of the record before, where it is not one less
//	attest/<identity>/<node>   the round of the latest attestation
//
// The lead record is in several keys because a transaction can compare a value only as
// a whole, and a caller knows only part of it. An append compares head/guard, which
// it can spell out without having read anything; what only a registrar may do
// compares head/term, and what rests on entries head/last. A beat touches none of them, so it disturbs no append, and no
// append disturbs it.
type keys struct{ prefix string }

const (
	nameBeat      = "beat"
	nameGuard     = "guard"
	nameLast      = "last"
	nameLead      = "lead"
	namePublished = "published"
	nameSnapshot  = "snapshot"
	nameTerm      = "term"
)

func (k keys) heads() string           { return k.prefix + "head/" }
func (k keys) head(name string) string { return k.heads() + name }

func (k keys) entry(index uint64) string { return k.prefix + "entry/" + number(index) }
func (k keys) entries() (from, to string) {
	return within(k.prefix + "entry/")
}

func (k keys) audit(seq uint64) string { return k.prefix + "audit/" + number(seq) }

func (k keys) audits() (from, to string) { return within(k.prefix + "audit/") }

func (k keys) jump(seq uint64) string   { return k.prefix + "jump/" + number(seq) }
func (k keys) jumps() (from, to string) { return within(k.prefix + "jump/") }

func (k keys) chunk(name string, n int) string {
	return fmt.Sprintf("%s%06d", k.chunksOf(name), n)
}
func (k keys) chunksOf(name string) string { return k.prefix + "chunk/" + name + "/" }
func (k keys) chunks() (from, to string)   { return within(k.prefix + "chunk/") }

func (k keys) attest(identity string, node core.NodeID) string {
	return k.attests(identity) + number(uint64(node))
}
func (k keys) attests(identity string) string { return k.prefix + "attest/" + identity + "/" }

func number(n uint64) string { return fmt.Sprintf("%016x", n) }

// numberOf reads the number at the end of a key.
func numberOf(key []byte) (uint64, error) {
	text := string(key[strings.LastIndexByte(string(key), '/')+1:])
	n, err := strconv.ParseUint(text, 16, 64)
	if err != nil || number(n) != text {
		return 0, damaged(string(key), "its name must end in 16 hexadecimal digits")
	}
	return n, nil
}

// within is the range of all keys that begin with prefix.
func within(prefix string) (from, to string) { return prefix, clientv3.GetPrefixRangeEnd(prefix) }

// strangers are reads of what lies between the keys of a log: there must be none.
func (k keys) strangers() []clientv3.Op {
	var known [][2]string
	add := func(from, to string) { known = append(known, [2]string{from, to}) }
	add(within(k.prefix + "attest/"))
	add(k.audits())
	add(k.chunks())
	add(k.entries())
	for _, name := range []string{nameBeat, nameGuard, nameLast, nameLead, namePublished, nameSnapshot, nameTerm} {
		add(k.head(name), k.head(name)+"\x00")
	}
	add(k.jumps())
	next, end := within(k.prefix)
	var ops []clientv3.Op
	for _, r := range known {
		ops = append(ops, firstKey(next, r[0]))
		next = r[1]
	}
	return append(ops, firstKey(next, end))
}

// firstKey reads the name of the first key of a range.
func firstKey(from, to string) clientv3.Op {
	return clientv3.OpGet(from, clientv3.WithRange(to), clientv3.WithLimit(1), clientv3.WithKeysOnly())
}
