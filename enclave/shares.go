package enclave

import (
	"fmt"
	"slices"
	"strings"

	"yingzhou.dev/lab/internal/canon"
)

// ShareSet says among whom a shares layout was split. Its blobs are the third components of the columns; the other two
// of each follow from keys, which are encrypted to the nodes that hold them.
type ShareSet struct {
	// Scenario is the one that the pseudonyms were made for: rows of two datasets match within one scenario only.
	Scenario Digest   `json:"scenario"`
	Rows     int64    `json:"rows"`  // public; a multiple of ShareRowsUnit, the rest is padding that counts nowhere
	Nodes    []string `json:"nodes"` // three custodians: node i runs at the body of the i-th
	// Keys are the component keys, wrapped under the node's secret (mpc/shares.NodeSecret) and that under HPKE, component by
	// component, each for its two holders in turn: node c, then node c−1 (mod 3).
	Keys [][]byte `json:"keys"`
}

// ShareNodes is how many nodes hold a shares layout, two components each.
const ShareNodes = 3

// ShareRowsUnit is what the number of rows of a shares layout is rounded up to, so that one person more or less does not
// show in it.
const ShareRowsUnit = 1024

// Names of shared columns, beside "n" for the rows that are none of the padding, IndicatorName and PresentMoment.
const EntityShare = "e" // pseudonym of the entity, a word

// ValueShare names a number column: its scaled value, 0 where missing.
func ValueShare(x string) string { return "v:" + x }

// CheckShares refuses a shares layout that is not one: parsers accept its form, this its sense.
func (l *Layout) CheckShares() error {
	s := l.Shares
	switch {
	case l.Kind != Shares || s == nil:
		return fmt.Errorf("layout %q is of kind %q and has no shares", l.Name, l.Kind)
	case len(l.Axes) != 0:
		return fmt.Errorf("layout %q has axes, and shares have none", l.Name)
	case s.Rows < ShareRowsUnit || s.Rows%ShareRowsUnit != 0 || s.Rows > MaxRows+ShareRowsUnit:
		return fmt.Errorf("layout %q has %d rows, which is not a multiple of %d up to %d", l.Name, s.Rows, ShareRowsUnit, MaxRows)
	case s.Scenario.IsZero():
		return fmt.Errorf("layout %q is for no scenario", l.Name)
	case len(s.Nodes) != ShareNodes || len(s.Keys) != 2*ShareNodes:
		return fmt.Errorf("layout %q has %d nodes and %d keys, want %d and %d", l.Name, len(s.Nodes), len(s.Keys), ShareNodes, 2*ShareNodes)
	}
	sorted := slices.Sorted(slices.Values(s.Nodes))
	if len(slices.Compact(sorted)) != ShareNodes || slices.Contains(s.Nodes, "") {
		return fmt.Errorf("layout %q: nodes %q are not three", l.Name, s.Nodes)
	}
	seen := map[string]bool{}
	for _, v := range l.Vectors {
		if len(v.Commitments) != ShareNodes || v.Blob.IsZero() || v.Bytes < 1 || v.Chunks < 1 || seen[v.Name] {
			return fmt.Errorf("layout %q: vector %q is given twice, or lacks a blob or its %d commitments", l.Name, v.Name, ShareNodes)
		}
		seen[v.Name] = true
	}
	if !seen[string(CountMoment)] || !seen[EntityShare] {
		return fmt.Errorf("layout %q has no column %q or %q", l.Name, CountMoment, EntityShare)
	}
	return nil
}

// ShareInfo is the HPKE info string of a component key. It binds the key to everything else that the layout says, so a
// key of another sealing opens nothing.
func (l *Layout) ShareInfo(keyset Digest, component int, node string) []byte {
	bare := *l
	set := *l.Shares
	set.Keys = [][]byte{}
	bare.Shares = &set
	d := canon.DigestOf(bare)
	info := append([]byte("yingzhou share key v2\x00"), keyset[:]...)
	info = append(append(info, d[:]...), byte(component))
	return append(info, node...)
}

// Values names the shared columns of a manifest's column: indicators of a category, or value and presence of a number.
func (c Column) Values() []string {
	switch c.Type {
	case TypeCategory:
		out := make([]string, len(c.Domain))
		for k := range out {
			out[k] = IndicatorName([]string{c.Name}, int64(k))
		}
		return out
	case TypeNumber:
		if c.Nullable {
			return []string{string(PresentMoment(c.Name)), ValueShare(c.Name)}
		}
		return []string{ValueShare(c.Name)}
	}
	return nil
}

// ShareBound is the most |x| of a shared column, 0 for a word; ok is false if the manifest has no such column.
func (m *Manifest) ShareBound(name string) (bound int64, ok bool) {
	letter, rest, _ := strings.Cut(name, ":")
	switch letter {
	case EntityShare:
		return 0, rest == ""
	case "n", "i":
		return 1, true
	case "v":
		c, ok := m.Column(rest)
		return max(1, c.Max, -c.Min), ok && c.Type == TypeNumber
	}
	return 0, false
}
