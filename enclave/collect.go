package enclave

import (
	"fmt"
	"math/big"
	"slices"

	"yingzhou.dev/lab/operators"
)

// Kinds of artefact of a collection.
const (
	KindCollection       = "yingzhou.collection.v1"
	KindEnrolment        = "yingzhou.enrolment.v1"
	KindCollected        = "yingzhou.collected.v1"
	KindCollectionBundle = "yingzhou.collection-bundle.v1"
	KindDelivery         = "yingzhou.delivery.v1"
)

// Collection asks many untrusted reporters, such as meters or village committees, one question each. A report reaches
// two aggregators as one share each, with a proof that the hidden measurement is within its bounds (Prio3,
// draft-irtf-cfrg-vdaf); neither sees it, and together they open noised totals of whole batches only.
type Collection struct {
	Name           string      `json:"name"`
	Operator       string      `json:"operator"` // body
	Scenario       Digest      `json:"scenario"` // must be granted the aggregation of Column of Dataset
	Dataset        string      `json:"dataset"`  // that the measurements belong to; its owner consents
	Keyset         Digest      `json:"keyset"`   // lineage of the dataset, on whose budget releases are charged
	Column         string      `json:"column"`
	Measurement    Measurement `json:"measurement"`
	Aggregators    []string    `json:"aggregators"`   // two custodians of different bodies: leader, helper
	EpsilonMicro   int64       `json:"epsilon_micro"` // ε of one release against whoever sees it, in 1e-6
	Releases       int64       `json:"releases"`      // most batches ever released; each is charged EpsilonMicro
	MinBatch       int64       `json:"min_batch"`     // fewest good reports that are released, at least the scenario's cohort
	Enrolment      Digest      `json:"enrolment"`     // who may report: a blob
	EnrolmentBytes int64       `json:"enrolment_bytes"`
	NotAfter       Time        `json:"not_after"` // last instant of an aggregation
	By             string      `json:"by"`        // analyst
	Made           Time        `json:"made"`
}

// Kinds of measurement.
const (
	MeasureCount     = "count"     // yes or no; the release has the number of yes
	MeasureSum       = "sum"       // an integer 0..Max; the release has the sum
	MeasureHistogram = "histogram" // one of Labels; the release has a count of each
	MeasureVector    = "vector"    // one integer 0..Max for each of Labels; the release has the sums
)

// Measurement is what one report holds.
type Measurement struct {
	Kind   string   `json:"kind"`
	Max    int64    `json:"max,omitempty"`    // sum: 1..2^32−1; vector: 2^b−1 for b in 1..32
	Labels []string `json:"labels,omitempty"` // histogram and vector: 1..1024, distinct
}

// Limits of a collection.
const (
	MaxReports   = 1 << 22 // of one batch
	maxMeasure   = 1<<32 - 1
	maxLabels    = 1024
	maxReleases  = 10_000
	maxEnrolment = 1 << 30 // bytes
)

// Size is the number of totals that the measurement gives.
func (m Measurement) Size() int { return max(1, len(m.Labels)) }

// Delta is the most by which replacing one reporter's measurement moves the totals, added up over all of them (L1). Who
// reports is no secret, so neighbouring batches have the same reporters.
func (m Measurement) Delta() int64 {
	switch m.Kind {
	case MeasureSum:
		return m.Max
	case MeasureHistogram:
		return 2
	case MeasureVector:
		return m.Max * int64(len(m.Labels))
	}
	return 1
}

func (m Measurement) validate() error {
	labels := m.Kind == MeasureHistogram || m.Kind == MeasureVector
	bounded := m.Kind == MeasureSum || m.Kind == MeasureVector
	switch {
	case !labels && !bounded && m.Kind != MeasureCount:
		return fmt.Errorf("measurement %q is not count, sum, histogram or vector", m.Kind)
	case bounded && (m.Max < 1 || m.Max > maxMeasure):
		return fmt.Errorf("a %s needs a greatest value from 1 to %d", m.Kind, int64(maxMeasure))
	case m.Kind == MeasureVector && m.Max&(m.Max+1) != 0:
		return fmt.Errorf("a vector's greatest value must be 2^b−1, and %d is not: its proof counts bits", m.Max)
	case !bounded && m.Max != 0:
		return fmt.Errorf("a %s has no greatest value", m.Kind)
	case labels && (len(m.Labels) < 1 || len(m.Labels) > maxLabels):
		return fmt.Errorf("a %s needs 1 to %d labels", m.Kind, maxLabels)
	case !labels && len(m.Labels) > 0:
		return fmt.Errorf("a %s has no labels", m.Kind)
	}
	sorted := slices.Clone(m.Labels)
	slices.Sort(sorted)
	if len(slices.Compact(sorted)) != len(m.Labels) || slices.Contains(m.Labels, "") {
		return fmt.Errorf("a label of the %s is empty or given twice", m.Kind)
	}
	return nil
}

