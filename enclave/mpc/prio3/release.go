package prio3

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"slices"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/dp"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/durable"
	"yingzhou.dev/lab/operators"
)

// Peer is the helper as the leader calls it.
type Peer interface {
	Name() string
	// Join takes the leader's verification key.
	Join(invitation canon.Signed) error
	// Begin starts or restarts a batch: the one after the last whose total was given, or that one again, because the
	// other aggregator may have gone before it gave its own.
	Begin(ctx context.Context, number int64) error
	// Prepare checks the next chunk of reports, takes the leader's prep shares and answers with its own.
	Prepare(ctx context.Context, reports [][]byte, leader canon.Signed) (canon.Signed, error)
	// Finish checks the leader's summary of the batch and gives the noised total share.
	Finish(ctx context.Context, summary canon.Signed) (canon.Signed, error)
	// Endorse signs a result that agrees with both total shares, after its log entry.
	Endorse(ctx context.Context, c enclave.Collected, proof enclave.LogProof, leader canon.Signed) (canon.Signature, error)
}

// Begin implements Peer.
func (a *Aggregator) Begin(_ context.Context, number int64) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.begin(number)
}

func (a *Aggregator) begin(number int64) error {
	switch {
	case number != a.next && number != a.next-1 || number < 1:
		return fmt.Errorf("collection %q: %w: batch %d is not the next one at %q, which is %d", a.cfg.Task.Name, ErrBatch, number, a.Name(), a.next)
	case number > a.cfg.Task.Releases:
		return fmt.Errorf("collection %q: %w: all %d releases are made", a.cfg.Task.Name, ErrBatch, a.cfg.Task.Releases)
	}
	a.batch = &batch{number: number, total: a.cfg.Task.vdaf.newTotal(), seen: map[[idBytes]byte]bool{}}
	return nil
}

// Prepare implements Peer.
func (a *Aggregator) Prepare(ctx context.Context, reports [][]byte, leader canon.Signed) (canon.Signed, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.batch == nil {
		return canon.Signed{}, fmt.Errorf("collection %q: %w: no batch has begun", a.cfg.Task.Name, ErrBatch)
	}
	p, err := a.prepare(ctx, a.batch, reports)
	if err == nil {
		err = a.settle(ctx, a.batch, p, leader)
	}
	if err != nil {
		a.batch = nil // half of a chunk may be added up: the batch begins again
		return canon.Signed{}, err
	}
	return p.message, nil
}

// KindSummary is what both aggregators must agree on before either gives its total.
const KindSummary = "yingzhou.batch-summary.v1"

// Summary says which reports of a batch count.
type Summary struct {
	Collection enclave.Digest         `json:"collection"`
	By         string                 `json:"by"`
	Batch      int64                  `json:"batch"`
	Reports    int64                  `json:"reports"`
	Accepted   enclave.Digest         `json:"accepted"` // hash chain over the identifiers counted, in order
	Refused    []enclave.RefusedCount `json:"refused"`
}

func (a *Aggregator) summary(b *batch) Summary {
	s := Summary{Collection: a.cfg.Task.Digest, By: a.Name(), Batch: b.number, Reports: b.accepted, Accepted: enclave.Digest(b.digest), Refused: []enclave.RefusedCount{}}
	for v, n := range b.refused {
		if n > 0 {
			s.Refused = append(s.Refused, enclave.RefusedCount{Rule: verdict(v).rule(), Count: n})
		}
	}
	slices.SortFunc(s.Refused, func(x, y enclave.RefusedCount) int { return compare(x.Rule, y.Rule) })
	return s
}

