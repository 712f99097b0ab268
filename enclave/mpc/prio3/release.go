package prio3

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/dp"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/durable"
	"yingzhou.dev/lab/operators"
)

func (a *Aggregator) begin(number int64) error {
	if number < 1 || number > a.cfg.Task.Releases {
		return a.refuse(ErrBatch, "batch %d is not one of its %d", number, a.cfg.Task.Releases)
	}
	a.batch = &batch{number: number, total: a.cfg.Task.vdaf.newTotal(), seen: map[[idBytes]byte]bool{}}
	return nil
}

// KindSummary is what both aggregators must agree on before either has the batch charged or gives its total.
const KindSummary = "yingzhou.batch-summary.v1"

// Summary says which reports of a batch count.
type Summary struct {
	By    string        `json:"by"`
	Batch enclave.Batch `json:"batch"`
}

func (a *Aggregator) summary(b *batch) enclave.Batch {
	s := enclave.Batch{Collection: a.cfg.Task.Digest, Number: b.number, Reports: b.accepted, Accepted: enclave.Digest(b.digest), Refused: []enclave.RefusedCount{}}
	for v, n := range b.refused {
		if n > 0 {
			s.Refused = append(s.Refused, enclave.RefusedCount{Rule: verdict(v).rule(), Count: n})
		}
	}
	slices.SortFunc(s.Refused, func(x, y enclave.RefusedCount) int { return strings.Compare(x.Rule, y.Rule) })
	return s
}

// KindTotal is an aggregator's noised share of a batch's totals.
const KindTotal = "yingzhou.total-share.v1"

// Total travels between the two aggregators only: whoever has both has the noised totals.
type Total struct {
	By    string        `json:"by"`
	Batch enclave.Batch `json:"batch"`
	At    enclave.Time  `json:"at"` // when this aggregator's custodian found the release allowed
	Share []byte        `json:"share"`
}

// agreement opens the leader's summary.
func (a *Aggregator) agreement(summary canon.Signed) (enclave.Batch, error) {
	var s Summary
	err := a.fromPeer(summary, KindSummary, &s, func() bool { return s.Batch.Collection == a.cfg.Task.Digest && s.By == a.cfg.Peer.Name })
	return s.Batch, err
}

// commit has the custodian charge the batch, if its reports are those that count here too.
func (a *Aggregator) commit(ctx context.Context, b *enclave.CollectionBundle, agreed enclave.Batch) error {
	if err := a.agrees(agreed); err != nil {
		return err
	}
	return a.cfg.Gate.Commit(ctx, b, agreed)
}

