// Package plan turns a query into an enclave.Plan and explains it. Build is a pure function of the query, the Grant, the
// Keyset and the Manifest: no clock, no I/O, no iteration over maps where order shows. Every custodian runs it again and
// compares bytes, so two builds that differ in one byte are a fault, never a matter of taste.
//
// The language is a small part of SQL in SQLite's grammar: one SELECT over one dataset, with aggregates whose moments
// were sealed, WHERE over declared domains and bins, GROUP BY columns, HAVING and ORDER BY over released values, LIMIT.
// The parser is github.com/rqlite/sql; an allow-list over its syntax tree decides what is meant, and everything not
// named there is refused. A refusal carries every reason found, each with its place and what to write instead.
//
// Where this language departs from SQL, it says so:
//
//   - x BETWEEN a AND b is [a, b), because bins are half-open; it includes b only where b is the last edge.
//   - Conditions on numbers must fall on bin edges. GROUP BY x of a number groups by its bins.
//   - A missing category is the empty label, a value like any other: = ” finds it and <> 'x' includes it. A missing
//     number is in no sum, and a number that may be missing has no bins.
//
// The package never sees data or keys and never answers whether a budget has room: that is a ledger's word, not a plan's.
package plan

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/operators"
)

// Limits of a query. They bound the work of everyone who must build the plan again.
const (
	MaxQueryBytes = 8 << 10 // longest query
	MaxTerms      = 100_000 // most ciphertexts that one plan may open: cells × measures × bins
	MaxReasons    = 50      // most reasons reported at once
)

// Request is what a plan is made from. The digests name the signed artefacts that the values were parsed from; Build
// copies them into the plan and cannot check them.
type Request struct {
	Query        string
	EpsilonMicro int64 // asked for the job in 1e-6; 0 = the grant's JobEpsilonMicro
	Grant        *operators.Grant
	GrantDigest  enclave.Digest
	Keyset       *enclave.Keyset
	KeysetDigest enclave.Digest
	Manifest     *enclave.Manifest
	// ManifestDigest names the version of the data; the plan opens no other.
	ManifestDigest enclave.Digest
	// Others are the datasets of JOIN, in the order of the query (Datasets): the fields above are those of FROM.
	Others []Source
}

// Source is one more dataset of a query.
type Source struct {
	Keyset         *enclave.Keyset
	KeysetDigest   enclave.Digest
	Manifest       *enclave.Manifest
	ManifestDigest enclave.Digest
}

// sources lists all datasets, that of FROM first.
func (r *Request) sources() []Source {
	return append([]Source{{r.Keyset, r.KeysetDigest, r.Manifest, r.ManifestDigest}}, r.Others...)
}

// Pos is a place in the query: line and column from 1, columns counted in characters. The zero Pos means "no one place".
type Pos struct {
	Line int `json:"line"`
	Col  int `json:"col"`
}

// IsZero reports whether p is no place.
func (p Pos) IsZero() bool { return p == Pos{} }

func (p Pos) String() string {
	if p.IsZero() {
		return "-"
	}
	return fmt.Sprintf("%d:%d", p.Line, p.Col)
}

// Code classifies a reason for programs; the text is for people.
type Code string

// Codes of refusal.
const (
	CodeSyntax      Code = "syntax"       // not a query of the grammar
	CodeTooLong     Code = "too-long"     // over MaxQueryBytes, or a condition too large to evaluate
	CodeUnsupported Code = "unsupported"  // SQL that the language leaves out
	CodeEngine      Code = "engine"       // needs the secret-shared engine (comparisons, joins, order statistics)
	CodeDataset     Code = "dataset"      // not the dataset of this manifest and grant
	CodeColumn      Code = "column"       // no such column, or of the wrong type
	CodeRule        Code = "rule"         // the steward's disclosure rule forbids the use
	CodeGrant       Code = "grant"        // the scenario was not granted the use
	CodeNotGrouped  Code = "not-grouped"  // a plain column that is not in GROUP BY
	CodeDomain      Code = "domain"       // a value outside the declared domain
	CodeBins        Code = "bins"         // a number that is not on a bin edge
	CodeName        Code = "name"         // output names clash or cannot be resolved
	CodeNoAggregate Code = "no-aggregate" // nothing is computed
	CodeEmpty       Code = "empty"        // the condition excludes everything
	CodeEpsilon     Code = "epsilon"      // privacy budget asked is out of bounds
	CodeArtefact    Code = "artefact"     // grant, keyset and manifest do not belong together
	CodeLayout      Code = "layout"       // no sealed layout serves the query
	CodeOverflow    Code = "overflow"     // a sum would not fit the plaintext modulus
	CodeTerms       Code = "terms"        // too many ciphertexts to open
)

// Reason is one thing that stands in the way of a plan.
type Reason struct {
	Code Code   `json:"code"`
	Pos  Pos    `json:"pos,omitzero"`
	Text string `json:"text"`           // what is wrong
	Hint string `json:"hint,omitempty"` // what to write instead
}

func (r Reason) String() string {
	var s strings.Builder
	if !r.Pos.IsZero() {
		s.WriteString(r.Pos.String() + ": ")
	}
	s.WriteString(r.Text)
	if r.Hint != "" {
		s.WriteString(" (" + r.Hint + ")")
	}
	return s.String()
}

