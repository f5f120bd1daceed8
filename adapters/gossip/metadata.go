package gossip

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/hashicorp/memberlist"

	"github.com/omnirelay/leadership/core"
)

// Limits on what a member says of itself.
const (
	MaxMetadata    = memberlist.MetaMaxSize // bytes, encoded
	MaxClusterID   = 128                    // bytes
	MaxRole        = 32                     // bytes
	MaxRegion      = 64                     // bytes
	MaxMeshVersion = 32                     // bytes
)

// metadataFormat starts every encoding. Fields are added under new keys, which older
// members pass over; another format is for what they must not take for this one.
const metadataFormat = 1

// Keys of the fields. A field is its key, the length of its value and the value.
const (
	keyCluster = 1 + iota
	keyRole
	keyRegion
	keyVersion
	keyFlags
	keyLife
	keyLabel // once for each label: the length of its name, the name and the value
)

const flagHTTP3 = 1

// Metadata is what a member says of itself when it joins.
type Metadata struct {
	ClusterID   string
	Role        string // what the process is, such as node
	Region      string // may be empty
	MeshVersion string
	HTTP3       bool // its public listeners speak HTTP/3
	Labels      map[string]string
	// Life tells one process of a member from the next. Never 0.
	Life uint64
}

// Encode returns the metadata as it travels. It refuses what Decode would refuse.
func (m Metadata) Encode() ([]byte, error) {
	if err := m.check(); err != nil {
		return nil, err
	}
	data := []byte{metadataFormat}
	for _, f := range []struct {
		key   byte
		value string
	}{{keyCluster, m.ClusterID}, {keyRole, m.Role}, {keyRegion, m.Region}, {keyVersion, m.MeshVersion}} {
		data = appendField(data, f.key, []byte(f.value))
	}
	if m.HTTP3 {
		data = appendField(data, keyFlags, []byte{flagHTTP3})
	}
	data = appendField(data, keyLife, binary.BigEndian.AppendUint64(nil, m.Life))
	for _, name := range slices.Sorted(maps.Keys(m.Labels)) {
		data = appendField(data, keyLabel, append(appendText(nil, name), m.Labels[name]...))
	}
	if len(data) > MaxMetadata {
		return nil, fmt.Errorf("metadata: %d bytes with %d labels; at most %d fit: shorten or drop labels", len(data), len(m.Labels), MaxMetadata)
	}
	return data, nil
}

// DecodeMetadata reads what a member says of itself. Fields that this version does not
// know are passed over; everything else is held to the limits above.
func DecodeMetadata(data []byte) (Metadata, error) {
	m := Metadata{}
	if len(data) == 0 || len(data) > MaxMetadata {
		return m, fmt.Errorf("metadata: %d bytes; 1 to %d are right", len(data), MaxMetadata)
	}
	if data[0] != metadataFormat {
		return m, fmt.Errorf("metadata: format %d; this version reads %d", data[0], metadataFormat)
	}
	seen := [keyLabel]bool{}
	for rest := data[1:]; len(rest) > 0; {
		key := rest[0]
		value, after, err := takeText(rest[1:], MaxMetadata)
		if err != nil {
			return Metadata{}, fmt.Errorf("metadata: field %d: %w", key, err)
		}
		if int(key) < len(seen) {
			if seen[key] {
				return Metadata{}, fmt.Errorf("metadata: field %d is there twice", key)
			}
			seen[key] = true
		}
		if err := m.take(key, value); err != nil {
			return Metadata{}, err
		}
		rest = after
	}
	return m, m.check()
}

// take reads one field.
func (m *Metadata) take(key byte, value []byte) error {
	switch key {
	case keyCluster:
		m.ClusterID = string(value)
	case keyRole:
		m.Role = string(value)
	case keyRegion:
		m.Region = string(value)
	case keyVersion:
		m.MeshVersion = string(value)
	case keyFlags:
		m.HTTP3 = len(value) > 0 && value[0]&flagHTTP3 != 0
	case keyLife:
		if len(value) != 8 {
			return fmt.Errorf("metadata: life has %d bytes; 8 are right", len(value))
		}
		m.Life = binary.BigEndian.Uint64(value)
	case keyLabel:
		name, text, err := takeText(value, core.MaxLabelKey)
		if err != nil {
			return fmt.Errorf("metadata: label: %w", err)
		}
		if m.Labels == nil {
			m.Labels = map[string]string{}
		}
		if _, twice := m.Labels[string(name)]; twice {
			return errors.New("metadata: a label is there twice")
		}
		m.Labels[string(name)] = string(text)
	}
	return nil
}

// check holds the metadata to its limits, whether it is ours or another's.
func (m Metadata) check() error {
	for _, f := range []struct {
		name, value string
		limit       int
		optional    bool
	}{{"clusterId", m.ClusterID, MaxClusterID, false}, {"role", m.Role, MaxRole, false}, {"region", m.Region, MaxRegion, true}} {
		if len(f.value) > f.limit {
			return fmt.Errorf("metadata: %s: %d bytes long; at most %d are allowed", f.name, len(f.value), f.limit)
		}
		if f.optional && f.value == "" {
			continue
		}
		if err := core.CheckMemberID("metadata: "+f.name, f.value); err != nil {
			return err
		}
	}
	if err := checkText("meshVersion", m.MeshVersion, MaxMeshVersion); err != nil {
		return err
	}
	if m.Life == 0 {
		return errors.New("metadata: life is missing")
	}
	if len(m.Labels) > core.MaxLabels {
		return fmt.Errorf("metadata: %d labels; at most %d are allowed", len(m.Labels), core.MaxLabels)
	}
	for name, value := range m.Labels {
		if len(name) > core.MaxLabelKey {
			return fmt.Errorf("metadata: the name of a label has %d bytes; at most %d are allowed", len(name), core.MaxLabelKey)
		}
		if err := core.CheckMemberID("metadata: labels", name); err != nil {
			return err
		}
		if err := checkText("labels", value, core.MaxLabelValue); err != nil {
			return err
		}
	}
	return nil
}

// checkText accepts printable UTF-8.
func checkText(field, s string, limit int) error {
	if len(s) > limit {
		return fmt.Errorf("metadata: %s: %d bytes long; at most %d are allowed", field, len(s), limit)
	}
	if !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r == 0x7f }) {
		return fmt.Errorf("metadata: %s: want UTF-8 text without control characters", field)
	}
	return nil
}

func appendField(data []byte, key byte, value []byte) []byte {
	data = binary.AppendUvarint(append(data, key), uint64(len(value)))
	return append(data, value...)
}

func appendText(data []byte, text string) []byte {
	return append(binary.AppendUvarint(data, uint64(len(text))), text...)
}

var (
	errCut   = errors.New("cut short")
	errState = errors.New("no state that this version reads")
)

// takeNumber takes a number off the front of data.
func takeNumber(data []byte) (number uint64, rest []byte, err error) {
	number, n := binary.Uvarint(data)
	if n <= 0 {
		return 0, nil, errCut
	}
	return number, data[n:], nil
}

// takeText takes a length and as many bytes, at most limit, off the front of data.
func takeText(data []byte, limit int) (text, rest []byte, err error) {
	length, rest, err := takeNumber(data)
	if err != nil {
		return nil, nil, err
	}
	if length > uint64(limit) {
		return nil, nil, fmt.Errorf("%d bytes long; at most %d are allowed", length, limit)
	}
	if length > uint64(len(rest)) {
		return nil, nil, errCut
	}
	return rest[:length], rest[length:], nil
}
