// Package wire converts between what core speaks and what travels: node-to-node
// messages and the public API. It does no I/O.
package wire

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/core/logpb"
	"github.com/omnirelay/leadership/wire/nodepb"
)

// FieldError says what is wrong with a message that arrived.
type FieldError struct {
	Field   string // path of the offending field, like proposal.commands[3]
	Message string // what is wrong and what would be right
}

func (e *FieldError) Error() string { return e.Field + ": " + e.Message }

func malformed(field, format string, args ...any) error {
	return &FieldError{Field: field, Message: fmt.Sprintf(format, args...)}
}

// EncodeMessage converts m for the wire. It refuses what DecodeMessage would.
func EncodeMessage(m *core.Message) (*nodepb.Message, error) {
	if err := checkEnds(uint64(m.From), uint64(m.To)); err != nil {
		return nil, err
	}
	out := &nodepb.Message{From: uint64(m.From), To: uint64(m.To)}
	if n := kinds(m); n != 1 {
		return nil, malformed("kind", "%d kinds are set, want exactly one", n)
	}
	var err error
	switch {
	case m.Raft != nil:
		out.Kind, err = encodeRaft(m)
	case m.Proposal != nil:
		out.Kind, err = encodeProposal(m.Proposal)
	case m.Keepalive != nil:
		k := m.Keepalive
		out.Kind = &nodepb.Message_Keepalive{Keepalive: &nodepb.Keepalive{
			Session: uint64(k.Session), Number: k.Number, Conn: uint64(k.Conn), Claims: nodeClaims(k.Claims)}}
		if err = checkKeepalive("keepalive", k.Session, k.Number); err == nil {
			err = checkClaims("keepalive.claims", k.Claims)
		}
	case m.Suspicion != nil:
		out.Kind = &nodepb.Message_Suspicion{Suspicion: &nodepb.Suspicion{Session: uint64(m.Suspicion.Session)}}
		err = checkSuspicion(m.Suspicion)
	default:
		a := m.Ack
		out.Kind = &nodepb.Message_Ack{Ack: &nodepb.Ack{
			Session: uint64(a.Session), Number: a.Number, Conn: uint64(a.Conn)}}
		err = checkKeepalive("ack", a.Session, a.Number)
	}
	if err != nil {
		return nil, err
	}
	return out, nil
}

func kinds(m *core.Message) int {
	n := 0
	for _, set := range [...]bool{m.Raft != nil, m.Proposal != nil, m.Keepalive != nil, m.Ack != nil, m.Suspicion != nil} {
		if set {
			n++
		}
	}
	return n
}

func encodeRaft(m *core.Message) (*nodepb.Message_Raft, error) {
	if err := checkRaft(m.Raft, m.From, m.To); err != nil {
		return nil, err
	}
	data, err := proto.Marshal(m.Raft)
	if err != nil {
		return nil, malformed("raft", "%v", err)
	}
	return &nodepb.Message_Raft{Raft: data}, checkRaftSize(m.Raft, len(data))
}

func encodeProposal(p *core.Proposal) (*nodepb.Message_Proposal, error) {
	out := &nodepb.Proposal{Commands: make([][]byte, 0, len(p.Commands))}
	for i, c := range p.Commands {
		if c == nil {
			return nil, malformed(command(i), "is missing")
		}
		data, err := proto.Marshal(c)
		if err != nil {
			return nil, malformed(command(i), "%v", err)
		}
		out.Commands = append(out.Commands, data)
	}
	return &nodepb.Message_Proposal{Proposal: out}, checkProposal(out)
}

