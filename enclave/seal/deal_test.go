package seal_test

import (
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/he"
	"yingzhou.dev/lab/enclave/he/evaluator"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/enclave/mirror"
	"yingzhou.dev/lab/enclave/seal"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/operators"
)

// dealt is a key dealt to n custodians, with what each of them can read.
type dealt struct {
	*seal.Dealt
	keyset enclave.Keyset
	holds  []map[int]*he.KeyPiece // by custodian
}

func deal(t *testing.T, n, quorum int) *dealt {
	t.Helper()
	steward := identity(t, "lin.hua")
	d := seal.Dealing{Dataset: "water", Params: "bgv13-t36", Quorum: quorum, EntityRows: 2, BudgetMicro: 3}
	var ids []*keys.Identity
	for i := range n {
		id := identity(t, fmt.Sprint("custodian-", i))
		ids = append(ids, id)
		d.Custodians = append(d.Custodians, operators.Party{Name: id.Name(), Verify: id.Verify(), HPKE: id.HPKE()})
	}
	made, err := seal.Deal(d, steward, "水务局")
	if err != nil {
		t.Fatal(err)
	}
	out := &dealt{Dealt: made}
	if err := made.Keyset.Verify("lin.hua", steward.Verify()); err != nil {
		t.Error(err)
	}
	if err := made.Keyset.Open(enclave.KindKeyset, &out.keyset); err != nil {
		t.Fatal(err)
	}
	if err := out.keyset.Validate(); err != nil {
		t.Error(err)
	}
	params, err := he.Compile(d.Params)
	if err != nil {
		t.Fatal(err)
	}
	for range ids {
		out.holds = append(out.holds, map[int]*he.KeyPiece{})
	}
	for _, p := range made.Pieces {
		at := slices.Index(out.keyset.Custodians, p.Custodian)
		info := keys.PieceInfo(keys.PieceID{Keyset: made.Keyset.Digest(), Piece: p.Piece}, p.Custodian)
		for i, id := range ids {
			plain, err := id.Open(info, p.Sealed)
			if (err == nil) != (i == at) {
				t.Errorf("custodian %d opens what was sealed to %d: %v", i, at, err)
			}
			if err != nil {
				continue
			}
			secret, err := keys.ParsePieceSecret(plain)
			if err != nil {
				t.Fatal(err)
			}
			if secret.Commitment() != out.keyset.Pieces[p.Piece].Commitment {
				t.Errorf("piece %d is not the one that the keyset commits to", p.Piece)
			}
			piece, err := parsePiece(params, secret)
			if err != nil {
				t.Fatal(err)
			}
			out.holds[i][p.Piece] = piece
		}
		other := info[: len(info)-1 : len(info)-1]
		if _, err := ids[at].Open(append(other, info[len(info)-1]^1), p.Sealed); err == nil {
			t.Errorf("piece %d opens as another's", p.Piece)
		}
	}
	return out
}

func parsePiece(params *he.Params, secret keys.PieceSecret) (*he.KeyPiece, error) {
	held, err := keys.ParsePiece(secret.Piece)
	if err != nil {
		return nil, err
	}
	return he.ParseKeyPiece(params, held.Key)
}

