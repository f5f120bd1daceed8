// Package ci_test holds the rules of the house as tests: who may import whom, and
// what keeps core pure. Each rule is checked on the tree and, so that it cannot
// rot, on small sources that break it.
package ci_test

import "testing"

const module = "github.com/omnirelay/leadership"

// room is a folder with a wall: its packages may import those of the rooms named
// here and no others of ours.
type room struct {
	path string   // the folder; a longer path of another room takes precedence
	may  []string // rooms its code may import; * stands for one path element
	// tests names rooms that its tests may import besides.
	tests []string
	why   string // what the wall keeps out
}

// rooms is the table of the house. A folder that is not in it fails the test, and
// so does a room that has no package any more.
var rooms = []room{
	{path: "core", may: []string{"core/logpb", "core/plant"},
		why: "core is simulated: whatever it imports must be simulated with it"},
	{path: "core/logpb",
		why: "the schema of the log outlives every program that reads it"},
	{path: "core/plant",
		why: "a plant is a name and a switch, nothing more"},
	{path: "wire", may: []string{"core", "core/logpb"},
		why: "messages are converted to and from what core says, wherever they travel"},
	{path: "sim", may: []string{"core", "core/logpb", "core/plant", "wire"},
		why: "a simulated world that reaches into the real one repeats nothing"},

	{path: "adapters/config", may: []string{"core", "core/logpb"},
		why: "settings are read and checked before anything they configure exists"},
	{path: "adapters/raftlog", may: []string{"core", "core/logpb"},
		why: "a log is opened and tested without the loop that drives it"},
	{path: "adapters/redislog", may: []string{"core", "core/logpb"},
		tests: []string{"adapters/storeserver", "adapters/logtest"},
		why:   "a store is called and tested without the loop that calls it"},
	{path: "adapters/etcdlog", may: []string{"core", "core/logpb"},
		tests: []string{"adapters/logtest", "adapters/storeserver"},
		why:   "a store is opened and tested without the loop that makes its calls"},
	{path: "adapters/pglog", may: []string{"core", "core/logpb"},
		tests: []string{"adapters/logtest", "adapters/storeserver"},
		why:   "a store is opened and tested without the loop that makes its calls"},
	{path: "adapters/access", may: []string{"core", "core/logpb", "adapters/transport"},
		why: "who may call is decided apart from what is called, and the same on every API"},
	{path: "adapters/transport", may: []string{"core", "wire"},
		why: "listeners and connections know nothing of what is served on them"},
	{path: "adapters/terminal",
		tests: []string{"adapters/terminal/terminaltest"},
		why:   "text for people is laid out without knowing what it says"},
	{path: "adapters/terminal/terminaltest",
		why: "a terminal for tests knows no program that is shown on it"},
	{path: "adapters/signing", may: []string{"core"},
		why: "whoever verifies a token needs nothing of those who serve or lead"},
	{path: "adapters/telemetry", may: []string{"core", "core/logpb"},
		why: "logs and metrics are told, they ask nobody"},
	{path: "adapters/clock", may: []string{"core"},
		why: "the clock of leases is one for servers and members alike"},
	{path: "adapters/gossip", may: []string{"core"},
		why: "gossip tells what it hears, and knows neither who listens nor what is done about it"},
	{path: "adapters/host", may: []string{"core", "core/logpb", "adapters/clock"},
		tests: []string{"adapters/raftlog"},
		why:   "the loop is handed its log and its network, so that tests can hand it others"},
	{path: "adapters/api", may: []string{"core", "core/logpb", "wire", "adapters/access", "adapters/signing"},
		tests: []string{"adapters/clock", "adapters/control", "adapters/host", "adapters/rpc", "adapters/telemetry", "adapters/transport"},
		why:   "what the API does is written once, and knows none of the ways it is called by"},
	{path: "adapters/client", may: []string{"core", "core/logpb", "wire", "adapters/clock", "adapters/fence", "adapters/transport"},
		why: "a member is linked with the protocol's side of members, and nothing of the registry's"},
	{path: "adapters/client/examples", may: []string{"core", "wire", "adapters/client", "adapters/clock", "adapters/fence", "adapters/signing", "adapters/transport"},
		why: "shows what a service can do with what a service has"},
	{path: "adapters/supervisor", may: []string{"adapters/client", "adapters/clock"},
		why: "kills in time whatever the registry or the network do, and so knows nothing of them but the lease"},
	{path: "adapters/control", may: []string{"core", "core/logpb", "wire", "docs", "adapters/access", "adapters/telemetry", "adapters/transport"},
		tests: []string{"adapters/control/controltest", "adapters/api"},
		why:   "serves what it is handed over HTTP, beside gRPC and not on top of it"},
	{path: "adapters/control/controltest", may: []string{"core", "core/logpb"},
		why: "a node for the tests of what is served, without a loop, a log or a network"},
	{path: "adapters/rpc", may: []string{"core", "core/logpb", "wire", "adapters/access", "adapters/telemetry", "adapters/transport"},
		tests: []string{"adapters/control/controltest"},
		why:   "serves what it is handed over gRPC, beside HTTP and not on top of it"},
	{path: "adapters/logtest", may: []string{"core", "core/logpb", "adapters/storeserver", "adapters/host", "adapters/raftlog"},
		why: "a suite that knew the stores it judges would bend to them"},
	{path: "adapters/fence", may: []string{"core", "wire"},
		tests: []string{"adapters/signing", "adapters/storeserver"},
		why:   "a resource takes the guard without taking a node of the registry"},
	{path: "adapters/storeserver",
		why: "starts programs of others, and knows as little of us as they do"},

	{path: "cmd/leaderd", may: []string{"core", "core/logpb", "wire", "adapters/*"},
		why: "the shipped program cannot plant a bug or enter a simulation"},
	{path: "cmd/omnirelay", may: []string{"core", "wire", "adapters/*"},
		tests: []string{"adapters/control/controltest", "adapters/terminal/terminaltest"},
		why:   "the shipped program cannot plant a bug or enter a simulation"},
	{path: "cmd/simrun", may: []string{"core", "core/logpb", "core/plant", "wire", "sim"},
		why: "a verdict on core must not rest on an adapter"},

	{path: "docs", why: "the description of the API travels in the program that serves it"},
	{path: "ci", why: "the rules of the house look at the others from outside"},
	{path: "fuzz", tests: []string{"core", "core/logpb", "wire", "adapters/*"},
		why: "targets reach readers as strangers do, through what packages export"},
	{path: "tests", may: []string{"core", "core/logpb", "wire", "adapters/*"}, tests: []string{"core", "core/logpb", "wire", "adapters/*"},
		why: "tests with real processes see what a user sees, and no simulation"},
}

