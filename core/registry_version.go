package core

import "github.com/omnirelay/leadership/core/logpb"

// The replicated version gate. A command kind is proposed only once every voter
// announced that it understands it. The announcements are in the log, so every
// replica opens the gate at the same entry; it never closes again, since commands
// of the newer kind may be in the log already.

func (g *Registry) announceVersion(a *logpb.AnnounceVersion) *Error {
	if a.Replica == 0 || a.MaxVersion == 0 {
		return invalid("announceVersion", "replica and maxVersion must not be 0")
	}
	if a.MaxVersion < g.activeVersion {
		return refuse(CodeUnsupported, "replica %d understands protocol version %d only; the registry uses %d already", a.Replica, a.MaxVersion, g.activeVersion)
	}
	if _, known := g.versions[NodeID(a.Replica)]; !known && len(g.versions) >= 4*MaxReplicas {
		return &Error{Code: CodeLimit, Field: "replica", Message: "too many replicas announced a version"}
	}
	if g.removedIDs[NodeID(a.Replica)] {
		return refuse(CodeConflict, "node %d was removed", a.Replica)
	}
	if a.Node != nil && g.activeVersion >= nodesVersion {
		if err := g.introduceNode(NodeID(a.Replica), a.Node); err != nil {
			return err
		}
	}
	g.versions[NodeID(a.Replica)] = a.MaxVersion
	g.raiseVersion()
	return nil
}

func (g *Registry) raiseVersion() {
	if len(g.voters) == 0 {
		return
	}
	lowest := ^uint32(0)
	for _, v := range g.voters {
		lowest = min(lowest, g.versions[v])
	}
	if lowest > g.activeVersion {
		g.activeVersion = lowest
		g.outcome.Nodes = true // now they may tell their names
	}
}
