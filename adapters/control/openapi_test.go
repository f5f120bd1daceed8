package control

import (
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/docs"
	"github.com/omnirelay/leadership/wire"
)

// described is what a test needs of docs/openapi.json.
type described struct {
	OpenAPI    string
	Paths      map[string]map[string]describedOperation
	Components struct {
		Schemas map[string]any
	}
}

type describedOperation struct {
	OperationID string
	Parameters  []struct{ Name, In string }
	RequestBody *struct{}
	Security    *[]any
	Responses   map[string]any
}

func openAPIDocument(t *testing.T) (d described) {
	t.Helper()
	if err := json.Unmarshal(docs.OpenAPI, &d); err != nil {
		t.Fatal(err)
	}
	return d
}

var variable = regexp.MustCompile(`\{[^}]+\}`)

// What is described is what is served: the same methods on the same paths, with the same
// parameters, open to the same callers.
func TestTheDescriptionIsComplete(t *testing.T) {
	st := newSite(t)
	served, said := map[string]route{}, map[string]describedOperation{}
	for _, rt := range st.server.routes() {
		served[rt.method+" "+variable.ReplaceAllString(rt.path, "{}")] = rt
	}
	for path, item := range openAPIDocument(t).Paths {
		for method, o := range item {
			said[strings.ToUpper(method)+" "+variable.ReplaceAllString(path, "{}")] = o
		}
	}
	for name, rt := range served {
		o, ok := said[name]
		if !ok {
			t.Errorf("%s is served and not described", name)
			continue
		}
		var query []string
		for _, p := range o.Parameters {
			if p.In == "query" {
				query = append(query, p.Name)
			}
		}
		slices.Sort(query)
		if !slices.Equal(query, slices.Sorted(slices.Values(rt.params))) {
			t.Errorf("%s takes %v, described are %v", name, rt.params, query)
		}
		if (o.Security != nil) != rt.always {
			t.Errorf("%s: open is %v, described otherwise", name, rt.always)
		}
		if (o.RequestBody != nil) != (rt.method == http.MethodPost) {
			t.Errorf("%s: its body is not as described", name)
		}
	}
	for name := range said {
		if _, ok := served[name]; !ok {
			t.Errorf("%s is described and not served", name)
		}
	}
	if len(said) < 20 {
		t.Errorf("%d operations: the document is not what it was", len(said))
	}
}

// Every described path is answered by what is described, through the whole stack.
func TestWhatIsDescribedIsServed(t *testing.T) {
	st := newSite(t, func(o *Options) { o.Keys = func() []byte { return []byte(`{"keys":[]}`) } })
	for path, item := range openAPIDocument(t).Paths {
		path = variable.ReplaceAllString(path, "7")
		for method := range item {
			if strings.HasSuffix(path, "/events/leadership") {
				st.connect(http2, "", "") // it fails by itself
				continue
			}
			var resp answer
			var text string
			if method == "post" {
				resp, text = st.post(path, `{}`)
			} else {
				resp, text = st.get(path)
			}
			if resp.StatusCode != http.StatusOK {
				t.Errorf("%s %s: %d %s", method, path, resp.StatusCode, text)
			}
		}
	}
}

// Every reference leads somewhere, and every field of every answer is described.
func TestTheDescriptionHolds(t *testing.T) {
	for _, m := range regexp.MustCompile(`"\$ref": "#/([^"]+)"`).FindAllStringSubmatch(string(docs.OpenAPI), -1) {
		var at any
		if err := json.Unmarshal(docs.OpenAPI, &at); err != nil {
			t.Fatal(err)
		}
		for _, step := range strings.Split(m[1], "/") {
			next, ok := at.(map[string]any)[step]
			if !ok {
				t.Fatalf("%s leads nowhere", m[1])
			}
			at = next
		}
	}
	schemas := openAPIDocument(t).Components.Schemas
	for _, message := range messages() {
		d := message.ProtoReflect().Descriptor()
		schema, ok := schemas[string(d.Name())].(map[string]any)
		if !ok {
			continue // a request: its schema is that of its operation's body
		}
		properties, _ := schema["properties"].(map[string]any)
		for i := range d.Fields().Len() {
			field := d.Fields().Get(i)
			p, ok := properties[field.JSONName()].(map[string]any)
			if !ok {
				t.Errorf("%s is not described", field.FullName())
			}
			if strings.HasSuffix(field.Kind().String(), "64") && p["type"] != "integer" {
				t.Errorf("%s is described as %v, and written as a number", field.FullName(), p["type"])
			}
		}
	}
}

// An event is described as it is written: with every field and every kind that there is.
func TestEventsAreDescribed(t *testing.T) {
	event, _ := openAPIDocument(t).Components.Schemas["LeadershipEvent"].(map[string]any)
	properties, _ := event["properties"].(map[string]any)
	for field := range reflect.TypeFor[wire.Event]().Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if properties[name] == nil {
			t.Errorf("%s is not described", name)
		}
	}
	kinds := fmt.Sprint(properties["kind"])
	for kind := core.EventSnapshot; (wire.Event{Kind: kind.String()}).Known(); kind++ {
		if !strings.Contains(kinds, kind.String()) {
			t.Errorf("%s is not described", kind)
		}
	}
}

func TestTheDescriptionIsHandedOut(t *testing.T) {
	st := newSite(t)
	resp, text := st.get("/control/openapi.json")
	if resp.StatusCode != http.StatusOK || text != string(docs.OpenAPI) || resp.Header.Get("Content-Type") != "application/json" {
		t.Errorf("%d %s %.100s", resp.StatusCode, resp.Header, text)
	}
}
