package gossip

import (
	"io"
	"log"
	"net"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
)

// tap is a network that goes nowhere but into memberlist.
type tap struct {
	*transport
	packets chan *memberlist.Packet
	streams chan net.Conn
}

func (t *tap) PacketCh() <-chan *memberlist.Packet                          { return t.packets }
func (t *tap) StreamCh() <-chan net.Conn                                    { return t.streams }
func (t *tap) WriteTo([]byte, string) (time.Time, error)                    { return time.Now(), nil }
func (t *tap) WriteToAddress([]byte, memberlist.Address) (time.Time, error) { return time.Now(), nil }

// inside is a member that reads what whoever has a key may send, decrypted already.
func inside(f testing.TB) (*Gossip, *tap) {
	f.Helper()
	o := Options{Name: "a", Metadata: Metadata{ClusterID: "demo", Role: "node"}, Listen: "127.0.0.1:0", Plaintext: true}
	g, err := New(o)
	if err != nil {
		f.Fatal(err)
	}
	if err := g.list.Shutdown(); err != nil {
		f.Fatal(err)
	}
	network := &tap{transport: g.network, packets: make(chan *memberlist.Packet), streams: make(chan net.Conn)}
	c := g.memberlistConfig("omnirelay/demo")
	c.Transport, c.Logger = network, log.New(io.Discard, "", 0)
	c.ProbeInterval, c.PushPullInterval, c.GossipInterval = 0, 0, 0
	if g.list, err = memberlist.Create(c); err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = g.list.Shutdown() })
	return g, network
}

// FuzzPacket: no packet that a member could send makes this one panic, or lets it know
// more members than it may.
func FuzzPacket(f *testing.F) {
	g, network := inside(f)
	word := (&Word{Member: "a", Life: 1, Seq: 1, Set: 1, Parts: 1, Claims: someClaims(2)}).Encode()
	f.Add(append([]byte{8}, word...))
	f.Add([]byte{7, 2, 0, 1, 0, 1, 0, 0})
	f.Add([]byte("\x04\x86\xabIncarnation\x01\xa4Node\xa1b\xa4Addr\xc4\x04\x7f\x00\x00\x01\xa4Port\xcd\x1f\x90\xa4Meta\xc4\x00\xa3Vsn\xc4\x06\x01\x05\x02\x00\x00\x00"))
	f.Add([]byte("\x09\x82\xa4Algo\x00\xa3Buf\xc4\x01\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 2000 || nested(data) {
			return
		}
		network.packets <- &memberlist.Packet{Buf: labelled("omnirelay/demo", data), From: &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9}, Timestamp: time.Now()}
		if n := len(g.Peers()); n > MaxMembers {
			t.Fatalf("%d members", n)
		}
	})
}

// nested: a compressed message grows to 40 MB at most, which a fuzzer finds and which
// only makes it slow.
func nested(data []byte) bool { return len(data) > 200 && data[0] == 9 }

// FuzzStream: the same for full exchanges.
func FuzzStream(f *testing.F) {
	g, network := inside(f)
	f.Add([]byte("\x06\x83\xa5Nodes\x01\xacUserStateLen\x05\xa4Join\xc3\x87\xa4Name\xa1b\xa4Addr\xc4\x04\x7f\x00\x00\x01\xa4Port\xcd\x1f\x90\xa4Meta\xc4\x00\xabIncarnation\x01\xa5State\x00\xa3Vsn\xc4\x06\x01\x05\x02\x00\x00\x00hello"))
	f.Add([]byte("\x08\x81\xaaUserMsgLen\x03abc"))
	f.Add([]byte("\x00\x82\xa5SeqNo\x01\xa4Node\xa1a"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 4000 || nested(data) {
			return
		}
		ours, theirs := net.Pipe()
		network.streams <- theirs
		_ = ours.SetDeadline(time.Now().Add(time.Second))
		go func() {
			_, _ = ours.Write(labelled("omnirelay/demo", data))
			_ = ours.Close()
		}()
		_, _ = io.Copy(io.Discard, ours)
		if n := len(g.Peers()); n > MaxMembers {
			t.Fatalf("%d members", n)
		}
	})
}

// FuzzState: what comes with a full exchange is taken apart within bounds.
func FuzzState(f *testing.F) {
	f.Add(appendText([]byte{wordFormat}, "word"))
	f.Fuzz(func(t *testing.T, data []byte) {
		words, err := splitState(data)
		if err == nil && len(words) > len(data) {
			t.Fatalf("%d words in %d bytes", len(words), len(data))
		}
	})
}

// FuzzSeal: whatever arrives, what reaches memberlist begins as our messages do.
func FuzzSeal(f *testing.F) {
	s := seal{label: "omnirelay/demo", encrypted: true}
	f.Add(labelled(s.label, append([]byte{1}, make([]byte, 40)...)))
	f.Fuzz(func(t *testing.T, data []byte) {
		if s.refusePacket(data) == "" && len(data) <= 2+len(s.label)+gcmOverhead {
			t.Fatalf("%q is let through", data)
		}
	})
}
