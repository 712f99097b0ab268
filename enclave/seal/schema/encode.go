package schema

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/seal/identifier"
	"yingzhou.dev/lab/enclave/seal/table"
)

// Record is one row as integers. Its slices have one element per column of the schema and are overwritten by the next
// call of Encode.
type Record struct {
	// Key identifies the entity, in normal form if the schema declares one. It leaves the agency as a pseudonym, split
	// among nodes, or in no form at all; only sealing may read it.
	Key string
	// Index is the column's value as a dimension: label of a category or bin of a number; -1 if it is neither.
	Index []int32
	// Value is a number minus its column's Centre, in units of 10^-Scale; 0 where it is missing.
	Value []int64
	// Present reports whether a number is there.
	Present []bool
}

// Encoder turns rows of text into Records and keeps the quality report. It is not safe for concurrent use.
type Encoder struct {
	steps      []step
	record     Record
	entities   *entityCounter
	entityRows int64
	quality    Quality
}

// step is what to do for one column, worked out once.
type step struct {
	column   enclave.Column
	field    int // position in the table's row
	key      bool
	form     string // of a key: identifier.Normalize's kind, or "" for exact text
	clamp    bool
	required bool
	absent   []string         // texts of a missing value other than ""
	empty    bool             // "" is a missing value
	missing  int32            // category: label of a missing value
	labels   map[string]int32 // category: text to index
	centre   int64
	min, max int // length in characters, 0 = any
	pattern  *regexp.Regexp
	quality  *ColumnQuality
}

// NewEncoder prepares for a table with the given header. Every column must be described, and every field be there: a
// column nobody decided about is refused, not ignored. The error is of type Problems.
func NewEncoder(s *Schema, header []string) (*Encoder, error) {
	cols, _, p := s.compile()
	if err := p.err(); err != nil {
		return nil, err
	}
	for _, name := range header {
		if !slices.ContainsFunc(s.Fields, func(f Field) bool { return f.Name == name }) {
			p.add("fields", "the table has a column %q that is not described: describe it, without uses if it is not to be sealed", name)
		}
	}
	e := &Encoder{entities: newEntityCounter(), entityRows: s.Sealing.EntityRows}
	e.record = Record{Index: make([]int32, len(cols)), Value: make([]int64, len(cols)), Present: make([]bool, len(cols))}
	e.quality.Columns = make([]ColumnQuality, len(cols))
	for i, c := range cols {
		e.quality.Columns[i].Name = c.Name
		at := slices.Index(header, c.Name)
		if at < 0 {
			p.add(fmt.Sprintf("fields[%d] %q", i, c.Name), "is not a column of the table")
			continue
		}
		e.steps = append(e.steps, newStep(s, &s.Fields[i], c, at, &e.quality.Columns[i]))
	}
	if err := p.err(); err != nil {
		return nil, err
	}
	return e, nil
}

func newStep(s *Schema, f *Field, c enclave.Column, at int, q *ColumnQuality) step {
	st := step{column: c, field: at, key: f.isKey(), form: f.Rules.Identifier, clamp: f.Rules.Outside == outsideClamp, required: f.Constraints.Required,
		missing: -1, min: f.Constraints.MinLength, max: f.Constraints.MaxLength, quality: q}
	st.empty = s.Missing == nil || slices.Contains(s.Missing, "")
	for _, m := range s.Missing {
		if m != "" {
			st.absent = append(st.absent, m)
		}
	}
	if f.Constraints.Pattern != "" {
		st.pattern = regexp.MustCompile(wholeMatch(f.Constraints.Pattern)) // compile has checked it
	}
	switch c.Type {
	case enclave.TypeNumber:
		st.centre = c.Centre()
	case enclave.TypeCategory:
		st.labels = make(map[string]int32, len(c.Domain))
		for i, l := range c.Domain {
			st.labels[l] = int32(i)
		}
		if f.Rules.Missing != nil {
			st.missing = st.labels[*f.Rules.Missing]
		}
		if f.Type == "boolean" {
			f.booleans(st.labels)
		}
	}
	return st
}

// booleans adds the standard's other ways of writing true and false.
func (f *Field) booleans(labels map[string]int32) {
	texts := map[string][]string{"true": f.TrueValues, "false": f.FalseValues}
	if len(f.TrueValues) == 0 {
		texts["true"] = []string{"true", "True", "TRUE", "1"}
	}
	if len(f.FalseValues) == 0 {
		texts["false"] = []string{"false", "False", "FALSE", "0"}
	}
	for label, as := range texts {
		if i, ok := labels[label]; ok {
			for _, a := range as {
				if _, taken := labels[a]; !taken {
					labels[a] = i
				}
			}
		}
	}
}