// RefusedError lists every reason for which a query gets no plan, in the order of the query.
type RefusedError struct{ Reasons []Reason }

func (e *RefusedError) Error() string {
	texts := make([]string, len(e.Reasons))
	for i, r := range e.Reasons {
		texts[i] = r.String()
	}
	return "query refused: " + strings.Join(texts, "; ")
}

// builder gathers what the query means and what is wrong with it.
type builder struct {
	Request
	use     operators.DatasetUse // what the grant allows on the dataset
	src     *source
	reasons []Reason

	outputs  []enclave.Output
	partial  bool       // an output was refused: a name that is not found proves nothing
	selected []selected // in step with outputs
	groups   []enclave.Column
	order    []enclave.Order
	having   []enclave.Having
	limit    int64
	moments  map[enclave.Moment]bool
	ranked   []enclave.Column // columns of percentiles
	filter   *filter          // nil = every row
	asked    int64
	measures []enclave.Measure
	joint    *joint // for the secret-shared engine
}

// Build makes the plan of a query, or a *RefusedError with all reasons. Any other error means that the caller left a
// collaborator out.
//
// A query over one dataset goes to the homomorphic engine if that can serve it, because ciphertexts under one key cost
// less than three nodes; otherwise, and for joins, it goes to the secret-shared engine if the datasets were sealed in
// share form for the scenario.
func Build(r Request) (*enclave.Plan, error) {
	for _, s := range r.sources() {
		if r.Grant == nil || s.Keyset == nil || s.Manifest == nil {
			return nil, errors.New("planning: grant, keyset and manifest are all required")
		}
	}
	if len(r.Others) > 0 {
		return buildJoint(r)
	}
	p, err := build(r)
	if err == nil || !shared(r.Manifest, r.Grant) {
		return p, err
	}
	return buildJoint(r)
}

// build plans for the homomorphic engine.
func build(r Request) (*enclave.Plan, error) {
	b := &builder{Request: r, moments: map[enclave.Moment]bool{enclave.CountMoment: true}}
	b.artefacts()
	b.epsilon()
	if stmt := b.parse(); stmt != nil && !b.has(CodeArtefact) {
		b.statement(stmt)
	}
	if len(b.reasons) > 0 {
		return nil, b.refused()
	}
	b.measure()
	p := &enclave.Plan{
		Query: r.Query, AskedMicro: b.asked,
		Operator: r.Grant.Operator, Scenario: r.Grant.Scenario, Grant: r.GrantDigest,
		Dataset: r.Manifest.Dataset, Manifest: r.ManifestDigest,
		Keyset: r.KeysetDigest, Epoch: r.Keyset.Epoch, Params: r.Keyset.Params,
		Groups: names(b.groups), Measures: b.measures, Outputs: b.outputs,
		Having: b.having, OrderBy: b.order, Limit: b.limit,
		EntityRows: r.Keyset.EntityRows, MinCohort: r.Grant.MinCohort, MarginMilli: r.Grant.MarginMilli,
	}
	for _, m := range b.measures {
		p.EpsilonMicro += m.EpsilonMicro
	}
	b.overflow()
	b.choose(p)
	if len(b.reasons) > 0 {
		return nil, b.refused()
	}
	if _, _, err := p.Expand(r.Manifest); err != nil { // never announce what a worker could not run
		b.refuse(CodeArtefact, Pos{}, err.Error(), "ask the steward to seal the dataset again")
		return nil, b.refused()
	}
	return p, nil
}

// Dataset reads which dataset stands after FROM.
func Dataset(query string) (string, error) {
	names, err := Datasets(query)
	if err != nil {
		return "", err
	}
	return names[0], nil
}

// Datasets reads which datasets a query is about, that of FROM first, so that a caller can fetch their manifests before
// Build.
func Datasets(query string) ([]string, error) {
	b := &builder{Request: Request{Query: query}}
	if stmt := b.parse(); stmt != nil {
		if names := b.tables(stmt); len(b.reasons) == 0 {
			return names, nil
		}
	}
	return nil, b.refused()
}

func (b *builder) refuse(code Code, at Pos, text, hint string) {
	r := Reason{Code: code, Pos: at, Text: text, Hint: hint}
	if len(b.reasons) < MaxReasons && !slices.Contains(b.reasons, r) {
		b.reasons = append(b.reasons, r)
	}
}

func (b *builder) has(code Code) bool {
	return slices.ContainsFunc(b.reasons, func(r Reason) bool { return r.Code == code })
}

func (b *builder) refused() *RefusedError {
	slices.SortStableFunc(b.reasons, func(x, y Reason) int {
		if x.Pos.IsZero() != y.Pos.IsZero() { // those without a place come last
			if x.Pos.IsZero() {
				return 1
			}
			return -1
		}
		return cmp.Or(cmp.Compare(x.Pos.Line, y.Pos.Line), cmp.Compare(x.Pos.Col, y.Pos.Col))
	})
	return &RefusedError{Reasons: b.reasons}
}

func names(cols []enclave.Column) []string {
	out := make([]string, len(cols)) // never nil: canonical form has no null
	for i, c := range cols {
		out[i] = c.Name
	}
	return out
}
