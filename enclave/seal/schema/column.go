package schema

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/seal/identifier"
	"yingzhou.dev/lab/operators"
)

const (
	maxScale = 6
	maxName  = 128 // bytes of a column's name
	// maxLabels bounds the domain of one category. A column with more is not a category but text.
	maxLabels = 65536
)

// Types of the standard. Those of the second line can be sealed as categories of declared labels only.
var fieldTypes = []string{"string", "integer", "number", "boolean",
	"date", "time", "datetime", "year", "yearmonth", "duration", "any"}

var tableUses = []operators.Use{operators.UseAggregate, operators.UseFilter, operators.UseGroup} // sorted

// Columns lists what a manifest says of the columns, in the order of the fields.
func (s *Schema) Columns() ([]enclave.Column, error) {
	cols, _, problems := s.compile()
	return cols, problems.err()
}

// compile checks the whole schema and works out what follows from it.
func (s *Schema) compile() (cols []enclave.Column, layouts []SealedLayout, p Problems) {
	if len(s.Fields) == 0 {
		p.add("fields", "is empty: describe every column")
	}
	seen := map[string]bool{}
	var keys []string
	for i := range s.Fields {
		f := &s.Fields[i]
		at := fmt.Sprintf("fields[%d] %q", i, f.Name)
		if text := nameProblem(f.Name); text != "" {
			p.add(at, "%s", text)
		}
		if seen[f.Name] {
			p.add(at, "is described twice")
		}
		seen[f.Name] = true
		if f.isKey() {
			keys = append(keys, f.Name)
		}
		cols = append(cols, f.column(at, &p))
	}
	if len(s.Fields) > 0 && len(keys) != 1 {
		p.add("fields", "%d fields have the use \"key\" and exactly one must: it tells entities apart, so that no entity has more than "+
			"entity_rows rows; if every row is an entity of its own, add a column of row numbers", len(keys))
	}
	s.checkSealing(&p)
	layouts = s.compileLayouts(cols, &p)
	return cols, layouts, p
}

// nameProblem keeps names usable in moments ("p:x,y"), in SQL as quoted identifiers, and on one line of a report.
func nameProblem(name string) string {
	switch {
	case name == "" || len(name) > maxName:
		return fmt.Sprintf("name must have 1 to %d bytes", maxName)
	case strings.ContainsAny(name, ",:\"") || strings.ContainsFunc(name, unicode.IsControl):
		return "name has a comma, colon, quote or control character: rename the column"
	case strings.TrimSpace(name) != name:
		return "name begins or ends with white space: rename the column"
	}
	return ""
}

func (f *Field) column(at string, p *Problems) enclave.Column {
	c := enclave.Column{Name: f.Name, Title: f.Title, Type: enclave.TypeOther}
	if f.Rules.Identifier != "" && !f.isKey() {
		p.add(at+".yingzhou.identifier", "is for the key")
	}
	if !slices.Contains(fieldTypes, f.Type) {
		p.add(at+".type", "%q is not one of %s", f.Type, strings.Join(fieldTypes, ", "))
	}
	if f.Constraints.Pattern != "" {
		if _, err := regexp.Compile(wholeMatch(f.Constraints.Pattern)); err != nil {
			p.add(at+".constraints.pattern", "is not a regular expression that is understood (RE2)")
		}
	}
	if n, m := f.Constraints.MinLength, f.Constraints.MaxLength; n < 0 || m < 0 || m > 0 && m < n {
		p.add(at+".constraints", "minLength and maxLength do not make a range")
	}
	if f.isKey() {
		c.Type = enclave.TypeKey
		f.checkKey(at, p)
		if f.Rules.Identifier != "" { // other agencies know it: rows may be matched by it, never shown
			c.Uses = []operators.Use{operators.UseJoin}
		}
		return c
	}
	f.uses(at, &c, p)
	if len(f.Rules.Uses) == 0 { // described, never sealed
		return c
	}
	switch {
	case len(f.Constraints.Enum) > 0:
		c.Type = enclave.TypeCategory
		f.category(at, &c, p)
	case f.Type == "number" || f.Type == "integer":
		c.Type = enclave.TypeNumber
		f.number(at, &c, p)
	default:
		p.add(at, "has uses, and a %s can be sealed only with its values listed in constraints.enum", f.Type)
	}
	return c
}