func identity(t *testing.T, name string) *keys.Identity {
	t.Helper()
	id, err := keys.NewIdentity(name)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// together are the pieces that a set of custodians holds.
func (d *dealt) together(custodians []int) []*he.KeyPiece {
	have := map[int]*he.KeyPiece{}
	for _, c := range custodians {
		for i, p := range d.holds[c] {
			have[i] = p
		}
	}
	var out []*he.KeyPiece
	for i := range d.keyset.Pieces {
		if have[i] != nil {
			out = append(out, have[i])
		}
	}
	return out
}

func TestQuorumsHoldEveryPieceAndNoFewerDo(t *testing.T) {
	for _, c := range []struct{ n, quorum, pieces, each int }{{3, 2, 3, 2}, {5, 3, 10, 6}, {2, 2, 2, 1}, {4, 3, 6, 3}} {
		t.Run(fmt.Sprintf("%d of %d", c.quorum, c.n), func(t *testing.T) {
			d := deal(t, c.n, c.quorum)
			if len(d.keyset.Pieces) != c.pieces || len(d.Pieces) != c.n*c.each {
				t.Errorf("%d pieces, dealt %d times, want %d and %d", len(d.keyset.Pieces), len(d.Pieces), c.pieces, c.n*c.each)
			}
			for size := 1; size <= c.n; size++ {
				for _, set := range enclave.Subsets(c.n, size) {
					if got, all := len(d.together(set)), size >= c.quorum; (got == c.pieces) != all {
						t.Errorf("custodians %v hold %d of %d pieces", set, got, c.pieces)
					}
				}
			}
		})
	}
}

// Every quorum opens the truth, and a smaller set something that has nothing to do with it.
func TestOneCustodianOpensNothing(t *testing.T) {
	d := deal(t, 3, 2)
	w := newWorld(t, text, csv(t, "id,town,m3,debt\n"+strings.Repeat("h1,a,101,\n", 42)))
	w.cfg.Key = d.Key
	res, err := seal.Seal(t.Context(), w.cfg)
	if err != nil {
		t.Fatal(err)
	}
	l := &res.Layouts[0]
	m := mirror.New(w.blob, w.blob)
	defer m.Close()
	var terms []enclave.Term
	var vectors []int
	for v := range l.Vectors {
		terms = append(terms, enclave.Term{Vector: v, Cells: []int64{0}}, enclave.Term{Vector: v, Cells: []int64{0, 1, 2}}, enclave.Term{Vector: v, Cells: []int64{2}})
		vectors = append(vectors, v)
	}
	if err := m.Fetch(t.Context(), w.cfg.Keyset, w.p.Set.Name, l, vectors); err != nil {
		t.Fatal(err)
	}
	cts, err := evaluator.Evaluate(t.Context(), w.p.Params, l, terms, m, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	open := func(c int, pieces []*he.KeyPiece) int64 {
		var shares []*big.Int
		for _, p := range pieces {
			h, err := he.NewOpener(p).Share(&cts[c], new(big.Int), new(big.Int))
			if err != nil {
				t.Fatal(err)
			}
			shares = append(shares, h)
		}
		return w.p.Combine(&cts[c], shares)
	}
	for _, quorum := range enclave.Subsets(3, 2) {
		if n, sum := open(0, d.together(quorum)), open(3, d.together(quorum)); n != 42 || sum != 420 {
			t.Errorf("custodians %v open %d rows and a sum of %d", quorum, n, sum)
		}
	}
	// 54 openings by one custodian alone: uniform in ±2^35 each, so one within ±2^25 has a chance of 1 in 19 and four of
	// them 1 in 3 million; each half of the range gets at least 5 but for a chance of 10^-9.
	near, negative, total := 0, 0, 0
	for c := range 3 {
		for i := range cts {
			v := open(i, d.together([]int{c}))
			total++
			if v > -1<<25 && v < 1<<25 {
				near++
			}
			if v < 0 {
				negative++
			}
		}
	}
	if near > 3 || negative < 5 || negative > total-5 {
		t.Errorf("of %d openings by one custodian, %d came near the truth and %d are negative", total, near, negative)
	}
}

func TestDealRefuses(t *testing.T) {
	steward := identity(t, "lin.hua")
	good := seal.Dealing{Dataset: "water", Params: "bgv13-t36", Quorum: 2, EntityRows: 1, BudgetMicro: 1, Made: canon.Time{}}
	for i := range 3 {
		id := identity(t, fmt.Sprint("custodian-", i))
		good.Custodians = append(good.Custodians, operators.Party{Name: id.Name(), HPKE: id.HPKE()})
	}
	for name, c := range map[string]struct {
		change func(*seal.Dealing)
		want   string
	}{
		"one custodian":       {func(d *seal.Dealing) { d.Quorum, d.Custodians = 1, d.Custodians[:1] }, "quorum of 1 of 1"},
		"alone":               {func(d *seal.Dealing) { d.Quorum = 1 }, "quorum of 1 of 3"},
		"half":                {func(d *seal.Dealing) { d.Custodians = append(slices.Clone(d.Custodians), d.Custodians[0]) }, "more than half"},
		"more than there are": {func(d *seal.Dealing) { d.Quorum = 4 }, "quorum of 4 of 3"},
		"no custodians":       {func(d *seal.Dealing) { d.Custodians = nil }, "of 0 custodians"},
		"entity rows":         {func(d *seal.Dealing) { d.EntityRows = 0 }, "must be positive"},
		"budget":              {func(d *seal.Dealing) { d.BudgetMicro = 0 }, "must be positive"},
		"parameters":          {func(d *seal.Dealing) { d.Params = "bgv12" }, `"bgv12" is not one of`},
		"receiving key": {func(d *seal.Dealing) {
			d.Custodians = slices.Clone(d.Custodians)
			d.Custodians[1].HPKE = []byte("none")
		}, `"custodian-1"`},
	} {
		d := good
		c.change(&d)
		if out, err := seal.Deal(d, steward, "水务局"); err == nil || !strings.Contains(err.Error(), c.want) || out != nil {
			t.Errorf("%s: %v, %v", name, out, err)
		}
	}
}

// After a refresh the new pieces open what was sealed before, and no mixture of old and new ones does: whoever left with
// its old pieces, and even together with one custodian that is corrupt later, has nothing.
func TestOldPiecesAreUselessWithNewOnes(t *testing.T) {
	d := deal(t, 3, 2)
	steward := identity(t, "lin.hua")
	var ids []*keys.Identity
	var parties []operators.Party
	for _, name := range []string{"custodian-0", "custodian-1", "custodian-new"} {
		id := identity(t, name)
		ids, parties = append(ids, id), append(parties, operators.Party{Name: name, Verify: id.Verify(), HPKE: id.HPKE()})
	}
	again, err := seal.Refresh(&d.keyset, d.Keyset.Digest(), parties, 7, canon.Time{}, d.Key, steward)
	if err != nil {
		t.Fatal(err)
	}
	var ks enclave.Keyset
	if err := again.Keyset.Open(enclave.KindKeyset, &ks); err != nil {
		t.Fatal(err)
	}
	if err := ks.Refreshes(&d.keyset, d.Keyset.Digest(), d.Keyset.Digest()); err != nil || ks.BudgetMicro != 7 {
		t.Errorf("refresh with budget %d: %v", ks.BudgetMicro, err)
	}
	params, err := he.Compile(ks.Params)
	if err != nil {
		t.Fatal(err)
	}
	old, fresh := make([]*he.KeyPiece, 3), make([]*he.KeyPiece, 3)
	prf := map[[32]byte]bool{}
	for _, p := range again.Pieces {
		i := slices.IndexFunc(ids, func(id *keys.Identity) bool { return id.Name() == p.Custodian })
		plain, err := ids[i].Open(keys.PieceInfo(keys.PieceID{Keyset: again.Keyset.Digest(), Piece: p.Piece}, p.Custodian), p.Sealed)
		if err != nil {
			t.Fatal(err)
		}
		secret, err := keys.ParsePieceSecret(plain)
		if err != nil {
			t.Fatal(err)
		}
		prf[secret.PRF] = true
		if fresh[p.Piece], err = parsePiece(params, secret); err != nil {
			t.Fatal(err)
		}
	}
	if len(prf) != 3 {
		t.Errorf("%d PRF keys for three pieces", len(prf))
	}
	for _, held := range d.holds {
		for i, p := range held {
			old[i] = p
		}
	}

	w := newWorld(t, text, csv(t, "id,town,m3,debt\n"+strings.Repeat("h1,a,101,\n", 42)))
	w.cfg.Key = d.Key
	res, err := seal.Seal(t.Context(), w.cfg)
	if err != nil {
		t.Fatal(err)
	}
	l := &res.Layouts[0]
	m := mirror.New(w.blob, w.blob)
	defer m.Close()
	var terms []enclave.Term
	var vectors []int
	for v := range l.Vectors {
		terms, vectors = append(terms, enclave.Term{Vector: v, Cells: []int64{0}}), append(vectors, v)
	}
	if err := m.Fetch(t.Context(), w.cfg.Keyset, w.p.Set.Name, l, vectors); err != nil {
		t.Fatal(err)
	}
	cts, err := evaluator.Evaluate(t.Context(), w.p.Params, l, terms, m, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	open := func(pieces []*he.KeyPiece) (out []int64) {
		for c := range cts {
			var shares []*big.Int
			for _, p := range pieces {
				h, err := he.NewOpener(p).Share(&cts[c], new(big.Int), new(big.Int))
				if err != nil {
					t.Fatal(err)
				}
				shares = append(shares, h)
			}
			out = append(out, w.p.Combine(&cts[c], shares))
		}
		return out
	}
	truth := open(old)
	if truth[0] != 42 || !slices.Equal(open(fresh), truth) {
		t.Errorf("old pieces open %v, new ones %v", truth, open(fresh))
	}
	for mix := 1; mix < 7; mix++ { // every mixture: bit i says that piece i is a new one
		pieces := slices.Clone(old)
		for i := range pieces {
			if mix>>i&1 == 1 {
				pieces[i] = fresh[i]
			}
		}
		// A wrong opening is uniform in ±2^35, so one value has a chance of 2^-36 to come out right.
		for i, v := range open(pieces) {
			if v == truth[i] {
				t.Errorf("mixture %03b opens value %d", mix, i)
			}
		}
	}
}
