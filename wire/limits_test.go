package wire

import (
	"testing"

	"github.com/omnirelay/leadership/core"
)

func TestLimitsFitEachOther(t *testing.T) {
	const grpcDefault = 4 << 20
	if MaxRequestBytes >= grpcDefault {
		t.Error("a request would not pass a grpc server's default limit")
	}
	if core.MaxCommandBytes > core.MaxBatchBytes {
		t.Error("the largest command could never be proposed")
	}
	if 2*core.MaxBatchBytes > MaxRaftMessageBytes {
		t.Error("a log entry of the largest batch, or a full message and one entry more, would not travel")
	}
	if MaxRaftMessageBytes >= MaxMessageBytes {
		t.Error("a raft message would not fit a message")
	}
}
