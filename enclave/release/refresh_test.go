package release_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/enclave/mpc/shares"
	"yingzhou.dev/lab/enclave/release"
)

// A refresh of any dataset of a join begins a new epoch of it: a plan of the old one is refused before a node runs, what was
// sealed in share form stays valid, and the question has new noise and is charged to every dataset anew.
func TestJointRefresh(t *testing.T) {
	for dataset, steward := range map[string]string{"water": "steward", "tax": "rival-steward"} { // whose keys the noise is made from, and the other
		t.Run(dataset, func(t *testing.T) {
			j := newJoint(t, 100)
			_, before, err := j.open(j.job(jointQuery, 8_000_000), custodianNames...)
			j.check(err)
			cost := j.custodians["cust-a"].Spent(j.keysets["water"].Digest(), 1)
			pending := j.job(jointQuery, 4_000_000)
			ran := j.runs.Load()

			fresh := j.deal(dataset, steward)
			j.refresh(fresh)
			_, _, err = j.open(pending, custodianNames...)
			j.wantRefusal(err, release.ErrReplaced)
			if j.runs.Load() != ran {
				t.Error("a node ran for a plan of an epoch that is over")
			}
			_, after, err := j.open(j.job(jointQuery, 8_000_000), custodianNames...)
			j.check(err)
			if len(after.Rows) != 2 || len(after.Suppressed) != 1 {
				t.Fatalf("rows %v, suppressed %v", texts(after), after.Suppressed)
			}
			if fmt.Sprint(texts(after)) == fmt.Sprint(texts(before)) && dataset == "water" {
				t.Error("the noise is that of the epoch before")
			}
			for name, epoch := range map[string]int64{"water": 1, "tax": 1, dataset: 2} {
				want := 2 * cost // both questions in one epoch
				if name == dataset {
					want = cost
				}
				if got := j.custodians["cust-a"].Spent(j.keysets[name].Digest(), epoch); got != want || cost == 0 {
					t.Errorf("epoch %d of %s was charged %d, want %d", epoch, name, got, want)
				}
			}
			for _, name := range custodianNames {
				j.check(j.custodians[name].Retire(t.Context(), fresh))
				if left := j.holds(name, j.keysets[dataset].Digest()); left != nil {
					t.Errorf("%s still has pieces %v of the first keyset", name, left)
				}
				if has := j.holds(name, fresh.Digest()); len(has) != 2 {
					t.Errorf("%s has pieces %v of the refresh", name, has)
				}
				j.restart(name)
			}
			if _, same, err := j.open(j.job(jointQuery, 8_000_000), custodianNames...); err != nil || fmt.Sprint(texts(same)) != fmt.Sprint(texts(after)) {
				t.Errorf("asked again in the new epoch: %v, then %v: %v", texts(after), texts(same), err)
			}
		})
	}
}

// A refresh that comes between two stages stops the second: what was given stays, byte for byte, and no second different
// share is given.
func TestRefreshBetweenStagesStopsTheRelease(t *testing.T) {
	w := ready(t)
	b := w.job(cubeQuery, 2_000_000)
	_, err := w.custodians["cust-a"].Lead(t.Context(), b, w.members(custodianNames...), func(stage string) {
		if stage == release.StageValues {
			w.refresh(w.deal("water", "steward"))
		}
	})
	if !errors.Is(err, release.ErrReplaced) {
		t.Errorf("refreshed midway: %v", err)
	}
	given := map[string][]byte{}
	for _, name := range custodianNames {
		given[name] = w.shares(name, b, 1)
		d := b.Plan.Digest()
		if _, err := os.Stat(filepath.Join(w.dir, name, "state", "shares", fmt.Sprintf("%x-2.json", d[:]))); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s made shares of the second stage: %v", name, err)
		}
		w.restart(name)
	}
	_, _, err = w.open(b, custodianNames...)
	w.wantRefusal(err, release.ErrReplaced)
	for _, name := range custodianNames {
		if !bytes.Equal(w.shares(name, b, 1), given[name]) {
			t.Errorf("%s has other shares than it gave", name)
		}
	}
	// Asked again, the question is another one: under new keys, and charged to the new epoch.
	if _, _, err := w.open(w.job(cubeQuery, 2_000_000), custodianNames...); err != nil {
		t.Error(err)
	}
	origin := w.keysets["water"].Digest()
	for _, epoch := range []int64{1, 2} {
		if got := w.custodians["cust-b"].Spent(origin, epoch); got != 2_000_000 {
			t.Errorf("epoch %d was charged %d", epoch, got)
		}
	}
}

