package sim

import (
	"maps"
	"slices"

	"github.com/omnirelay/leadership/core"
)

func sortedSessions(m map[core.SessionID]bool) []core.SessionID {
	return slices.Sorted(maps.Keys(m))
}

func sortedTokens(m map[string]core.Token) []string { return slices.Sorted(maps.Keys(m)) }
