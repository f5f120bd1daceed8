package main

import (
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"

	"github.com/omnirelay/leadership/sim"
)

// printReport prints the runs as JSON or JUnit XML; an empty format prints nothing.
func printReport(w io.Writer, format string, runs []sim.Report) error {
	switch format {
	case "json":
		data, err := json.MarshalIndent(runs, "", "  ")
		if err != nil {
			return err
		}
		fmt.Fprintln(w, string(data))
	case "junit":
		data, err := xml.MarshalIndent(junitOf(runs), "", "  ")
		if err != nil {
			return err
		}
		fmt.Fprintln(w, xml.Header+string(data))
	}
	return nil
}

type junitSuite struct {
	XMLName  xml.Name    `xml:"testsuite"`
	Name     string      `xml:"name,attr"`
	Tests    int         `xml:"tests,attr"`
	Failures int         `xml:"failures,attr"`
	Cases    []junitCase `xml:"testcase"`
}

type junitCase struct {
	Name    string        `xml:"name,attr"`
	Class   string        `xml:"classname,attr"`
	Seconds string        `xml:"time,attr"`
	Failure *junitFailure `xml:"failure"`
}

type junitFailure struct {
	Type    string `xml:"type,attr"`
	Message string `xml:"message,attr"`
}

func junitOf(runs []sim.Report) junitSuite {
	suite := junitSuite{Name: "simrun", Tests: len(runs)}
	for i := range runs {
		r := &runs[i]
		c := junitCase{Name: fmt.Sprintf("seed-%d", r.Seed), Class: r.Scenario, Seconds: fmt.Sprintf("%.3f", r.Wall.Seconds())}
		if len(r.Violations) > 0 {
			suite.Failures++
			c.Failure = &junitFailure{Type: string(r.Violations[0].Property), Message: r.Violations[0].Text}
		}
		suite.Cases = append(suite.Cases, c)
	}
	return suite
}
