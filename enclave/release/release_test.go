package release_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/he"
	"yingzhou.dev/lab/enclave/he/evaluator"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/enclave/refusal"
	"yingzhou.dev/lab/enclave/release"
	"yingzhou.dev/lab/internal/canon"
)

func number(t *testing.T, v enclave.Value) float64 {
	t.Helper()
	f, err := strconv.ParseFloat(v.Text, 64)
	if err != nil {
		t.Fatalf("value %+v is not a number", v)
	}
	return f
}

func TestReleaseOpensNoisedSumsAndHoldsBackSmallCells(t *testing.T) {
	for name, query := range map[string]string{"cube": cubeQuery, "rows": rowsQuery} {
		t.Run(name, func(t *testing.T) {
			w := ready(t)
			b := w.job(query, 2_000_000)
			out, table, err := w.open(b, custodianNames...)
			w.check(err)
			if len(table.Rows) != 2 || len(table.Suppressed) != 1 || table.Suppressed[0].Labels[0] != "islet" {
				t.Fatalf("released %+v", table)
			}
			for i, want := range []float64{300, 200} { // the noise has a standard error of a few rows
				if got := number(t, table.Rows[i].Values[1]); got < want-60 || got > want+60 {
					t.Errorf("cell %d counts %v, truly %v", i, got, want)
				}
			}
			b.Release = out.Release
			b.Proofs = append(b.Proofs, out.Proof)
			if _, rel, err := release.CheckRelease(b, w.root.Verify(), build); err != nil || rel.Suppressed != 1 || len(out.Release.Sigs) != 3 {
				t.Errorf("offline verification gives %+v, %v", rel, err)
			}
		})
	}
}

// The share of a question is a function of piece, question and ciphertext: whoever asks again, with whichever quorum,
// before or after a restart, gets the same bytes.
func TestSharesAreByteIdentical(t *testing.T) {
	w := ready(t)
	b := w.job(cubeQuery, 2_000_000)
	_, first, err := w.open(b, "cust-a", "cust-b")
	w.check(err)
	was := [][]byte{w.shares("cust-a", b, 1), w.shares("cust-a", b, 2), w.shares("cust-b", b, 1), w.shares("cust-b", b, 2)}
	t.Run("repeated", func(t *testing.T) {
		_, again, err := w.open(b, "cust-b", "cust-a")
		w.check(err)
		if canon.DigestOf(again) != canon.DigestOf(first) {
			t.Error("the repeated request gives another table")
		}
	})
	t.Run("recomputed after a restart", func(t *testing.T) {
		for _, name := range []string{"cust-a", "cust-b"} {
			w.forgetShares(name)
			w.restart(name)
		}
		_, _, err := w.open(b, "cust-a", "cust-b")
		w.check(err)
		for i, now := range [][]byte{w.shares("cust-a", b, 1), w.shares("cust-a", b, 2), w.shares("cust-b", b, 1), w.shares("cust-b", b, 2)} {
			if !bytes.Equal(now, was[i]) {
				t.Errorf("share set %d is not byte-identical", i)
			}
		}
	})
	t.Run("another quorum and another job", func(t *testing.T) {
		w.forgetShares("cust-a")
		other := w.job(cubeQuery, 2_000_000)
		out, table, err := w.open(other, "cust-a", "cust-c")
		w.check(err)
		if !bytes.Equal(w.shares("cust-a", other, 1), was[0]) {
			t.Error("another quorum got other shares")
		}
		for i := range table.Rows {
			for j := range table.Rows[i].Values {
				if table.Rows[i].Values[j] != first.Rows[i].Values[j] {
					t.Error("the same question got other noise")
				}
			}
		}
		var rel enclave.Release
		w.check(out.Release.Open(enclave.KindRelease, &rel))
		if rel.ChargedMicro != 0 {
			t.Errorf("the repeated question was charged %d", rel.ChargedMicro)
		}
	})
}

