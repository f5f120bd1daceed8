package transport

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/wire"
	"github.com/omnirelay/leadership/wire/nodepb"
)

func TestPartsOfAnEndlessMessageAreRefused(t *testing.T) {
	r := receiver{from: 2, self: 1, deliver: func(core.Message) { t.Error("delivered") }}
	part := &nodepb.ExchangeRequest{Part: &nodepb.Part{Data: make([]byte, batchBytes)}}
	for range wire.MaxMessageBytes / batchBytes {
		if err := r.request(part); err != nil {
			t.Fatal(err)
		}
	}
	err := r.request(part)
	if err == nil || !strings.HasPrefix(err.Error(), "part: the message has") {
		t.Fatalf("have %v", err)
	}
	if len(r.parts) > wire.MaxMessageBytes {
		t.Errorf("%d bytes are kept", len(r.parts))
	}
}

// FuzzRequest: no request panics, and nothing is delivered that is not of the
// stream's two nodes.
func FuzzRequest(f *testing.F) {
	ack := &nodepb.Message{From: 2, To: 1, Kind: &nodepb.Message_Ack{Ack: &nodepb.Ack{Session: 1, Number: 1}}}
	whole, err := proto.Marshal(ack)
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []*nodepb.ExchangeRequest{
		{Messages: []*nodepb.Message{ack}},
		{Part: &nodepb.Part{Data: whole, Last: true}},
		{Part: &nodepb.Part{Data: whole}},
		hello(testCluster, 2, 1),
	} {
		data, err := proto.Marshal(seed)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data, data)
	}
	f.Fuzz(func(t *testing.T, first, second []byte) {
		r := receiver{from: 2, self: 1, deliver: func(m core.Message) {
			if m.From != 2 || m.To != 1 {
				t.Fatalf("delivered: from %d to %d", m.From, m.To)
			}
		}}
		for _, data := range [][]byte{first, second} {
			request := &nodepb.ExchangeRequest{}
			if proto.Unmarshal(data, request) != nil {
				return
			}
			if r.request(request) != nil {
				return
			}
		}
	})
}
