package enclave

import (
	"fmt"
	"math/big"
	"strings"

	"yingzhou.dev/lab/operators"
)

// Column types.
const (
	TypeCategory = "category" // one of Domain
	TypeNumber   = "number"   // fixed-point within [Min, Max], optionally with declared bins
	TypeKey      = "key"      // identifies the entity; never sealed
	TypeOther    = "other"    // described, never sealed
)

// Column is what a plan may know of a column. Numbers are integers in units of 10^-Scale.
type Column struct {
	Name     string          `json:"name"`
	Title    string          `json:"title,omitempty"`
	Type     string          `json:"type"`
	Domain   []string        `json:"domain,omitempty"`   // category labels in declared order
	Min      int64           `json:"min,omitempty"`      // number: least value, scaled
	Max      int64           `json:"max,omitempty"`      // number: greatest value, scaled
	Scale    int64           `json:"scale,omitempty"`    // decimals kept, 0..6
	Bins     []int64         `json:"bins,omitempty"`     // number: ascending scaled edges; bin i is [Bins[i], Bins[i+1]), the last closed
	Nullable bool            `json:"nullable,omitempty"` // number: may be missing; category: the label "" is then in Domain
	Uses     []operators.Use `json:"uses,omitempty"`     // disclosure rule, sorted; empty = never
}

// May reports whether the steward's disclosure rule allows a use.
func (c Column) May(use operators.Use) bool {
	for _, u := range c.Uses {
		if u == use {
			return true
		}
	}
	return false
}

// Size is the number of values the column has as a dimension: labels or bins; 0 if it cannot be one.
func (c Column) Size() int {
	switch {
	case c.Type == TypeCategory:
		return len(c.Domain)
	case c.Type == TypeNumber && len(c.Bins) > 1:
		return len(c.Bins) - 1
	}
	return 0
}

// Label names value i of the column as a dimension.
func (c Column) Label(i int) string {
	if c.Type == TypeCategory {
		return c.Domain[i]
	}
	end := ")"
	if i == len(c.Bins)-2 {
		end = "]"
	}
	return "[" + FormatScaled(c.Bins[i], c.Scale) + "," + FormatScaled(c.Bins[i+1], c.Scale) + end
}

// Centre is the middle of the declared range, scaled. Sealed values are centred on it, which halves the sensitivity of
// a sum; the part Centre·n comes back from the released count.
func (c Column) Centre() int64 { return c.Min + (c.Max-c.Min)/2 }

// Reach is the largest |value − Centre|, scaled.
func (c Column) Reach() int64 { return c.Max - c.Centre() }

// FormatScaled writes v·10^-scale as a plain decimal.
func FormatScaled(v, scale int64) string {
	if scale == 0 {
		return fmt.Sprint(v)
	}
	s := new(big.Rat).SetFrac(big.NewInt(v), pow10(scale)).FloatString(int(scale))
	s = strings.TrimRight(s, "0")
	return strings.TrimSuffix(s, ".")
}

func pow10(n int64) *big.Int { return new(big.Int).Exp(big.NewInt(10), big.NewInt(n), nil) }

// Column finds a column by name.
func (m *Manifest) Column(name string) (Column, bool) {
	for _, c := range m.Columns {
		if c.Name == name {
			return c, true
		}
	}
	return Column{}, false
}

// Layout finds a layout by name.
func (m *Manifest) Layout(name string) (*Layout, bool) {
	for i := range m.Layouts {
		if m.Layouts[i].Name == name {
			return &m.Layouts[i], true
		}
	}
	return nil, false
}

// Dims resolves the columns of an axis and the size of its index space. The last column varies fastest.
func (m *Manifest) Dims(axis []string) (cols []Column, size int64, err error) {
	size = 1
	for _, name := range axis {
		c, ok := m.Column(name)
		if !ok {
			return nil, 0, fmt.Errorf("axis names column %q, which the manifest does not have", name)
		}
		if c.Size() == 0 {
			return nil, 0, fmt.Errorf("axis names column %q, which has neither a domain nor bins", name)
		}
		cols = append(cols, c)
		if size > MaxCells/int64(c.Size()) {
			return nil, 0, fmt.Errorf("axis %s has more than %d cells", strings.Join(axis, ", "), MaxCells)
		}
		size *= int64(c.Size())
	}
	return cols, size, nil
}

// MaxCells bounds every index space.
const MaxCells = 1 << 20
