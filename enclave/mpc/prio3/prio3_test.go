package prio3_test

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/mpc/prio3"
	"yingzhou.dev/lab/enclave/refusal"
	"yingzhou.dev/lab/internal/canon"
)

var reportsFlag = flag.Int("reports", 2000, "good reports of TestOnlyGoodReportsCount; make collect has 100,000")

// quiet makes noise negligible.
func quiet(c *enclave.Collection) { c.EpsilonMicro = quietMicro }

const quietMicro = 1_000_000_000_000_000

func TestKinds(t *testing.T) {
	labels := []string{"堡镇", "城桥镇", "新村乡"}
	for _, c := range []struct {
		m       enclave.Measurement
		measure func(i int) []uint64
		want    [][]string
		held    int
	}{
		{enclave.Measurement{Kind: enclave.MeasureCount}, func(i int) []uint64 { return []uint64{uint64(i % 2)} }, [][]string{{"20"}}, 0},
		{enclave.Measurement{Kind: enclave.MeasureCount}, func(i int) []uint64 { return []uint64{uint64(i / 35)} }, nil, 1},
		{enclave.Measurement{Kind: enclave.MeasureSum, Max: 1 << 20}, func(i int) []uint64 { return []uint64{1<<20 - uint64(i)} }, [][]string{{"41942260"}}, 0},
		{enclave.Measurement{Kind: enclave.MeasureHistogram, Labels: labels}, func(i int) []uint64 { return []uint64{uint64(i / 15)} },
			[][]string{{"堡镇", "15"}, {"城桥镇", "15"}, {"新村乡", "10"}}, 0},
		{enclave.Measurement{Kind: enclave.MeasureVector, Labels: labels, Max: 1<<16 - 1}, func(i int) []uint64 { return []uint64{uint64(i), 1<<16 - 1, 0} },
			[][]string{{"堡镇", "780"}, {"城桥镇", "2621400"}, {"新村乡", "0"}}, 0},
	} {
		t.Run(c.m.Kind, func(t *testing.T) {
			w := newWorld(t, 40, c.m, quiet)
			w.grant.MarginMilli = 0
			got, table, err := w.lead(1, w.reports(0, 40, c.measure)...)
			w.check(err)
			var rows [][]string
			for _, r := range table.Rows {
				var row []string
				for _, v := range r.Values {
					row = append(row, v.Text)
				}
				rows = append(rows, row)
			}
			if diff := cmp.Diff(c.want, rows); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
			if len(table.Suppressed) != c.held || got.Reports != 40 || len(got.Refused) != 0 {
				t.Errorf("suppressed %v, announced %+v", table.Suppressed, got)
			}
		})
	}
}

// One report in a hundred is bad, in seven ways. Exactly the good ones are counted, and each bad one under its rule.
func TestOnlyGoodReportsCount(t *testing.T) {
	n := *reportsFlag
	if testing.Short() {
		n = min(n, 300)
	}
	bad := max(1, n/100/7)
	w := newWorld(t, n+3*bad, enclave.Measurement{Kind: enclave.MeasureSum, Max: 10_000}, quiet)
	other := newWorld(t, n+3*bad, enclave.Measurement{Kind: enclave.MeasureSum, Max: 10_000}, func(c *enclave.Collection) { c.Name = "summer" })
	measure := func(i int) uint64 { return uint64(i*7919) % 10_001 }
	start := time.Now()
	reports := w.reports(0, n, func(i int) []uint64 { return []uint64{measure(i)} })
	t.Logf("%d reports of %d bytes made in %v", n, w.task.ReportBytes(), time.Since(start).Round(time.Millisecond))
	want := int64(0)
	for i := range n {
		want += int64(measure(i))
	}
	rules := map[string]int64{}
	add := func(rule string, data []byte) {
		at := len(reports) * (len(rules)*37%100 + 1) / 102 // among the good ones
		reports = slices.Insert(reports, at, data)
		rules[rule]++
	}
	for i := range bad {
		from := n + 3*i // reporters who send nothing good
		cut := w.report(from, 1)
		add("malformed", cut[:len(cut)-1])
		flipped := w.report(from, 1)
		flipped[w.task.HelperAt()] ^= 1
		add("not decryptable", prio3.Resign(flipped, w.keys[from]))
		unsigned := w.report(from, 1)
		unsigned[len(unsigned)-1] ^= 1
		add("signature does not verify", unsigned)
		add("of another collection", other.report(from, 1))
		var id [16]byte
		rand.Read(id[:])
		forged, err := w.task.Forge(from+1, w.keys[from+1], w.public(), []uint64{1}, id)
		w.check(err)
		add("proof does not verify", forged)
	}
	// Twice the same, and twice from one: after the ones that count.
	for i := range bad {
		reports = append(reports, reports[0:1]...)
		rules["seen before"]++
		reports = append(reports, w.report(i+1, 10_000))
		rules["second of one reporter in a batch"]++
	}
	// A sender whose report did not decrypt has sent all the same, so the first counts as its one: nobody gets two tries.
	start = time.Now()
	got, table, err := w.lead(1, reports...)
	w.check(err)
	took := time.Since(start)
	t.Logf("%d reports aggregated and released in %v, %.0f a second", len(reports), took.Round(time.Millisecond), float64(len(reports))/took.Seconds())
	if got.Reports != int64(n) || table.Rows[0].Values[0].Text != strconv.FormatInt(want, 10) {
		t.Errorf("counted %d reports, sum %s; want %d, %d", got.Reports, table.Rows[0].Values[0].Text, n, want)
	}
	counted := map[string]int64{}
	for _, r := range got.Refused {
		counted[r.Rule] = r.Count
	}
	if diff := cmp.Diff(rules, counted); diff != "" {
		t.Errorf("refused (-want +got)\n%s", diff)
	}
}

