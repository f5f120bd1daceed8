package gossip

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// MeshVersion is the version of the mesh's protocols that this program speaks.
const MeshVersion = "1.0.0"

// versionText is up to three numbers; what follows a dash or a plus is for people.
var versionText = regexp.MustCompile(`^v?(\d{1,6}(?:\.\d{1,6}){0,2})(?:[-+][0-9A-Za-z.+-]*)?$`)

// parseVersion returns the numbers of a version, one to three.
func parseVersion(text string) ([]int, error) {
	m := versionText.FindStringSubmatch(text)
	if len(text) > MaxMeshVersion || m == nil {
		return nil, fmt.Errorf("%.40q is no version; write up to three numbers, like 1.2.3", text)
	}
	var numbers []int
	for part := range strings.SplitSeq(m[1], ".") {
		n, err := strconv.Atoi(part)
		if err != nil {
			return nil, err
		}
		numbers = append(numbers, n)
	}
	return numbers, nil
}

// versionRange is what versions a mesh works with, both ends included. A missing end
// sets no bound; a number that a bound leaves out may be any: up to 1 admits 1.9.
type versionRange struct{ min, max []int }

func newVersionRange(lowest, highest string) (r versionRange, err error) {
	if lowest != "" {
		if r.min, err = parseVersion(lowest); err != nil {
			return r, fmt.Errorf("minMeshVersion: %w", err)
		}
	}
	if highest != "" {
		if r.max, err = parseVersion(highest); err != nil {
			return r, fmt.Errorf("maxMeshVersion: %w", err)
		}
	}
	return r, nil
}

// holds tells whether the mesh works with a version. One that cannot be read is outside
// of every range that has a bound.
func (r versionRange) holds(text string) bool {
	if r.min == nil && r.max == nil {
		return true
	}
	v, err := parseVersion(text)
	return err == nil && compareVersions(v, r.min) >= 0 && compareVersions(v, r.max) <= 0
}

// compareVersions compares as many numbers as bound has.
func compareVersions(v, bound []int) int {
	for i, b := range bound {
		n := 0
		if i < len(v) {
			n = v[i]
		}
		if n != b {
			return n - b
		}
	}
	return 0
}
