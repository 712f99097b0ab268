package schema

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"unicode/utf8"
)

// Problem is one reason why a schema is refused.
type Problem struct {
	Path string // where, e.g. fields[2] "m3".yingzhou.bins
	Text string
}

func (p Problem) String() string {
	if p.Path == "" {
		return p.Text
	}
	return p.Path + ": " + p.Text
}

// Problems is the error of Parse: everything that is wrong with the schema, in the order of the file.
type Problems []Problem

func (p Problems) Error() string {
	if len(p) == 1 {
		return "schema is refused: " + p[0].String()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "schema is refused for %d reasons:", len(p))
	for _, q := range p {
		b.WriteString("\n  " + q.String())
	}
	return b.String()
}

func (p *Problems) add(path, format string, args ...any) {
	*p = append(*p, Problem{Path: path, Text: fmt.Sprintf(format, args...)})
}

func (p Problems) err() error {
	if len(p) == 0 {
		return nil
	}
	return p
}

// Parse reads a schema file. The error is of type Problems.
func Parse(data []byte) (*Schema, error) {
	var p Problems
	data = bytes.TrimPrefix(data, []byte("\uFEFF"))
	if !utf8.Valid(data) {
		p.add("", "not UTF-8: save the schema as UTF-8")
		return nil, p
	}
	var s Schema
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	if err := dec.Decode(&s); err != nil {
		p.add("", "%s", jsonProblem(err, data))
		return nil, p
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		p.add("", "not JSON: text follows the schema")
		return nil, p
	}
	w := keyWalker{dec: json.NewDecoder(bytes.NewReader(data)), problems: &p}
	w.dec.UseNumber()
	w.value("", reflect.TypeFor[Schema]())
	_, _, more := s.compile()
	if p = append(p, more...); len(p) > 0 {
		return nil, p
	}
	return &s, nil
}

func jsonProblem(err error, data []byte) string {
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		line := 1 + bytes.Count(data[:min(max(int(syntax.Offset)-1, 0), len(data))], []byte("\n"))
		return fmt.Sprintf("not JSON: line %d: %v", line, syntax)
	}
	var kind *json.UnmarshalTypeError
	if errors.As(err, &kind) {
		return fmt.Sprintf("%s must be a %s and is a %s", kind.Field, kindName(kind.Type), kind.Value)
	}
	return "not JSON: " + err.Error()
}

func kindName(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Struct, reflect.Map:
		return "object"
	case reflect.Slice:
		return "list"
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int64:
		return "whole number"
	case reflect.String:
		if t == reflect.TypeFor[json.Number]() {
			return "number"
		}
		return "text"
	}
	return t.String()
}

// keyWalker goes through the tokens of a document beside the type it is decoded into, and reports keys that are
// unknown, given twice, or null. encoding/json alone would ignore case and stop at the first.
type keyWalker struct {
	dec      *json.Decoder // over data that has been decoded once: it is well formed and not too deep
	problems *Problems
}

// value walks one value; t is nil where anything is allowed.
func (w keyWalker) value(path string, t reflect.Type) {
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	tok, err := w.dec.Token()
	if err != nil {
		return
	}
	switch tok {
	case nil:
		if t != nil && t != reflect.TypeFor[json.RawMessage]() {
			w.problems.add(path, "is null: leave it out")
		}
	case json.Delim('{'):
		w.object(path, t)
	case json.Delim('['):
		var elem reflect.Type
		if t != nil && t.Kind() == reflect.Slice && t != reflect.TypeFor[json.RawMessage]() {
			elem = t.Elem()
			if elem.Kind() == reflect.Interface {
				elem = nil
			}
		}
		for i := 0; w.dec.More(); i++ {
			w.value(fmt.Sprintf("%s[%d]", path, i), elem)
		}
		w.dec.Token()
	}
}

func (w keyWalker) object(path string, t reflect.Type) {
	var known map[string]reflect.Type
	if t != nil && t.Kind() == reflect.Struct {
		known = map[string]reflect.Type{}
		for i := range t.NumField() {
			name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
			known[name] = t.Field(i).Type
		}
	}
	seen := map[string]bool{}
	for w.dec.More() {
		tok, err := w.dec.Token()
		if err != nil {
			return
		}
		key := tok.(string)
		at := strings.TrimPrefix(path+"."+key, ".")
		if seen[key] {
			w.problems.add(at, "is given twice")
		}
		seen[key] = true
		next, ok := known[key]
		if known != nil && !ok {
			w.problems.add(at, "is not known here%s", suggest(key, known))
		}
		w.value(at, next)
	}
	w.dec.Token()
}

// suggest offers the known key that differs least in spelling.
func suggest(key string, known map[string]reflect.Type) string {
	best, least := "", 3
	for k := range known {
		if d := distance(strings.ToLower(key), strings.ToLower(k), 3); d < least || d == least && least < 3 && k < best {
			best, least = k, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %q?", best)
}

// distance is the Levenshtein distance of two short words, or at least limit.
func distance(a, b string, limit int) int {
	if len(a) > 64 || len(a)-len(b) >= limit || len(b)-len(a) >= limit {
		return limit
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
