package cluster_test

import (
	"os"
	"os/exec"
	"regexp"
	"testing"

	"github.com/omnirelay/leadership/tests/cluster/harness"
)

// TestTheStoryOfTheManual: the shell script of docs/api.md opens a session, leads, sees
// itself lead, and gives up, with nothing but curl and jq.
func TestTheStoryOfTheManual(t *testing.T) {
	page, err := os.ReadFile("../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	story := regexp.MustCompile("(?s)```sh story\n(.*?)```").FindSubmatch(page)
	if story == nil {
		t.Fatal("docs/api.md has no block that begins with ```sh story")
	}
	dev := harness.StartDev(t)
	cmd := exec.CommandContext(t.Context(), "bash", "-c", string(story[1]))
	cmd.Env = append(os.Environ(), "OMNIRELAY_CLUSTER="+dev.Manifest)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v:\n%s", err, out)
	}
}
