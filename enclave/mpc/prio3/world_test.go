package prio3_test

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/enclave/mpc/prio3"
	"yingzhou.dev/lab/enclave/refusal"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox/audit"
)

func TestMain(m *testing.M) {
	audit.RedirectTessera(slog.New(slog.DiscardHandler))
	os.Exit(m.Run())
}

// world is two aggregators, their analyst, a log, and so many reporters.
type world struct {
	t         testing.TB
	dir       string
	now       time.Time
	ids       map[string]*keys.Identity
	log       *audit.Log
	logKeys   enclave.LogKeys
	logDown   map[string]bool
	keys      []ed25519.PrivateKey
	task      *prio3.Task
	signed    canon.Signed
	enrolment []byte
	grant     *operators.Grant
	denied    error
	charged   map[int64]canon.Digest    // batches
	by        map[int64]map[string]bool // who charged them
	leader    *prio3.Aggregator
	helper    *prio3.Aggregator
}

func newWorld(t testing.TB, reporters int, m enclave.Measurement, change func(*enclave.Collection)) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), now: time.Date(2026, 11, 1, 8, 0, 0, 0, time.UTC), ids: map[string]*keys.Identity{}, logDown: map[string]bool{},
		charged: map[int64]canon.Digest{}, by: map[int64]map[string]bool{}}
	for _, n := range []string{"lead", "help", "analyst"} {
		id, err := keys.NewIdentity(n)
		w.check(err)
		w.ids[n] = id
	}
	w.openLog()
	e := enclave.Enrolment{}
	for i := range reporters {
		seed := sha256.Sum256(fmt.Appendf(nil, "reporter %d", i))
		key := ed25519.NewKeyFromSeed(seed[:])
		w.keys = append(w.keys, key)
		e.Reporters = append(e.Reporters, enclave.Reporter{Name: fmt.Sprintf("meter-%07d", i), Verify: key.Public().(ed25519.PublicKey)})
	}
	w.enrolment = canon.MustMarshal(e)
	c := enclave.Collection{Name: "winter", Operator: "operator", Scenario: canon.Sum([]byte("scenario")), Dataset: "meters", Keyset: canon.Sum([]byte("keyset")), Column: "kwh", Measurement: m,
		Aggregators: []string{"lead", "help"}, EpsilonMicro: 1_000_000, Releases: 3, MinBatch: 10, Enrolment: canon.Sum(w.enrolment), EnrolmentBytes: int64(len(w.enrolment)),
		NotAfter: canon.At(w.now.AddDate(1, 0, 0)), By: "analyst", Made: canon.At(w.now)}
	if change != nil {
		change(&c)
	}
	var err error
	w.signed, err = keys.SealWith(w.ids["analyst"], enclave.KindCollection, c)
	w.check(err)
	w.task, err = prio3.NewTask(w.signed, w.enrolment)
	w.check(err)
	w.grant = &operators.Grant{Operator: "operator", Scenario: c.Scenario, EpsilonMicro: 4 * quietMicro, JobEpsilonMicro: quietMicro, MinCohort: 10, MarginMilli: 2000,
		Datasets: []operators.DatasetUse{{Dataset: "meters", Columns: []operators.ColumnUse{{Column: "kwh", Uses: []operators.Use{operators.UseAggregate}}}}},
		Limits:   []operators.Limit{{Dataset: "meters", EpsilonMicro: 4 * quietMicro}}, Consents: []operators.Digest{}, Approvals: []operators.Digest{}, Workers: []operators.Digest{}}
	w.leader, w.helper = w.open("lead", "help"), w.open("help", "lead")
	return w
}

func (w *world) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) openLog() {
	logKey, witnessKey, err := audit.GenerateKeys("test.lab/log")
	w.check(err)
	signer, verifier, err := audit.NewLogSigner(logKey.Secret)
	w.check(err)
	cosigner, err := audit.NewWitnessSigner(witnessKey.Secret)
	w.check(err)
	witness, err := audit.NewWitness(filepath.Join(w.dir, "witness"), cosigner, verifier)
	w.check(err)
	w.log, err = audit.Open(w.t.Context(), audit.Config{Dir: filepath.Join(w.dir, "log"), Signer: signer, Verifier: verifier, Witness: witness})
	w.check(err)
	w.logKeys, err = audit.ParseKeys(logKey.Public, witnessKey.Public)
	w.check(err)
	w.t.Cleanup(func() {
		w.log.Close(context.Background())
		witness.Close()
	})
}

// gate is a custodian reduced to what package release promises of it: it charges a batch once and for one set of reports,
// opens what both have charged, logs, and always gives the same noise key.
type gate struct {
	w    *world
	name string
}

var errLogDown = errors.New("the log is down")

func (g gate) Check(context.Context, *enclave.CollectionBundle) error { return g.w.denied }

func (g gate) judge(of enclave.Batch) error {
	w := g.w
	switch least := max(w.task.MinBatch, w.grant.MinCohort); {
	case w.denied != nil:
		return w.denied
	case of.Reports < least:
		return refusal.New(refusal.ErrBatch, "%d good reports, at least %d are needed", of.Reports, least)
	case !w.charged[of.Number].IsZero() && w.charged[of.Number] != canon.DigestOf(of):
		return refusal.New(refusal.ErrSecondCiphertext, "batch %d", of.Number)
	}
	return nil
}

