package harness

import "testing"

func TestExclusive(t *testing.T) {
	for name, c := range map[string]struct {
		a, b belief
		ok   bool
	}{
		"one after the other": {belief{node: "a", first: 10, last: 20, until: 25}, belief{node: "b", first: 21, last: 30}, true},
		"at the same time":    {belief{node: "a", first: 10, last: 20, until: 25}, belief{node: "b", first: 20, last: 30}, false},
		"in the wrong order":  {belief{node: "a", first: 40, last: 50, until: 55}, belief{node: "b", first: 21, last: 30}, false},
		"lease not over":      {belief{node: "a", first: 10, last: 20, until: 25, expired: true}, belief{node: "b", first: 24, last: 30}, false},
		"lease over":          {belief{node: "a", first: 10, last: 20, until: 25, expired: true}, belief{node: "b", first: 26, last: 30}, true},
	} {
		err := exclusive("job", map[uint64]*belief{3: &c.a, 4: &c.b})
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}