// DecodeMessage converts a message that arrived from another node. Its error is a
// *FieldError.
func DecodeMessage(m *nodepb.Message) (core.Message, error) {
	if err := checkEnds(m.GetFrom(), m.GetTo()); err != nil {
		return core.Message{}, err
	}
	out := core.Message{From: core.NodeID(m.GetFrom()), To: core.NodeID(m.GetTo())}
	var err error
	switch k := m.GetKind().(type) {
	case *nodepb.Message_Raft:
		out.Raft, err = decodeRaft(k.Raft, out.From, out.To)
	case *nodepb.Message_Proposal:
		out.Proposal, err = decodeProposal(k.Proposal)
	case *nodepb.Message_Keepalive:
		out.Keepalive = &core.KeepaliveForward{Session: core.SessionID(k.Keepalive.GetSession()),
			Number: k.Keepalive.GetNumber(), Conn: core.ConnID(k.Keepalive.GetConn())}
		if err = checkKeepalive("keepalive", out.Keepalive.Session, out.Keepalive.Number); err == nil {
			out.Keepalive.Claims, err = claimsFromNode(k.Keepalive.GetClaims())
		}
	case *nodepb.Message_Suspicion:
		out.Suspicion = &core.Suspicion{Session: core.SessionID(k.Suspicion.GetSession())}
		err = checkSuspicion(out.Suspicion)
	case *nodepb.Message_Ack:
		out.Ack = &core.AckReturn{Session: core.SessionID(k.Ack.GetSession()),
			Number: k.Ack.GetNumber(), Conn: core.ConnID(k.Ack.GetConn())}
		err = checkKeepalive("ack", out.Ack.Session, out.Ack.Number)
	default:
		err = malformed("kind", "is unset or of a newer version, want raft, proposal, keepalive, ack or suspicion")
	}
	if err != nil {
		return core.Message{}, err
	}
	return out, nil
}

// DecodeMessageBytes is DecodeMessage for a marshalled message.
func DecodeMessageBytes(data []byte) (core.Message, error) {
	if len(data) > MaxMessageBytes {
		return core.Message{}, malformed("message", "has %d bytes, at most %d are allowed", len(data), MaxMessageBytes)
	}
	m := &nodepb.Message{}
	if err := proto.Unmarshal(data, m); err != nil {
		return core.Message{}, malformed("message", "%v", err)
	}
	return DecodeMessage(m)
}

func decodeRaft(data []byte, from, to core.NodeID) (*raftpb.Message, error) {
	if len(data) > MaxMessageBytes {
		return nil, malformed("raft", "has %d bytes, at most %d are allowed", len(data), MaxMessageBytes)
	}
	m := &raftpb.Message{}
	if err := proto.Unmarshal(data, m); err != nil {
		return nil, malformed("raft", "%v", err)
	}
	if err := checkRaftSize(m, len(data)); err != nil {
		return nil, err
	}
	return m, checkRaft(m, from, to)
}

func decodeProposal(p *nodepb.Proposal) (*core.Proposal, error) {
	if err := checkProposal(p); err != nil {
		return nil, err
	}
	out := &core.Proposal{Commands: make([]*logpb.Command, 0, len(p.GetCommands()))}
	for i, data := range p.GetCommands() {
		c := &logpb.Command{}
		if err := proto.Unmarshal(data, c); err != nil {
			return nil, malformed(command(i), "%v", err)
		}
		out.Commands = append(out.Commands, c)
	}
	return out, nil
}

func checkEnds(from, to uint64) error {
	switch {
	case from == 0:
		return malformed("from", "is 0, want the sender's node id")
	case to == 0:
		return malformed("to", "is 0, want the receiver's node id")
	case from == to:
		return malformed("to", "is the sender itself, node %d", from)
	}
	return nil
}

func checkKeepalive(kind string, session core.SessionID, number uint64) error {
	if session == 0 {
		return malformed(kind+".session", "is 0, sessions count from 1")
	}
	if number == 0 {
		return malformed(kind+".number", "is 0, keepalives count from 1")
	}
	return nil
}

func checkSuspicion(s *core.Suspicion) error {
	if s.Session == 0 {
		return malformed("suspicion.session", "is 0, sessions count from 1")
	}
	return nil
}

// checkProposal looks at the encoded commands, before any of them is decoded. What
// kind of command it is, and whether it is known, is for the registry to judge.
func checkProposal(p *nodepb.Proposal) error {
	n := len(p.GetCommands())
	if n == 0 || n > core.MaxBatch {
		return malformed("proposal.commands", "has %d commands, want 1 to %d", n, core.MaxBatch)
	}
	total := 0
	for i, c := range p.Commands {
		if len(c) == 0 || len(c) > core.MaxCommandBytes {
			return malformed(command(i), "has %d bytes, want 1 to %d", len(c), core.MaxCommandBytes)
		}
		total += len(c)
	}
	if total > core.MaxBatchBytes {
		return malformed("proposal.commands", "have %d bytes together, at most %d are allowed", total, core.MaxBatchBytes)
	}
	return nil
}

func command(i int) string { return fmt.Sprintf("proposal.commands[%d]", i) }
