package release_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/enclave/release"
	"yingzhou.dev/lab/enclave/seal"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/operators"
)

// holds lists which pieces of a keyset a custodian's keyring has.
func (w *world) holds(name string, keyset canon.Digest) (out []int) {
	w.t.Helper()
	ring, err := keys.OpenFile(filepath.Join(w.dir, name, "keyring"))
	w.check(err)
	for i := range 3 {
		_, err := ring.Piece(w.t.Context(), keys.PieceID{Keyset: keyset, Piece: i})
		if err == nil {
			out = append(out, i)
		} else if !errors.Is(err, keys.ErrNoPiece) {
			w.t.Fatal(err)
		}
	}
	return out
}

func TestRefreshKeepsWhatWasSealed(t *testing.T) {
	w := ready(t)
	first := w.keysets["water"].Digest()
	before := w.job(cubeQuery, 1_000_000)
	if _, _, err := w.open(before, custodianNames...); err != nil {
		t.Fatal(err)
	}
	pending := w.job(rowsQuery, 1_000_000) // planned before the refresh, opened after it

	fresh := w.deal("water", "steward")
	// Until the refresh is in the log the old pieces are the ones in force: whoever dealt may have been cut off.
	if _, _, err := w.open(w.job("SELECT COUNT(*) FROM water", 1_000_000), custodianNames...); err != nil {
		t.Errorf("between dealing and registering: %v", err)
	}
	if err := w.custodians["cust-a"].Retire(t.Context(), fresh); !errors.Is(err, release.ErrNotLogged) {
		t.Errorf("retiring before the log has it gives %v", err)
	}
	w.refresh(fresh)
	if _, sum := w.lineage("water"); sum != fresh.Digest() {
		t.Fatalf("the lineage ends with %s", sum.Short())
	}
	// A control plane that goes on with the old epoch is refused.
	_, _, err := w.open(pending, custodianNames...)
	w.wantRefusal(err, release.ErrReplaced)

	// The same question of the same ciphertexts, under the new pieces: another noise, and charged anew.
	again := w.job(cubeQuery, 1_000_000)
	_, table, err := w.open(again, "cust-b", "cust-c")
	if err != nil {
		t.Fatal(err)
	}
	if len(table.Rows) == 0 {
		t.Error("nothing was released")
	}
	w.check(w.custodians["cust-a"].Retire(t.Context(), fresh))
	if got := w.custodians["cust-b"].Spent(first, 2); got != 1_000_000 {
		t.Errorf("epoch 2 was charged %d", got)
	}
	for _, name := range custodianNames {
		if left := w.holds(name, first); left != nil {
			t.Errorf("custodian %q still has pieces %v of the first keyset", name, left)
		}
		if has := w.holds(name, fresh.Digest()); len(has) != 2 {
			t.Errorf("custodian %q has pieces %v of the refresh", name, has)
		}
		w.restart(name)
	}
	if _, _, err := w.open(w.job(rowsQuery, 1_000_000), custodianNames...); err != nil {
		t.Errorf("after a restart: %v", err)
	}
}