// Validate checks what a collection says by itself.
func (c *Collection) Validate() error {
	err := c.Measurement.validate()
	switch {
	case c.Name == "" || c.Operator == "" || c.Dataset == "" || c.Column == "" || c.Keyset.IsZero():
		err = fmt.Errorf("name, operator, dataset, its keyset and column are all needed")
	case err != nil:
	case len(c.Aggregators) != 2 || c.Aggregators[0] == c.Aggregators[1]:
		err = fmt.Errorf("aggregators must be two custodians, leader and helper")
	case c.EpsilonMicro < 1 || c.Releases < 1 || c.Releases > maxReleases:
		err = fmt.Errorf("ε must be positive, and releases 1 to %d", maxReleases)
	case c.EnrolmentBytes < 1 || c.EnrolmentBytes > maxEnrolment:
		err = fmt.Errorf("the list of reporters must have 1 to %d bytes", maxEnrolment)
	case c.MinBatch < 1 || c.MinBatch > MaxReports:
		err = fmt.Errorf("the smallest batch must be 1 to %d reports", MaxReports)
	}
	if err != nil {
		return fmt.Errorf("collection %q: %w", c.Name, err)
	}
	return nil
}

// Granted checks a collection against what its scenario was granted. Whether its releases find room in the budgets is the
// custodians' ledgers' word; what could never find any is refused here.
func (c *Collection) Granted(g *operators.Grant) error {
	use, limit, ok := g.Dataset(c.Dataset)
	whole := new(big.Int).Mul(big.NewInt(c.EpsilonMicro), big.NewInt(c.Releases))
	most := min(g.EpsilonMicro, limit.EpsilonMicro)
	micro := func(v int64) string { return FormatScaled(v, 6) }
	switch {
	case g.Scenario != c.Scenario || g.Operator != c.Operator:
		return fmt.Errorf("collection %q: the grant is of another scenario or operator", c.Name)
	case !ok || !use.May(c.Column, operators.UseAggregate):
		return fmt.Errorf("collection %q: its scenario was not granted the aggregation of %q of dataset %q", c.Name, c.Column, c.Dataset)
	case c.EpsilonMicro > g.JobEpsilonMicro:
		return fmt.Errorf("collection %q: ε %s of a release is more than the %s that one job may spend", c.Name, micro(c.EpsilonMicro), micro(g.JobEpsilonMicro))
	case whole.Cmp(big.NewInt(most)) > 0:
		return fmt.Errorf("collection %q: %d releases of ε %s are more than the scenario's %s", c.Name, c.Releases, micro(c.EpsilonMicro), micro(most))
	}
	return nil
}

// OpenCollection reads a collection and checks that the analyst whom it names signed it, for the operator that it names.
func OpenCollection(s Signed, roster *operators.Roster) (*Collection, error) {
	c := &Collection{}
	if err := s.Open(KindCollection, c); err != nil {
		return nil, fmt.Errorf("reading a collection: %w", err)
	}
	if err := c.Validate(); err != nil {
		return nil, err
	}
	p, ok := roster.Find(c.By)
	if !ok || p.Role != operators.RoleAnalyst || p.Body != c.Operator || s.Verify(c.By, p.Key()) != nil {
		return nil, fmt.Errorf("collection %q: %w: it is not signed by an analyst of %q", c.Name, operators.ErrSignature, c.Operator)
	}
	return c, nil
}

// ConfirmedBy reports whether a steward of the dataset's owner has signed a collection too: that it may be, with these
// reporters. It outlives the steward's time in office.
func ConfirmedBy(s Signed, roster *operators.Roster, owner string) bool {
	return slices.ContainsFunc(roster.Parties, func(p operators.Party) bool {
		return p.Role == operators.RoleSteward && p.Body == owner && s.Verify(p.Name, p.Key()) == nil
	})
}

// CollectionBundle is everything behind a collection with the proofs that each was in the log: what custodians ask for
// before they release a batch and, with Collected, a receipt of the batch.
type CollectionBundle struct {
	Format     string     `json:"format"` // KindCollectionBundle
	Roster     Signed     `json:"roster"`
	Statements []Signed   `json:"statements"`
	Keysets    []Signed   `json:"keysets"` // of every dataset of the scenario
	Collection Signed     `json:"collection"`
	Delivery   Signed     `json:"delivery"`           // of the batch
	Collected  Signed     `json:"collected,omitzero"` // absent while custodians are asked for it
	Proofs     []LogProof `json:"proofs"`
}