// agrees holds a batch against the one prepared here, or the one whose total was given.
func (a *Aggregator) agrees(agreed enclave.Batch) error {
	switch _, total, err := a.given(agreed.Number); {
	case err == nil && canon.DigestOf(total.Batch) != canon.DigestOf(agreed):
		return a.refuse(ErrBatch, "batch %d was released with other reports", agreed.Number)
	case err == nil:
		return nil
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if a.batch == nil || a.batch.number != agreed.Number {
		return a.refuse(ErrNotPrepared, "batch %d", agreed.Number)
	}
	if s := a.summary(a.batch); canon.DigestOf(s) != canon.DigestOf(agreed) {
		return a.refuse(ErrPeer, "it counts %d reports (%s), %q counts %d (%s)", agreed.Reports, agreed.Accepted.Short(), a.Name(), s.Reports, s.Accepted.Short())
	}
	return nil
}

// finish gives this aggregator's total share of a batch. Once given, a batch gives the same bytes for ever and its
// reports count nowhere else.
func (a *Aggregator) finish(ctx context.Context, b *enclave.CollectionBundle, agreed enclave.Batch) (canon.Signed, error) {
	var none canon.Signed
	if err := a.agrees(agreed); err != nil {
		return none, err
	}
	o, err := a.cfg.Gate.Opening(ctx, b, agreed)
	if err != nil {
		return none, err
	}
	defer clear(o.Noise[:])
	if signed, _, err := a.given(agreed.Number); !errors.Is(err, fs.ErrNotExist) {
		return signed, err
	}
	share, err := a.noised(a.batch, o.Noise)
	if err != nil {
		return none, err
	}
	signed, err := keys.SealWith(a.cfg.Identity, KindTotal, Total{By: a.Name(), Batch: agreed, At: canon.At(a.cfg.Clock()), Share: share})
	if err != nil {
		return none, err
	}
	if _, err := a.cfg.Gate.Announce(ctx, b, agreed, enclave.EntryShare, signed.Digest()); err != nil {
		return none, err
	}
	if err := durable.WriteFile(a.stored(agreed.Number), canon.MustMarshal(signed), 0o600); err != nil {
		return none, err
	}
	a.batch = nil
	return signed, nil
}

// stored is where a given total share lies.
func (a *Aggregator) stored(number int64) string {
	return filepath.Join(a.cfg.Dir, fmt.Sprintf("total-%d.json", number))
}

// given reads a total share that was given before; of one that was not it is fs.ErrNotExist.
func (a *Aggregator) given(number int64) (s canon.Signed, t Total, err error) {
	data, err := os.ReadFile(a.stored(number))
	if err == nil {
		err = canon.Unmarshal(data, &s)
	}
	if err == nil {
		err = s.Open(KindTotal, &t)
	}
	if err != nil {
		return s, t, fmt.Errorf("total share of batch %d of collection %q: %w", number, a.cfg.Task.Name, err)
	}
	return s, t, nil
}

// noised is the total share with this aggregator's own full sample in every coordinate. The noise is a function of the
// custodian's key, the collection, the batch and the reports that count, so that it cannot be drawn again.
func (a *Aggregator) noised(b *batch, key [32]byte) ([]byte, error) {
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
		x.Add(x, dp.Laplace(dp.NewStream(key[:], []byte("collection noise"), a.cfg.Task.Digest[:], at[:], b.digest[:]), a.cfg.Task.noise))
	}
	return a.cfg.Task.vdaf.encode(xs), nil
}

// Outcome is what leaves: the announcement with both signatures, the table sealed to the analyst, and the log's proof.
type Outcome struct {
	Collected canon.Signed
	Sealed    []byte
	Proof     enclave.LogProof
}

