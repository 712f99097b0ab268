package program

import (
	"fmt"
	"math/big"
	"slices"

	"yingzhou.dev/lab/enclave"
)

// Tabulate turns a plan's opened values into its result, all but the Salt. Cells, keep and rules are those of Expand and
// Keep; pieces is how many samples of noise every value carries. Stage-2 values of suppressed cells need not be opened
// and are not read.
//
// HAVING, ORDER BY and LIMIT apply to the released rows only and to the released digits, so whoever holds the table can
// check them: a figure that is NULL satisfies no condition and comes last in either direction; labels come in the
// declared order of the domain; equal rows in the order of the cells. Suppressed cells are listed after that in the order
// of the cells, whatever HAVING and LIMIT say: they have no figure to be judged by.
//
// An error means that the plan, the manifest and the values do not belong together. It never depends on the size of a
// value.
func Tabulate(p *enclave.Plan, m *enclave.Manifest, pieces int, cells []enclave.Cell, keep []bool, rules []string, values *Values) (*enclave.Table, error) {
	f, err := newFrame(p, m, pieces)
	if err != nil {
		return nil, fmt.Errorf("tabulating: %w", err)
	}
	if err := f.complete(cells, keep, rules, values); err != nil {
		return nil, fmt.Errorf("tabulating: %w", err)
	}
	t := &enclave.Table{Rows: []enclave.TableRow{}, Suppressed: []enclave.Suppressed{}}
	for _, fo := range f.formulas {
		col := enclave.TableCol{Name: fo.title, Type: "number"}
		if fo.group >= 0 {
			col.Type = "label"
		}
		t.Columns = append(t.Columns, col)
	}
	var rows []row
	for i, labels := range cells {
		names := p.Labels(m, labels)
		if !keep[i] {
			t.Suppressed = append(t.Suppressed, enclave.Suppressed{Labels: names, Rule: rules[i]})
			continue
		}
		c := cell{frame: f, opened: values, index: i}
		r := row{cell: labels}
		for _, fo := range f.formulas {
			if fo.group >= 0 {
				r.label(names[fo.group])
			} else {
				r.figure(c.value(fo))
			}
		}
		rows = append(rows, r)
	}
	if rows, err = f.present(rows); err != nil {
		return nil, fmt.Errorf("tabulating: %w", err)
	}
	for _, r := range rows {
		t.Rows = append(t.Rows, enclave.TableRow{Values: r.values})
	}
	return t, nil
}

// frame is a plan made ready to be evaluated cell by cell.
type frame struct {
	plan     *enclave.Plan
	manifest *enclave.Manifest
	noise    []*big.Float                  // variance by measure
	steps    map[enclave.Moment]*big.Float // joint plans: variance of one noised count of a quantile's bisection
	moments  map[enclave.Moment]int        // measures of whole cells
	bins     map[string]int                // measures that count by the bins of a column
	formulas []formula                     // by output
}

// formula is an output with its columns looked up.
type formula struct {
	name, title string
	cols        []enclave.Column
	micro       int64 // PERCENTILE's fraction in 1e-6
	group       int   // position in GROUP BY of a label, or -1
}

// x is the first column; COUNT(*) has none, and the zero column is never missing.
func (f formula) x() enclave.Column {
	if len(f.cols) == 0 {
		return enclave.Column{}
	}
	return f.cols[0]
}

func newFrame(p *enclave.Plan, m *enclave.Manifest, pieces int) (*frame, error) {
	if len(p.Measures) == 0 || p.Measures[0].Moment != enclave.CountMoment || p.Measures[0].By != "" {
		return nil, fmt.Errorf("measure 0 of a plan is the count of rows, %q", enclave.CountMoment)
	}
	if err := checkNoise(p); err != nil {
		return nil, err
	}
	steps, err := bisections(p, pieces)
	if err != nil {
		return nil, err
	}
	f := &frame{plan: p, manifest: m, steps: steps, moments: map[enclave.Moment]int{}, bins: map[string]int{}}
	for i, me := range p.Measures {
		f.noise = append(f.noise, variance(p, i, pieces))
		switch {
		case me.By == "":
			f.moments[me.Moment] = i
		case me.Moment == enclave.CountMoment:
			f.bins[me.By] = i
		default:
			return nil, fmt.Errorf("measure %d splits %q by %q: only counts are split", i, me.Moment, me.By)
		}
	}
	for _, o := range p.Outputs {
		fo, err := f.formula(o)
		if err != nil {
			return nil, fmt.Errorf("output %q: %w", o.Name, err)
		}
		f.formulas = append(f.formulas, fo)
	}
	return f, nil
}

