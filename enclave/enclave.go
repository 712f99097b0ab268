// Package enclave holds the nouns of protected data: Manifest, Keyset, Plan, Receipt, Release, the log entries that
// announce them, and their strict parsers. "Enclave" here is a place guarded by cryptography and by bodies that do not
// collude. It is not a hardware trusted execution environment; no attestation (RFC 9334) is made or checked.
//
// Each artefact is immutable, signed, named by the SHA-256 of its canonical bytes (package canon), and names the one
// before it:
//
//	table ──seal──▶ Manifest ─┐
//	licence + scenario ──authorize──▶ Grant ──plan──▶ Plan ──worker──▶ Receipt ──custodians──▶ Release
//
// The children hold the verbs. This package does no I/O and imports none of them. docs/FORMATS.md specifies every field.
package enclave

import (
	"errors"

	"yingzhou.dev/lab/internal/canon"
)

// Kinds of artefact. A signature under one kind never verifies under another.
const (
	KindKeyset   = "yingzhou.keyset.v1"
	KindManifest = "yingzhou.manifest.v1"
	KindPlan     = "yingzhou.plan.v1"
	KindReceipt  = "yingzhou.receipt.v1"
	KindRelease  = "yingzhou.release.v1"
)

type (
	// Digest names an artefact or blob by SHA-256.
	Digest = canon.Digest
	// Time is an instant in whole seconds, UTC.
	Time = canon.Time
	// Signed is an artefact's bytes with the signatures over them.
	Signed = canon.Signed
)

// ParseDigest reads a digest's text form.
func ParseDigest(s string) (Digest, error) { return canon.ParseDigest(s) }

// Errors that callers branch on.
var (
	// ErrBlob means that stored bytes are not what their digest promises.
	ErrBlob = errors.New("sealed blob is damaged or not the one named")
	// ErrNotFound means that a store has no such artefact or blob.
	ErrNotFound = errors.New("not found")
)

// Keyset is the key of one dataset lineage and the promises that outlive any version of the data: the owner, the
// custodians, the most rows that one entity can have and the privacy budget. The agency draws the key once; every
// version sealed later is under it.
//
// A refresh is a keyset too: it deals the same secret again, in fresh pieces and with fresh PRF keys, perhaps to other
// custodians. What was sealed stays valid; pieces of the keysets before open nothing together with new ones.
type Keyset struct {
	Dataset     string   `json:"dataset"` // lineage's name, unique in the lab
	Owner       string   `json:"owner"`   // agency body
	Params      string   `json:"params"`  // named parameter set of enclave/he
	Custodians  []string `json:"custodians"`
	Quorum      int      `json:"quorum"`            // q with 2q > n
	Pieces      []Piece  `json:"pieces"`            // C(n, q-1), ordered by Without
	EntityRows  int64    `json:"entity_rows"`       // most rows of one entity, m; enforced at sealing
	BudgetMicro int64    `json:"budget_micro"`      // ε across all operators for the epoch, in 1e-6
	Epoch       int64    `json:"epoch"`             // of pieces and noise keys: 1 at first, one more with every refresh
	Origin      Digest   `json:"origin,omitzero"`   // of a refresh: the lineage's first keyset, which manifests and blobs name
	Previous    Digest   `json:"previous,omitzero"` // of a refresh: the keyset that it replaces
	By          string   `json:"by"`                // steward
	Made        Time     `json:"made"`
}

// Piece is one additive part of the secret key, held by every custodian but those in Without.
type Piece struct {
	Without    []int  `json:"without"`    // indices into Custodians, ascending
	Commitment Digest `json:"commitment"` // to PRF key and piece (keys.PieceSecret), checked by each holder
}

// Holds reports whether custodian i of the keyset holds the piece.
func (p Piece) Holds(i int) bool {
	for _, w := range p.Without {
		if w == i {
			return false
		}
	}
	return true
}

