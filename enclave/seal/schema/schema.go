// Package schema is the steward's description of a table and everything that follows from it: which columns may be used
// for what, the bounds that noise is sized by, the layouts to seal, and the encoding of rows as integers.
//
// A schema file is a Frictionless Table Schema (https://datapackage.org/standard/table-schema/) with a "yingzhou" block
// for the table and one for each field. Parsing is strict, because a misspelt rule would be a rule that is not applied:
// unknown keys, keys that are given twice and constraints that are not enforced here are refused, all of them at once,
// each with its path. docs/FORMATS.md specifies the blocks.
//
// The package refuses to guess what is disclosive. Describe proposes a schema from a file with the narrowest uses and
// with texts that a person must replace before Parse accepts it. No error and no report holds a value of the table.
package schema

import (
	"bytes"
	"encoding/json"
	"fmt"

	"yingzhou.dev/lab/enclave"
)

// Schema is a parsed schema file.
type Schema struct {
	// Standard properties. PrimaryKey, ForeignKeys and UniqueKeys are kept for other tools; entities are told apart by
	// the field with the use "key".
	Profile     string          `json:"$schema,omitempty"`
	Name        string          `json:"name,omitempty"`
	Title       string          `json:"title,omitempty"`
	Description string          `json:"description,omitempty"`
	Fields      []Field         `json:"fields"`
	Missing     []string        `json:"missingValues,omitzero"` // texts that stand for a missing value; nil means [""]
	PrimaryKey  json.RawMessage `json:"primaryKey,omitempty"`
	ForeignKeys json.RawMessage `json:"foreignKeys,omitempty"`
	UniqueKeys  json.RawMessage `json:"uniqueKeys,omitempty"`

	Sealing Sealing `json:"yingzhou"`
}

// Field describes a column of the table. The order of fields is the order of columns in the manifest; the table may
// have them in any order.
type Field struct {
	Name        string          `json:"name"`
	Type        string          `json:"type"`
	Format      string          `json:"format,omitempty"`
	Title       string          `json:"title,omitempty"`
	Description string          `json:"description,omitempty"`
	Example     json.RawMessage `json:"example,omitempty"`
	RDFType     string          `json:"rdfType,omitempty"`
	TrueValues  []string        `json:"trueValues,omitempty"`
	FalseValues []string        `json:"falseValues,omitempty"`
	Constraints Constraints     `json:"constraints,omitzero"`
	Rules       Rules           `json:"yingzhou,omitzero"`
}

// Constraints are the standard constraints that encoding enforces.
type Constraints struct {
	Required bool `json:"required,omitempty"`
	// Enum is the declared domain in the order of the sealed indices: strings, or numbers and booleans as written.
	Enum      []any       `json:"enum,omitempty"`
	Minimum   json.Number `json:"minimum,omitempty"`
	Maximum   json.Number `json:"maximum,omitempty"`
	MinLength int         `json:"minLength,omitempty"` // characters
	MaxLength int         `json:"maxLength,omitempty"` // characters; 0 = any
	Pattern   string      `json:"pattern,omitempty"`   // the whole value must match (RE2)
}

// Rules is the yingzhou block of a field.
type Rules struct {
	// Uses is the disclosure rule: some of "group", "filter", "aggregate", or exactly "key", or nothing (never sealed).
	Uses []string `json:"uses,omitempty"`
	// Missing is the label that a missing value of a category becomes; "" makes missing a label of its own.
	Missing *string `json:"missing,omitempty"`
	// Scale is the number of decimals kept, 0..6.
	Scale int64 `json:"scale,omitempty"`
	// Bins are ascending edges from minimum to maximum; bin i is [Bins[i], Bins[i+1]), the last one closed.
	Bins []json.Number `json:"bins,omitempty"`
	// Identifier is the form of a key that other agencies know too: identifier.ResidentID or identifier.Text. Keys are
	// then told apart by their normal form; without it, by their exact text, and there is nothing to join.
	Identifier string `json:"identifier,omitempty"`
	// Outside says what happens to a number outside its bounds: "refuse" (the default) or "clamp".
	Outside string `json:"outside,omitempty"`
}

// Sealing is the yingzhou block of the table.
type Sealing struct {
	Dataset    string      `json:"dataset"`
	Params     string      `json:"params,omitempty"` // parameter set; "" = enclave.DefaultParams
	EntityRows int64       `json:"entity_rows"`      // most rows that one entity may have
	Budget     json.Number `json:"budget"`           // ε across all operators, at most six decimals
	Catalog    Catalog     `json:"catalog"`
	Layouts    []Layout    `json:"layouts"`
}

// Catalog is what the lab's catalogue shows of the dataset; enclave.Catalog explains each entry.
type Catalog struct {
	Title          string `json:"title"`
	Description    string `json:"description,omitempty"`
	Classification string `json:"classification"`
	Level          int64  `json:"level"`
	Sharing        string `json:"sharing"`
	Opening        string `json:"opening"`
	UpdateCycle    string `json:"update_cycle"`
	Unit           string `json:"unit"`
	LegalBasis     string `json:"legal_basis"`
	Source         string `json:"source,omitempty"`
	SourceLicense  string `json:"source_license,omitempty"`
}

// Layout asks for one way of sealing the table.
type Layout struct {
	Name       string     `json:"name"`
	Kind       string     `json:"kind"`                 // enclave.Cube, enclave.Rows or enclave.Shares (which has no more members)
	Dims       []string   `json:"dims,omitempty"`       // cube: its dimensions, the last varying fastest
	Indicators [][]string `json:"indicators,omitempty"` // rows: one set of one-hot vectors for each
	Measures   []string   `json:"measures,omitempty"`   // numbers whose sums are sealed
	Squares    bool       `json:"squares,omitempty"`    // rows: also their squares; a cube always has them
	Products   [][]string `json:"products,omitempty"`   // pairs of numbers whose products are sealed
}

// Encode writes the schema as indented JSON, the form in which stewards edit it. Parse(Encode(s)) is s.
func (s *Schema) Encode() ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(s); err != nil {
		return nil, fmt.Errorf("encoding schema: %w", err)
	}
	return buf.Bytes(), nil
}

// Params is the parameter set to seal under.
func (s *Schema) Params() string {
	if s.Sealing.Params == "" {
		return enclave.DefaultParams
	}
	return s.Sealing.Params
}

// BudgetMicro is the declared budget in units of 10^-6 ε.
func (s *Schema) BudgetMicro() int64 {
	v, _, err := parseScaled(s.Sealing.Budget.String(), budgetScale)
	if err != nil {
		return 0 // Parse has refused it
	}
	return v
}

const budgetScale = 6

// Catalog is the catalogue entry of a manifest sealed from a file of the given format.
func (s *Schema) Catalog(format string) enclave.Catalog {
	c := s.Sealing.Catalog
	return enclave.Catalog{Title: c.Title, Description: c.Description, Format: format, Classification: c.Classification,
		Level: c.Level, Sharing: c.Sharing, Opening: c.Opening, UpdateCycle: c.UpdateCycle, Unit: c.Unit,
		LegalBasis: c.LegalBasis, Source: c.Source, SourceLicense: c.SourceLicense}
}

// Keys lists the names of the key columns, for table.Options.
func (s *Schema) Keys() []string {
	var out []string
	for _, f := range s.Fields {
		if f.isKey() {
			out = append(out, f.Name)
		}
	}
	return out
}

func (f *Field) isKey() bool { return len(f.Rules.Uses) == 1 && f.Rules.Uses[0] == useKey }

// useKey marks the column that identifies the entity. It is no operators.Use: nobody can be granted it.
const useKey = "key"