// One custodian tries with everything it has: its own pieces, its PRF keys, the ciphertexts, and zero for the piece
// that it lacks. What it gets is uniform.
func TestOneCustodianOpensNothing(t *testing.T) {
	w := ready(t)
	b := w.job("SELECT COUNT(*) FROM water", 2_000_000)
	t.Run("asked alone", func(t *testing.T) {
		_, _, err := w.open(b, "cust-a")
		var q *release.QuorumError
		if !errors.As(err, &q) || q.Have >= q.Need {
			t.Errorf("one custodian alone gives %v", err)
		}
		if err := w.custodians["cust-a"].Commit(t.Context(), b, []string{"cust-a"}); !errors.Is(err, release.ErrNotCommitted) {
			t.Errorf("a quorum of one gives %v", err)
		}
		if _, err := w.custodians["cust-a"].Share(t.Context(), b, 1, []string{"cust-a", "cust-b"}, nil); !errors.Is(err, release.ErrNotCommitted) {
			t.Errorf("shares before anyone committed give %v", err)
		}
	})
	t.Run("with all it holds", func(t *testing.T) {
		ring, err := keys.OpenFile(filepath.Join(w.dir, "cust-a", "keyring"))
		w.check(err)
		params, err := he.Compile("bgv13-t36")
		w.check(err)
		m := w.manifest("water")
		var p enclave.Plan
		w.check(b.Plan.Open(enclave.KindPlan, &p))
		layout, _ := m.Layout(p.Layout)
		_, terms, err := p.Expand(m)
		w.check(err)
		files := evaluator.NewFiles(func(d enclave.Digest, kind string) string { return w.blobs.Path(d) })
		defer files.Close()
		cts, err := evaluator.Evaluate(t.Context(), params.Params, layout, terms, files.With(params.Params), 1, nil)
		w.check(err)
		var shares []*big.Int
		for piece := range 3 {
			data, err := ring.Piece(t.Context(), keys.PieceID{Keyset: m.Keyset, Piece: piece})
			if errors.Is(err, keys.ErrNoPiece) {
				continue
			}
			w.check(err)
			held, err := keys.ParsePiece(data)
			w.check(err)
			k, err := he.ParseKeyPiece(params, held.Key)
			w.check(err)
			h, err := he.NewOpener(k).Share(&cts[0], new(big.Int), new(big.Int))
			w.check(err)
			shares = append(shares, h)
		}
		if len(shares) != 2 {
			t.Fatalf("one custodian of three holds %d pieces, want 2", len(shares))
		}
		if sum := params.Combine(&cts[0], shares); sum > -1<<20 && sum < 1<<20 { // uniform mod 2^36: probability 2^-15
			t.Errorf("two of three pieces open %d, near the true 503", sum)
		}
	})
}

func TestStage2SharesCoverOnlyReleasedCells(t *testing.T) {
	w := ready(t)
	b := w.job(cubeQuery, 2_000_000)
	_, _, err := w.open(b, custodianNames...)
	w.check(err)
	var p enclave.Plan
	w.check(b.Plan.Open(enclave.KindPlan, &p))
	cells, terms, err := p.Expand(w.manifest("water"))
	w.check(err)
	for _, name := range custodianNames {
		var signed canon.Signed
		w.check(canon.Unmarshal(w.shares(name, b, 2), &signed))
		var set release.ShareSet
		w.check(signed.Open(release.KindShares, &set))
		for _, i := range set.Terms {
			if p.Labels(w.manifest("water"), cells[terms[i].Cell])[0] == "islet" {
				t.Errorf("custodian %q issued a share of the suppressed cell's measure %d", name, terms[i].Measure)
			}
		}
	}
}

func TestReleaseResumesAfterAnyFailure(t *testing.T) {
	w := ready(t)
	b := w.job(cubeQuery, 2_000_000)
	// Each call may be the last one before a crash: repeat a release that stops after every single one.
	var want *enclave.Table
	for stop := 1; ; stop++ {
		members := w.members(custodianNames...)
		var calls atomic.Int64
		for i, m := range members {
			members[i] = &faulty{Member: m, before: func(string) error {
				if calls.Add(1) > int64(stop) {
					return errors.New("the machine stopped")
				}
				return nil
			}}
		}
		out, err := w.custodians["cust-a"].Lead(t.Context(), b, members, nil)
		for _, name := range custodianNames {
			w.restart(name)
		}
		if err != nil {
			continue
		}
		plain, err := w.ids["analyst"].Open(keys.TableInfo(out.Release.Digest()), out.Sealed)
		w.check(err)
		want = &enclave.Table{}
		w.check(canon.Unmarshal(plain, want))
		if stop < 10 {
			t.Errorf("a release took only %d calls", stop)
		}
		break
	}
	_, again, err := w.open(b, custodianNames...)
	w.check(err)
	if canon.DigestOf(again) != canon.DigestOf(want) {
		t.Error("the resumed release has another table")
	}
	for _, name := range custodianNames {
		if n := w.custodians[name].Charges(); n != 1 {
			t.Errorf("custodian %q has %d charges of its own, want 1", name, n)
		}
	}
}

