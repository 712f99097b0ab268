package table

import (
	"errors"
	"fmt"
	"strings"
)

// What can be wrong with a table; every *Error wraps one of these.
var (
	ErrEmpty    = errors.New("table is empty")
	ErrFormat   = errors.New("table is damaged or of a format that is not read")
	ErrHeader   = errors.New("header is not usable")
	ErrTooLong  = errors.New("row is too long")
	ErrQuote    = errors.New("quoting is broken")
	ErrFields   = errors.New("wrong number of fields")
	ErrEncoding = errors.New("text is not in the expected encoding")
	ErrDigits   = errors.New("number has already lost digits")
	ErrCell     = errors.New("cell cannot be read")
)

// Error says where a table is unusable and why, never with what value.
type Error struct {
	Err     error  // one of the sentinels above
	Row     int64  // data row, 1-based; 0 = before the first row
	Line    int64  // line or sheet row where the data row begins; 0 = the format has none
	Column  string // column name, or its position if it has no name; may be empty
	Problem string // what is wrong and, where it helps, what to do instead
}

func (e *Error) Error() string {
	var b strings.Builder
	if e.Row > 0 {
		fmt.Fprintf(&b, "row %d", e.Row)
		if e.Line > 0 {
			fmt.Fprintf(&b, " (line %d)", e.Line)
		}
	} else if e.Line > 0 {
		fmt.Fprintf(&b, "line %d", e.Line)
	}
	if e.Column != "" {
		if b.Len() > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "column %q", e.Column)
	}
	if b.Len() > 0 {
		b.WriteString(": ")
	}
	fmt.Fprintf(&b, "%v: %s", e.Err, e.Problem)
	return b.String()
}

// Unwrap lets errors.Is find the sentinel.
func (e *Error) Unwrap() error { return e.Err }

// ordinal stands in for a column's name.
func ordinal(i int) string { return fmt.Sprintf("#%d", i+1) }

func columnName(header []string, i int) string {
	if i < len(header) {
		return header[i]
	}
	return ordinal(i)
}
