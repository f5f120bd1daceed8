package gossip

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/omnirelay/leadership/core"
)

func (m *mesh) logger() *slog.Logger { return slog.New(slog.DiscardHandler) }

// stranger is a process with memberlist and whatever keys, label and metadata it likes.
type stranger struct {
	memberlist.Delegate
	meta []byte
}

func (s *stranger) NodeMeta(int) []byte                    { return s.meta }
func (s *stranger) NotifyMsg([]byte)                       {}
func (s *stranger) GetBroadcasts(int, int) [][]byte        { return nil }
func (s *stranger) LocalState(bool) []byte                 { return []byte("no state at all") }
func (s *stranger) MergeRemoteState(buf []byte, join bool) {}

func (m *mesh) stranger(name, label string, key, meta []byte) *memberlist.Memberlist {
	m.t.Helper()
	c := memberlist.DefaultLocalConfig()
	c.Name, c.Label, c.BindAddr, c.BindPort, c.SecretKey = name, label, "127.0.0.1", 0, key
	c.Delegate, c.LogOutput = &stranger{meta: meta}, io.Discard
	list, err := memberlist.Create(c)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() {
		if err := list.Shutdown(); err != nil {
			m.t.Error(err)
		}
	})
	return list
}

func (m *mesh) key() []byte {
	keys := must[[][]byte](m.t)(readKeys(m.keyFile))
	return keys[0]
}

func encoded(t testing.TB, m Metadata) []byte {
	t.Helper()
	return must[[]byte](t)(m.Encode())
}

// Whoever has another key, is of another cluster or says nonsense of himself becomes no
// member, is counted, and does no harm.
func TestStrangersAreRefused(t *testing.T) {
	m := newMesh(t)
	good := Metadata{ClusterID: "demo", Role: "node", MeshVersion: "1.0", Life: 1}
	other := good
	other.ClusterID = "other"
	for name, tc := range map[string]struct {
		member, label string
		key, meta     []byte
		reason        string
	}{
		"wrong key":         {"x", "omnirelay/demo", bytes.Repeat([]byte{7}, 32), encoded(t, good), refusedKey},
		"no key":            {"x", "omnirelay/demo", nil, encoded(t, good), refusedKey},
		"another label":     {"x", "omnirelay/other", m.key(), encoded(t, other), refusedLabel},
		"another cluster":   {"x", "omnirelay/demo", m.key(), encoded(t, other), refusedCluster},
		"bad metadata":      {"x", "omnirelay/demo", m.key(), []byte{1, 2, 3}, refusedMetadata},
		"no metadata":       {"x", "omnirelay/demo", m.key(), nil, refusedMetadata},
		"later format":      {"x", "omnirelay/demo", m.key(), append([]byte{2}, encoded(t, good)[1:]...), refusedMetadata},
		"name":              {"x y", "omnirelay/demo", m.key(), encoded(t, good), refusedMetadata},
		"name beyond bound": {string(bytes.Repeat([]byte("x"), core.MaxMemberID+1)), "omnirelay/demo", m.key(), encoded(t, good), refusedMetadata},
	} {
		t.Run(name, func(t *testing.T) {
			m := &mesh{t: t, keyFile: m.keyFile}
			a := m.start(m.options("a"))
			b := m.start(m.options("b", a.Address()))
			a.sees("b", StatusAlive)
			b.sees("a", StatusAlive)
			s := m.stranger(tc.member, tc.label, tc.key, tc.meta)
			_, _ = s.Join([]string{a.Address()}) // whether it thinks so does not matter
			to, err := net.ResolveUDPAddr("udp", a.Address())
			if err != nil {
				t.Fatal(err)
			}
			until(t, "it is counted as "+tc.reason, func() bool {
				_, _ = s.Join([]string{a.Address()})
				_, _ = s.Ping("a", to)
				return a.Stats().Refused[tc.reason] > 0
			})
			// And the others go on, as members that nothing was told of but that.
			if len(a.Peers()) != 2 || a.status(tc.member) != "" || len(b.Peers()) != 2 {
				t.Errorf("a knows %+v, b %+v", a.Peers(), b.Peers())
			}
			a.sees("b", StatusAlive)
			if told := a.told(tc.member); len(told) != 0 {
				t.Errorf("told %+v", told)
			}
		})
	}
}