var sumTo100 = enclave.Measurement{Kind: enclave.MeasureSum, Max: 100}

func TestReplayIsRefusedForEver(t *testing.T) {
	w := newWorld(t, 40, sumTo100, quiet)
	first := w.reports(0, 20, func(i int) []uint64 { return []uint64{1} })
	_, _, err := w.lead(1, first...)
	w.check(err)
	w.restart()
	fresh := w.reports(20, 40, func(i int) []uint64 { return []uint64{2} })
	got, table, err := w.lead(2, append(slices.Clone(first), fresh...)...)
	w.check(err)
	want := []enclave.RefusedCount{{Rule: "seen before", Count: 20}}
	if diff := cmp.Diff(want, got.Refused); diff != "" || table.Rows[0].Values[0].Text != "40" {
		t.Errorf("the second batch has %s (-want +got)\n%s", table.Rows[0].Values[0].Text, diff)
	}
	// A new report of a reporter of the first batch is welcome in the second: one in each.
	again, _, err := w.lead(3, w.reports(0, 20, func(i int) []uint64 { return []uint64{3} })...)
	w.check(err)
	if again.Reports != 20 {
		t.Errorf("the third batch counts %d reports, want 20", again.Reports)
	}
	if _, _, err := w.lead(4, first...); !errors.Is(err, prio3.ErrBatch) {
		t.Errorf("a fourth release of three gives %v", err)
	}
}

// An aggregator that was put back from an old copy goes on with the next batch. What it forgot the other remembers.
func TestRestoredAggregator(t *testing.T) {
	for _, name := range []string{"lead", "help"} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 40, sumTo100, quiet)
			first := w.reports(0, 20, func(i int) []uint64 { return []uint64{1} })
			if _, _, err := w.lead(1, first[:5]...); !errors.Is(err, prio3.ErrBatch) { // both have met
				t.Fatalf("five reports give %v", err)
			}
			old := t.TempDir()
			w.check(os.CopyFS(old, os.DirFS(filepath.Join(w.dir, name))))
			_, _, err := w.lead(1, first...)
			w.check(err)
			w.check(errors.Join(w.leader.Close(), w.helper.Close(), os.RemoveAll(filepath.Join(w.dir, name)), os.CopyFS(filepath.Join(w.dir, name), os.DirFS(old))))
			w.leader, w.helper = w.open("lead", "help"), w.open("help", "lead")
			got, table, err := w.lead(2, append(slices.Clone(first), w.reports(20, 40, func(i int) []uint64 { return []uint64{2} })...)...)
			w.check(err)
			if want := []enclave.RefusedCount{{Rule: "seen before", Count: 20}}; !cmp.Equal(want, got.Refused) || table.Rows[0].Values[0].Text != "40" {
				t.Errorf("the second batch has %s and refused %v", table.Rows[0].Values[0].Text, got.Refused)
			}
		})
	}
}