// Delivery names the reports of one batch, as blobs of framed reports one after the other. Reports come to a gateway of the
// dataset's owner, whose steward hands them in: what it lists can neither be left out nor put in another order on the way.
type Delivery struct {
	Collection Digest         `json:"collection"`
	Batch      int64          `json:"batch"` // 1, 2, …
	Blobs      []DeliveryBlob `json:"blobs"`
	By         string         `json:"by"` // steward
	Made       Time           `json:"made"`
}

// DeliveryBlob is one blob of a delivery.
type DeliveryBlob struct {
	Blob  Digest `json:"blob"`
	Bytes int64  `json:"bytes"`
}

// maxDelivery bounds a delivery: the blobs, and all their bytes.
const (
	maxDeliveryBlobs = 4096
	maxDeliveryBytes = 1 << 40
)

// Validate checks what a delivery says by itself.
func (d *Delivery) Validate() error {
	if d.Batch < 1 || d.Batch > maxReleases || len(d.Blobs) < 1 || len(d.Blobs) > maxDeliveryBlobs {
		return fmt.Errorf("delivery: batch %d with %d blobs is not 1 to %d with 1 to %d", d.Batch, len(d.Blobs), maxReleases, maxDeliveryBlobs)
	}
	left := int64(maxDeliveryBytes)
	for i, b := range d.Blobs {
		if b.Bytes < 1 || b.Bytes > left {
			return fmt.Errorf("delivery: blob %d of %d bytes; all together may have %d", i, b.Bytes, int64(maxDeliveryBytes))
		}
		left -= b.Bytes
	}
	return nil
}

// Batch says which reports of a batch count: what both aggregators must agree on before either gives its total.
type Batch struct {
	Collection Digest         `json:"collection"`
	Number     int64          `json:"batch"`    // 1, 2, …
	Reports    int64          `json:"reports"`  // good ones
	Accepted   Digest         `json:"accepted"` // hash chain over the identifiers counted, in order
	Refused    []RefusedCount `json:"refused"`  // by rule, sorted
}

// BatchOpening is what an aggregator's custodian gives it for a batch that both have charged.
type BatchOpening struct {
	Grant        *operators.Grant
	Keyset       Digest   // lineage
	ChargedMicro int64    // to the dataset
	Noise        [32]byte // key of this custodian's noise, the same for the same epoch of the dataset's keys
}

func (BatchOpening) String() string   { return "[batch opening]" }
func (BatchOpening) GoString() string { return "[batch opening]" }

// Enrolment lists who may report, once in every batch.
type Enrolment struct {
	Reporters []Reporter `json:"reporters"` // by name, none twice; a report names its sender by index
}

// Reporter is a meter, a committee: whoever sends one measurement.
type Reporter struct {
	Name   string `json:"name"`
	Verify []byte `json:"verify"` // Ed25519 public key
}

// Validate checks the list by itself.
func (e *Enrolment) Validate() error {
	if len(e.Reporters) == 0 || len(e.Reporters) > MaxReports {
		return fmt.Errorf("enrolment: %d reporters are not 1 to %d", len(e.Reporters), MaxReports)
	}
	for i, r := range e.Reporters {
		switch {
		case r.Name == "" || len(r.Verify) != 32:
			return fmt.Errorf("enrolment: reporter %d has no name or no Ed25519 key", i)
		case i > 0 && r.Name <= e.Reporters[i-1].Name:
			return fmt.Errorf("enrolment: reporter %d is out of order or named twice", i)
		}
	}
	return nil
}

// Collected announces the release of one batch. As with a Release, the figures are in a Table that goes to the analyst
// under HPKE. Both aggregators sign it.
type Collected struct {
	Collection   Digest         `json:"collection"`
	Batch        int64          `json:"batch"` // 1, 2, …
	Scenario     Digest         `json:"scenario"`
	Grant        Digest         `json:"grant"`
	Keyset       Digest         `json:"keyset"`  // lineage
	Reports      int64          `json:"reports"` // counted
	Refused      []RefusedCount `json:"refused"` // by rule, sorted
	Accepted     Digest         `json:"accepted"`
	Table        Digest         `json:"table"`
	ChargedMicro int64          `json:"charged_micro"` // to the dataset's budget
	Aggregators  []string       `json:"aggregators"`
	Made         Time           `json:"made"`
}

// RefusedCount says how many reports of a batch a rule held back.
type RefusedCount struct {
	Rule  string `json:"rule"`
	Count int64  `json:"count"`
}
