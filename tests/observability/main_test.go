// Package observability_test holds docs/observability against the programs it is for:
// a real Prometheus that scrapes a real cluster, and what Grafana reads.
package observability_test

import (
	"path/filepath"
	"testing"

	"github.com/omnirelay/leadership/tests/cluster/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

const docs = "../../docs/observability"

var (
	boardFile   = filepath.Join(docs, "dashboards", "leadership.json")
	sourcesFile = filepath.Join(docs, "provisioning", "datasources", "leadership.yaml")
	boardsFile  = filepath.Join(docs, "provisioning", "dashboards", "leadership.yaml")
	scrapeFile  = filepath.Join(docs, "prometheus", "prometheus.yml")
	rulesFile   = filepath.Join(docs, "prometheus", "rules.yml")
	rulesTests  = filepath.Join(docs, "prometheus", "rules_test.yml")
)
