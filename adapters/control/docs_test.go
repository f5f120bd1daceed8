package control

import (
	"fmt"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/omnirelay/leadership/core"
	"github.com/omnirelay/leadership/wire"
)

// docs/api.md names every operation and tells of every code what is answered.
func TestThePageIsComplete(t *testing.T) {
	data, err := os.ReadFile("../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(data)
	for path, item := range openAPIDocument(t).Paths {
		for _, o := range item {
			if last := path[strings.LastIndex(path, "/"):]; !strings.Contains(page, last) {
				t.Errorf("%s is not told of", path)
			}
			if strings.Contains(path, "/control/") && o.RequestBody != nil && !strings.Contains(page, "."+o.OperationID+"`") {
				t.Errorf("%s is not told of", o.OperationID)
			}
		}
	}
	for _, code := range []core.Code{core.CodeInvalid, core.CodeNotFound, core.CodeConflict, core.CodeSessionEnded, core.CodeNotLeader,
		core.CodeRetiring, core.CodeLimit, core.CodeTooOld, core.CodeUnsupported, core.CodeUnavailable, core.CodeOverloaded,
		core.CodeHalted, core.CodeAlreadyStarted} {
		e := &core.Error{Code: code}
		row := regexp.MustCompile("(?m)^\\| `" + string(code) + "` \\|[^|]*\\| `(\\w+)` \\| (\\d+) \\|").FindStringSubmatch(page)
		grpc := strings.ToUpper(regexp.MustCompile(`([a-z])([A-Z])`).ReplaceAllString(wire.GRPCCode(e).String(), "${1}_$2"))
		if row == nil || row[2] != fmt.Sprint(wire.ProblemOf(e, "").Status) || row[1] != grpc {
			t.Errorf("%s: the page says %v; answered are %d and %s", code, row, wire.ProblemOf(e, "").Status, grpc)
		}
	}
	for _, status := range []int{http.StatusMethodNotAllowed, http.StatusRequestTimeout, http.StatusRequestEntityTooLarge,
		http.StatusRequestURITooLong, http.StatusUnsupportedMediaType, http.StatusTooEarly} {
		if !strings.Contains(page, fmt.Sprint(status)) {
			t.Errorf("%d is not told of", status)
		}
	}
}
