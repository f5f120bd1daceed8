package wire

import (
	"errors"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
	"github.com/omnirelay/leadership/wire/controlpb"
)

// converted converts any request of an operator.
func converted(m proto.Message) (*logpb.Command, error) {
	switch r := m.(type) {
	case *controlpb.DeclareScopesRequest:
		return DeclareScopesCommand(r)
	case *controlpb.RetireScopesRequest:
		return RetireScopesCommand(r)
	case *controlpb.TransferRequest:
		return TransferCommand(r)
	case *controlpb.CancelTransferRequest:
		return CancelTransferCommand(r)
	case *controlpb.CordonRequest:
		r.MemberId = "m"
		return CordonCommand(r)
	case *controlpb.UncordonRequest:
		r.MemberId = "m"
		return UncordonCommand(r)
	case *controlpb.AddNodeRequest:
		return AddNodeCommand(r)
	case *controlpb.RemoveNodeRequest:
		r.Name = "n"
		return RemoveNodeCommand(r)
	case *controlpb.ReplaceNodeRequest:
		r.Name = "n"
		return ReplaceNodeCommand(r)
	case *controlpb.MoveRegistrarRequest:
		return MoveRegistrarCommand(r)
	case *controlpb.RebalanceRequest:
		c, _, err := RebalanceCommands(r)
		return c, err
	}
	return nil, errors.New("it is not converted")
}

// Every request with a why hands it on, and takes no more than one line of text.
func TestWhy(t *testing.T) {
	node := &controlpb.NewNode{Name: "n", PeerAddress: "h:1"}
	seen := 0
	for _, file := range []protoreflect.FileDescriptor{controlpb.File_leadership_registry_proto, controlpb.File_leadership_mesh_proto} {
		for i := range file.Messages().Len() {
			d := file.Messages().Get(i)
			field := d.Fields().ByName("why")
			if field == nil || !strings.HasSuffix(string(d.Name()), "Request") {
				continue
			}
			seen++
			for why, good := range map[string]bool{
				"": true, "kernel update, señor": true, strings.Repeat("x", core.MaxWhy): true,
				strings.Repeat("x", core.MaxWhy+1): false, "two\nlines": false, "\x7f": false, "\u0085": false, "\xff": false,
			} {
				m := newMessage(t, d.FullName())
				switch r := m.Interface().(type) {
				case *controlpb.DeclareScopesRequest:
					r.Scopes = []*controlpb.ScopeSpec{{Id: "a"}}
				case *controlpb.RetireScopesRequest:
					r.Scopes = []string{"a"}
				case *controlpb.AddNodeRequest:
					r.Node = node
				case *controlpb.ReplaceNodeRequest:
					r.By = node
				}
				m.Set(field, protoreflect.ValueOfString(why))
				c, err := converted(m.Interface())
				var wrong *FieldError
				if good && (err != nil || c.Why != why) || !good && (!errors.As(err, &wrong) || wrong.Field != "why") {
					t.Errorf("%s because of %.20q: %v, %v", d.Name(), why, c, err)
				}
			}
		}
	}
	if seen < 11 {
		t.Errorf("%d requests have a why: the schema is not what it was", seen)
	}
}

func newMessage(t *testing.T, name protoreflect.FullName) protoreflect.Message {
	t.Helper()
	for _, m := range []proto.Message{
		&controlpb.DeclareScopesRequest{}, &controlpb.RetireScopesRequest{}, &controlpb.TransferRequest{}, &controlpb.CancelTransferRequest{},
		&controlpb.CordonRequest{}, &controlpb.UncordonRequest{}, &controlpb.RebalanceRequest{}, &controlpb.AddNodeRequest{},
		&controlpb.RemoveNodeRequest{}, &controlpb.ReplaceNodeRequest{}, &controlpb.MoveRegistrarRequest{},
	} {
		if m.ProtoReflect().Descriptor().FullName() == name {
			return m.ProtoReflect()
		}
	}
	t.Fatalf("%s is not tested", name)
	return nil
}

func TestChangesOfNodes(t *testing.T) {
	node := &controlpb.NewNode{Name: "node-4", PeerAddress: "h:1", HttpAddress: "h:2", GrpcAddress: "h:3"}
	add, err := AddNodeCommand(&controlpb.AddNodeRequest{RequestId: "r", Node: node})
	if err != nil || !proto.Equal(add.GetAddNode().GetNode(), &logpb.Node{Name: "node-4", PeerAddress: "h:1", HttpAddress: "h:2", GrpcAddress: "h:3"}) {
		t.Errorf("added %v, %v", add, err)
	}
	replace, err := ReplaceNodeCommand(&controlpb.ReplaceNodeRequest{Name: "node-1", By: node})
	if err != nil || replace.GetReplaceNode().GetName() != "node-1" || replace.GetReplaceNode().GetBy().GetName() != "node-4" {
		t.Errorf("replaced %v, %v", replace, err)
	}
	if c, err := RemoveNodeCommand(&controlpb.RemoveNodeRequest{Name: "node-1"}); err != nil || c.GetRemoveNode().GetName() != "node-1" {
		t.Errorf("removed %v, %v", c, err)
	}
	if c, err := MoveRegistrarCommand(&controlpb.MoveRegistrarRequest{To: "node-1"}); err != nil || c.GetMoveRegistrar().GetTo() != "node-1" {
		t.Errorf("moved %v, %v", c, err)
	}
	for want, r := range map[string]*controlpb.AddNodeRequest{
		"node.name": {}, "node.peerAddress": {Node: &controlpb.NewNode{Name: "n"}}, "requestId": {RequestId: "a b", Node: node},
	} {
		_, err := AddNodeCommand(r)
		var wrong *FieldError
		if !errors.As(err, &wrong) || wrong.Field != want {
			t.Errorf("want %s to be wrong: %v", want, err)
		}
	}
	_, err = ReplaceNodeCommand(&controlpb.ReplaceNodeRequest{Name: "node-1"})
	var wrong *FieldError
	if !errors.As(err, &wrong) || wrong.Field != "by.name" {
		t.Errorf("replaced by nobody: %v", err)
	}
}

func TestRebalanceIsBounded(t *testing.T) {
	n := func(n uint32) *uint32 { return &n }
	for _, tc := range []struct {
		limit *uint32
		want  int
	}{{nil, DefaultMoves}, {n(1), 1}, {n(MaxMoves), MaxMoves}, {n(0), 0}, {n(MaxMoves + 1), 0}} {
		_, limit, err := RebalanceCommands(&controlpb.RebalanceRequest{Limit: tc.limit})
		if limit != tc.want || (err == nil) != (tc.want > 0) {
			t.Errorf("%v: %d, %v", tc.limit, limit, err)
		}
	}
}