// A custodian is replaced: the one that left has nothing of use, the new one takes part with what the others know.
func TestReplacedCustodian(t *testing.T) {
	w := ready(t)
	if _, _, err := w.open(w.job(cubeQuery, 1_000_000), custodianNames...); err != nil {
		t.Fatal(err)
	}
	id := w.identity("cust-d")
	for i, p := range w.roster.Parties {
		if p.Name == "cust-c" {
			w.roster.Parties[i].Absent = true
		}
	}
	w.roster.Parties = append(w.roster.Parties, operators.Party{Name: "cust-d", Role: operators.RoleCustodian, Body: "body d", Verify: id.Verify(), HPKE: id.HPKE()})
	w.roster.Serial++
	w.tick()
	w.roster.Made = w.at()
	w.signed = w.sign("root", operators.KindRoster, w.roster)
	w.announce(enclave.EntryRoster, w.signed.Digest())
	for _, c := range w.custodians {
		w.check(c.UseRoster(w.signed))
	}
	w.openCustodian("cust-d")
	for _, c := range w.custodians {
		c.Connect(w.members("cust-a", "cust-b", "cust-c", "cust-d")...)
	}
	fresh := w.deal("water", "steward")
	w.refresh(fresh)
	for _, c := range w.custodians {
		w.check(c.Retire(t.Context(), fresh))
	}
	first := w.keysets["water"].Digest()
	for _, name := range []string{"cust-a", "cust-b", "cust-c"} {
		if left := w.holds(name, first); left != nil {
			t.Errorf("custodian %q still has pieces %v of the first keyset", name, left)
		}
	}
	if has := w.holds("cust-c", fresh.Digest()); has != nil {
		t.Errorf("the custodian that left has pieces %v of the refresh", has)
	}
	out, _, err := w.open(w.job(cubeQuery, 1_000_000), "cust-a", "cust-d")
	if err != nil {
		t.Fatal(err)
	}
	if len(out.Release.Sigs) != 2 {
		t.Errorf("the release has %d signatures", len(out.Release.Sigs))
	}
	// The new one knows what was spent before it came.
	if got := w.custodians["cust-d"].Spent(first, 1); got != 1_000_000 {
		t.Errorf("the new custodian knows of %d spent in epoch 1", got)
	}
}

func (w *world) order(dataset, steward, body string) canon.Signed {
	w.t.Helper()
	w.tick()
	s := w.sign(steward, enclave.KindDisposalOrder, enclave.DisposalOrder{Dataset: dataset, Owner: body, Keyset: w.keysets[dataset].Digest(),
		Cause: enclave.CauseAchieved, Reason: "项目结束", By: steward, Made: w.at()})
	return s
}

func TestDisposal(t *testing.T) {
	w := ready(t)
	b := w.job(cubeQuery, 1_000_000)
	if _, _, err := w.open(b, custodianNames...); err != nil {
		t.Fatal(err)
	}
	w.refresh(w.deal("water", "steward")) // old pieces lie about: nobody has retired them
	waiting := w.job(rowsQuery, 1_000_000)
	backup := t.TempDir()
	w.check(os.CopyFS(backup, os.DirFS(w.dir)))

	order := w.order("water", "steward", agency)
	_, err := w.custodians["cust-a"].Dispose(t.Context(), order)
	if !errors.Is(err, release.ErrNotLogged) || w.holds("cust-a", w.keysets["water"].Digest()) == nil {
		t.Errorf("an order that is not in the log gives %v", err)
	}
	if _, err := w.custodians["cust-a"].Dispose(t.Context(), w.order("water", "rival-steward", agency)); !errors.Is(err, release.ErrForeignKeyset) {
		t.Errorf("another agency's order gives %v", err)
	}
	w.announce(enclave.EntryDisposal, w.keysets["water"].Digest())
	if _, err := w.custodians["cust-a"].Dispose(t.Context(), w.order("water", "rival-steward", rival)); !errors.Is(err, release.ErrForeignKeyset) {
		t.Errorf("an order by another owner gives %v", err)
	}
	cert := enclave.Disposal{Order: order, Keysets: append([]canon.Signed{w.keysets["water"]}, w.refreshes...), Destructions: []canon.Signed{}, Blobs: []canon.Digest{},
		Attempt: enclave.ErrNotFound.Error(), By: "lab", Made: w.at()}
	_, latest := w.lineage("water")
	for _, name := range custodianNames {
		word, err := w.custodians[name].Dispose(t.Context(), order)
		w.check(err)
		again, err := w.custodians[name].Dispose(t.Context(), order)
		if w.check(err); !bytes.Equal(word.Body, again.Body) {
			t.Errorf("custodian %q gives another word the second time", name)
		}
		for _, d := range []canon.Digest{w.keysets["water"].Digest(), latest} {
			if left := w.holds(name, d); left != nil {
				t.Errorf("custodian %q has pieces %v of keyset %s", name, left, d.Short())
			}
		}
		if len(cert.Destructions) < 2 {
			if _, _, err := enclave.CheckDisposal(w.sign("lab", enclave.KindDisposal, cert), &w.roster); err == nil {
				t.Errorf("a certificate with the word of %d custodians is taken", len(cert.Destructions))
			}
		}
		cert.Destructions = append(cert.Destructions, word)
	}
	if _, _, err := enclave.CheckDisposal(w.sign("lab", enclave.KindDisposal, cert), &w.roster); err != nil {
		t.Error(err)
	}
	if _, _, err := enclave.CheckDisposal(w.sign("node", enclave.KindDisposal, cert), &w.roster); err == nil {
		t.Error("a certificate that the lab did not sign is taken")
	}
	_, _, err = w.open(waiting, custodianNames...)
	w.wantRefusal(err, release.ErrDisposed)
	if _, err := w.dealDisposed(); !errors.Is(err, release.ErrDisposed) {
		t.Errorf("dealing the key again gives %v", err)
	}

	// Put one custodian back from the backup, and the blobs with it. It reads the log and destroys what came back.
	w.check(w.custodians["cust-b"].Close())
	w.check(os.RemoveAll(filepath.Join(w.dir, "cust-b")))
	w.check(os.CopyFS(filepath.Join(w.dir, "cust-b"), os.DirFS(filepath.Join(backup, "cust-b"))))
	if w.holds("cust-b", latest) == nil {
		t.Fatal("the backup is no backup")
	}
	w.openCustodian("cust-b")
	w.connect()
	_, _, err = w.open(waiting, custodianNames...)
	w.wantRefusal(err, release.ErrDisposed)
	if left := w.holds("cust-b", latest); left != nil {
		t.Errorf("the custodian that came back keeps pieces %v", left)
	}
}