// Quality is the report on the rows encoded so far.
func (e *Encoder) Quality() *Quality { return &e.quality }

// Encode turns one row into a Record. A row that cannot be sealed gives a *RowError and is noted in the report; the
// caller may go on, to find the others, but must not seal the table.
func (e *Encoder) Encode(row table.Row) (Record, error) {
	e.quality.Rows++
	var first *RowError
	fail := func(column, reason string) {
		err := RowError{Row: row.Number, Line: row.Line, Column: column, Reason: reason}
		if first == nil {
			first = &err
			e.quality.BadRows++
		}
		if len(e.quality.Bad) < maxListed {
			e.quality.Bad = append(e.quality.Bad, err)
		}
	}
	for i := range e.steps {
		if reason := e.column(i, row.Fields[e.steps[i].field], row.Number); reason != "" {
			fail(e.steps[i].column.Name, reason)
		}
	}
	if e.quality.Rows > enclave.MaxRows {
		fail("", fmt.Sprintf("the table has more than %d rows: seal it as several datasets", enclave.MaxRows))
	}
	if first != nil {
		return Record{}, first
	}
	return e.record, nil
}

// column encodes one value into the record and returns why it cannot.
func (e *Encoder) column(i int, text string, row int64) (problem string) {
	st := &e.steps[i]
	e.record.Index[i], e.record.Value[i], e.record.Present[i] = -1, 0, false
	if text == "" && st.empty || len(st.absent) > 0 && slices.Contains(st.absent, text) {
		return e.absent(i)
	}
	if st.pattern != nil || st.min > 0 || st.max > 0 {
		if problem := st.shape(text); problem != "" {
			return problem
		}
	}
	switch {
	case st.key:
		if st.form != "" {
			normal, err := identifier.Normalize(st.form, text)
			if err != nil {
				return err.Error()
			}
			text = normal
		}
		return e.entity(text, row)
	case st.labels != nil:
		k, ok := st.labels[text]
		if !ok {
			if _, trimmed := st.labels[strings.TrimSpace(text)]; trimmed {
				return "has white space around a label of the declared domain"
			}
			return "is not in the declared domain"
		}
		e.record.Index[i] = k
	case st.column.Type == enclave.TypeNumber:
		return e.number(i, text)
	}
	return ""
}

func (e *Encoder) absent(i int) (problem string) {
	st := &e.steps[i]
	if st.required {
		if st.key {
			return "the entity key is missing"
		}
		return "a required value is missing"
	}
	st.quality.Missing++
	e.record.Index[i] = st.missing
	return ""
}

// shape checks the constraints on text.
func (st *step) shape(text string) (problem string) {
	if n := utf8.RuneCountInString(text); n < st.min || st.max > 0 && n > st.max {
		return "is shorter or longer than the schema allows"
	}
	if st.pattern != nil && !st.pattern.MatchString(text) {
		return "does not match the schema's pattern"
	}
	return ""
}

func (e *Encoder) entity(key string, row int64) (problem string) {
	e.record.Key = key
	if n := e.entities.add(key); int64(n) > e.entityRows {
		e.quality.Beyond++
		if len(e.quality.BeyondRows) < maxListed {
			e.quality.BeyondRows = append(e.quality.BeyondRows, row)
		}
		return fmt.Sprintf("its entity has more than the declared %d rows", e.entityRows)
	}
	return ""
}

func (e *Encoder) number(i int, text string) (problem string) {
	st := &e.steps[i]
	c := &st.column
	v, rounded, err := parseScaled(text, c.Scale)
	if err == errTooLarge && st.clamp {
		if v, err = maxScaled, nil; text[0] == '-' {
			v = -maxScaled
		}
	}
	if err != nil {
		return err.Error()
	}
	if v < c.Min || v > c.Max {
		if !st.clamp {
			return "is outside the declared bounds"
		}
		v = min(max(v, c.Min), c.Max)
		st.quality.Clamped++
	} else if rounded {
		st.quality.Rounded++
	}
	e.record.Value[i], e.record.Present[i] = v-st.centre, true
	if len(c.Bins) > 0 {
		e.record.Index[i] = bin(c.Bins, v)
	}
	return ""
}

// bin finds i with edges[i] ≤ v < edges[i+1], the last bin closed. v is within the edges.
func bin(edges []int64, v int64) int32 {
	lo, hi := 0, len(edges)-1
	for hi-lo > 1 {
		if mid := int(uint(lo+hi) / 2); edges[mid] <= v {
			lo = mid
		} else {
			hi = mid
		}
	}
	return int32(lo)
}
