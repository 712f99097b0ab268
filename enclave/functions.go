package enclave

import "fmt"

// Function is an aggregate function of the query language and the moments it is computed from after release.
type Function struct {
	Name string
	Args int    // number of column arguments
	Doc  string // one line for people
	// Moments lists what must be opened for columns x (and y), the first argument being y for regressions as in SQL.
	moments func(cols []Column) []Moment
	// Ordered marks functions that need the column's declared bins.
	Ordered bool
	// Joint marks functions that only the secret-shared engine has.
	Joint bool
}

var functions = []Function{
	{Name: "COUNT", Args: 0, Doc: "rows; COUNT(x) counts rows where x is present", moments: func(c []Column) []Moment { return nil }},
	{Name: "SUM", Args: 1, Doc: "sum", moments: func(c []Column) []Moment { return []Moment{SumMoment(c[0].Name)} }},
	{Name: "AVG", Args: 1, Doc: "mean", moments: func(c []Column) []Moment { return []Moment{SumMoment(c[0].Name)} }},
	{Name: "VAR_POP", Args: 1, Doc: "population variance", moments: spread},
	{Name: "STDDEV_POP", Args: 1, Doc: "population standard deviation", moments: spread},
	{Name: "COVAR_POP", Args: 2, Doc: "population covariance", moments: func(c []Column) []Moment {
		return []Moment{SumMoment(c[0].Name), SumMoment(c[1].Name), ProductMoment(c[0].Name, c[1].Name)}
	}},
	{Name: "CORR", Args: 2, Doc: "Pearson correlation", moments: joint},
	{Name: "REGR_SLOPE", Args: 2, Doc: "slope of the least-squares line of the first on the second", moments: line},
	{Name: "REGR_INTERCEPT", Args: 2, Doc: "intercept of that line", moments: line},
	{Name: "REGR_R2", Args: 2, Doc: "coefficient of determination of that line", moments: joint},
	{Name: "PERCENTILE", Args: 1, Doc: "PERCENTILE(x, p) by interpolation in the declared bins of x; MEDIAN(x) is p = 0.5", Ordered: true,
		moments: func(c []Column) []Moment { return nil }},
	{Name: "COUNT_DISTINCT", Args: 1, Joint: true, Doc: "COUNT(DISTINCT x): different values; of the key, different entities",
		moments: func(c []Column) []Moment { return []Moment{DistinctMoment(c[0].Name)} }},
	{Name: "QUANTILE", Args: 1, Joint: true, Doc: "PERCENTILE_CONT(x, p), MEDIAN(x), and MIN(x) and MAX(x) as quantiles near the ends, by bisection with noised counts",
		moments: func(c []Column) []Moment { return nil }},
}

func spread(c []Column) []Moment {
	return []Moment{SumMoment(c[0].Name), SquareMoment(c[0].Name)}
}

func line(c []Column) []Moment {
	return []Moment{SumMoment(c[0].Name), SumMoment(c[1].Name), ProductMoment(c[0].Name, c[1].Name), SquareMoment(c[1].Name)}
}

func joint(c []Column) []Moment {
	return append(line(c), SquareMoment(c[0].Name))
}

// Functions lists the aggregate functions in the order of the documentation.
func Functions() []Function { return append([]Function(nil), functions...) }

// LookupFunction finds a function by its upper-case name.
func LookupFunction(name string) (Function, error) {
	for _, f := range functions {
		if f.Name == name {
			return f, nil
		}
	}
	return Function{}, fmt.Errorf("no aggregate function %q", name)
}

// Moments lists what must be opened per cell to compute f of the columns, the row count "n" first. A nullable argument
// adds its own count. Two-column functions refuse nullable columns: their sums would range over different rows.
func (f Function) Moments(cols []Column) ([]Moment, error) {
	out := []Moment{CountMoment}
	for _, c := range cols {
		if f.Joint {
			continue // any column can be counted; quantiles are checked where their fraction is known
		}
		if c.Type != TypeNumber {
			return nil, fmt.Errorf("%s needs a number, and column %q is a %s", f.Name, c.Name, c.Type)
		}
		if c.Nullable && len(cols) > 1 {
			return nil, fmt.Errorf("%s needs columns that are never missing, and %q may be", f.Name, c.Name)
		}
		if c.Nullable && !f.Ordered {
			out = append(out, PresentMoment(c.Name))
		}
		if f.Ordered && c.Size() == 0 {
			return nil, fmt.Errorf("%s needs declared bins, and column %q has none", f.Name, c.Name)
		}
	}
	return append(out, f.moments(cols)...), nil
}