func (g gate) Commit(_ context.Context, _ *enclave.CollectionBundle, of enclave.Batch) error {
	if err := g.judge(of); err != nil {
		return err
	}
	if g.w.by[of.Number] == nil {
		g.w.by[of.Number] = map[string]bool{}
	}
	g.w.charged[of.Number], g.w.by[of.Number][g.name] = canon.DigestOf(of), true
	return nil
}

func (g gate) Opening(_ context.Context, _ *enclave.CollectionBundle, of enclave.Batch) (*enclave.BatchOpening, error) {
	if err := g.judge(of); err != nil {
		return nil, err
	}
	if len(g.w.by[of.Number]) != 2 {
		return nil, refusal.New(refusal.ErrNotCommitted, "batch %d", of.Number)
	}
	return &enclave.BatchOpening{Grant: g.w.grant, ChargedMicro: g.w.task.EpsilonMicro, Noise: sha256.Sum256([]byte("noise of " + g.name))}, nil
}

func (g gate) Announce(ctx context.Context, _ *enclave.CollectionBundle, of enclave.Batch, entry string, subject enclave.Digest) (enclave.LogProof, error) {
	if g.w.logDown[g.name] {
		return enclave.LogProof{}, errLogDown
	}
	if err := g.judge(of); err != nil {
		return enclave.LogProof{}, err
	}
	proofs, err := g.w.log.Append(ctx, enclave.Entry{Type: entry, Subject: subject, By: g.name, At: canon.At(g.w.now)})
	if err != nil {
		return enclave.LogProof{}, err
	}
	return proofs[0], nil
}

func (g gate) Endorse(_ context.Context, _ *enclave.CollectionBundle, of enclave.Batch, out enclave.Collected, proof enclave.LogProof) (canon.Signature, error) {
	if err := g.judge(of); err != nil {
		return canon.Signature{}, err
	}
	if e, _, err := proof.Check(g.w.logKeys); err != nil || e.Type != enclave.EntryRelease || e.Subject != canon.DigestOf(out) {
		return canon.Signature{}, refusal.New(refusal.ErrNotLogged, "release").Because(err)
	}
	return g.w.ids[g.name].Sign(enclave.KindCollected, canon.MustMarshal(out))
}

func (w *world) open(name, peer string) *prio3.Aggregator {
	w.t.Helper()
	a, err := prio3.NewAggregator(prio3.Config{Dir: filepath.Join(w.dir, name), Task: w.task, Identity: w.ids[name],
		Peer: operators.Party{Name: peer, Role: operators.RoleCustodian, Verify: w.ids[peer].Verify(), HPKE: w.ids[peer].HPKE()},
		Gate: gate{w, name}, Clock: func() time.Time { return w.now }})
	w.check(err)
	w.t.Cleanup(func() { a.Close() })
	return a
}

// restart opens both from their folders again.
func (w *world) restart() {
	w.t.Helper()
	w.check(errors.Join(w.leader.Close(), w.helper.Close()))
	w.leader, w.helper = w.open("lead", "help"), w.open("help", "lead")
}

func (w *world) public() [2][]byte { return [2][]byte{w.ids["lead"].HPKE(), w.ids["help"].HPKE()} }

func (w *world) report(reporter int, measurement ...uint64) []byte {
	w.t.Helper()
	data, err := w.task.Report(reporter, w.keys[reporter], w.public(), measurement)
	w.check(err)
	return data
}

// reports makes one report of each reporter from..to−1, on all processors.
func (w *world) reports(from, to int, measure func(i int) []uint64) [][]byte {
	w.t.Helper()
	out := make([][]byte, to-from)
	var g errgroup.Group
	workers := runtime.GOMAXPROCS(0)
	for k := range workers {
		g.Go(func() (err error) {
			for i := k; i < len(out) && err == nil; i += workers {
				out[i], err = w.task.Report(from+i, w.keys[from+i], w.public(), measure(from+i))
			}
			return err
		})
	}
	w.check(g.Wait())
	return out
}

// helping is the helper of one batch, with its own copy of the reports.
func (w *world) helping(reports ...[]byte) prio3.Peer {
	return w.helper.Session(nil, func() (prio3.Reports, error) { return feed(reports...), nil })
}

func feed(reports ...[]byte) prio3.Reports {
	return func() ([]byte, error) {
		if len(reports) == 0 {
			return nil, io.EOF
		}
		r := reports[0]
		reports = reports[1:]
		return r, nil
	}
}

// lead releases a batch and opens its table.
func (w *world) lead(number int64, reports ...[]byte) (*enclave.Collected, *enclave.Table, error) {
	w.t.Helper()
	out, err := w.leader.Lead(w.t.Context(), nil, w.helping(reports...), number, feed(reports...), w.ids["analyst"].HPKE())
	if err != nil {
		return nil, nil, err
	}
	var c enclave.Collected
	w.check(out.Collected.Open(enclave.KindCollected, &c))
	for _, n := range []string{"lead", "help"} {
		w.check(out.Collected.Verify(n, w.ids[n].Verify()))
	}
	plain, err := w.ids["analyst"].Open(keys.TableInfo(out.Collected.Digest()), out.Sealed)
	w.check(err)
	var table enclave.Table
	w.check(canon.Unmarshal(plain, &table))
	if canon.DigestOf(table) != c.Table {
		w.t.Errorf("the table is not the one announced")
	}
	return &c, &table, nil
}
