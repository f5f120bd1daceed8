package gossip

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/omnirelay/leadership/core"
)

func someMetadata() Metadata {
	return Metadata{ClusterID: "demo", Role: "node", Region: "eu-1", MeshVersion: "1.2.3", HTTP3: true, Life: 7, Labels: map[string]string{"zone": "a", "rack": "ä 1"}}
}

func TestMetadataComesBack(t *testing.T) {
	for _, m := range []Metadata{someMetadata(), {ClusterID: "c", Role: "r", Life: 1}} {
		data, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := DecodeMetadata(data)
		if err != nil || got.ClusterID != m.ClusterID || got.Role != m.Role || got.Region != m.Region || got.MeshVersion != m.MeshVersion ||
			got.HTTP3 != m.HTTP3 || got.Life != m.Life || !maps.Equal(got.Labels, m.Labels) {
			t.Errorf("%+v came back as %+v, %v", m, got, err)
		}
	}
}

func TestMetadataOfALaterVersionIsRead(t *testing.T) {
	data, err := someMetadata().Encode()
	if err != nil {
		t.Fatal(err)
	}
	later := appendField(data, 200, []byte("what nobody knows yet"))
	later = appendField(later, 200, nil) // and may repeat
	if got, err := DecodeMetadata(later); err != nil || got.Role != "node" {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestMetadataThatIsRefused(t *testing.T) {
	good, err := someMetadata().Encode()
	if err != nil {
		t.Fatal(err)
	}
	field := func(key byte, value string) []byte { return appendField(slices.Clone(good), key, []byte(value)) }
	with := func(change func(*Metadata)) []byte {
		m := someMetadata()
		change(&m)
		data := []byte{metadataFormat}
		for i, text := range []string{m.ClusterID, m.Role, m.Region, m.MeshVersion} {
			data = appendField(data, byte(keyCluster+i), []byte(text))
		}
		return appendField(data, keyLife, []byte("12345678"))
	}
	for name, data := range map[string][]byte{
		"nothing":         nil,
		"only the format": {metadataFormat},
		"another format":  append([]byte{2}, good[1:]...),
		"too long":        append(slices.Clone(good), bytes.Repeat([]byte{9, 0}, MaxMetadata)...),
		"cut":             good[:len(good)-1],
		"length beyond":   append(slices.Clone(good), 99, 200),
		"huge length":     append(slices.Clone(good), 99, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1),
		"cluster twice":   field(keyCluster, "other"),
		"life twice":      field(keyLife, "12345678"),
		"label twice":     field(keyLabel, "\x04zonea"),
		"label cut":       field(keyLabel, "\x09zone"),
		"label name":      field(keyLabel, "\x03a ba"),
		"no cluster":      with(func(m *Metadata) { m.ClusterID = "" }),
		"cluster text":    with(func(m *Metadata) { m.ClusterID = "a\nb" }),
		"no role":         with(func(m *Metadata) { m.Role = "" }),
		"long role":       with(func(m *Metadata) { m.Role = strings.Repeat("r", MaxRole+1) }),
		"long region":     with(func(m *Metadata) { m.Region = strings.Repeat("r", MaxRegion+1) }),
		"version text":    with(func(m *Metadata) { m.MeshVersion = "1\x00" }),
		"version bytes":   with(func(m *Metadata) { m.MeshVersion = "\xff" }),
		"long version":    with(func(m *Metadata) { m.MeshVersion = strings.Repeat("1", MaxMeshVersion+1) }),
	} {
		if m, err := DecodeMetadata(data); err == nil {
			t.Errorf("%s: read as %+v", name, m)
		}
	}
	for name, m := range map[string]Metadata{
		"no life":         {ClusterID: "c", Role: "r"},
		"labels":          {ClusterID: "c", Role: "r", Life: 1, Labels: map[string]string{"a b": "c"}},
		"too many labels": {ClusterID: "c", Role: "r", Life: 1, Labels: manyLabels(core.MaxLabels + 1)},
		"too much":        {ClusterID: "c", Role: "r", Life: 1, Labels: map[string]string{"a": strings.Repeat("x", 255), "b": strings.Repeat("x", 255)}},
	} {
		if data, err := m.Encode(); err == nil {
			t.Errorf("%s: written as %q", name, data)
		}
	}
}

func manyLabels(n int) map[string]string {
	labels := map[string]string{}
	for i := range n {
		labels[fmt.Sprint(i)] = ""
	}
	return labels
}

// Whatever is read can be written, and means the same again.
func TestMetadataReadIsWritable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := Metadata{
			ClusterID: rapid.StringMatching(`[a-z0-9._-]{1,20}`).Draw(t, "cluster"), Role: rapid.StringMatching(`[a-z]{1,8}`).Draw(t, "role"),
			Region: rapid.StringMatching(`[a-z-]{0,8}`).Draw(t, "region"), MeshVersion: rapid.StringN(0, 8, MaxMeshVersion).Draw(t, "version"),
			HTTP3: rapid.Bool().Draw(t, "http3"), Life: rapid.Uint64().Draw(t, "life"),
			Labels: rapid.MapOfN(rapid.StringMatching(`[a-z]{1,6}`), rapid.StringN(0, 10, 20), 0, 6).Draw(t, "labels"),
		}
		data, err := m.Encode()
		if err != nil {
			return
		}
		got, err := DecodeMetadata(data)
		if err != nil {
			t.Fatalf("%+v: %v", m, err)
		}
		if again, err := got.Encode(); err != nil || !bytes.Equal(again, data) {
			t.Fatalf("%q came back as %q, %v", data, again, err)
		}
	})
}

func TestVersions(t *testing.T) {
	for _, tc := range []struct {
		min, max, version string
		holds             bool
	}{
		{"", "", "anything", true},
		{"1.2", "", "1.2.0", true}, {"1.2", "", "1.1.9", false}, {"1.2", "", "v2", true}, {"1.2", "", "soon", false}, {"1.2", "", "", false},
		{"", "1", "1.9.9", true}, {"", "1", "2.0.0", false}, {"", "1.4", "1.4.7-rc1", true}, {"", "1.4", "1.10.0", false},
		{"1.2.3", "1.2.3", "1.2.3+build", true}, {"1.2.3", "1.2.3", "1.2", false},
	} {
		r, err := newVersionRange(tc.min, tc.max)
		if err != nil {
			t.Fatal(err)
		}
		if got := r.holds(tc.version); got != tc.holds {
			t.Errorf("%q to %q holds %q: %v", tc.min, tc.max, tc.version, got)
		}
	}
	for _, bad := range []string{"x", "1.2.3.4", "1..2", strings.Repeat("9", 40), "1.2.3 "} {
		if _, err := newVersionRange(bad, ""); err == nil {
			t.Errorf("%q is taken for a version", bad)
		}
	}
}
