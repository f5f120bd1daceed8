package wire

import (
	"fmt"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/wire/controlpb"
	"github.com/omnirelay/leadership/wire/nodepb"
)

// Claims travel twice: from a member to its node, and from there to the registrar.

// checkClaims holds what a member claims to the limits.
func checkClaims(field string, claims []core.Claim) error {
	if len(claims) > core.MaxClaims {
		return malformed(field, "are %d, at most %d are told at once; tell more in turn", len(claims), core.MaxClaims)
	}
	for i, c := range claims {
		if err := core.ParseScopeID(c.Scope); err != nil {
			return malformed(fmt.Sprintf("%s[%d].scope", field, i), "%v", err)
		}
		if c.Fence == 0 {
			return malformed(fmt.Sprintf("%s[%d].fence", field, i), "is 0, fences count from 1")
		}
	}
	return nil
}

func nodeClaims(claims []core.Claim) (out []*nodepb.Claim) {
	for _, c := range claims {
		out = append(out, &nodepb.Claim{Scope: c.Scope, Fence: c.Fence})
	}
	return out
}

func claimsFromNode(claims []*nodepb.Claim) (out []core.Claim, err error) {
	for _, c := range claims {
		out = append(out, core.Claim{Scope: c.GetScope(), Fence: c.GetFence()})
	}
	return out, checkClaims("keepalive.claims", out)
}

func claimsProto(claims []core.Claim) (out []*controlpb.Claim) {
	for _, c := range claims {
		out = append(out, &controlpb.Claim{Scope: c.Scope, FenceToken: c.Fence})
	}
	return out
}

func claimsOf(claims []*controlpb.Claim) (out []core.Claim, err error) {
	for i, c := range claims {
		if err := checkPositive(fmt.Sprintf("claims[%d].fenceToken", i), c.GetFenceToken()); err != nil {
			return nil, err
		}
		out = append(out, core.Claim{Scope: c.GetScope(), Fence: c.GetFenceToken()})
	}
	return out, checkClaims("claims", out)
}
