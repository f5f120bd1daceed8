package observability_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/omnirelay/leadership/tests/cluster/harness"
)

// scrapeEvery takes the place of the documented interval, so that the test is short.
const scrapeEvery = 500 * time.Millisecond

// prometheus is a running server of Debian's package.
type prometheus struct {
	t     testing.TB
	url   string
	began time.Time
}

// scrape starts a Prometheus on the documented configuration: other targets, a shorter
// interval, and the certificate of role read lying where the configuration says.
func scrape(t *testing.T, c *harness.Cluster) *prometheus {
	t.Helper()
	dir := t.TempDir()
	layOut(t, dir, c)
	promtool(t, "check", "config", filepath.Join(dir, "prometheus.yml"))
	logFile := filepath.Join(dir, "log")
	log, err := os.Create(logFile)
	must(t, err)
	defer log.Close()
	cmd := exec.Command("prometheus", "--config.file="+filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address=127.0.0.1:0")
	cmd.Stdout, cmd.Stderr = log, log
	process := harness.Start(t, cmd)
	p := &prometheus{t: t, began: time.Now()}
	listens := regexp.MustCompile(`msg="Listening on" address=(\S+)`)
	harness.Await(t, 20*time.Second, "Prometheus listening", func() error {
		text := string(contents(t, logFile))
		if process.Ended() {
			t.Fatalf("Prometheus ended (ci/setup installs what the tests need):\n%s", text)
		}
		if at := listens.FindStringSubmatch(text); at != nil {
			p.url = "http://" + at[1]
			return nil
		}
		return fmt.Errorf("its log: %s", text)
	})
	harness.Await(t, 20*time.Second, "every node scraped", func() error {
		up, err := p.instant(`sum(up)`)
		if err != nil {
			return err
		}
		if len(up) != 1 || up[0].last() != float64(len(c.Nodes)) {
			return fmt.Errorf("up: %v", up)
		}
		return nil
	})
	return p
}

// layOut copies the documented configuration and lays the certificates beside it.
func layOut(t *testing.T, dir string, c *harness.Cluster) {
	t.Helper()
	m, err := harness.ReadManifest(c.ManifestPath())
	must(t, err)
	must(t, os.Mkdir(filepath.Join(dir, "tls"), 0o700))
	for name, from := range map[string]string{"ca.pem": m.CA, "read.pem": m.Clients["read"].Cert, "read-key.pem": m.Clients["read"].Key} {
		must(t, os.WriteFile(filepath.Join(dir, "tls", name), contents(t, from), 0o600))
	}
	config := string(contents(t, scrapeFile))
	interval := regexp.MustCompile(`(scrape|evaluation)_interval: \S+`)
	config = interval.ReplaceAllString(config, "${1}_interval: "+scrapeEvery.String())
	for i := range 3 {
		old, target := fmt.Sprintf("node-%d.example:7411", i+1), ""
		if !strings.Contains(config, old) {
			t.Fatalf("%s does not name %s", scrapeFile, old)
		}
		if i < len(c.Nodes) {
			target = c.Nodes[i].HTTP
		}
		config = strings.ReplaceAll(config, old, target)
	}
	config = regexp.MustCompile(`(?m)^ *- \n`).ReplaceAllString(config, "") // nodes there are not
	must(t, os.WriteFile(filepath.Join(dir, "prometheus.yml"), []byte(config), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "rules.yml"), contents(t, rulesFile), 0o600))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func promtool(t *testing.T, args ...string) {
	t.Helper()
	out, err := exec.Command("promtool", args...).CombinedOutput()
	if err != nil {
		t.Errorf("promtool %v: %v (ci/setup installs it)\n%s", args, err, out)
	}
}

// series is one line of an answer.
type series struct {
	Metric map[string]string
	Value  sample   // of an instant query
	Values []sample // of a range query
}

// sample is a time in seconds and a value as text.
type sample [2]any

func (s sample) value() float64 {
	text, _ := s[1].(string)
	v, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return math.NaN()
	}
	return v
}

// samples are those of either kind of query that are numbers.
func (s series) samples() (all []sample) {
	for _, one := range append(s.Values[:len(s.Values):len(s.Values)], s.Value) {
		if one[1] != nil && !math.IsNaN(one.value()) && !math.IsInf(one.value(), 0) {
			all = append(all, one)
		}
	}
	return all
}

func (s series) last() float64 {
	all := s.samples()
	if len(all) == 0 {
		return math.NaN()
	}
	return all[len(all)-1].value()
}

// instant asks for the values of now.
func (p *prometheus) instant(expr string) ([]series, error) {
	return p.query("/api/v1/query", url.Values{"query": {expr}})
}

// over asks for the values since a time, at every scrape up to now.
func (p *prometheus) over(expr string, since time.Time) ([]series, error) {
	end := time.Now().UTC()
	start := end.Add(-end.Sub(since).Truncate(scrapeEvery))
	return p.query("/api/v1/query_range", url.Values{
		"query": {expr}, "start": {start.Format(time.RFC3339Nano)}, "end": {end.Format(time.RFC3339Nano)}, "step": {scrapeEvery.String()},
	})
}

func (p *prometheus) query(path string, values url.Values) (found []series, err error) {
	var data struct{ Result []series }
	err = p.get(path, values, &data)
	return data.Result, err
}

// get calls Prometheus' API.
func (p *prometheus) get(path string, values url.Values, into any) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url+path+"?"+values.Encode(), nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	if err != nil {
		return err
	}
	var answer struct {
		Status, Error string
		Data          json.RawMessage
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return fmt.Errorf("%s: %w: %s", resp.Status, err, body)
	}
	if answer.Status != "success" {
		return fmt.Errorf("%s: %s", answer.Status, answer.Error)
	}
	return json.Unmarshal(answer.Data, into)
}

// labelValues are what a label of the series that match has had since a time.
func (p *prometheus) labelValues(match, label string, since time.Time) (values []string, err error) {
	err = p.get("/api/v1/label/"+label+"/values", url.Values{"match[]": {match}, "start": {since.UTC().Format(time.RFC3339Nano)}}, &values)
	return values, err
}

// rule is a rule that Prometheus has loaded.
type rule struct {
	Name, Query, Type, Health, LastError, State string
}

func (p *prometheus) rules() (all []rule, err error) {
	var groups struct{ Groups []struct{ Rules []rule } }
	err = p.get("/api/v1/rules", url.Values{}, &groups)
	for _, g := range groups.Groups {
		all = append(all, g.Rules...)
	}
	return all, err
}