// formula checks an output: a group column, or a known function of so many columns whose every moment is a measure.
func (f *frame) formula(o enclave.Output) (formula, error) {
	fo := formula{name: o.Func, title: o.Name, micro: o.ParamMicro, group: -1}
	for _, name := range o.Args {
		col, ok := f.manifest.Column(name)
		if !ok {
			return fo, fmt.Errorf("column %q is not in the manifest", name)
		}
		fo.cols = append(fo.cols, col)
	}
	if o.Func == "group" {
		if len(o.Args) != 1 {
			return fo, fmt.Errorf("a label is of one column, not of %d", len(o.Args))
		}
		if fo.group = slices.Index(f.plan.Groups, o.Args[0]); fo.group < 0 {
			return fo, fmt.Errorf("column %q is not in GROUP BY", o.Args[0])
		}
		return fo, nil
	}
	need, err := fo.needs()
	if err != nil {
		return fo, err
	}
	for _, mo := range need {
		if _, ok := f.moments[mo]; !ok {
			return fo, fmt.Errorf("%s needs the moment %q, which the plan does not open", o.Func, mo)
		}
	}
	if o.Func == "QUANTILE" {
		if _, ok := f.moments[enclave.QuantileMoment(o.Args[0], o.ParamMicro)]; !ok || fo.cols[0].Type != enclave.TypeNumber {
			return fo, fmt.Errorf("QUANTILE of %q at %d·10⁻⁶ is not opened by the plan", o.Args[0], o.ParamMicro)
		}
	}
	if o.Func == "PERCENTILE" {
		if _, ok := f.bins[o.Args[0]]; !ok {
			return fo, fmt.Errorf("PERCENTILE needs counts by the bins of %q, which the plan does not open", o.Args[0])
		}
		if o.ParamMicro < 0 || o.ParamMicro > 1_000_000 {
			return fo, fmt.Errorf("PERCENTILE's fraction %d·10⁻⁶ is not between 0 and 1", o.ParamMicro)
		}
	}
	return fo, nil
}

func (f formula) needs() ([]enclave.Moment, error) {
	fn, err := enclave.LookupFunction(f.name)
	if err != nil {
		return nil, err
	}
	switch {
	case f.name == "COUNT" && len(f.cols) == 1 && !f.cols[0].Nullable: // of any type: the count of rows
		return []enclave.Moment{enclave.CountMoment}, nil
	case f.name == "COUNT" && len(f.cols) <= 1:
	case len(f.cols) != fn.Args:
		return nil, fmt.Errorf("%s takes %d columns, not %d", f.name, fn.Args, len(f.cols))
	}
	return fn.Moments(f.cols)
}

// complete checks that every kept cell has a value for each of the plan's terms and no others: a bin that was left
// unopened would otherwise pass for one that WHERE excludes.
func (f *frame) complete(cells []enclave.Cell, keep []bool, rules []string, values *Values) error {
	if len(keep) != len(cells) || len(rules) != len(cells) {
		return fmt.Errorf("%d cells, but %d decisions and %d rules", len(cells), len(keep), len(rules))
	}
	want, terms, err := f.plan.Expand(f.manifest)
	if err != nil {
		return err
	}
	if !slices.EqualFunc(cells, want, slices.Equal[enclave.Cell]) {
		return fmt.Errorf("the cells are not those of the plan")
	}
	if values.measures != len(f.plan.Measures) || len(values.opened) != len(cells)*values.measures {
		return fmt.Errorf("values of %d measures, the plan has %d measures of %d cells", values.measures, len(f.plan.Measures), len(cells))
	}
	left := 0
	for i, bins := range values.opened {
		if keep[i/values.measures] {
			left += len(bins)
		}
	}
	for _, t := range terms {
		if keep[t.Cell] {
			left--
		}
		if _, ok := values.Get(t.Cell, t.Measure, t.Bin); keep[t.Cell] && !ok {
			return fmt.Errorf("cell %d is kept, but measure %d (%q), bin %d, is not opened",
				t.Cell, t.Measure, f.plan.Measures[t.Measure].Moment, t.Bin)
		}
	}
	if left != 0 {
		return fmt.Errorf("%d values are opened that are no terms of the plan", left)
	}
	return nil
}
