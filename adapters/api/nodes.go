package api

import (
	"context"
	"fmt"

	"github.com/omnirelay/leadership/adapters/access"
	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/wire"
	"github.com/omnirelay/leadership/wire/controlpb"
)

// ListNodes tells which nodes keep the registry, and how far changes of them are.
func (s *Service) ListNodes(ctx context.Context, _ *controlpb.ListNodesRequest) (*controlpb.ListNodesResponse, error) {
	if err := callerOf(ctx).MayRead(); err != nil {
		return nil, err
	}
	answer := &controlpb.ListNodesResponse{Store: s.o.Store}
	var err error
	s.o.Source.View(func(g *core.Registry, st core.Status) {
		if err = vouch(&st); err != nil {
			return
		}
		answer.Revision, answer.Removed = g.Revision(), g.RemovedNodes()
		for _, n := range g.Nodes() {
			answer.Nodes = append(answer.Nodes, wire.NodeProto(n, &st))
		}
	})
	if err != nil {
		return nil, err
	}
	return answer, nil
}

// storeRaft is the store that the nodes keep themselves.
const storeRaft = "raft"

// keepsNodes refuses to change the nodes of a registry that another server keeps.
func (s *Service) keepsNodes(err error, what string) error {
	if err == nil && s.o.Store != storeRaft {
		return &core.Error{Code: core.CodeUnsupported, Message: fmt.Sprintf(
			"this registry is kept in %s, and its nodes are those of their configurations; %s", s.o.Store, what)}
	}
	return err
}

// AddNode adds a registry node. For administrators.
func (s *Service) AddNode(ctx context.Context, r *controlpb.AddNodeRequest) (*controlpb.AddNodeResponse, error) {
	may := func(c access.Caller) error {
		return s.keepsNodes(c.MayAdmin(), "write the new node into mesh.leadership.peers of each, and start them anew one by one")
	}
	result, err := change(ctx, s, may, wire.AddNodeCommand, r)
	if err != nil {
		return nil, err
	}
	return &controlpb.AddNodeResponse{Revision: result.Revision}, nil
}

// RemoveNode removes a registry node. For administrators.
func (s *Service) RemoveNode(ctx context.Context, r *controlpb.RemoveNodeRequest) (*controlpb.RemoveNodeResponse, error) {
	may := func(c access.Caller) error {
		return s.keepsNodes(c.MayAdmin(), "stop the node, take it out of mesh.leadership.peers of the others, and start them anew one by one")
	}
	result, err := change(ctx, s, may, wire.RemoveNodeCommand, r)
	if err != nil {
		return nil, err
	}
	return &controlpb.RemoveNodeResponse{Revision: result.Revision}, nil
}

// ReplaceNode adds a node and removes another. For administrators.
func (s *Service) ReplaceNode(ctx context.Context, r *controlpb.ReplaceNodeRequest) (*controlpb.ReplaceNodeResponse, error) {
	may := func(c access.Caller) error {
		return s.keepsNodes(c.MayAdmin(), "start another node under the same id: all that it has to know is in the store")
	}
	result, err := change(ctx, s, may, wire.ReplaceNodeCommand, r)
	if err != nil {
		return nil, err
	}
	return &controlpb.ReplaceNodeResponse{Revision: result.Revision}, nil
}

// MoveRegistrar hands the registrar's office on. For operators.
func (s *Service) MoveRegistrar(ctx context.Context, r *controlpb.MoveRegistrarRequest) (*controlpb.MoveRegistrarResponse, error) {
	result, err := change(ctx, s, access.Caller.MayOperate, wire.MoveRegistrarCommand, r)
	if err != nil {
		return nil, err
	}
	return &controlpb.MoveRegistrarResponse{Revision: result.Revision}, nil
}
