package sim

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/omnirelay/leadership/core"
)

// Limits on what a scenario file may ask for.
const (
	maxMembers     = 64
	maxScopes      = 4_096
	maxResources   = 64
	maxSubscribers = 64
	maxFaults      = 256
	maxLength      = 24 * time.Hour
	maxFileBytes   = 1 << 20
)

// LoadScenario finds a scenario by name, or reads it from a JSON file when the
// name looks like one. What a file leaves out is as in a calm world.
func LoadScenario(name string) (Scenario, error) {
	if !strings.HasSuffix(name, ".json") {
		return ScenarioByName(name)
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return Scenario{}, err
	}
	if len(data) > maxFileBytes {
		return Scenario{}, fmt.Errorf("%s: %d bytes; at most %d are read", name, len(data), maxFileBytes)
	}
	s := baseline(name, "from a file")
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&s); err != nil {
		return Scenario{}, fmt.Errorf("%s: %w", name, err)
	}
	if err := s.Validate(); err != nil {
		return Scenario{}, fmt.Errorf("%s: %w", name, err)
	}
	return s, nil
}

// Lengthen changes the simulated length, and shortens the quiet end to no more
// than half of it.
func (s *Scenario) Lengthen(d time.Duration) error {
	s.Duration = Duration(d)
	s.Quiet = min(s.Quiet, s.Duration/2)
	return s.Validate()
}

// Validate reports every problem of a scenario.
func (s *Scenario) Validate() error {
	var problems []error
	within := func(field string, v, lo, hi int) {
		if v < lo || v > hi {
			problems = append(problems, fmt.Errorf("%s: %d; want %d to %d", field, v, lo, hi))
		}
	}
	positive := func(field string, d, hi time.Duration) {
		if d <= 0 || d > hi {
			problems = append(problems, fmt.Errorf("%s: %v; want more than 0 and at most %v", field, d, hi))
		}
	}
	within("replicas", s.Replicas, 1, core.MaxReplicas)
	within("spares", s.Spares, 0, 9-min(s.Replicas, 9))
	within("members", s.Members, 1, maxMembers)
	within("scopes", s.Scopes, 1, maxScopes)
	within("resources", s.Resources, 1, maxResources)
	within("subscribers", s.Subscribers, 0, maxSubscribers)
	within("faults", len(s.Faults), 0, maxFaults)
	within("clocks.maxPPM", int(s.Clocks.MaxPPM), 0, 900_000)
	within("network.loss", s.Network.Loss, 0, 1000)
	within("network.duplicate", s.Network.Duplicate, 0, 1000)
	within("network.late", s.Network.Late, 0, 1000)
	positive("duration", s.Duration.D(), maxLength)
	positive("quiet", s.Quiet.D(), s.Duration.D())
	positive("ttl", s.TTL.D(), core.MaxTTL)
	positive("network.delayMax", s.Network.DelayMax, time.Hour)
	positive("syncMax", s.SyncMax.D(), time.Hour)
	if s.Network.DelayMin < 0 || s.Network.DelayMin > s.Network.DelayMax {
		problems = append(problems, fmt.Errorf("network.delayMin: %v; want 0 to delayMax", s.Network.DelayMin))
	}
	if s.Network.Late > 0 && s.Network.LateMax <= 0 {
		problems = append(problems, errors.New("network.lateMax: want more than 0 when messages may be late"))
	}
	if s.SyncMin < 0 || s.SyncMin > s.SyncMax {
		problems = append(problems, fmt.Errorf("syncMin: %v; want 0 to syncMax", s.SyncMin.D()))
	}
	if s.Spares > 0 && s.Workload.NodesEvery <= 0 {
		problems = append(problems, errors.New("workload.nodesEvery: want more than 0 when there are spares"))
	}
	if s.TTL.D() < core.MinTTL {
		problems = append(problems, fmt.Errorf("ttl: %v; want at least %v", s.TTL.D(), core.MinTTL))
	}
	for _, f := range s.Faults {
		problems = append(problems, f.check())
	}
	return errors.Join(problems...)
}