// cut is a helper that goes away, or whose words change on the way.
type cut struct {
	prio3.Peer
	chunks int // chunks until it goes
	// it goes before these
	commit, finish, endorse bool
	alter                   func(*prio3.PrepShares) // and signs again as somebody else could not
	sign                    func(any) (canon.Signed, error)
}

var errGone = errors.New("gone")

func (c *cut) Prepare(ctx context.Context, leader canon.Signed) (canon.Signed, error) {
	if c.chunks == 0 {
		return canon.Signed{}, errGone
	}
	c.chunks--
	s, err := c.Peer.Prepare(ctx, leader)
	if err != nil || c.alter == nil {
		return s, err
	}
	var p prio3.PrepShares
	if err := s.Open(prio3.KindPrepShares, &p); err != nil {
		return s, err
	}
	c.alter(&p)
	return c.sign(p)
}

func (c *cut) Commit(ctx context.Context, s canon.Signed) error {
	if c.commit {
		return errGone
	}
	return c.Peer.Commit(ctx, s)
}

func (c *cut) Endorse(ctx context.Context, r enclave.Collected, proof enclave.LogProof, leader canon.Signed) (canon.Signature, error) {
	if c.endorse {
		return canon.Signature{}, errGone
	}
	return c.Peer.Endorse(ctx, r, proof, leader)
}

func (c *cut) Finish(ctx context.Context, s canon.Signed) (canon.Signed, error) {
	if c.finish {
		return canon.Signed{}, errGone
	}
	return c.Peer.Finish(ctx, s)
}

// Whatever breaks off, the same batch can be taken up again and every report counts once.
func TestBatchSurvivesCrashes(t *testing.T) {
	w := newWorld(t, 1200, sumTo100, quiet)
	reports := w.reports(0, 1200, func(i int) []uint64 { return []uint64{1} })
	try := func(p prio3.Peer) error {
		_, err := w.leader.Lead(t.Context(), nil, p, 1, feed(reports...), w.ids["analyst"].HPKE())
		return err
	}
	for _, p := range []*cut{{chunks: 0}, {chunks: 1}, {chunks: 9, commit: true}, {chunks: 9, finish: true}, {chunks: 9, endorse: true}} {
		p.Peer = w.helping(reports...)
		if err := try(p); !errors.Is(err, errGone) {
			t.Fatalf("got %v", err)
		}
		w.restart()
	}
	got, table, err := w.lead(1, reports...)
	w.check(err)
	if got.Reports != 1200 || table.Rows[0].Values[0].Text != "1200" {
		t.Errorf("counted %d reports, sum %s", got.Reports, table.Rows[0].Values[0].Text)
	}
	again, same, err := w.lead(1)
	w.check(err)
	if canon.DigestOf(again) != canon.DigestOf(got) || canon.DigestOf(same) != canon.DigestOf(table) {
		t.Error("asking again for a released batch gives another result")
	}
}

// Nothing leaves before its log entry.
func TestNoTotalWithoutTheLog(t *testing.T) {
	w := newWorld(t, 20, sumTo100, quiet)
	reports := w.reports(0, 20, func(i int) []uint64 { return []uint64{1} })
	w.logDown["help"] = true
	if _, _, err := w.lead(1, reports...); !errors.Is(err, errLogDown) {
		t.Fatalf("with no log: %v", err)
	}
	if _, err := os.Stat(filepath.Join(w.dir, "help", "total-1.json")); err == nil {
		t.Error("the helper gave its total without a log entry")
	}
	w.logDown["help"] = false
	w.restart()
	_, table, err := w.lead(1, reports...)
	w.check(err)
	if got := table.Rows[0].Values[0].Text; got != "20" {
		t.Errorf("afterwards the sum is %s", got)
	}
}