// One of a version that the mesh does not work with is a member, and shown as such.
func TestUnsupportedVersionIsShown(t *testing.T) {
	m := newMesh(t)
	o := m.options("a")
	o.MinMeshVersion = "1.0"
	a := m.start(o)
	for id, version := range map[string]string{"old": "0.9.9", "odd": "nightly"} {
		o := m.options(id, a.Address())
		o.MeshVersion = version
		m.start(o)
		a.sees(id, StatusAlive)
		until(t, "a is told", func() bool { return len(a.told(id)) > 0 })
		if news := a.told(id)[0]; !news.Unsupported || news.Health != core.HealthAlive {
			t.Errorf("%+v", news)
		}
	}
}

// sealed encrypts a message with a real key, as only a member can, in either of the ways
// memberlist knows.
func sealed(t testing.TB, key []byte, version byte, plain, data []byte) []byte {
	t.Helper()
	gcm := must[cipher.AEAD](t)(cipher.NewGCM(must[cipher.Block](t)(aes.NewCipher(key))))
	nonce := make([]byte, gcm.NonceSize())
	_, _ = rand.Read(nonce)
	return gcm.Seal(append([]byte{version}, nonce...), nonce, plain, data)
}

func labelled(label string, body []byte) []byte {
	return append(append([]byte{labelMark, byte(len(label))}, label...), body...)
}

// What a member with a key can send to make memberlist panic does not reach it.
func TestMessagesThatWouldPanicAreRefused(t *testing.T) {
	m := newMesh(t)
	a := m.start(m.options("a"))
	label, key := "omnirelay/demo", m.key()
	udp := must[net.Conn](t)(net.Dial("udp", a.Address()))
	defer func() { _ = udp.Close() }()
	packets := [][]byte{
		{}, {labelMark}, {labelMark, 200}, labelled(label, nil), labelled("", []byte{1}),
		labelled(label, sealed(t, key, 0, nil, []byte(label))),                           // nothing where padding should be
		labelled(label, sealed(t, key, 0, bytes.Repeat([]byte{255}, 16), []byte(label))), // padding beyond its beginning
		labelled(label, sealed(t, key, 1, nil, []byte(label))),
		labelled(label, sealed(t, key, 1, []byte{244}, []byte(label))),
		labelled(label, sealed(t, key, 1, []byte{7, 255, 0}, []byte(label))),
		labelled(label, sealed(t, key, 1, append([]byte{9}, bytes.Repeat([]byte{0xdf}, 64)...), []byte(label))),
	}
	for _, p := range packets {
		if _, err := udp.Write(p); err != nil {
			t.Fatal(err)
		}
	}
	stream := func(version byte, plain []byte, claimed int) []byte {
		header := binary.BigEndian.AppendUint32([]byte{encryptedMark}, uint32(gcmOverhead+len(plain)))
		body := sealed(t, key, version, plain, append(append([]byte(nil), header...), label...))
		if claimed > 0 {
			header = binary.BigEndian.AppendUint32([]byte{encryptedMark}, uint32(claimed))
		}
		return labelled(label, append(header, body...))
	}
	for _, s := range [][]byte{
		stream(1, nil, 0), stream(0, nil, 0), stream(0, bytes.Repeat([]byte{255}, 16), 0), stream(1, []byte{6}, maxStream+1), stream(1, []byte{6, 0xdf, 0xff}, 0),
		labelled(label, nil), labelled("x", nil), {labelMark, 0},
	} {
		conn := must[net.Conn](t)(net.Dial("tcp", a.Address()))
		if _, err := conn.Write(s); err != nil {
			t.Fatal(err)
		}
		_ = conn.(*net.TCPConn).CloseWrite()
		_ = conn.SetDeadline(time.Now().Add(within))
		_, _ = io.Copy(io.Discard, conn) // until it is closed
		_ = conn.Close()
	}
	b := m.start(m.options("b", a.Address()))
	a.sees("b", StatusAlive)
	b.sees("a", StatusAlive)
	s := a.Stats()
	if s.Refused[refusedMalformed] == 0 || s.Refused[refusedLabel] == 0 || s.Refused[refusedKey] == 0 {
		t.Errorf("refused: %v", s.Refused)
	}
}

