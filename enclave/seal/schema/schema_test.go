package schema

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/operators"
)

const good = `{
  "fields": [
    {"name": "town", "type": "string", "title": "乡镇", "constraints": {"enum": ["城桥镇", "堡镇", "其他"]}, "yingzhou": {"uses": ["group", "filter"], "missing": "其他"}},
    {"name": "flat", "type": "boolean", "constraints": {"enum": [true, false]}, "yingzhou": {"uses": ["group"], "missing": ""}},
    {"name": "m3", "type": "number", "constraints": {"required": true, "minimum": 0, "maximum": 200}, "yingzhou": {"scale": 1, "uses": ["aggregate", "filter"], "bins": [0, 10, 20, 50, 200]}},
    {"name": "people", "type": "integer", "constraints": {"required": true, "minimum": 1, "maximum": 8}, "yingzhou": {"uses": ["aggregate"], "outside": "clamp"}},
    {"name": "age", "type": "integer", "constraints": {"minimum": 0, "maximum": 120}, "yingzhou": {"uses": ["aggregate"]}},
    {"name": "note", "type": "string"},
    {"name": "household", "type": "string", "constraints": {"required": true, "maxLength": 6, "pattern": "[A-Z][0-9]+"}, "yingzhou": {"uses": ["key"]}}
  ],
  "missingValues": ["", "NA"],
  "yingzhou": {
    "dataset": "water", "params": "bgv14-t50", "entity_rows": 2, "budget": 20.5,
    "catalog": {"title": "水", "classification": "水务", "level": 2, "sharing": "conditional", "opening": "closed",
      "update_cycle": "monthly", "unit": "区水务局", "legal_basis": "art. 6"},
    "layouts": [
      {"name": "c", "kind": "cube", "dims": ["town", "m3"], "measures": ["m3", "age"], "products": [["people", "m3"]]},
      {"name": "r", "kind": "rows", "indicators": [["town"], ["town", "flat"]], "measures": ["m3", "age"]},
      {"name": "sq", "kind": "rows", "measures": ["people"], "squares": true}
    ]
  }
}`