// coreImports is everything core may import that is not ours, with what it is for.
// A package is added with a reason why the simulator loses nothing by it.
var coreImports = map[string]string{
	"bytes":           "comparing and building encodings",
	"cmp":             "orders",
	"crypto/sha256":   "hash chains and state hashes",
	"encoding/binary": "fixed encodings below the hashes",
	"errors":          "errors",
	"fmt":             "errors and names; it prints maps sorted",
	"hash":            "the type of sha256's state",
	"hash/fnv":        "rendezvous hashes, the same in every process",
	"iter":            "pull-based iteration",
	"maps":            "copies and comparisons; unsorted iteration is refused by purity_test.go",
	"math":            "integer bounds",
	"math/bits":       "integer arithmetic",
	"math/rand/v2":    "seeded sources; the global ones are refused by purity_test.go",
	"slices":          "sorting and searching",
	"sort":            "sorting and searching",
	"strconv":         "numbers in names",
	"strings":         "names",
	"time":            "Duration; every function is refused by purity_test.go",
	"unicode":         "checking names",
	"unicode/utf8":    "checking names",

	"go.etcd.io/raft/v3":                              "RawNode: messages in, Ready out, no goroutine",
	"go.etcd.io/raft/v3/confchange":                   "reading changes of the voters out of a log that no raft runs on",
	"go.etcd.io/raft/v3/raftpb":                       "what raft persists and sends",
	"go.etcd.io/raft/v3/tracker":                      "reading how far the followers are",
	"google.golang.org/protobuf/encoding/protowire":   "finding fields this version does not know",
	"google.golang.org/protobuf/proto":                "the encoding of log and snapshots",
	"google.golang.org/protobuf/reflect/protoreflect": "refusing fields this version does not know",
}

// coreBans says of packages that someone may want in core why they are not there.
// What is neither here nor in coreImports is refused all the same.
var coreBans = map[string]string{
	"context":      "a context carries a clock and a channel: pass a deadline of the type Time",
	"crypto/rand":  "randomness comes from the seed, or no run can be repeated",
	"database/sql": "stores are adapters behind the Log port",
	"hash/maphash": "its seed differs in every process: replicas would disagree",
	"io":           "reading and writing is an adapter's: core takes and returns data",
	"log":          "core returns records; adapters log them",
	"log/slog":     "core returns records; adapters log them",
	"math/rand":    "its sources are shared by the process: use math/rand/v2 with a seeded source",
	"net":          "messages are returned, adapters send them",
	"os":           "core knows no machine: pass in what it needs",
	"os/exec":      "core knows no machine",
	"reflect":      "what is hashed and compared is written out field by field",
	"runtime":      "what the scheduler and the collector do differs from run to run",
	"sync":         "one goroutine owns a replica: a lock hides that two do",
	"sync/atomic":  "one goroutine owns a replica; a Guard shared by many is wrapped in adapters/fence",
	"unsafe":       "an address differs from run to run",
}

// closureBans may not be reached from core by any path.
var closureBans = map[string]string{
	"net":          "a library of core's that opens sockets cannot be simulated",
	"os/exec":      "a library of core's that starts processes cannot be simulated",
	"database/sql": "a library of core's that opens databases cannot be simulated",
}

func TestRooms(t *testing.T) {
	report(t, brokenWalls(rooms, listPackages(t, "./...")))
}

func TestCoreImportsNothingImpure(t *testing.T) {
	report(t, brokenAllowList(listPackages(t, "./core", "./core/plant")))
}

func TestCoreReachesNoMachine(t *testing.T) {
	report(t, brokenClosure(listPackages(t, "-deps", "./core/...")))
}

func report(t *testing.T, problems []string) {
	t.Helper()
	for _, problem := range problems {
		t.Error(problem)
	}
}
