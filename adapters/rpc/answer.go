package rpc

import (
	"fmt"
	"runtime"

	"google.golang.org/grpc/encoding"
	encodingproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"github.com/omnirelay/leadership/adapters/access"
)

// answer is the encoded reply of a call, counted as its caller's until it is written out.
// grpc takes a message of any size from its handler at once, and keeps it for as long as
// its reader takes: without a count, whoever asks on and reads nothing fills the memory.
type answer struct {
	data    []byte
	release func()
}

// answerOf encodes a reply, or refuses it when too much waits for the caller already.
func answerOf(reply any, caller access.Caller, limiter *access.Limiter) (*answer, error) {
	message, ok := reply.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("the reply is a %T, no message", reply)
	}
	data, err := proto.Marshal(message)
	if err != nil {
		return nil, err
	}
	release, err := limiter.Answer(caller, len(data))
	if err != nil {
		return nil, err
	}
	if len(data) > 0 {
		// grpc forgets what a connection that ends has not written. The collector does not.
		runtime.AddCleanup(&data[0], func(release func()) { release() }, release)
	}
	return &answer{data, release}, nil
}

// codec is that of Protocol Buffers, which knows answers too.
type codec struct{ encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2(encodingproto.Name)} }

func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	a, ok := v.(*answer)
	if !ok {
		return c.CodecV2.Marshal(v)
	}
	return mem.BufferSlice{mem.NewBuffer(&a.data, unread(a.release))}, nil
}

// unread is told when grpc is done with a buffer. It pools none.
type unread func()

// Get makes a buffer, for the interface's sake.
func (unread) Get(length int) *[]byte {
	b := make([]byte, length)
	return &b
}

// Put gives the buffer's place back.
func (u unread) Put(*[]byte) { u() }