// A custodian follows the log by itself: what was ended while it was away, or was put back from a copy, is destroyed without
// anybody asking it for anything; a refusal of what concerns keys stands in its journal.
func TestFollowDestroys(t *testing.T) {
	w := ready(t)
	origin := w.keysets["water"].Digest()
	if _, _, err := w.open(w.job(cubeQuery, 1_000_000), custodianNames...); err != nil { // cust-a has copies of blobs
		t.Fatal(err)
	}
	copies, err := filepath.Glob(filepath.Join(w.dir, "cust-a", "mirror", "blobs", "*", "*"))
	if w.check(err); len(copies) == 0 {
		t.Fatal("no copies")
	}
	w.check(w.custodians["cust-a"].Follow(t.Context()))
	if len(w.holds("cust-a", origin)) != 2 {
		t.Fatal("following the log destroyed what is in use")
	}
	forged := w.order("water", "steward", agency)
	forged.Sigs[0].Sig[0] ^= 1
	if _, err := w.custodians["cust-a"].Dispose(t.Context(), forged); !errors.Is(err, release.ErrUnauthorized) {
		t.Errorf("a forged order: %v", err)
	}
	lines, err := release.ReadJournal(filepath.Join(w.dir, "cust-a", "state"))
	if w.check(err); len(lines) != 1 || lines[0].Keyset != origin || lines[0].Rule != release.ErrUnauthorized.Error() {
		t.Errorf("journal %+v", lines)
	}
	w.announce(enclave.EntryDisposal, origin)
	w.check(w.custodians["cust-a"].Follow(t.Context()))
	if left := w.holds("cust-a", origin); left != nil {
		t.Errorf("pieces %v are left", left)
	}
	if copies, err = filepath.Glob(filepath.Join(w.dir, "cust-a", "mirror", "blobs", "*", "*")); err != nil || len(copies) != 0 {
		t.Errorf("%d copies of blobs are left, %v", len(copies), err)
	}
	// Two officials' order is as good as the steward's; each order has a word of its own.
	order := w.order("water", "steward", agency)
	first, err := w.custodians["cust-a"].Dispose(t.Context(), order)
	w.check(err)
	w.tick()
	both := w.sign("official-1", enclave.KindDisposalOrder, enclave.DisposalOrder{Dataset: "water", Owner: agency, Keyset: origin, Cause: enclave.CauseExpired, Reason: "r", By: "official-1", Made: w.at()})
	if _, err := w.custodians["cust-a"].Dispose(t.Context(), both); !errors.Is(err, release.ErrForeignKeyset) {
		t.Errorf("one official's order: %v", err)
	}
	sig, err := w.ids["official-2"].Sign(both.Kind, both.Body)
	w.check(err)
	both.Sigs = append(both.Sigs, sig)
	second, err := w.custodians["cust-a"].Dispose(t.Context(), both)
	if w.check(err); bytes.Equal(first.Body, second.Body) {
		t.Error("one word serves two orders")
	}
	var word enclave.Destruction
	if w.check(second.Open(enclave.KindDestruction, &word)); word.Order != both.Digest() || len(word.Destroyed) != 2 {
		t.Errorf("word %+v", word)
	}
}

// Shares are as dead as ciphertexts once their keyset is disposed of: with every receiving key, which no disposal destroys,
// and all that one custodian's backup still has, only what that custodian's own node held opens.
func TestDisposalEndsShares(t *testing.T) {
	j := newJoint(t, 100)
	if _, _, err := j.open(j.job(jointQuery, 8_000_000), custodianNames...); err != nil {
		t.Fatal(err)
	}
	pending := j.job(jointQuery, 4_000_000)
	j.refresh(j.deal("water", "steward")) // component keys were sealed in the epoch before
	ks, dealing := j.lineage("water")
	origin := j.keysets["water"].Digest()
	layout, ok := j.manifest("water").Layout("joint")
	if !ok {
		t.Fatal("there is no layout of shares")
	}
	// secret gathers what the pieces in a folder give for a custodian's node.
	secret := func(dir, name string) (shares.NodeSecret, error) {
		ring, err := keys.OpenFile(filepath.Join(dir, "keyring"))
		j.check(err)
		var lineage [][]byte
		me := slices.Index(ks.Custodians, name)
		for i, p := range ks.Pieces {
			if !p.Holds(me) {
				continue
			}
			data, err := ring.Piece(t.Context(), keys.PieceID{Keyset: dealing, Piece: i})
			if err != nil {
				return shares.NodeSecret{}, err
			}
			held, err := keys.ParsePiece(data)
			j.check(err)
			lineage = append(lineage, held.Lineage)
		}
		return shares.NewNodeSecret(lineage), nil
	}
	unlock := func(s shares.NodeSecret, name string) error {
		_, err := shares.Unlock(origin, layout, slices.Index(layout.Shares.Nodes, name), s, j.ids[name].Open)
		return err
	}
	backup := t.TempDir()
	for _, name := range custodianNames {
		j.check(os.CopyFS(filepath.Join(backup, name), os.DirFS(filepath.Join(j.dir, name))))
		s, err := secret(filepath.Join(backup, name), name)
		j.check(err)
		j.check(unlock(s, name))
	}
	order := j.order("water", "steward", agency)
	j.announce(enclave.EntryDisposal, origin)
	for _, name := range custodianNames {
		_, err := j.custodians[name].Dispose(t.Context(), order)
		j.check(err)
		if _, err := secret(filepath.Join(j.dir, name), name); !errors.Is(err, keys.ErrNoPiece) {
			t.Errorf("what %q needs for its node is still there: %v", name, err)
		}
	}
	_, _, err := j.open(pending, custodianNames...)
	j.wantRefusal(err, release.ErrDisposed)
	for _, restored := range custodianNames {
		s, err := secret(filepath.Join(backup, restored), restored)
		j.check(err)
		for _, name := range custodianNames {
			if err := unlock(s, name); (err == nil) != (name == restored) {
				t.Errorf("with the backup of %q, the component keys of %q: %v", restored, name, err)
			}
			if _, err := secret(filepath.Join(backup, restored), name); (err == nil) != (name == restored) {
				t.Errorf("the backup of %q has what %q needs: %v", restored, name, err)
			}
		}
	}
}