func mustParse(t testing.TB, text string) *Schema {
	t.Helper()
	s, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestColumns(t *testing.T) {
	s := mustParse(t, good)
	got, err := s.Columns()
	if err != nil {
		t.Fatal(err)
	}
	want := []enclave.Column{
		{Name: "town", Title: "乡镇", Type: enclave.TypeCategory, Domain: []string{"城桥镇", "堡镇", "其他"}, Uses: []operators.Use{"filter", "group"}},
		{Name: "flat", Type: enclave.TypeCategory, Domain: []string{"true", "false", ""}, Nullable: true, Uses: []operators.Use{"group"}},
		{Name: "m3", Type: enclave.TypeNumber, Max: 2000, Scale: 1, Bins: []int64{0, 100, 200, 500, 2000}, Uses: []operators.Use{"aggregate", "filter"}},
		{Name: "people", Type: enclave.TypeNumber, Min: 1, Max: 8, Uses: []operators.Use{"aggregate"}},
		{Name: "age", Type: enclave.TypeNumber, Max: 120, Nullable: true, Uses: []operators.Use{"aggregate"}},
		{Name: "note", Type: enclave.TypeOther},
		{Name: "household", Type: enclave.TypeKey},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if s.BudgetMicro() != 20_500_000 || s.Params() != "bgv14-t50" || !slices.Equal(s.Keys(), []string{"household"}) {
		t.Errorf("budget %d, params %s, keys %q", s.BudgetMicro(), s.Params(), s.Keys())
	}
	if c := s.Catalog("csv"); c.Format != "csv" || c.Unit != "区水务局" || c.Level != 2 {
		t.Errorf("catalog %+v", c)
	}
}

func TestLayouts(t *testing.T) {
	got, err := mustParse(t, good).Layouts()
	if err != nil {
		t.Fatal(err)
	}
	want := []SealedLayout{
		{Name: "c", Kind: "cube", Axes: [][]string{{"town", "m3"}},
			Vectors: []string{"n", "s:m3", "q:m3", "n:age", "s:age", "q:age", "p:m3,people"}},
		{Name: "r", Kind: "rows", Axes: [][]string{{}, {"town"}, {"town", "flat"}},
			Vectors: []string{"n", "i:town:0", "i:town:1", "i:town:2",
				"i:town,flat:0", "i:town,flat:1", "i:town,flat:2", "i:town,flat:3", "i:town,flat:4", "i:town,flat:5",
				"i:town,flat:6", "i:town,flat:7", "i:town,flat:8", "s:m3", "n:age", "s:age"}},
		{Name: "sq", Kind: "rows", Axes: [][]string{{}}, Vectors: []string{"n", "s:people", "q:people"}},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// Each edit of the good schema is refused at the path it damages.
func TestParseRefuses(t *testing.T) {
	for name, tc := range map[string]struct{ old, new, path, text string }{
		"unknown rule":        {`"missing": "其他"`, `"mising": "其他"`, "fields[0].yingzhou.mising", `did you mean "missing"`},
		"other case":          {`"uses": ["key"]`, `"Uses": ["key"]`, "fields[6].yingzhou.Uses", "not known"},
		"unknown constraint":  {`"minimum": 1,`, `"exclusiveMinimum": 1,`, "fields[3].constraints.exclusiveMinimum", "not known"},
		"given twice":         {`"entity_rows": 2`, `"entity_rows": 2, "entity_rows": 3`, "yingzhou.entity_rows", "twice"},
		"null":                {`"title": "乡镇"`, `"title": null`, "fields[0].title", "null"},
		"type of key":         {`"level": 2`, `"level": "2"`, "", "yingzhou.catalog.level must be a whole number"},
		"syntax":              {`"level": 2`, `"level": ,`, "", "line 14"},
		"no key":              {`"uses": ["key"]`, `"uses": []`, "fields", "exactly one"},
		"key and group":       {`["key"]`, `["key", "group"]`, `fields[6] "household".yingzhou.uses`, "stands alone"},
		"key may be missing":  {`{"required": true, "maxLength"`, `{"maxLength"`, `fields[6] "household".constraints.required`, "must be true"},
		"unknown use":         {`["group"]`, `["groups"]`, `fields[1] "flat".yingzhou.uses`, "not one of"},
		"use twice":           {`["group", "filter"]`, `["group", "group"]`, `fields[0] "town".yingzhou.uses`, "twice"},
		"missing undecided":   {`, "missing": "其他"`, ``, `fields[0] "town"`, "may be missing"},
		"missing not a label": {`"missing": "其他"`, `"missing": "x"`, `fields[0] "town".yingzhou.missing`, "not a label"},
		"category summed":     {`["group"]`, `["aggregate"]`, `fields[1] "flat".yingzhou.uses`, "cannot be aggregated"},
		"label twice":         {`"堡镇", "其他"`, `"堡镇", "堡镇", "其他"`, `fields[0] "town".constraints.enum[2]`, "twice"},
		"label of other type": {`[true, false]`, `[true, "false"]`, `fields[1] "flat".constraints.enum[1]`, "type boolean"},
		"text without enum":   {`{"name": "note", "type": "string"}`, `{"name": "note", "type": "string", "yingzhou": {"uses": ["group"]}}`, `fields[5] "note"`, "enum"},
		"no maximum":          {`"minimum": 0, "maximum": 200`, `"minimum": 0`, `fields[2] "m3".constraints.maximum`, "needed"},
		"bounds reversed":     {`"minimum": 1, "maximum": 8`, `"minimum": 8, "maximum": 1`, `fields[3] "people".constraints`, "less than"},
		"bound too fine":      {`"maximum": 200`, `"maximum": 200.05`, `fields[2] "m3".constraints.maximum`, "decimals"},
		"bound too large":     {`"maximum": 200`, `"maximum": 99999999999999999999`, `fields[2] "m3".constraints.maximum`, "digits"},
		"integer with scale":  {`{"uses": ["aggregate"], "outside": "clamp"}`, `{"uses": ["aggregate"], "scale": 1}`, `fields[3] "people".yingzhou.scale`, "integer"},
		"scale too large":     {`"scale": 1`, `"scale": 7`, `fields[2] "m3".yingzhou.scale`, "0 to 6"},
		"outside unknown":     {`"clamp"`, `"drop"`, `fields[3] "people".yingzhou.outside`, "refuse or clamp"},
		"bins short of max":   {`[0, 10, 20, 50, 200]`, `[0, 10, 20, 50]`, `fields[2] "m3".yingzhou.bins`, "minimum to maximum"},
		"bins unordered":      {`[0, 10, 20, 50, 200]`, `[0, 20, 10, 200]`, `fields[2] "m3".yingzhou.bins[2]`, "ascend"},
		"bins of nullable":    {`"maximum": 120}, "yingzhou": {`, `"maximum": 120}, "yingzhou": {"bins": [0, 120], `, `fields[4] "age".yingzhou.bins`, "may be missing"},
		"filter without bins": {`"bins": [0, 10, 20, 50, 200]`, `"bins": []`, `fields[2] "m3".yingzhou.uses`, "bins"},
		"name with comma":     {`"name": "note"`, `"name": "a,b"`, `fields[5] "a,b"`, "comma"},
		"name twice":          {`"name": "note"`, `"name": "town"`, `fields[5] "town"`, "twice"},
		"field type":          {`{"name": "note", "type": "string"}`, `{"name": "note", "type": "text"}`, `fields[5] "note".type`, "not one of"},
		"pattern":             {`[A-Z][0-9]+`, `[A-Z`, `fields[6] "household".constraints.pattern`, "regular expression"},
		"dataset":             {`"water"`, `"Water"`, "yingzhou.dataset", "small letters"},
		"params":              {`bgv14-t50`, `ckks`, "yingzhou.params", "not one of"},
		"entity rows":         {`"entity_rows": 2`, `"entity_rows": 0`, "yingzhou.entity_rows", "must be"},
		"budget":              {`20.5`, `-1`, "yingzhou.budget", "positive"},
		"draft text":          {`"unit": "区水务局"`, `"unit": "EDIT: who"`, "yingzhou.catalog.unit", "draft"},
		"no legal basis":      {`"art. 6"`, `" "`, "yingzhou.catalog.legal_basis", "needed"},
		"sharing":             {`"sharing": "conditional"`, `"sharing": "some"`, "yingzhou.catalog.sharing", "not one of"},
		"layout twice":        {`"name": "r"`, `"name": "c"`, `yingzhou.layouts[1] "c"`, "twice"},
		"layout kind":         {`"kind": "cube"`, `"kind": "box"`, `yingzhou.layouts[0] "c".kind`, "not cube, rows or shares"},
		"dim without size":    {`"dims": ["town", "m3"]`, `"dims": ["town", "people"]`, `yingzhou.layouts[0] "c".dims`, "neither a domain nor bins"},
		"dim unknown":         {`"dims": ["town", "m3"]`, `"dims": ["city"]`, `yingzhou.layouts[0] "c".dims`, "does not have"},
		"dim twice":           {`"dims": ["town", "m3"]`, `"dims": ["town", "town"]`, `yingzhou.layouts[0] "c".dims`, "twice"},
		"key as measure":      {`"measures": ["people"]`, `"measures": ["household"]`, `yingzhou.layouts[2] "sq".measures[0]`, "no number"},
		"nullable product":    {`["people", "m3"]`, `["age", "m3"]`, `yingzhou.layouts[0] "c".products[0]`, "may be missing"},
		"product of three":    {`["people", "m3"]`, `["people", "m3", "age"]`, `yingzhou.layouts[0] "c".products[0]`, "two different"},
		"product twice":       {`[["people", "m3"]]`, `[["people", "m3"], ["m3", "people"]]`, `yingzhou.layouts[0] "c".products[1]`, "twice"},
		"indicators in cube":  {`"dims": ["town", "m3"]`, `"dims": ["town"], "indicators": [["town"]]`, `yingzhou.layouts[0] "c".indicators`, "rows"},
	} {
		t.Run(name, func(t *testing.T) {
			if strings.Count(good, tc.old) == 0 {
				t.Fatalf("the good schema has no %s", tc.old)
			}
			_, err := Parse([]byte(strings.Replace(good, tc.old, tc.new, 1)))
			var p Problems
			if !errors.As(err, &p) {
				t.Fatalf("got %v, want Problems", err)
			}
			if !slices.ContainsFunc(p, func(q Problem) bool { return q.Path == tc.path && strings.Contains(q.Text, tc.text) }) {
				t.Errorf("no problem at %q with %q in\n%v", tc.path, tc.text, err)
			}
		})
	}
}

func TestParseReportsAllAtOnce(t *testing.T) {
	text := strings.NewReplacer(`"clamp"`, `"drop"`, `20.5`, `0`, `"level": 2`, `"level": 9`, `"scale": 1`, `"scael": 1`).Replace(good)
	_, err := Parse([]byte(text))
	var p Problems
	if !errors.As(err, &p) || len(p) != 4 {
		t.Errorf("got %v, want four problems", err)
	}
}

func TestTooManyCells(t *testing.T) {
	var labels []string
	for i := range 3000 {
		labels = append(labels, `"`+strings.Repeat("x", i%7)+string(rune(0x4e00+i))+`"`)
	}
	text := strings.Replace(good, `"城桥镇", "堡镇"`, strings.Join(labels, ","), 1)
	_, err := Parse([]byte(strings.Replace(text, `["town", "flat"]]`, `["town", "flat"]]`, 1)))
	var p Problems
	if !errors.As(err, &p) || !strings.Contains(err.Error(), "more than 4096 vectors") {
		t.Errorf("got %v", err)
	}
}

func TestEncodeIdentity(t *testing.T) {
	s := mustParse(t, good)
	out, err := s.Encode()
	if err != nil {
		t.Fatal(err)
	}
	again := mustParse(t, string(out))
	if d := cmp.Diff(s, again); d != "" {
		t.Error(d)
	}
}

// FuzzSchema: never panics; what is accepted is the same after encoding and parsing again.
func FuzzSchema(f *testing.F) {
	f.Add([]byte(good))
	for _, path := range []string{"../../../examples/water/schema.json", "../../../examples/health/schema.json"} {
		data, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := Parse(data)
		if err != nil {
			_ = err.Error()
			return
		}
		out, err := s.Encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse(out)
		if err != nil {
			t.Fatalf("its own encoding is refused: %v", err)
		}
		twice, err := again.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(string(out), string(twice)); d != "" {
			t.Fatal(d)
		}
	})
}