// Catalog describes the dataset to people (art. 6, 16, 17, 20).
type Catalog struct {
	Title          string `json:"title"`
	Description    string `json:"description,omitempty"`
	Format         string `json:"format"`           // source format, e.g. csv
	Classification string `json:"classification"`   // theme, e.g. 水务
	Level          int64  `json:"level"`            // data security level 1..4
	Sharing        string `json:"sharing"`          // unconditional | conditional | none
	Opening        string `json:"opening"`          // unconditional | conditional | closed
	UpdateCycle    string `json:"update_cycle"`     // e.g. monthly
	Unit           string `json:"unit"`             // responsible unit
	LegalBasis     string `json:"legal_basis"`      // why it may be collected and shared on conditions
	Source         string `json:"source,omitempty"` // where public example data comes from
	SourceLicense  string `json:"source_license,omitempty"`
}

// Manifest is one sealed version of a dataset: what the columns mean and where the ciphertexts are.
type Manifest struct {
	Dataset   string   `json:"dataset"`
	Version   int64    `json:"version"`           // 1, 2, …
	Previous  Digest   `json:"previous,omitzero"` // manifest of version-1
	Keyset    Digest   `json:"keyset"`
	Owner     string   `json:"owner"`
	Catalog   Catalog  `json:"catalog"`
	Columns   []Column `json:"columns"`
	RowsBound int64    `json:"rows_bound"` // power of two ≥ the row count; the exact count is not published
	Layouts   []Layout `json:"layouts"`
	By        string   `json:"by"` // steward
	Made      Time     `json:"made"`
}

// Plan is one query as a computation over ciphertexts, complete enough to execute, to price and to open, and small
// enough to read. It is rebuilt from Query by every custodian and must come out byte-identical.
type Plan struct {
	Query        string    `json:"query"`       // the operator's SQL
	AskedMicro   int64     `json:"asked_micro"` // ε asked for the job, in 1e-6
	Operator     string    `json:"operator"`    // body
	Scenario     Digest    `json:"scenario"`
	Grant        Digest    `json:"grant"`
	Dataset      string    `json:"dataset"`
	Manifest     Digest    `json:"manifest"`
	Keyset       Digest    `json:"keyset"`
	Epoch        int64     `json:"epoch"` // of the keyset's noise keys
	Params       string    `json:"params"`
	Layout       string    `json:"layout"`         // name of the one layout that serves every measure
	Axis         []string  `json:"axis"`           // columns of the index space that Keep selects from
	Keep         []Run     `json:"keep"`           // cells of Axis that satisfy WHERE, ascending, maximal runs
	Also         *Factor   `json:"also,omitempty"` // rows layout: a second indicator multiplied onto a count
	Groups       []string  `json:"groups"`         // GROUP BY, columns of Axis, in query order
	Measures     []Measure `json:"measures"`       // what is opened for every cell
	Outputs      []Output  `json:"outputs"`        // columns of the result
	Having       []Having  `json:"having,omitempty"`
	OrderBy      []Order   `json:"order_by,omitempty"`
	Limit        int64     `json:"limit,omitempty"` // 0 = all rows
	EntityRows   int64     `json:"entity_rows"`     // m
	EpsilonMicro int64     `json:"epsilon_micro"`   // Σ over measures
	MinCohort    int64     `json:"min_cohort"`
	MarginMilli  int64     `json:"margin_milli"`
	Joint        *Joint    `json:"joint,omitempty"` // plan for the secret-shared engine
}

// Run is a range of consecutive indices [From, From+Count).
type Run struct {
	From  int64 `json:"from"`
	Count int64 `json:"count"`
}

// Factor selects indicator vectors of a second axis.
type Factor struct {
	Axis []string `json:"axis"`
	Keep []Run    `json:"keep"`
}