// A custodian that has charged and then fails at every attempt stops nobody: the others begin again without it, and give
// what all would have given. Two that fail are too many, and both are named.
func TestReleaseGoesOnWithoutAMemberThatFails(t *testing.T) {
	w := ready(t)
	b := w.job(cubeQuery, 2_000_000)
	fails := map[string]string{} // by member: the call
	members := w.members(custodianNames...)
	for i, m := range members {
		members[i] = &faulty{Member: m, before: func(call string) error {
			if fails[m.Name()] == call {
				return fmt.Errorf("%s: no space left on device", m.Name())
			}
			return nil
		}}
	}
	lead := w.custodians["cust-a"]
	for _, call := range []string{"share", "endorse"} {
		fails["cust-b"], fails["cust-c"] = call, call
		_, err := lead.Lead(t.Context(), b, members, nil)
		var quorum *release.QuorumError
		if !errors.As(err, &quorum) || quorum.Have != 1 || refusal.Final(err) || !strings.Contains(err.Error(), "cust-b: no space") && !strings.Contains(err.Error(), "cust-c: no space") {
			t.Errorf("two fail to %s: %v", call, err)
		}
		delete(fails, "cust-c")
		out, err := lead.Lead(t.Context(), b, members, nil)
		if err != nil {
			t.Fatalf("one fails to %s: %v", call, err)
		}
		var rel enclave.Release
		w.check(out.Release.Open(enclave.KindRelease, &rel))
		if !slices.Equal(rel.Custodians, []string{"cust-a", "cust-c"}) || len(out.Release.Sigs) != 2 {
			t.Errorf("one fails to %s: released by %q", call, rel.Custodians)
		}
	}
	fails["cust-a"] = "share"
	var away *refusal.UnavailableError
	if _, err := lead.Lead(t.Context(), b, members, nil); !errors.As(err, &away) {
		t.Errorf("the leader itself fails: %v", err)
	}
	clear(fails)
	if _, err := lead.Lead(t.Context(), b, members, nil); err != nil {
		t.Error(err)
	}
	for _, name := range custodianNames {
		if n := w.custodians[name].Charges(); n != 1 {
			t.Errorf("custodian %q has %d charges of its own, want 1", name, n)
		}
	}
}

// faulty lets a test stop or alter what a member answers.
type faulty struct {
	release.Member
	before  func(call string) error
	shares  func(canon.Signed) canon.Signed
	records func() error
}

func (f *faulty) Records(ctx context.Context, heights map[string]int64) ([]canon.Signed, error) {
	if f.records != nil {
		if err := f.records(); err != nil {
			return nil, err
		}
	}
	return f.Member.Records(ctx, heights)
}

func (f *faulty) step(call string) error {
	if f.before == nil {
		return nil
	}
	return f.before(call)
}

func (f *faulty) Commit(ctx context.Context, b *enclave.Bundle, active []string) error {
	if err := f.step("commit"); err != nil {
		return err
	}
	return f.Member.Commit(ctx, b, active)
}

func (f *faulty) Share(ctx context.Context, b *enclave.Bundle, stage int, active []string, first []canon.Signed) (canon.Signed, error) {
	if err := f.step("share"); err != nil {
		return canon.Signed{}, err
	}
	s, err := f.Member.Share(ctx, b, stage, active, first)
	if err == nil && f.shares != nil {
		s = f.shares(s)
	}
	return s, err
}

func (f *faulty) Endorse(ctx context.Context, b *enclave.Bundle, r enclave.Release, proof enclave.LogProof, active []string, first, second []canon.Signed) (canon.Signature, error) {
	if err := f.step("endorse"); err != nil {
		return canon.Signature{}, err
	}
	return f.Member.Endorse(ctx, b, r, proof, active, first, second)
}

func TestTwoOfThreeAreEnoughAndALostCustodianIsLeftOut(t *testing.T) {
	w := ready(t)
	b := w.job(cubeQuery, 2_000_000)
	members := w.members(custodianNames...)
	members[2] = &faulty{Member: members[2], before: func(string) error { return errors.New("cannot be reached") }}
	out, err := w.custodians["cust-a"].Lead(t.Context(), b, members, nil)
	w.check(err)
	var rel enclave.Release
	w.check(out.Release.Open(enclave.KindRelease, &rel))
	if len(rel.Custodians) != 2 || len(out.Release.Sigs) != 2 {
		t.Errorf("release by %q with %d signatures", rel.Custodians, len(out.Release.Sigs))
	}
	members[1] = &faulty{Member: members[1], before: func(string) error { return errors.New("cannot be reached either") }}
	if _, err := w.custodians["cust-a"].Lead(t.Context(), b, members, nil); err == nil {
		t.Error("one custodian led a release with nobody")
	}
}

