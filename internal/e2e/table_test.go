package e2e

import (
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"

	"pgregory.net/rapid"

	"yingzhou.dev/lab/enclave"
)

// column is a random column of a random table, described here and not by the code under test.
type column struct {
	name     string
	labels   []string // category: its domain; nil = a number
	scale    int
	min, max int64   // scaled
	bins     []int64 // scaled edges; nil = none
	nullable bool
}

// value is a cell of the table: a label's index, or a scaled number.
type value struct {
	v       int64
	missing bool
}

// plainTable is a table that no other code has touched.
type plainTable struct {
	columns []column
	rows    [][]value // by row, by column
	keys    []int     // entity of each row
}

var prefixes = []string{"town", "kind", "age", "use"}

// drawTable draws columns of every sort and rows of which some entities have several.
func drawTable(t *rapid.T, rows int) *plainTable {
	tab := &plainTable{}
	for i := range rapid.IntRange(1, 2).Draw(t, "categories") {
		c := column{name: prefixes[i], labels: []string{"甲", "it's", "b c"}[:rapid.IntRange(2, 3).Draw(t, "labels")]}
		if rapid.Bool().Draw(t, "missing") {
			c.labels = append(slices.Clone(c.labels), "")
		}
		tab.columns = append(tab.columns, c)
	}
	for i := range 3 {
		c := column{name: string(rune('x' + i)), scale: rapid.IntRange(0, 2).Draw(t, "scale")}
		c.min = rapid.Int64Range(-300, 100).Draw(t, "min")
		c.max = c.min + rapid.Int64Range(1, 400).Draw(t, "range")
		switch {
		case i == 0 || i == 1 && rapid.Bool().Draw(t, "binned"):
			edges := rapid.SliceOfNDistinct(rapid.Int64Range(c.min, c.max), 0, 3, rapid.ID).Draw(t, "edges")
			c.bins = append(edges, c.min, c.max)
			slices.Sort(c.bins)
			c.bins = slices.Compact(c.bins)
		case i == 2:
			c.nullable = true
		}
		tab.columns = append(tab.columns, c)
	}
	value64 := func(c column) *rapid.Generator[value] {
		return rapid.Custom(func(t *rapid.T) value {
			switch {
			case c.labels != nil:
				return value{v: rapid.Int64Range(0, int64(len(c.labels))-1).Draw(t, "label")}
			case c.nullable && rapid.IntRange(0, 3).Draw(t, "missing") == 0:
				return value{missing: true}
			case c.bins != nil && rapid.Bool().Draw(t, "edge"):
				return value{v: rapid.SampledFrom(c.bins).Draw(t, "edge")}
			}
			return value{v: rapid.Int64Range(c.min, c.max).Draw(t, "number")}
		})
	}
	for range rows {
		var row []value
		for _, c := range tab.columns {
			row = append(row, value64(c).Draw(t, c.name))
		}
		tab.rows = append(tab.rows, row)
		tab.keys = append(tab.keys, rapid.IntRange(0, rows/2).Draw(t, "entity"))
	}
	return tab
}

// decimal writes a scaled number as the source file has it.
func decimal(v int64, scale int) string {
	return new(big.Rat).SetFrac64(v, pow10(scale)).FloatString(scale)
}

func pow10(n int) int64 {
	p := int64(1)
	for range n {
		p *= 10
	}
	return p
}

func quote(s string) string { return strconv.Quote(s) }

// csv is the source file, with the columns in another order than the schema's.
func (tab *plainTable) csv() string {
	var b strings.Builder
	for i := len(tab.columns) - 1; i >= 0; i-- {
		b.WriteString(tab.columns[i].name + ",")
	}
	b.WriteString("id\n")
	for r, row := range tab.rows {
		for i := len(row) - 1; i >= 0; i-- {
			switch c := tab.columns[i]; {
			case c.labels != nil:
				b.WriteString(c.labels[row[i].v])
			case !row[i].missing:
				b.WriteString(decimal(row[i].v, c.scale))
			}
			b.WriteString(",")
		}
		fmt.Fprintf(&b, "e%d\n", tab.keys[r])
	}
	return b.String()
}

