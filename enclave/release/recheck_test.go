package release_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/release"
	"yingzhou.dev/lab/internal/canon"
)

// cheat alters its share of one piece in stage 2 and signs whatever the leader makes of it.
type cheat struct {
	release.Member
	w     *world
	piece int // index among its own pieces
}

func (c *cheat) Share(ctx context.Context, b *enclave.Bundle, stage int, active []string, first []canon.Signed) (canon.Signed, error) {
	s, err := c.Member.Share(ctx, b, stage, active, first)
	if err != nil || stage == 1 {
		return s, err
	}
	var set release.ShareSet
	c.w.check(s.Open(release.KindShares, &set))
	set.Pieces[c.piece].Shares = bytes.Clone(set.Pieces[c.piece].Shares)
	set.Pieces[c.piece].Shares[5] ^= 1
	return c.w.sign(c.Name(), release.KindShares, set), nil
}

func (c *cheat) Endorse(_ context.Context, _ *enclave.Bundle, r enclave.Release, _ enclave.LogProof, _ []string, _, _ []canon.Signed) (canon.Signature, error) {
	return c.w.ids[c.Name()].Sign(enclave.KindRelease, canon.MustMarshal(r))
}

// finish adds a release to its bundle as the control plane does.
func (w *world) finish(b *enclave.Bundle, out *release.Outcome) {
	w.t.Helper()
	b.Release = out.Release
	w.prove(b)
	b.Proofs = append(b.Proofs, out.Proof)
}

// The third custodian is away, so nobody who holds the same piece is there to compare. When it is back it names the
// cheater from what the honest one kept.
func TestRecheckNamesWhoCheatedWhileAHolderWasAway(t *testing.T) {
	w := ready(t)
	b := w.job(cubeQuery, 2_000_000)
	members := []release.Member{w.custodians["cust-a"], &cheat{Member: w.custodians["cust-b"], w: w, piece: 0}} // piece 0 is b's and c's
	out, err := w.custodians["cust-a"].Lead(t.Context(), b, members, nil)
	w.check(err)
	w.finish(b, out)
	kept, err := w.custodians["cust-a"].Evidence(t.Context(), b.Release.Digest())
	w.check(err)
	w.check(w.custodians["cust-a"].Recheck(t.Context(), b, kept)) // it does not hold the piece and cannot know
	err = w.custodians["cust-c"].Recheck(t.Context(), b, kept)
	var e *release.CrossCheckError
	if !errors.As(err, &e) || !slices.Equal(e.Accused, []string{"cust-b"}) || e.Piece != 0 || e.By != "cust-c" {
		t.Fatalf("a share that was altered behind its other holder's back gives %v", err)
	}
	w.wantRefusal(err, release.ErrCrossCheck)
}

func TestRecheckArrivesAtTheRelease(t *testing.T) {
	for _, c := range []struct {
		name   string
		active []string
		query  string
	}{
		{"all three, cube", custodianNames, cubeQuery},
		{"one away, rows", []string{"cust-a", "cust-c"}, rowsQuery},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := ready(t)
			b := w.job(c.query, 2_000_000)
			out, _, err := w.open(b, c.active...)
			w.check(err)
			w.finish(b, out)
			kept, err := w.custodians[c.active[1]].Evidence(t.Context(), b.Release.Digest())
			w.check(err)
			for _, name := range custodianNames {
				charges := w.custodians[name].Charges()
				w.check(w.custodians[name].Recheck(t.Context(), b, kept))
				if n := w.custodians[name].Charges(); n != charges {
					t.Errorf("%s charged for a recheck", name)
				}
			}
			other := *b
			other.Plan.Sigs = nil
			w.wantRefusal(w.custodians["cust-b"].Recheck(t.Context(), &other, kept), release.ErrUnauthorized)
			for what, alter := range map[string]func(*release.Evidence){
				"a set is missing":          func(e *release.Evidence) { e.First = e.First[1:] },
				"stages are exchanged":      func(e *release.Evidence) { e.First, e.Second = e.Second, e.First },
				"it is another release's":   func(e *release.Evidence) { e.Release[0] ^= 1 },
				"a signature is another's":  func(e *release.Evidence) { e.Second[0].Sigs = e.Second[1].Sigs },
				"a set comes twice":         func(e *release.Evidence) { e.Second = append(e.Second, e.Second[0]) },
				"nothing but one's own set": func(e *release.Evidence) { e.First = e.First[:1]; e.Second = e.Second[:1] },
			} {
				e := release.Evidence{Release: kept.Release, First: slices.Clone(kept.First), Second: slices.Clone(kept.Second)}
				alter(&e)
				err := w.custodians["cust-c"].Recheck(t.Context(), b, e)
				var r *release.Refusal
				if !errors.As(err, &r) {
					t.Errorf("evidence where %s gives %v", what, err)
				}
			}
		})
	}
}

func TestEvidenceOfWhatWasNotEndorsed(t *testing.T) {
	w := ready(t)
	if _, err := w.custodians["cust-a"].Evidence(t.Context(), canon.Digest{1}); !errors.Is(err, enclave.ErrNotFound) {
		t.Errorf("evidence before any release gives %v", err)
	}
}