// Lead runs one batch as the leader: every report that next yields, in chunks, and then its release to the analyst's
// receiving key. It can be repeated after any failure, with the same reports; a batch whose total was given gives the same
// result and needs none.
func (a *Aggregator) Lead(ctx context.Context, b *enclave.CollectionBundle, peer Peer, number int64, next Reports, analyst []byte) (*Outcome, error) {
	if a.me != 0 {
		return nil, a.refuse(ErrBatch, "%q helps and does not lead", a.Name())
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	invitation, err := a.invite()
	if err == nil {
		err = peer.Join(ctx, invitation)
	}
	if err != nil {
		return nil, err
	}
	if _, t, err := a.given(number); err == nil {
		out, err := a.reveal(ctx, b, peer, t.Batch, analyst)
		if !errors.Is(err, ErrNotPrepared) {
			return out, err
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	agreed, err := a.agree(ctx, peer, number, next)
	if err != nil {
		return nil, err
	}
	return a.reveal(ctx, b, peer, agreed, analyst)
}

// agree prepares a batch with the peer.
func (a *Aggregator) agree(ctx context.Context, peer Peer, number int64, next Reports) (enclave.Batch, error) {
	var none enclave.Batch
	if err := a.begin(number); err != nil {
		return none, err
	}
	if err := peer.Begin(ctx, number); err != nil {
		return none, err
	}
	for total := 0; ; {
		reports, last, err := readChunk(next)
		if err != nil {
			return none, err
		}
		if total += len(reports); total > enclave.MaxReports {
			return none, a.refuse(ErrBatch, "a batch has at most %d reports", enclave.MaxReports)
		}
		if len(reports) > 0 {
			if err := a.exchange(ctx, peer, reports); err != nil {
				return none, err
			}
		}
		if last {
			return a.summary(a.batch), nil
		}
	}
}

func (a *Aggregator) exchange(ctx context.Context, peer Peer, reports [][]byte) error {
	p, err := a.prepare(ctx, a.batch, reports)
	if err != nil {
		return err
	}
	theirs, err := peer.Prepare(ctx, p.message)
	if err != nil {
		return err
	}
	return a.settle(ctx, a.batch, p, theirs)
}

// reveal has the batch charged at both, brings both totals together and releases what may be shown.
func (a *Aggregator) reveal(ctx context.Context, b *enclave.CollectionBundle, peer Peer, agreed enclave.Batch, analyst []byte) (*Outcome, error) {
	summary, err := keys.SealWith(a.cfg.Identity, KindSummary, Summary{By: a.Name(), Batch: agreed})
	if err != nil {
		return nil, err
	}
	if err := a.commit(ctx, b, agreed); err != nil {
		return nil, err
	}
	if err := peer.Commit(ctx, summary); err != nil {
		return nil, err
	}
	// The leader's own share is on disk and in the log before it asks for the helper's: if either refuses, neither total
	// has met the other.
	mine, err := a.finish(ctx, b, agreed)
	if err != nil {
		return nil, err
	}
	theirs, err := peer.Finish(ctx, summary)
	if err != nil {
		return nil, err
	}
	table, c, err := a.result(ctx, b, mine, theirs)
	if err != nil {
		return nil, err
	}
	proof, err := a.cfg.Gate.Announce(ctx, b, agreed, enclave.EntryRelease, canon.DigestOf(c))
	if err != nil {
		return nil, err
	}
	theirSig, err := peer.Endorse(ctx, *c, proof, mine)
	if err != nil {
		return nil, err
	}
	mySig, err := a.cfg.Gate.Endorse(ctx, b, agreed, *c, proof)
	if err != nil {
		return nil, err
	}
	signed := canon.Signed{Kind: enclave.KindCollected, Body: canon.MustMarshal(c), Sigs: []canon.Signature{mySig, theirSig}}
	sealed, err := keys.SealTo(analyst, keys.TableInfo(signed.Digest()), canon.MustMarshal(table))
	if err != nil {
		return nil, err
	}
	return &Outcome{Collected: signed, Sealed: sealed, Proof: proof}, nil
}

// result computes the table and its announcement from both total shares, the same at both aggregators.
func (a *Aggregator) result(ctx context.Context, b *enclave.CollectionBundle, leader, helper canon.Signed) (*enclave.Table, *enclave.Collected, error) {
	t := a.cfg.Task
	var totals [aggregators]Total
	for i, s := range []canon.Signed{leader, helper} {
		if i == a.me { // read from this aggregator's own disk or just made
			if err := s.Open(KindTotal, &totals[i]); err != nil {
				return nil, nil, err
			}
			continue
		}
		if err := a.fromPeer(s, KindTotal, &totals[i], func() bool { return totals[i].By == a.cfg.Peer.Name }); err != nil {
			return nil, nil, err
		}
	}
	of := totals[a.me].Batch
	if canon.DigestOf(of) != canon.DigestOf(totals[1-a.me].Batch) {
		return nil, nil, a.refuse(ErrPeer, "totals of different reports")
	}
	o, err := a.cfg.Gate.Opening(ctx, b, of)
	if err != nil {
		return nil, nil, err
	}
	clear(o.Noise[:])
	x, err := t.vdaf.integers(totals[0].Share)
	if err != nil {
		return nil, nil, fmt.Errorf("collection %q: %w", t.Name, err)
	}
	y, err := t.vdaf.integers(totals[1].Share)
	if err != nil {
		return nil, nil, a.refuse(ErrPeer, "total share").Because(err)
	}
	values := make([]*big.Int, len(x))
	for i := range x {
		values[i] = t.vdaf.centred(new(big.Int).Add(x[i], y[i]))
	}
	h := sha256.New()
	h.Write([]byte("yingzhou collection salt\x00"))
	h.Write(totals[0].Share)
	h.Write(totals[1].Share)
	table := t.tabulate(values, o.Grant)
	table.Salt = h.Sum(nil)
	made := totals[0].At
	if totals[1].At.After(made.Time) {
		made = totals[1].At
	}
	return table, &enclave.Collected{Collection: t.Digest, Batch: of.Number, Scenario: t.Scenario, Grant: canon.DigestOf(o.Grant), Keyset: o.Keyset, Reports: of.Reports,
		Refused: of.Refused, Accepted: of.Accepted, Table: canon.DigestOf(table), ChargedMicro: o.ChargedMicro, Aggregators: t.Aggregators, Made: made}, nil
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