// Connections that say nothing hold no more places than one source may have, and not for
// long; others join meanwhile.
func TestSilentConnectionsAreEnded(t *testing.T) {
	m := newMesh(t)
	a := m.start(m.options("a"))
	for range maxStreams + 5 {
		stranger := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 9)}}
		conn := must[net.Conn](t)(stranger.Dial("tcp", a.Address()))
		defer func() { _ = conn.Close() }()
	}
	until(t, "some are refused", func() bool { return a.Stats().Refused[refusedBusy] >= maxStreams+5-maxStreamsPerSource })
	b := m.start(m.options("b", a.Address()))
	b.sees("a", StatusAlive)
}

// Two processes with one member id: the first one stays, and both sides know of it.
func TestTwoProcessesUnderOneName(t *testing.T) {
	m := newMesh(t)
	a := m.start(m.options("a"))
	b := m.start(m.options("b", a.Address()))
	a.sees("b", StatusAlive)
	twin := m.start(m.options("b", a.Address()))
	until(t, "both see it", func() bool { return a.Stats().Conflicts > 0 && twin.Stats().Conflicts > 0 })
	for _, p := range a.Peers() {
		if p.ID == "b" && (p.Address != b.Address() || p.Status != StatusAlive) {
			t.Errorf("a knows b as %+v", p)
		}
	}
	// When the first one ends, the name is free for the other.
	b.stop()
	until(t, "a takes the other", func() bool {
		for _, p := range a.Peers() {
			if p.ID == "b" && p.Address == twin.Address() && p.Status == StatusAlive {
				return true
			}
		}
		return false
	})
}

func TestOptionsThatAreRefused(t *testing.T) {
	m := newMesh(t)
	for name, change := range map[string]func(*Options){
		"no key":         func(o *Options) { o.KeyFile = "" },
		"open elsewhere": func(o *Options) { o.KeyFile, o.Plaintext, o.Listen = "", true, "0.0.0.0:0" },
		"open and key":   func(o *Options) { o.Plaintext = true },
		"no key file":    func(o *Options) { o.KeyFile = filepath.Join(t.TempDir(), "none") },
		"name":           func(o *Options) { o.Name = "a b" },
		"cluster":        func(o *Options) { o.ClusterID = "" },
		"address":        func(o *Options) { o.Listen = "nowhere" },
		"no advertise":   func(o *Options) { o.Listen = "0.0.0.0:0" },
		"interval":       func(o *Options) { o.Interval = time.Microsecond },
		"probe timeout":  func(o *Options) { o.ProbeTimeout = o.ProbeInterval },
		"fanout":         func(o *Options) { o.Fanout = MaxFanout + 1 },
		"seeds":          func(o *Options) { o.Seeds = make([]string, MaxSeeds+1) },
		"version":        func(o *Options) { o.MinMeshVersion = "latest" },
		"labels":         func(o *Options) { o.Labels = manyLabels(core.MaxLabels + 1) },
	} {
		o := m.options("a")
		change(&o)
		if g, err := New(o); err == nil {
			t.Errorf("%s: accepted", name)
			_ = g.Close()
		}
	}
	o := m.options("a")
	o.Listen = m.start(m.options("b")).Address()
	if _, err := New(o); err == nil {
		t.Error("a port that is taken is taken again")
	}
	open := m.options("a")
	open.KeyFile, open.Plaintext = "", true
	c := m.start(open)
	open.Name, open.Seeds = "d", []string{c.Address()}
	m.start(open)
	c.sees("d", StatusAlive)
}