// Measure is one moment summed in every cell, with its noise. Every measure of a plan spends EpsilonMicro once for the
// whole GROUP BY, because the cells are disjoint and an entity has at most m rows: both L1 and L2 sensitivity of the
// vector of cells are at most m·Delta.
type Measure struct {
	Moment       Moment `json:"moment"`
	By           string `json:"by,omitempty"` // splits every cell by the bins of this column (percentiles)
	Delta        int64  `json:"delta"`        // largest |contribution| of one row, in encoded units
	EpsilonMicro int64  `json:"epsilon_micro"`
	Stage        int64  `json:"stage"` // 1: opened for every cell; 2: only for cells that pass the cohort rule
}

// Output is one column of the result.
type Output struct {
	Name       string   `json:"name"`
	Func       string   `json:"func"`                  // "group" or a function of enclave/program
	Args       []string `json:"args,omitempty"`        // column names
	ParamMicro int64    `json:"param_micro,omitempty"` // PERCENTILE's fraction in 1e-6
}

// Having keeps result rows by a released value.
type Having struct {
	Output int64  `json:"output"` // index into Outputs
	Op     string `json:"op"`     // = <> < <= > >=
	Value  string `json:"value"`  // decimal
}

// Order sorts result rows by a released value or a group label.
type Order struct {
	Output int64 `json:"output"`
	Desc   bool  `json:"desc,omitempty"`
}

// Receipt says what a worker computed from what, under which isolation. The node that ran the worker signs it.
type Receipt struct {
	Job       string   `json:"job"`
	Plan      Digest   `json:"plan"`
	Inputs    []Digest `json:"inputs"`    // sealed blobs in order of first use
	Worker    Digest   `json:"worker"`    // program (process) or image config digest (docker)
	Isolation string   `json:"isolation"` // back end and protections in force
	Terms     int64    `json:"terms"`
	Output    Digest   `json:"output"` // over the digests of every result ciphertext in order
	Started   Time     `json:"started"`
	Ended     Time     `json:"ended"`
	By        string   `json:"by"` // node
}

// Release announces a result. The table itself goes to the operator under HPKE; the Release carries its digest, so an
// auditor can follow the chain without seeing a figure. A quorum of custodians signs it.
type Release struct {
	Job          string   `json:"job"`
	Operator     string   `json:"operator"`
	Scenario     Digest   `json:"scenario"`
	Grant        Digest   `json:"grant"`
	Manifest     Digest   `json:"manifest"`
	Keyset       Digest   `json:"keyset"`
	Plan         Digest   `json:"plan"`
	Receipt      Digest   `json:"receipt"`
	Table        Digest   `json:"table"` // of the Table's canonical bytes, which include a secret salt
	Cells        int64    `json:"cells"`
	Suppressed   int64    `json:"suppressed"`
	ChargedMicro int64    `json:"charged_micro"` // ε charged to the dataset by this release; 0 for a repeated question
	Custodians   []string `json:"custodians"`    // whose shares were combined
	Made         Time     `json:"made"`
}

// Table is the result as the operator gets it.
type Table struct {
	Salt       []byte       `json:"salt"` // 32 bytes; keeps Release.Table from confirming a guess
	Columns    []TableCol   `json:"columns"`
	Rows       []TableRow   `json:"rows"`
	Suppressed []Suppressed `json:"suppressed"`
}

// TableCol heads a column.
type TableCol struct {
	Name string `json:"name"`
	Type string `json:"type"` // "label" or "number"
}

// TableRow is one released cell of the GROUP BY.
type TableRow struct {
	Values []Value `json:"values"`
}

// Value is a label or number. A number that noise made meaningless is absent, with the reason in Null.
type Value struct {
	Text   string `json:"text,omitempty"`   // label, or decimal number
	StdErr string `json:"stderr,omitempty"` // standard error from the noise alone, decimal
	Null   string `json:"null,omitempty"`   // why there is no value
}

// Suppressed names a cell that was not released and the rule that held it back.
type Suppressed struct {
	Labels []string `json:"labels"`
	Rule   string   `json:"rule"`
}