func wholeMatch(pattern string) string { return `^(?:` + pattern + `)$` }

func (f *Field) checkKey(at string, p *Problems) {
	if f.Type != "string" && f.Type != "integer" {
		p.add(at+".type", "a key must be a string or an integer")
	}
	if !f.Constraints.Required {
		p.add(at+".constraints.required", "must be true for the key: a row without an entity cannot be bounded")
	}
	r := f.Rules
	if r.Identifier != "" && r.Identifier != identifier.Text && r.Identifier != identifier.ResidentID {
		p.add(at+".yingzhou.identifier", "%q is not %s or %s", r.Identifier, identifier.Text, identifier.ResidentID)
	}
	if r.Missing != nil || r.Scale != 0 || len(r.Bins) > 0 || r.Outside != "" || len(f.Constraints.Enum) > 0 {
		p.add(at, "a key has no enum, missing, scale, bins or outside: it is never sealed")
	}
}

func (f *Field) uses(at string, c *enclave.Column, p *Problems) {
	for i, u := range f.Rules.Uses {
		switch {
		case u == useKey:
			p.add(at+".yingzhou.uses", "\"key\" stands alone: a column that identifies people has no other use")
		case !slices.Contains(tableUses, operators.Use(u)):
			p.add(at+".yingzhou.uses", "%q is not one of group, filter, aggregate, key", u)
		case slices.Contains(f.Rules.Uses[:i], u):
			p.add(at+".yingzhou.uses", "%q is given twice", u)
		default:
			c.Uses = append(c.Uses, operators.Use(u))
		}
	}
	slices.Sort(c.Uses)
}

func (f *Field) category(at string, c *enclave.Column, p *Problems) {
	c.Domain = f.labels(at, p)
	if c.May(operators.UseAggregate) {
		p.add(at+".yingzhou.uses", "a category cannot be aggregated: leave out the enum to seal numbers")
	}
	if f.Rules.Scale != 0 || len(f.Rules.Bins) > 0 || f.Rules.Outside != "" {
		p.add(at+".yingzhou", "scale, bins and outside are for numbers, and this column has an enum")
	}
	if f.Constraints.Minimum != "" || f.Constraints.Maximum != "" {
		p.add(at+".constraints", "minimum and maximum say nothing beside an enum: leave them out")
	}
	switch m := f.Rules.Missing; {
	case m == nil && !f.Constraints.Required:
		p.add(at, "values may be missing: set constraints.required, or say in yingzhou.missing which label a missing value becomes (\"\" for a label of its own)")
	case m != nil && f.Constraints.Required:
		p.add(at+".yingzhou.missing", "is given, and constraints.required says that no value is missing")
	case m != nil && *m == "":
		if !slices.Contains(c.Domain, "") {
			c.Domain = append(c.Domain, "")
		}
	case m != nil && !slices.Contains(c.Domain, *m):
		p.add(at+".yingzhou.missing", "is not a label of constraints.enum")
	}
	c.Nullable = slices.Contains(c.Domain, "")
}