// The two have their own copies of what was delivered. A leader that takes less, more, other or reordered reports is found
// out before anything is charged.
func TestBothReadTheDelivery(t *testing.T) {
	for name, leaders := range map[string]func([][]byte) [][]byte{
		"one less":   func(r [][]byte) [][]byte { return r[1:] },
		"no tail":    func(r [][]byte) [][]byte { return r[:prio3.ChunkReports] },
		"one twice":  func(r [][]byte) [][]byte { return append(slices.Clone(r), r[0]) },
		"reordered":  func(r [][]byte) [][]byte { r = slices.Clone(r); slices.Reverse(r); return r },
		"whole less": func(r [][]byte) [][]byte { return r[prio3.ChunkReports:] },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, prio3.ChunkReports+20, sumTo100, quiet)
			reports := w.reports(0, prio3.ChunkReports+20, func(i int) []uint64 { return []uint64{1} })
			_, err := w.leader.Lead(t.Context(), nil, w.helping(reports...), 1, feed(leaders(reports)...), w.ids["analyst"].HPKE())
			if !errors.Is(err, prio3.ErrPeer) {
				t.Errorf("got %v", err)
			}
			if w.by[1]["help"] {
				t.Error("the helper charged the batch")
			}
		})
	}
}

func TestPrepSharesAreAuthentic(t *testing.T) {
	for name, alter := range map[string]func(*prio3.PrepShares){
		"flipped":       func(p *prio3.PrepShares) { p.Shares[3] ^= 1 },
		"cut":           func(p *prio3.PrepShares) { p.Shares = p.Shares[1:] },
		"longer":        func(p *prio3.PrepShares) { p.Shares = append(p.Shares, 0) },
		"verdict":       func(p *prio3.PrepShares) { p.Verdicts[0] = 99 },
		"other chunk":   func(p *prio3.PrepShares) { p.Chunk++ },
		"other batch":   func(p *prio3.PrepShares) { p.Batch++ },
		"other reports": func(p *prio3.PrepShares) { p.Reports = canon.Sum(nil) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 20, sumTo100, quiet)
			reports := w.reports(0, 20, func(i int) []uint64 { return []uint64{1} })
			forge := func(by string) func(any) (canon.Signed, error) {
				return func(v any) (canon.Signed, error) {
					body := canon.MustMarshal(v)
					sig, err := w.ids[by].Sign(prio3.KindPrepShares, body)
					sig.By = "help"
					return canon.Signed{Kind: prio3.KindPrepShares, Body: body, Sigs: []canon.Signature{sig}}, err
				}
			}
			p := &cut{Peer: w.helping(reports...), chunks: 9, alter: alter, sign: forge("analyst")}
			if _, err := w.leader.Lead(t.Context(), nil, p, 1, feed(reports...), w.ids["analyst"].HPKE()); !errors.Is(err, prio3.ErrPeer) {
				t.Errorf("altered on the way: %v", err)
			}
			p.sign = forge("help") // a helper that lies itself
			_, err := w.leader.Lead(t.Context(), nil, p, 1, feed(reports...), w.ids["analyst"].HPKE())
			if !errors.Is(err, prio3.ErrPeer) && !errors.Is(err, prio3.ErrBatch) {
				t.Errorf("altered by the helper: %v", err)
			}
		})
	}
}

func TestReleaseRules(t *testing.T) {
	denied := errors.New("revoked")
	for name, c := range map[string]struct {
		change func(*world)
		want   error
	}{
		"revoked":       {func(w *world) { w.denied = denied }, denied},
		"small batch":   {func(w *world) { w.grant.MinCohort = 21 }, prio3.ErrBatch},
		"other reports": {func(w *world) { w.charged[1] = canon.Sum(nil) }, refusal.ErrSecondCiphertext},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 20, sumTo100, quiet)
			reports := w.reports(0, 20, func(i int) []uint64 { return []uint64{1} })
			c.change(w)
			_, _, err := w.lead(1, reports...)
			if !errors.Is(err, c.want) {
				t.Errorf("got %v", err)
			}
			for _, n := range []string{"lead", "help"} {
				if _, err := os.Stat(filepath.Join(w.dir, n, "total-1.json")); err == nil {
					t.Errorf("%s gave its total", n)
				}
			}
		})
	}
}