// A charge that did not reach the disk does not count, however often it is asked for again.
func TestNothingIsSharedWhenTheLedgerCannotBeWritten(t *testing.T) {
	w := ready(t)
	b := w.job(cubeQuery, 2_000_000)
	pair := []string{"cust-a", "cust-b"}
	w.check(w.custodians["cust-a"].BreakLedger())
	for range 2 {
		if err := w.custodians["cust-a"].Commit(t.Context(), b, pair); !errors.Is(err, os.ErrClosed) {
			t.Errorf("without a ledger it answers %v", err)
		}
		if _, err := w.custodians["cust-a"].Share(t.Context(), b, 1, pair, nil); !errors.Is(err, os.ErrClosed) {
			t.Errorf("without a ledger it shares, %v", err)
		}
	}
	w.openCustodian("cust-a")
	w.connect()
	if n := w.custodians["cust-a"].Charges(); n != 0 {
		t.Errorf("%d charges were remembered", n)
	}
	_, _, err := w.open(b, pair...)
	w.check(err)
	if n := w.custodians["cust-a"].Charges(); n != 1 {
		t.Errorf("%d charges after the restart, want 1", n)
	}
}

func TestNewRefusesAnIncompleteConfiguration(t *testing.T) {
	if _, err := release.New(release.Config{Dir: t.TempDir()}); err == nil {
		t.Error("a custodian without keys was opened")
	}
}

func TestDamagedStateIsNoticed(t *testing.T) {
	if testing.Short() {
		t.Skip("does one thing after another, in many cases")
	}
	w := ready(t)
	b := w.job(cubeQuery, 2_000_000)
	_, _, err := w.open(b, custodianNames...)
	w.check(err)
	ledger := filepath.Join(w.dir, "cust-a", "state", "ledger.jsonl")
	data, err := os.ReadFile(ledger)
	w.check(err)
	t.Run("torn write", func(t *testing.T) {
		w.check(os.WriteFile(ledger, append(bytes.Clone(data), `{"body":"torn`...), 0o600))
		w.restart("cust-a")
		if n := w.custodians["cust-a"].Charges(); n != 1 {
			t.Errorf("%d charges after a torn write, want 1", n)
		}
	})
	t.Run("flipped bit", func(t *testing.T) {
		w.check(w.custodians["cust-a"].Close())
		bad := bytes.Clone(data)
		bad[len(bad)/3] ^= 1
		w.check(os.WriteFile(ledger, bad, 0o600))
		_, err := w.tryOpen("cust-a")
		if !errors.Is(err, release.ErrLedger) {
			t.Errorf("a flipped bit in the ledger gives %v", err)
		}
		w.check(os.WriteFile(ledger, data, 0o600))
		w.openCustodian("cust-a")
		w.connect()
	})
	t.Run("stored share", func(t *testing.T) {
		d := b.Plan.Digest()
		path := filepath.Join(w.dir, "cust-a", "state", "shares", hexOf(d)+"-1.json")
		good, err := os.ReadFile(path)
		w.check(err)
		bad := bytes.Clone(good)
		bad[len(bad)/2] ^= 1
		w.check(os.WriteFile(path, bad, 0o600))
		if _, _, err := w.open(b, custodianNames...); err == nil {
			t.Error("a damaged stored share was handed out")
		}
		w.check(os.Remove(path))
		_, _, err = w.open(b, custodianNames...)
		w.check(err)
		if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, good) {
			t.Errorf("the removed share was not recomputed to the same bytes: %v", err)
		}
	})
	t.Run("own mirror", func(t *testing.T) {
		other := w.job(rowsQuery, 1_000_000)
		_, _, err = w.open(other, "cust-a", "cust-b")
		w.check(err)
		panels, err := filepath.Glob(filepath.Join(w.dir, "cust-b", "mirror", "derived", "*", "*.panel"))
		if err != nil || len(panels) == 0 {
			t.Fatalf("no panels to damage: %v", err)
		}
		for _, path := range panels {
			data, err := os.ReadFile(path)
			w.check(err)
			data[9000] ^= 1
			w.check(os.Chmod(path, 0o600))
			w.check(os.WriteFile(path, data, 0o600))
		}
		w.restart("cust-b")
		third := w.job(rowsQuery, 500_000)
		err = w.custodians["cust-b"].Commit(t.Context(), third, []string{"cust-a", "cust-b"})
		w.wantRefusal(err, release.ErrOutput)
		// The damaged panels were dropped: the next attempt expands them again.
		w.check(w.custodians["cust-b"].Commit(t.Context(), third, []string{"cust-a", "cust-b"}))
	})
}