// entityRows is the most rows that one entity has.
func (tab *plainTable) entityRows() (most int) {
	n := map[int]int{}
	for _, k := range tab.keys {
		n[k]++
		most = max(most, n[k])
	}
	return most
}

// dims are the columns that a table can be divided by.
func (tab *plainTable) dims() (out []column) {
	for _, c := range tab.columns {
		if c.labels != nil || c.bins != nil {
			out = append(out, c)
		}
	}
	return out
}

func (tab *plainTable) numbers() (out []column) {
	for _, c := range tab.columns {
		if c.labels == nil {
			out = append(out, c)
		}
	}
	return out
}

// schema describes the table with one layout of the given kind that serves every query.
func (tab *plainTable) schema(kind string) string {
	fields := []string{`{"name": "id", "type": "string", "constraints": {"required": true}, "yingzhou": {"uses": ["key"]}}`}
	for _, c := range tab.columns {
		fields = append(fields, c.field())
	}
	var dims, single, measures, products []string
	for _, c := range tab.dims() {
		dims = append(dims, quote(c.name))
		single = append(single, "["+quote(c.name)+"]")
	}
	for i, c := range tab.numbers() {
		measures = append(measures, quote(c.name))
		for _, d := range tab.numbers()[:i] {
			if !c.nullable && !d.nullable {
				products = append(products, "["+quote(c.name)+", "+quote(d.name)+"]")
			}
		}
	}
	layout := fmt.Sprintf(`"dims": [%s]`, strings.Join(dims, ", "))
	if kind == enclave.Rows {
		layout = fmt.Sprintf(`"squares": true, "indicators": [%s, [%s]]`, strings.Join(single, ", "), strings.Join(dims, ", "))
	}
	return fmt.Sprintf(`{"fields": [%s], "yingzhou": {"dataset": "data", "params": "bgv13-t36", "entity_rows": %d, "budget": 1000,
		"catalog": {"title": "t", "classification": "c", "level": 1, "sharing": "none", "opening": "closed", "update_cycle": "u", "unit": "u", "legal_basis": "l"},
		"layouts": [{"name": "l", "kind": %q, %s, "measures": [%s], "products": [%s]}]}}`,
		strings.Join(fields, ",\n"), tab.entityRows(), kind, layout, strings.Join(measures, ", "), strings.Join(products, ", "))
}

func (c column) field() string {
	if c.labels != nil {
		var labels []string
		missing := `"required": true, `
		uses := ""
		for _, l := range c.labels {
			if l == "" {
				missing, uses = "", `, "missing": ""`
				continue
			}
			labels = append(labels, quote(l))
		}
		return fmt.Sprintf(`{"name": %q, "type": "string", "constraints": {%s"enum": [%s]}, "yingzhou": {"uses": ["group", "filter"]%s}}`,
			c.name, missing, strings.Join(labels, ", "), uses)
	}
	required, bins, uses := `"required": true, `, "", `"aggregate"`
	if c.nullable {
		required = ""
	}
	if c.bins != nil {
		var edges []string
		for _, e := range c.bins {
			edges = append(edges, decimal(e, c.scale))
		}
		bins, uses = fmt.Sprintf(`, "bins": [%s]`, strings.Join(edges, ", ")), `"group", "filter", "aggregate"`
	}
	return fmt.Sprintf(`{"name": %q, "type": "number", "constraints": {%s"minimum": %s, "maximum": %s}, "yingzhou": {"scale": %d, "uses": [%s]%s}}`,
		c.name, required, decimal(c.min, c.scale), decimal(c.max, c.scale), c.scale, uses, bins)
}
