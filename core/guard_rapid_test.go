package core

import (
	"errors"
	"maps"
	"testing"

	"pgregory.net/rapid"
)

// A mark never falls, a refusal changes nothing, and a restart from the kept marks
// goes on as if there had been none.
func TestGuardMarksNeverFall(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := NewGuard(nil)
		highest := map[string]uint64{}
		t.Repeat(map[string]func(*rapid.T){
			"admit": func(t *rapid.T) {
				scope, fence := someScope.Draw(t, "scope"), rapid.Uint64Range(0, 12).Draw(t, "fence")
				before := g.Marks()
				err := g.Admit(scope, fence)
				var stale *StaleError
				switch {
				case fence == 0:
					if err == nil {
						t.Fatal("fence 0 was admitted")
					}
				case fence < highest[scope]:
					if !errors.As(err, &stale) || stale.Required != highest[scope] || stale.Fence != fence {
						t.Fatalf("fence %d after %d: %v", fence, highest[scope], err)
					}
				case err != nil:
					t.Fatalf("fence %d after %d: %v", fence, highest[scope], err)
				default:
					highest[scope] = fence
				}
				if err != nil && !maps.Equal(before, g.Marks()) {
					t.Fatalf("a refusal changed %v to %v", before, g.Marks())
				}
			},
			"check": func(t *rapid.T) {
				before := g.Marks()
				_ = g.Check(someScope.Draw(t, "scope"), rapid.Uint64Range(0, 12).Draw(t, "fence"))
				if !maps.Equal(before, g.Marks()) {
					t.Fatal("a check raised a mark")
				}
			},
			"malformed": func(t *rapid.T) {
				if g.Admit("/bad//id", 3) == nil || g.Mark("/bad//id") != 0 {
					t.Fatal("a malformed scope was admitted")
				}
			},
			"restart": func(t *rapid.T) { g = NewGuard(g.Marks()) },
			"": func(t *rapid.T) {
				if !maps.Equal(highest, g.Marks()) {
					t.Fatalf("the marks are %v, admitted were %v", g.Marks(), highest)
				}
			},
		})
	})
}
