// Package canon is the one encoding of everything that is hashed or signed: the JSON Canonicalization Scheme of
// RFC 8785, restricted to objects, arrays, strings, booleans and integers within ±(2^53−1). There are no floating-point
// numbers and no nulls, so two implementations cannot disagree on a digit.
//
// A parser here accepts exactly the bytes that the encoder produces: it decodes, encodes again and compares. Unknown
// fields, duplicate keys, other orders, white space and trailing data therefore all fail in one place.
package canon

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// ErrNotCanonical is wrapped by Unmarshal for bytes that are valid JSON but not what Marshal would have written.
var ErrNotCanonical = errors.New("not in canonical form")

// MaxInt is the largest magnitude of an integer that every JSON reader keeps exactly (RFC 7493, section 2.2). Larger
// values travel as decimal strings (`json:",string"`).
const MaxInt = 1<<53 - 1

// Marshal encodes v, a struct with json tags, in canonical form. It refuses what has none: nil slices and other nulls,
// fractions, integers beyond MaxInt, strings that are not UTF-8.
func Marshal(v any) ([]byte, error) {
	if err := checkUTF8(reflect.ValueOf(v)); err != nil {
		return nil, fmt.Errorf("encoding %T: %w", v, err)
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("encoding %T: %w", v, err)
	}
	dec := json.NewDecoder(&buf)
	dec.UseNumber()
	var tree any
	if err := dec.Decode(&tree); err != nil {
		return nil, fmt.Errorf("encoding %T: %w", v, err)
	}
	out, err := appendValue(nil, tree)
	if err != nil {
		return nil, fmt.Errorf("encoding %T: %w", v, err)
	}
	return out, nil
}

// MustMarshal is Marshal for values built by this program, whose types cannot fail to encode.
func MustMarshal(v any) []byte {
	b, err := Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

// Unmarshal decodes canonical bytes into v and refuses everything else. After an error v holds nothing to rely on.
func Unmarshal(data []byte, v any) error {
	if !utf8.Valid(data) {
		return fmt.Errorf("parsing %T: %w: invalid UTF-8", v, ErrNotCanonical)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return fmt.Errorf("parsing %T: %w", v, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("parsing %T: %w: data after the value", v, ErrNotCanonical)
	}
	again, err := Marshal(v)
	if err != nil {
		return fmt.Errorf("parsing %T: %w", v, err)
	}
	if !bytes.Equal(again, data) {
		return fmt.Errorf("parsing %T: %w: differs from its own encoding at byte %d", v, ErrNotCanonical, firstDifference(again, data))
	}
	return nil
}

var (
	textMarshaler = reflect.TypeFor[encoding.TextMarshaler]()
	jsonMarshaler = reflect.TypeFor[json.Marshaler]()
)

// checkUTF8 looks for broken strings before encoding/json can replace them by U+FFFD, which would give two different
// values one digest.
func checkUTF8(v reflect.Value) error {
	if v.IsValid() && (v.Type().Implements(textMarshaler) || v.Type().Implements(jsonMarshaler)) {
		return nil // writes its own text; ours write ASCII
	}
	switch v.Kind() {
	case reflect.String:
		if !utf8.ValidString(v.String()) {
			return errors.New("string is not valid UTF-8")
		}
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			return checkUTF8(v.Elem())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Type().Field(i); !f.IsExported() && !f.Anonymous {
				continue // not encoded
			}
			if err := checkUTF8(v.Field(i)); err != nil {
				return err
			}
		}
	case reflect.Slice, reflect.Array:
		if !mayHoldStrings(v.Type().Elem().Kind()) { // blobs and long runs of numbers
			return nil
		}
		for i := range v.Len() {
			if err := checkUTF8(v.Index(i)); err != nil {
				return err
			}
		}
	case reflect.Map:
		for it := v.MapRange(); it.Next(); {
			if err := errors.Join(checkUTF8(it.Key()), checkUTF8(it.Value())); err != nil {
				return err
			}
		}
	}
	return nil
}

func mayHoldStrings(k reflect.Kind) bool {
	switch k {
	case reflect.String, reflect.Pointer, reflect.Interface, reflect.Struct, reflect.Slice, reflect.Array, reflect.Map:
		return true
	default:
		return false
	}
}

func firstDifference(a, b []byte) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

func appendValue(out []byte, v any) ([]byte, error) {
	switch v := v.(type) {
	case bool:
		return strconv.AppendBool(out, v), nil
	case string:
		return appendString(out, v), nil
	case json.Number:
		n, err := strconv.ParseInt(v.String(), 10, 64)
		if err != nil || n > MaxInt || n < -MaxInt {
			return nil, fmt.Errorf("number %s is not an integer within ±(2^53-1)", v)
		}
		return strconv.AppendInt(out, n, 10), nil
	case []any:
		out = append(out, '[')
		for i, e := range v {
			if i > 0 {
				out = append(out, ',')
			}
			var err error
			if out, err = appendValue(out, e); err != nil {
				return nil, err
			}
		}
		return append(out, ']'), nil
	case map[string]any:
		return appendObject(out, v)
	case nil:
		return nil, errors.New("null has no canonical form here: leave the field out")
	default:
		return nil, fmt.Errorf("unexpected %T", v)
	}
}

func appendObject(out []byte, m map[string]any) ([]byte, error) {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	// RFC 8785, section 3.2.3: by UTF-16 code units.
	slices.SortFunc(keys, func(a, b string) int {
		return slices.Compare(utf16.Encode([]rune(a)), utf16.Encode([]rune(b)))
	})
	out = append(out, '{')
	for i, k := range keys {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(appendString(out, k), ':')
		var err error
		if out, err = appendValue(out, m[k]); err != nil {
			return nil, err
		}
	}
	return append(out, '}'), nil
}

// appendString escapes only what RFC 8785, section 3.2.2.2 escapes.
func appendString(out []byte, s string) []byte {
	const hex = "0123456789abcdef"
	out = append(out, '"')
	for i := range len(s) {
		c := s[i]
		switch {
		case c == '"' || c == '\\':
			out = append(out, '\\', c)
		case c == '\b':
			out = append(out, '\\', 'b')
		case c == '\t':
			out = append(out, '\\', 't')
		case c == '\n':
			out = append(out, '\\', 'n')
		case c == '\f':
			out = append(out, '\\', 'f')
		case c == '\r':
			out = append(out, '\\', 'r')
		case c < 0x20:
			out = append(out, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		default:
			out = append(out, c)
		}
	}
	return append(out, '"')
}