func compare(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// KindTotal is an aggregator's noised share of a batch's totals.
const KindTotal = "yingzhou.total-share.v1"

// Total travels between the two aggregators only: whoever has both has the noised totals.
type Total struct {
	Summary Summary      `json:"summary"`
	At      enclave.Time `json:"at"` // when this aggregator found the release authorised
	Share   []byte       `json:"share"`
}

// Finish implements Peer.
func (a *Aggregator) Finish(ctx context.Context, summary canon.Signed) (canon.Signed, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var theirs Summary
	if err := a.fromPeer(summary, KindSummary, &theirs, func() bool { return theirs.Collection == a.cfg.Task.Digest && theirs.By == a.cfg.Peer.Name }); err != nil {
		return canon.Signed{}, err
	}
	mine, err := a.finish(ctx, theirs)
	return mine, err
}

// finish gives this aggregator's total share of the batch that agreed describes. Once given, a batch gives the same
// bytes for ever and its reports count nowhere else.
func (a *Aggregator) finish(ctx context.Context, agreed Summary) (canon.Signed, error) {
	same := func(s Summary) bool {
		s.By = agreed.By
		return canon.DigestOf(s) == canon.DigestOf(agreed)
	}
	if agreed.Batch < a.next {
		signed, total, err := a.given(agreed.Batch)
		if err == nil && !same(total.Summary) {
			err = fmt.Errorf("collection %q: %w: batch %d was released with other reports", a.cfg.Task.Name, ErrBatch, agreed.Batch)
		}
		return signed, err
	}
	b := a.batch
	if b == nil || b.number != agreed.Batch {
		return canon.Signed{}, fmt.Errorf("collection %q: batch %d at %q: %w", a.cfg.Task.Name, agreed.Batch, a.Name(), ErrNotPrepared)
	}
	if s := a.summary(b); !same(s) {
		return canon.Signed{}, fmt.Errorf("collection %q: %w: it counts %d reports (%s), %q counts %d (%s)", a.cfg.Task.Name, ErrPeer,
			agreed.Reports, agreed.Accepted.Short(), a.Name(), s.Reports, s.Accepted.Short())
	}
	if err := a.allowed(ctx, b.accepted); err != nil {
		return canon.Signed{}, err
	}
	share, err := a.noised(b)
	if err != nil {
		return canon.Signed{}, err
	}
	now := canon.At(a.cfg.Clock())
	signed, err := keys.SealWith(a.cfg.Identity, KindTotal, Total{Summary: a.summary(b), At: now, Share: share})
	if err != nil {
		return canon.Signed{}, err
	}
	e := enclave.Entry{Type: enclave.EntryShare, Subject: signed.Digest(), By: a.Name(), At: now}
	if _, err := a.cfg.Log.Append(ctx, e); err != nil {
		return canon.Signed{}, fmt.Errorf("announcing a total share in the log: %w", err)
	}
	if err := durable.WriteFile(a.stored(b.number), canon.MustMarshal(signed), 0o600); err != nil {
		return canon.Signed{}, err
	}
	a.next, a.batch = b.number+1, nil
	return signed, nil
}

// stored is where a given total share lies.
func (a *Aggregator) stored(number int64) string {
	return filepath.Join(a.cfg.Dir, fmt.Sprintf("total-%d.json", number))
}

// given reads a total share that was given before.
func (a *Aggregator) given(number int64) (s canon.Signed, t Total, err error) {
	data, err := os.ReadFile(a.stored(number))
	if errors.Is(err, fs.ErrNotExist) {
		return s, t, fmt.Errorf("collection %q: %w: batch %d is not released here", a.cfg.Task.Name, ErrBatch, number)
	}
	if err == nil {
		err = canon.Unmarshal(data, &s)
	}
	if err == nil {
		err = s.Open(KindTotal, &t)
	}
	if err != nil {
		return s, t, fmt.Errorf("reading total share %d: %w", number, err)
	}
	return s, t, nil
}

// allowed checks what the custodian checks of every release: authorised now, within its term, enough people.
func (a *Aggregator) allowed(ctx context.Context, accepted int64) error {
	t := a.cfg.Task
	if now := a.cfg.Clock(); now.After(t.NotAfter.Time) {
		return fmt.Errorf("collection %q: %w: it ended at %s", t.Name, ErrBatch, t.NotAfter.Format("2006-01-02 15:04:05"))
	}
	g, err := a.cfg.Authorize(ctx, &t.Collection)
	if err != nil {
		return fmt.Errorf("collection %q: %w", t.Name, err)
	}
	if err := Granted(&t.Collection, g); err != nil {
		return err
	}
	if least := max(t.MinBatch, g.MinCohort); accepted < least {
		return fmt.Errorf("collection %q: %w: %d good reports, at least %d are needed", t.Name, ErrBatch, accepted, least)
	}
	return nil
}

// Granted checks a collection against what its scenario was granted. All its releases together must fit the scenario's
// ε and its share of the dataset, so that no ledger has to be kept: a reporter spends EpsilonMicro in each.
func Granted(c *enclave.Collection, g *operators.Grant) error {
	use, limit, ok := g.Dataset(c.Dataset)
	whole := new(big.Int).Mul(big.NewInt(c.EpsilonMicro), big.NewInt(c.Releases))
	switch {
	case g.Scenario != c.Scenario || g.Operator != c.Operator:
		return fmt.Errorf("collection %q: the grant is of another scenario or operator", c.Name)
	case !ok || !use.May(c.Column, operators.UseAggregate):
		return fmt.Errorf("collection %q: its scenario was not granted the aggregation of %q of dataset %q", c.Name, c.Column, c.Dataset)
	case c.EpsilonMicro > g.JobEpsilonMicro:
		return fmt.Errorf("collection %q: ε %s of a release is more than the %s that one job may spend", c.Name, micro(c.EpsilonMicro), micro(g.JobEpsilonMicro))
	case whole.Cmp(big.NewInt(min(g.EpsilonMicro, limit.EpsilonMicro))) > 0:
		return fmt.Errorf("collection %q: %d releases of ε %s are more than the scenario's %s", c.Name, c.Releases, micro(c.EpsilonMicro), micro(min(g.EpsilonMicro, limit.EpsilonMicro)))
	}
	return nil
}

func micro(v int64) string { return enclave.FormatScaled(v, 6) }

// noised is the total share with this aggregator's own full sample in every coordinate. The noise is a function of the
// collection, the batch and the reports that count, so that it cannot be drawn again.
func (a *Aggregator) noised(b *batch) ([]byte, error) {
	raw, err := b.total.bytes()
	if err != nil {
		return nil, fmt.Errorf("collection %q: %w", a.cfg.Task.Name, err)
	}
	xs, err := a.cfg.Task.vdaf.integers(raw)
	if err != nil {
		return nil, fmt.Errorf("collection %q: %w", a.cfg.Task.Name, err)
	}
	for i, x := range xs {
		var at [16]byte
		binary.LittleEndian.PutUint64(at[:], uint64(b.number))
		binary.LittleEndian.PutUint64(at[8:], uint64(i))
		x.Add(x, dp.Laplace(dp.NewStream(a.noise[:], []byte("collection noise"), a.cfg.Task.Digest[:], at[:], b.digest[:]), a.cfg.Task.noise))
	}
	return a.cfg.Task.vdaf.encode(xs), nil
}

// Outcome is what leaves: the announcement with both signatures, the table sealed to the analyst, and the log's proof.
type Outcome struct {
	Collected canon.Signed
	Sealed    []byte
	Proof     enclave.LogProof
	Summary   Summary
}

// Lead runs one batch as the leader: every report that next yields until io.EOF, in chunks, and then its release to the
// analyst's receiving key. It can be repeated after any failure; a batch whose total was given gives the same result.
func (a *Aggregator) Lead(ctx context.Context, peer Peer, number int64, next func() ([]byte, error), analyst []byte) (*Outcome, error) {
	if a.me != 0 {
		return nil, fmt.Errorf("collection %q: %q helps and does not lead", a.cfg.Task.Name, a.Name())
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	invitation, err := a.Invite()
	if err == nil {
		err = peer.Join(invitation)
	}
	if err != nil {
		return nil, err
	}
	if number > 0 && number < a.next {
		_, t, err := a.given(number)
		if err != nil {
			return nil, err
		}
		out, err := a.reveal(ctx, peer, t.Summary, analyst)
		if !errors.Is(err, ErrNotPrepared) {
			return out, err
		}
	}
	agreed, err := a.agree(ctx, peer, number, next)
	if err != nil {
		return nil, err
	}
	return a.reveal(ctx, peer, agreed, analyst)
}

// agree prepares a batch with the peer.
func (a *Aggregator) agree(ctx context.Context, peer Peer, number int64, next func() ([]byte, error)) (Summary, error) {
	if err := errors.Join(a.begin(number), peer.Begin(ctx, number)); err != nil {
		return Summary{}, err
	}
	var reports [][]byte
	for total := 0; ; {
		data, err := next()
		if err != nil && !errors.Is(err, io.EOF) {
			return Summary{}, err
		}
		if err == nil {
			if reports, total = append(reports, data), total+1; total > enclave.MaxReports {
				return Summary{}, fmt.Errorf("collection %q: %w: a batch has at most %d reports", a.cfg.Task.Name, ErrBatch, enclave.MaxReports)
			}
		}
		if len(reports) == ChunkReports || err != nil && len(reports) > 0 {
			if err := a.exchange(ctx, peer, reports); err != nil {
				return Summary{}, err
			}
			reports = reports[:0]
		}
		if err != nil {
			return a.summary(a.batch), nil
		}
	}
}

func (a *Aggregator) exchange(ctx context.Context, peer Peer, reports [][]byte) error {
	p, err := a.prepare(ctx, a.batch, reports)
	if err != nil {
		return err
	}
	theirs, err := peer.Prepare(ctx, reports, p.message)
	if err != nil {
		return err
	}
	return a.settle(ctx, a.batch, p, theirs)
}

// reveal brings both totals together and releases what may be shown.
func (a *Aggregator) reveal(ctx context.Context, peer Peer, agreed Summary, analyst []byte) (*Outcome, error) {
	summary, err := keys.SealWith(a.cfg.Identity, KindSummary, agreed)
	if err != nil {
		return nil, err
	}
	// The leader's own share is on disk and in the log before it asks for the helper's: if either refuses, neither total
	// has met the other.
	mine, err := a.finish(ctx, agreed)
	if err != nil {
		return nil, err
	}
	theirs, err := peer.Finish(ctx, summary)
	if err != nil {
		return nil, err
	}
	table, c, err := a.result(ctx, mine, theirs)
	if err != nil {
		return nil, err
	}
	e := enclave.Entry{Type: enclave.EntryRelease, Subject: canon.DigestOf(c), By: a.Name(), At: canon.At(a.cfg.Clock())}
	proofs, err := a.cfg.Log.Append(ctx, e)
	if err != nil {
		return nil, fmt.Errorf("announcing the result in the log: %w", err)
	}
	signed, err := keys.SealWith(a.cfg.Identity, enclave.KindCollected, c)
	if err != nil {
		return nil, err
	}
	sig, err := peer.Endorse(ctx, *c, proofs[0], mine)
	if err != nil {
		return nil, err
	}
	signed.Sigs = append(signed.Sigs, sig)
	sealed, err := keys.SealTo(analyst, keys.TableInfo(signed.Digest()), canon.MustMarshal(table))
	if err != nil {
		return nil, err
	}
	return &Outcome{Collected: signed, Sealed: sealed, Proof: proofs[0], Summary: agreed}, nil
}

// Endorse implements Peer.
func (a *Aggregator) Endorse(ctx context.Context, c enclave.Collected, proof enclave.LogProof, leader canon.Signed) (canon.Signature, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	mine, _, err := a.given(c.Batch)
	if err != nil {
		return canon.Signature{}, err
	}
	_, again, err := a.result(ctx, leader, mine)
	if err != nil {
		return canon.Signature{}, err
	}
	if canon.DigestOf(c) != canon.DigestOf(again) {
		return canon.Signature{}, fmt.Errorf("collection %q: %w: result %s, %q has %s", a.cfg.Task.Name, ErrPeer, canon.DigestOf(c).Short(), a.Name(), canon.DigestOf(again).Short())
	}
	if e, _, err := proof.Check(a.cfg.LogKeys); err != nil || e.Type != enclave.EntryRelease || e.Subject != canon.DigestOf(c) {
		return canon.Signature{}, fmt.Errorf("collection %q: %w: no proof that its result was logged", a.cfg.Task.Name, errors.Join(ErrPeer, err))
	}
	return a.cfg.Identity.Sign(enclave.KindCollected, canon.MustMarshal(c))
}

// result computes the table and its announcement from both total shares, the same at both aggregators.
func (a *Aggregator) result(ctx context.Context, leader, helper canon.Signed) (*enclave.Table, *enclave.Collected, error) {
	t := a.cfg.Task
	var totals [aggregators]Total
	for i, s := range []canon.Signed{leader, helper} {
		if i == a.me { // read from this aggregator's own disk or just made
			if err := s.Open(KindTotal, &totals[i]); err != nil {
				return nil, nil, err
			}
			continue
		}
		if err := a.fromPeer(s, KindTotal, &totals[i], func() bool { return totals[i].Summary.By == a.cfg.Peer.Name }); err != nil {
			return nil, nil, err
		}
	}
	lead, help := totals[0].Summary, totals[1].Summary
	if help.By = lead.By; canon.DigestOf(lead) != canon.DigestOf(help) || lead.Collection != t.Digest {
		return nil, nil, fmt.Errorf("collection %q: %w: totals of different reports", t.Name, ErrPeer)
	}
	g, err := a.cfg.Authorize(ctx, &t.Collection)
	if err != nil {
		return nil, nil, fmt.Errorf("collection %q: %w", t.Name, err)
	}
	x, err := t.vdaf.integers(totals[0].Share)
	if err != nil {
		return nil, nil, fmt.Errorf("collection %q: %w", t.Name, err)
	}
	y, err := t.vdaf.integers(totals[1].Share)
	if err != nil {
		return nil, nil, fmt.Errorf("collection %q: %w: %w", t.Name, ErrPeer, err)
	}
	values := make([]*big.Int, len(x))
	for i := range x {
		values[i] = t.vdaf.centred(new(big.Int).Add(x[i], y[i]))
	}
	h := sha256.New()
	h.Write([]byte("yingzhou collection salt\x00"))
	h.Write(totals[0].Share)
	h.Write(totals[1].Share)
	table := t.tabulate(values, g)
	table.Salt = h.Sum(nil)
	made := totals[0].At
	if totals[1].At.After(made.Time) {
		made = totals[1].At
	}
	return table, &enclave.Collected{Collection: t.Digest, Batch: lead.Batch, Scenario: t.Scenario, Grant: canon.DigestOf(g), Reports: lead.Reports, Refused: lead.Refused,
		Accepted: lead.Accepted, Table: canon.DigestOf(table), Aggregators: t.Aggregators, Made: made}, nil
}

// tabulate writes the noised totals. A count of people is a cell and must reach the cohort with the margin, as in every
// release; sums are over the whole batch, which did.
func (t *Task) tabulate(values []*big.Int, g *operators.Grant) *enclave.Table {
	margin := dp.SuppressionMargin(t.noise, aggregators, g.MarginMilli)
	least := new(big.Int).Add(big.NewInt(g.MinCohort), margin)
	deviation := dp.SuppressionMargin(t.noise, aggregators, 1000).String()
	counts := t.Measurement.Kind == enclave.MeasureCount || t.Measurement.Kind == enclave.MeasureHistogram
	heads := map[string]string{enclave.MeasureCount: "COUNT", enclave.MeasureHistogram: "COUNT", enclave.MeasureSum: "SUM", enclave.MeasureVector: "SUM"}
	table := &enclave.Table{Columns: []enclave.TableCol{}, Rows: []enclave.TableRow{}, Suppressed: []enclave.Suppressed{}}
	if len(t.Measurement.Labels) > 0 {
		table.Columns = append(table.Columns, enclave.TableCol{Name: t.Column, Type: "label"})
	}
	table.Columns = append(table.Columns, enclave.TableCol{Name: heads[t.Measurement.Kind], Type: "number"})
	for i, v := range values {
		row := enclave.TableRow{}
		labels := []string{}
		if len(t.Measurement.Labels) > 0 {
			labels = append(labels, t.Measurement.Labels[i])
			row.Values = append(row.Values, enclave.Value{Text: t.Measurement.Labels[i]})
		}
		if counts && v.Cmp(least) < 0 {
			table.Suppressed = append(table.Suppressed, enclave.Suppressed{Labels: labels, Rule: fmt.Sprintf("fewer than %d (+ margin %s) people: small-cell rule", g.MinCohort, margin)})
			continue
		}
		row.Values = append(row.Values, enclave.Value{Text: v.String(), StdErr: deviation})
		table.Rows = append(table.Rows, row)
	}
	return table
}