// Noise is both aggregators': it has the variance of two samples, differs from batch to batch, and is not drawn again.
func TestNoise(t *testing.T) {
	labels := make([]string, 400)
	for i := range labels {
		labels[i] = fmt.Sprint(i)
	}
	w := newWorld(t, 10, enclave.Measurement{Kind: enclave.MeasureVector, Max: 1, Labels: labels}, func(c *enclave.Collection) { c.EpsilonMicro = 1_000_000 * 400 / 50 })
	_, table, err := w.lead(1, w.reports(0, 10, func(int) []uint64 { return make([]uint64, 400) })...)
	w.check(err)
	// Sensitivity 400, ε 8: b = 50 for each of two samples, variance 2·2b² = 10,000.
	square := 0.0
	for _, r := range table.Rows {
		v, err := strconv.ParseFloat(r.Values[1].Text, 64)
		w.check(err)
		square += v * v / 400
	}
	if square < 6500 || square > 14500 { // six standard errors of a mean of 400 squares
		t.Errorf("the noise has variance %.0f, want about 10000", square)
	}
	if got := table.Rows[0].Values[1].StdErr; got != "100" {
		t.Errorf("standard error %s, want 100", got)
	}
}

func hundred() (labels []string) {
	for i := range 100 {
		labels = append(labels, fmt.Sprint(i))
	}
	return labels
}

func TestTaskRefusals(t *testing.T) {
	w := newWorld(t, 3, sumTo100, nil)
	for name, change := range map[string]func(*enclave.Collection, *enclave.Enrolment){
		"no kind": func(c *enclave.Collection, _ *enclave.Enrolment) { c.Measurement.Kind = "mean" },
		"no max":  func(c *enclave.Collection, _ *enclave.Enrolment) { c.Measurement.Max = 0 },
		"wide":    func(c *enclave.Collection, _ *enclave.Enrolment) { c.Measurement.Max = 1 << 32 },
		"labels":  func(c *enclave.Collection, _ *enclave.Enrolment) { c.Measurement.Labels = []string{"a"} },
		"no labels": func(c *enclave.Collection, _ *enclave.Enrolment) {
			c.Measurement = enclave.Measurement{Kind: enclave.MeasureHistogram}
		},
		"label twice": func(c *enclave.Collection, _ *enclave.Enrolment) {
			c.Measurement = enclave.Measurement{Kind: enclave.MeasureHistogram, Labels: []string{"a", "a"}}
		},
		"not bits": func(c *enclave.Collection, _ *enclave.Enrolment) {
			c.Measurement = enclave.Measurement{Kind: enclave.MeasureVector, Max: 6, Labels: []string{"a"}}
		},
		"alone":      func(c *enclave.Collection, _ *enclave.Enrolment) { c.Aggregators = []string{"lead", "lead"} },
		"no ε":       func(c *enclave.Collection, _ *enclave.Enrolment) { c.EpsilonMicro = 0 },
		"no keyset":  func(c *enclave.Collection, _ *enclave.Enrolment) { c.Keyset = enclave.Digest{} },
		"no release": func(c *enclave.Collection, _ *enclave.Enrolment) { c.Releases = 0 },
		"no noise fits": func(c *enclave.Collection, _ *enclave.Enrolment) {
			c.Measurement, c.EpsilonMicro = enclave.Measurement{Kind: enclave.MeasureVector, Max: 1<<32 - 1, Labels: hundred()}, 1
		},
		"nobody": func(_ *enclave.Collection, e *enclave.Enrolment) { e.Reporters = []enclave.Reporter{} },
		"key":    func(_ *enclave.Collection, e *enclave.Enrolment) { e.Reporters[0].Verify = []byte{1} },
		"order":  func(_ *enclave.Collection, e *enclave.Enrolment) { slices.Reverse(e.Reporters) },
	} {
		t.Run(name, func(t *testing.T) {
			c := w.task.Collection
			c.Aggregators = slices.Clone(c.Aggregators)
			var e enclave.Enrolment
			w.check(canon.Unmarshal(w.enrolment, &e))
			change(&c, &e)
			list := canon.MustMarshal(e)
			c.Enrolment, c.EnrolmentBytes = canon.Sum(list), int64(len(list))
			signed := canon.Signed{Kind: enclave.KindCollection, Body: canon.MustMarshal(c)}
			if task, err := prio3.NewTask(signed, list); err == nil {
				t.Errorf("accepted %+v", task.Collection)
			}
		})
	}
	if _, err := prio3.NewTask(w.signed, append(slices.Clone(w.enrolment), ' ')); err == nil {
		t.Error("accepted another enrolment")
	}
}
