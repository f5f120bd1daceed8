package figures

import (
	"testing"

	"github.com/omnirelay/leadership/tests/cluster/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }
