package main

import (
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/omnirelay/leadership/adapters/control/controltest"
	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/wire"
)

// trail is an audit trail as a node tells it: two scopes, led by a member that left.
func trail(t *testing.T) wire.AuditResponse {
	t.Helper()
	node := controltest.New(t)
	node.Declare("a", "b")
	node.Leave(node.Join("node-1"))
	var answer wire.AuditResponse
	node.View(func(g *core.Registry, _ core.Status) {
		records, _ := g.History().AfterSeq(0, 100)
		for _, r := range records {
			answer.Records = append(answer.Records, wire.AuditRecordOf(r))
		}
	})
	if len(answer.Records) != 6 {
		t.Fatalf("%d records", len(answer.Records))
	}
	return answer
}

func verified(t *testing.T, answers ...wire.AuditResponse) error {
	t.Helper()
	c := &auditCommand{verify: true}
	c.notes = io.Discard
	for _, answer := range answers {
		raw, err := json.Marshal(answer)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.read(raw); err != nil {
			return err
		}
	}
	return nil
}

func TestAuditIsVerified(t *testing.T) {
	whole := trail(t)
	if err := verified(t, whole); err != nil {
		t.Errorf("a whole trail: %v", err)
	}
	first, second := wire.AuditResponse{Records: whole.Records[:2]}, wire.AuditResponse{Records: whole.Records[2:]}
	if err := verified(t, first, second); err != nil {
		t.Errorf("in two parts: %v", err)
	}
	if err := verified(t, second); err != nil {
		t.Errorf("from the middle: %v", err)
	}
	for name, tamper := range map[string]func(*wire.AuditResponse){
		"another member": func(a *wire.AuditResponse) { a.Records[3].MemberID = "node-9" },
		"another actor":  func(a *wire.AuditResponse) { a.Records[3].Actor = "mallory" },
		"another time":   func(a *wire.AuditResponse) { a.Records[3].OccurredAt = a.Records[3].OccurredAt.Add(1) },
		"another kind":   func(a *wire.AuditResponse) { a.Records[3].Kind = "EXPIRED" },
		"a label":        func(a *wire.AuditResponse) { a.Records[3].Labels = map[string]string{"a": "b"} },
		"another hash":   func(a *wire.AuditResponse) { a.Records[3].Hash = strings.Repeat("00", 32) },
		"no hash at all": func(a *wire.AuditResponse) { a.Records[3].Hash = "what?" },
		"one is missing": func(a *wire.AuditResponse) { a.Records = append(a.Records[:2], a.Records[3:]...) },
		"two swapped":    func(a *wire.AuditResponse) { a.Records[2], a.Records[3] = a.Records[3], a.Records[2] },
	} {
		tampered := trail(t)
		tamper(&tampered)
		if err := verified(t, tampered); !errors.Is(err, errChain) {
			t.Errorf("%s: %v", name, err)
		}
	}
	gap := wire.AuditResponse{Records: whole.Records[3:]}
	if err := verified(t, first, gap); !errors.Is(err, errChain) {
		t.Errorf("a gap between two parts: %v", err)
	}
	later := trail(t)
	later.Records[5].Kind = "INVENTED"
	if err := verified(t, later); err == nil || errors.Is(err, errChain) || !strings.Contains(err.Error(), "does not know") {
		t.Errorf("a kind of a later version: %v", err)
	}
}