// labels writes the enum as text, the form in which labels appear in tables and in results.
func (f *Field) labels(at string, p *Problems) []string {
	at += ".constraints.enum"
	if len(f.Constraints.Enum) > maxLabels {
		p.add(at, "has more than %d labels", maxLabels)
		return nil
	}
	var out []string
	seen := map[string]bool{}
	for i, e := range f.Constraints.Enum {
		var label string
		ok := false
		switch e := e.(type) {
		case string:
			label, ok = e, f.Type != "integer" && f.Type != "number" && f.Type != "boolean"
		case json.Number:
			label = e.String()
			_, err := parseExact(label, 0)
			ok = f.Type == "integer" && err == nil || f.Type == "number" || f.Type == "year"
		case bool:
			label, ok = strconv.FormatBool(e), f.Type == "boolean"
		}
		switch {
		case !ok:
			p.add(fmt.Sprintf("%s[%d]", at, i), "is not a value of type %s", f.Type)
		case seen[label]:
			p.add(fmt.Sprintf("%s[%d]", at, i), "is given twice")
		case utf8.RuneCountInString(label) > maxName || strings.ContainsFunc(label, unicode.IsControl):
			p.add(fmt.Sprintf("%s[%d]", at, i), "has control characters or is longer than %d characters", maxName)
		}
		seen[label] = true
		out = append(out, label)
	}
	return out
}

func (f *Field) number(at string, c *enclave.Column, p *Problems) {
	c.Scale = f.Rules.Scale
	if c.Scale < 0 || c.Scale > maxScale {
		p.add(at+".yingzhou.scale", "must be 0 to %d decimals", maxScale)
		return
	}
	if f.Type == "integer" && c.Scale != 0 {
		p.add(at+".yingzhou.scale", "an integer has no decimals: use the type number")
	}
	if f.Rules.Missing != nil {
		p.add(at+".yingzhou.missing", "is for categories; a number that may be missing is one without constraints.required")
	}
	if o := f.Rules.Outside; o != "" && o != outsideRefuse && o != outsideClamp {
		p.add(at+".yingzhou.outside", "%q is not refuse or clamp", o)
	}
	c.Nullable = !f.Constraints.Required
	var ok [2]bool
	c.Min, ok[0] = f.bound(at, "minimum", f.Constraints.Minimum, c.Scale, p)
	c.Max, ok[1] = f.bound(at, "maximum", f.Constraints.Maximum, c.Scale, p)
	if !ok[0] || !ok[1] {
		return
	}
	if c.Min >= c.Max {
		p.add(at+".constraints", "minimum must be less than maximum")
	}
	f.bins(at, c, p)
	if len(c.Bins) == 0 && c.May(operators.UseGroup) {
		p.add(at+".yingzhou.uses", "a number can be grouped by its bins only: declare yingzhou.bins")
	}
}

// What happens to numbers outside their bounds.
const (
	outsideRefuse = "refuse"
	outsideClamp  = "clamp"
)

// bound reads a bound that noise will be sized by; it must be stated, never taken from the data.
func (f *Field) bound(at, which string, n json.Number, scale int64, p *Problems) (int64, bool) {
	if n == "" {
		p.add(at+".constraints."+which, "is needed: noise is sized by the declared bounds")
		return 0, false
	}
	v, err := parseExact(n.String(), scale)
	if err != nil {
		p.add(at+".constraints."+which, "%v", err)
	}
	return v, err == nil
}

func (f *Field) bins(at string, c *enclave.Column, p *Problems) {
	at += ".yingzhou.bins"
	if len(f.Rules.Bins) == 0 {
		return
	}
	if c.Nullable {
		p.add(at, "a number that may be missing cannot have bins: a missing value would be in none of them")
	}
	if len(f.Rules.Bins) < 2 {
		p.add(at, "need at least two edges")
		return
	}
	for i, b := range f.Rules.Bins {
		v, err := parseExact(b.String(), c.Scale)
		if err != nil {
			p.add(fmt.Sprintf("%s[%d]", at, i), "%v", err)
			return
		}
		if i > 0 && v <= c.Bins[i-1] {
			p.add(fmt.Sprintf("%s[%d]", at, i), "edges must ascend")
			return
		}
		c.Bins = append(c.Bins, v)
	}
	if c.Bins[0] != c.Min || c.Bins[len(c.Bins)-1] != c.Max {
		p.add(at, "must run from minimum to maximum, so that every value is in one of them")
	}
}
