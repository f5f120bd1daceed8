package sim

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestEveryScenarioIsValid(t *testing.T) {
	for _, s := range Scenarios() {
		for seed := uint64(1); seed < 50; seed++ {
			for _, log := range []Log{LogRaft, LogCAS} {
				v := s.forSeed(seed, log)
				if err := v.Validate(); err != nil {
					t.Errorf("%s, seed %d, %s: %v", s.Name, seed, log, err)
				}
			}
		}
		if s.About == "" {
			t.Errorf("%s says nothing about itself", s.Name)
		}
	}
}

// Every fault must be in some scenario, or it rots.
func TestEveryFaultIsUsed(t *testing.T) {
	used := map[string]bool{}
	for _, s := range Scenarios() {
		for _, f := range slices.Concat(s.Faults, allFaults(), storeTroubles()) {
			used[f.Fault] = true
		}
	}
	for _, f := range Faults() {
		if !used[f] {
			t.Errorf("no scenario uses %s", f)
		}
	}
}

func TestScenarioFile(t *testing.T) {
	for name, tt := range map[string]struct{ text, want string }{
		"good":          {`{"Members": 3, "Duration": "5s", "Quiet": "1s"}`, ""},
		"unknown field": {`{"Membres": 3}`, "Membres"},
		"unknown fault": {`{"Faults": [{"Fault": "plague", "Every": "1s"}]}`, "plague"},
		"absurd":        {`{"Replicas": 99, "TTL": "1ns"}`, "replicas: 99"},
		"no duration":   {`{"TTL": 5}`, "duration"},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "s.json")
			if err := os.WriteFile(file, []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := LoadScenario(file)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

func TestLengthen(t *testing.T) {
	s := named(t, "steady")
	if err := s.Lengthen(10 * time.Second); err != nil || s.Quiet.D() != 5*time.Second {
		t.Errorf("%v, quiet %v", err, s.Quiet.D())
	}
	if err := s.Lengthen(-time.Second); err == nil {
		t.Error("a negative length was taken")
	}
}