// dealDisposed deals a refresh of a dataset that was disposed of.
func (w *world) dealDisposed() (canon.Signed, error) {
	w.tick()
	ks, sum := w.lineage("water")
	dealt, err := seal.Refresh(ks, sum, w.roster.WithRole(operators.RoleCustodian), ks.BudgetMicro, w.at(), w.secrets["water"], w.ids["steward"])
	if err != nil {
		return canon.Signed{}, err
	}
	for _, p := range dealt.Pieces {
		if err := w.custodians[p.Custodian].Accept(w.t.Context(), dealt.Keyset, p.Piece, p.Sealed, w.ids[p.Custodian].Open); err != nil {
			return dealt.Keyset, err
		}
	}
	return dealt.Keyset, nil
}

func TestRotateWrappingKeys(t *testing.T) {
	w := ready(t)
	origin := w.keysets["water"].Digest()
	for _, name := range custodianNames {
		w.check(w.custodians[name].Rotate(t.Context(), origin))
	}
	if err := w.custodians["cust-a"].Rotate(t.Context(), canon.Sum([]byte("other"))); !errors.Is(err, keys.ErrNoPiece) {
		t.Errorf("rotating for a keyset that is not here gives %v", err)
	}
	if _, _, err := w.open(w.job(cubeQuery, 1_000_000), custodianNames...); err != nil {
		t.Error(err)
	}
}

// endingLog ends a dataset between a custodian's examination and its announcement of shares.
type endingLog struct {
	*logView
	end enclave.Entry
}

func (l *endingLog) Append(ctx context.Context, entries ...enclave.Entry) ([]enclave.LogProof, error) {
	if entries[0].Type == enclave.EntryShare {
		if _, err := l.logView.Append(ctx, l.end); err != nil {
			return nil, err
		}
	}
	return l.logView.Append(ctx, entries...)
}

func TestDisposalMeetsAReleaseUnderWay(t *testing.T) {
	w := ready(t)
	b := w.job(cubeQuery, 1_000_000)
	w.check(w.custodians["cust-a"].Close())
	w.openCustodianOn("cust-a", &endingLog{&logView{Log: w.log}, enclave.Entry{Type: enclave.EntryDisposal, Subject: w.keysets["water"].Digest(), By: "steward", At: w.at()}})
	w.connect()
	_, _, err := w.open(b, custodianNames...)
	if !errors.Is(err, release.ErrDisposed) {
		t.Errorf("a release that a disposal meets gives %v", err)
	}
}
