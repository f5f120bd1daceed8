package observability_test

import (
	"bytes"
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// board is a dashboard as Grafana's JSON model has it, as far as this one uses it.
type board struct {
	UID           string
	Title         string
	SchemaVersion int
	Refresh       string
	Timezone      string
	Time          struct{ From, To string }
	Templating    struct{ List []variable }
	Annotations   struct{ List []annotation }
	Panels        []panel
}

type variable struct {
	Name, Label, Description, Type string
	Query                          json.RawMessage // of a data source: a plugin's id; else an object
	Datasource                     *source
	Definition, AllValue           string
	IncludeAll, Multi              bool
	Refresh                        int
}

type source struct{ Type, UID string }

type annotation struct {
	Name       string
	BuiltIn    int
	Datasource source
	Target     struct{ RefID, Expr string }
}

type panel struct {
	ID                       int
	Type, Title, Description string
	Datasource               *source
	GridPos                  struct{ H, W, X, Y int }
	Targets                  []target
	FieldConfig              struct {
		Defaults struct {
			Unit     string
			Mappings []struct{ Type string }
		}
	}
	Options         map[string]json.RawMessage
	Transformations []struct{ ID string }
	Panels          []panel
}

type target struct {
	RefID, Expr, LegendFormat, Format string
	Datasource                        source
	Instant, Range                    bool
}

// kinds of panels that Grafana has built in, of those that fit.
var panelKinds = []string{"row", "stat", "table", "timeseries", "state-timeline", "heatmap"}

// units by their ids in Grafana.
var units = []string{"short", "none", "ops", "reqps", "ms", "s", "bytes", "binBps", "percentunit"}

func readBoard(t *testing.T) (b board) {
	t.Helper()
	if err := json.Unmarshal(contents(t, boardFile), &b); err != nil {
		t.Fatal(err)
	}
	return b
}

func contents(t *testing.T, file string) []byte {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestTheBoardIsWhatGrafanaReads holds the board to Grafana's JSON model: it imports
// without being migrated, on any data source.
func TestTheBoardIsWhatGrafanaReads(t *testing.T) {
	b := readBoard(t)
	if b.SchemaVersion < 36 { // since then a data source is an object
		t.Errorf("schemaVersion is %d", b.SchemaVersion)
	}
	if !regexp.MustCompile(`^[a-z0-9-]{1,40}$`).MatchString(b.UID) || b.Title == "" || b.Time.From == "" || b.Time.To != "now" || b.Timezone != "browser" {
		t.Errorf("uid %q, title %q, time %+v, timezone %q", b.UID, b.Title, b.Time, b.Timezone)
	}
	var identity map[string]any
	if err := json.Unmarshal(contents(t, boardFile), &identity); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"id", "__inputs", "__requires", "iteration"} {
		if _, there := identity[key]; there {
			t.Errorf("%s belongs to one Grafana, or to an export for sharing", key)
		}
	}
	b.checkVariables(t)
	b.checkPanels(t)
	for _, a := range b.Annotations.List {
		if a.BuiltIn == 0 && (a.Target.Expr == "" || a.Target.RefID == "" || a.Datasource != chosen) {
			t.Errorf("annotation %q asks nothing: %+v", a.Name, a)
		}
	}
}

// chosen is the data source that the user chooses above the board.
var chosen = source{"prometheus", "${datasource}"}

func (b board) checkVariables(t *testing.T) {
	t.Helper()
	var names []string
	for i, v := range b.Templating.List {
		names = append(names, v.Name)
		if v.Label == "" || v.Description == "" {
			t.Errorf("variable %s has no label or description", v.Name)
		}
		switch v.Type {
		case "datasource":
			if i != 0 || string(v.Query) != `"prometheus"` {
				t.Errorf("variable %s is number %d and asks for %s", v.Name, i, v.Query)
			}
		case "query":
			var q struct{ Query, RefID string }
			if err := json.Unmarshal(v.Query, &q); err != nil || q.Query != v.Definition || q.RefID == "" || v.Refresh != 2 || v.Datasource == nil || *v.Datasource != chosen {
				t.Errorf("variable %s: %v, %+v", v.Name, err, v)
			}
		default:
			t.Errorf("variable %s is of type %q", v.Name, v.Type)
		}
	}
	if want := []string{"datasource", "job", "node", "scope"}; !slices.Equal(names, want) {
		t.Errorf("variables %v, want %v", names, want)
	}
}

func (b board) checkPanels(t *testing.T) {
	t.Helper()
	ids, taken := map[int]bool{}, map[[2]int]string{}
	for _, p := range b.Panels {
		if ids[p.ID] || p.ID <= 0 {
			t.Errorf("panel %q: id %d is taken or not above 0", p.Title, p.ID)
		}
		ids[p.ID] = true
		if !slices.Contains(panelKinds, p.Type) || p.Title == "" {
			t.Errorf("panel %q of type %q", p.Title, p.Type)
		}
		g := p.GridPos
		if g.W < 1 || g.H < 1 || g.X < 0 || g.X+g.W > 24 {
			t.Errorf("panel %q lies at %+v, outside of the 24 columns", p.Title, g)
		}
		for x := g.X; x < g.X+g.W; x++ {
			for y := g.Y; y < g.Y+g.H; y++ {
				if other, there := taken[[2]int{x, y}]; there {
					t.Fatalf("panel %q lies on %q", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
		if p.Type == "row" {
			continue
		}
		p.check(t)
	}
}

func (p panel) check(t *testing.T) {
	t.Helper()
	if len(p.Description) < 40 || !slices.Contains(units, p.FieldConfig.Defaults.Unit) {
		t.Errorf("panel %q: description %q, unit %q", p.Title, p.Description, p.FieldConfig.Defaults.Unit)
	}
	if p.Datasource == nil || *p.Datasource != chosen || len(p.Targets) == 0 || len(p.Options) == 0 {
		t.Errorf("panel %q: data source %v, %d queries, %d options", p.Title, p.Datasource, len(p.Targets), len(p.Options))
	}
	wants := map[string][]string{"stat": {"reduceOptions"}, "table": {"showHeader"}, "timeseries": {"legend", "tooltip"}, "state-timeline": {"legend"}, "heatmap": {"calculate", "color", "yAxis"}}
	for _, option := range wants[p.Type] {
		if p.Options[option] == nil {
			t.Errorf("panel %q: option %s is missing", p.Title, option)
		}
	}
	refs := map[string]bool{}
	for _, q := range p.Targets {
		if q.RefID == "" || refs[q.RefID] || q.Datasource != chosen || q.Instant == q.Range {
			t.Errorf("panel %q: query %+v", p.Title, q)
		}
		refs[q.RefID] = true
		wantInstant, wantFormat := p.Type == "stat" || p.Type == "table", map[string]string{"table": "table", "heatmap": "heatmap"}[p.Type]
		if q.Instant != wantInstant || q.Format != wantFormat {
			t.Errorf("panel %q: query %s is instant: %t, in format %q", p.Title, q.RefID, q.Instant, q.Format)
		}
		if !strings.Contains(q.Expr, `job="$job"`) {
			t.Errorf("panel %q: query %s mixes clusters: %s", p.Title, q.RefID, q.Expr)
		}
		if strings.Contains(q.Expr, "[$__rate_interval]") == q.Instant && strings.Contains(q.Expr, "[") {
			t.Errorf("panel %q: query %s has a window that does not follow the board: %s", p.Title, q.RefID, q.Expr)
		}
	}
}

// TestProvisioningNamesTheBoard: the two files that Grafana reads at its start.
func TestProvisioningNamesTheBoard(t *testing.T) {
	var sources struct {
		APIVersion  int `yaml:"apiVersion"`
		Datasources []struct {
			Name, UID, Type, Access, URL string
			JSONData                     struct {
				HTTPMethod     string `yaml:"httpMethod"`
				PrometheusType string `yaml:"prometheusType"`
				TimeInterval   string `yaml:"timeInterval"`
			} `yaml:"jsonData"`
		}
	}
	strictly(t, sourcesFile, &sources)
	if sources.APIVersion != 1 || len(sources.Datasources) != 1 || sources.Datasources[0].Type != "prometheus" || sources.Datasources[0].Access != "proxy" || sources.Datasources[0].URL != "${PROMETHEUS_URL}" {
		t.Errorf("%+v", sources)
	}
	if interval := sources.Datasources[0].JSONData.TimeInterval; !strings.Contains(string(contents(t, scrapeFile)), "scrape_interval: "+interval+"\n") {
		t.Errorf("rates rest on an interval of %q, which is not that of %s", interval, scrapeFile)
	}
	var boards struct {
		APIVersion int `yaml:"apiVersion"`
		Providers  []struct {
			Name, Folder, Type    string
			UpdateIntervalSeconds int  `yaml:"updateIntervalSeconds"`
			AllowUIUpdates        bool `yaml:"allowUiUpdates"`
			Options               struct{ Path string }
		}
	}
	strictly(t, boardsFile, &boards)
	if boards.APIVersion != 1 || len(boards.Providers) != 1 || boards.Providers[0].Type != "file" || boards.Providers[0].Options.Path != "${LEADERSHIP_DASHBOARDS}" {
		t.Errorf("%+v", boards)
	}
}

func strictly(t *testing.T, file string, into any) {
	t.Helper()
	d := yaml.NewDecoder(bytes.NewReader(contents(t, file)))
	d.KnownFields(true)
	if err := d.Decode(into); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}

// TestNothingOfThisMachineIsInTheFiles: they are copied as they are.
func TestNothingOfThisMachineIsInTheFiles(t *testing.T) {
	machine := regexp.MustCompile(`(/home|/root|/tmp|/work|/var|/etc|localhost|127\.0\.0\.1)\b`)
	for _, file := range []string{boardFile, sourcesFile, boardsFile, scrapeFile, rulesFile, rulesTests} {
		if found := machine.Find(contents(t, file)); found != nil {
			t.Errorf("%s names %s", file, found)
		}
	}
}
