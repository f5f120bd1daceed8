package client

import (
	"log"
	"testing"
)

// ClusterForExamples serves the scopes from a node of its own, for the examples. It returns
// what an application would read from its configuration.
func ClusterForExamples(scopes ...string) (o Options, stop func()) {
	tb := &exampleTB{}
	n := newRegistry(tb, scopes...).serve()
	return Options{Endpoints: []string{n.address}, Dial: dialPlainly}, tb.end
}

// exampleTB is what the registry of the tests needs of a test, in an example.
type exampleTB struct {
	testing.TB
	cleanups []func()
}

func (e *exampleTB) Helper()           {}
func (e *exampleTB) Error(args ...any) { log.Panic(args...) }
func (e *exampleTB) Errorf(format string, args ...any) {
	log.Panicf(format, args...)
}
func (e *exampleTB) Fatal(args ...any) { log.Panic(args...) }
func (e *exampleTB) Cleanup(f func())  { e.cleanups = append(e.cleanups, f) }

func (e *exampleTB) end() {
	for i := len(e.cleanups) - 1; i >= 0; i-- {
		e.cleanups[i]()
	}
}
