package schema

import (
	"errors"
	"fmt"
	"strings"
)

// maxListed is how many bad rows, and rows beyond the entity bound, a report lists; it counts them all.
const maxListed = 20

// ErrQuality is wrapped by Quality.Err for a table that must not be sealed.
var ErrQuality = errors.New("table does not pass the quality check")

// Quality is the report of the quality check (art. 13). It has row numbers and column names, never a value, so it may
// be shown, logged and filed.
type Quality struct {
	Rows    int64           `json:"rows"`     // rows read
	BadRows int64           `json:"bad_rows"` // rows that cannot be sealed; one is enough to refuse the table
	Bad     []RowError      `json:"bad"`      // the first problems of them
	Columns []ColumnQuality `json:"columns"`
	// Beyond counts the rows that are more than entity_rows of their entity; BeyondRows lists the first of them.
	Beyond     int64   `json:"beyond"`
	BeyondRows []int64 `json:"beyond_rows"`
}

// ColumnQuality counts what was unusual in a column. None of it refuses the table.
type ColumnQuality struct {
	Name    string `json:"name"`
	Missing int64  `json:"missing"` // values that are absent, as the schema allows
	Clamped int64  `json:"clamped"` // numbers outside their bounds, moved to the bound
	Rounded int64  `json:"rounded"` // numbers with more decimals than the scale keeps, rounded half to even
}

// RowError says why a row cannot be sealed.
type RowError struct {
	Row    int64  `json:"row"`            // data row, 1-based
	Line   int64  `json:"line,omitempty"` // line of the file or row of the sheet, if it has them
	Column string `json:"column"`
	Reason string `json:"reason"`
}

func (e *RowError) Error() string {
	where := fmt.Sprintf("row %d", e.Row)
	if e.Line > 0 {
		where += fmt.Sprintf(" (line %d)", e.Line)
	}
	return fmt.Sprintf("%s, column %q: %s", where, e.Column, e.Reason)
}

// Err is nil if the table may be sealed.
func (q *Quality) Err() error {
	if q.BadRows == 0 {
		return nil
	}
	first := "no row is listed"
	if len(q.Bad) > 0 {
		first = q.Bad[0].Error()
	}
	return fmt.Errorf("%w: %d of %d rows cannot be sealed, the first problem is in %s", ErrQuality, q.BadRows, q.Rows, first)
}

// String is the report for people.
func (q *Quality) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "rows read: %d\nrows that cannot be sealed: %d\n", q.Rows, q.BadRows)
	for i := range q.Bad {
		fmt.Fprintf(&b, "  %s\n", q.Bad[i].Error())
	}
	if q.Beyond > 0 {
		fmt.Fprintf(&b, "rows beyond the entity bound: %d, first in rows %v\n", q.Beyond, q.BeyondRows)
	}
	for _, c := range q.Columns {
		if c.Missing+c.Clamped+c.Rounded > 0 {
			fmt.Fprintf(&b, "column %q: %d missing, %d clamped to the bounds, %d rounded\n", c.Name, c.Missing, c.Clamped, c.Rounded)
		}
	}
	return b.String()
}
