package main

import (
	"fmt"
	"slices"

	"yingzhou.dev/lab/internal/failpoint"
)

// without says why a world never passes a point.
var without = map[world]map[failpoint.Point]string{
	embedded: {},
	served: {
		failpoint.LabNamed: inAFolder, failpoint.MoveBegun: inAFolder, failpoint.MoveMade: inAFolder, failpoint.MoveEnded: inAFolder,
	},
}

const inAFolder = "a lab is made in one folder, embedded, and laid out for its daemons afterwards"

// missed lists the points that no flow of a world passes of those that are there for them, though the table gives no
// reason, and those that one passes in spite of a reason.
func (m *matrix) missed(in world) (out []string) {
	for _, p := range failpoint.All() {
		passed := m.seen[in][p]
		why, excused := without[in][p]
		switch {
		case excused && len(passed) > 0:
			out = append(out, fmt.Sprintf("%s: %s: %q passes this point, though %s", in, p, passed[0].name, why))
		case !excused && !slices.ContainsFunc(passed, func(f *flow) bool { return slices.Contains(f.points, p) }):
			out = append(out, fmt.Sprintf("%s: %s: no flow that is there for this point passes it", in, p))
		}
	}
	return out
}

// reached notes that a flow passes a point.
func (m *matrix) reached(in world, f *flow, p failpoint.Point) {
	m.seen[in][p] = append(m.seen[in][p], f)
}
