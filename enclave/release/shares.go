package release

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"slices"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/dp"
	"yingzhou.dev/lab/enclave/he"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/enclave/program"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/durable"
	"yingzhou.dev/lab/internal/failpoint"
)

// KindShares is a custodian's shares of one stage of one plan.
const KindShares = "yingzhou.shares.v1"

// ShareSet holds a custodian's shares for a list of terms, for every piece it holds. It travels between custodians
// only: whoever has a share of every piece has the (noised) values.
type ShareSet struct {
	By     string         `json:"by"`
	Plan   enclave.Digest `json:"plan"`
	Stage  int            `json:"stage"`
	Terms  []int          `json:"terms"` // indices into the plan's terms, ascending
	Pieces []PieceShares  `json:"pieces"`
}

// PieceShares is one share per term, each at the fixed length of the parameter set, back to back.
type PieceShares struct {
	Piece  int    `json:"piece"`
	Shares []byte `json:"shares"`
}

// terms lists the terms of a stage; of stage 2 only those of cells that are kept.
func (d *Dossier) terms(stage int, keep []bool) []int {
	var out []int
	for i, t := range d.Terms {
		if d.Plan.Measures[t.Measure].Stage == int64(stage) && (stage == 1 || keep[t.Cell]) {
			out = append(out, i)
		}
	}
	return out
}

// Share implements Member.
func (c *Custodian) Share(ctx context.Context, b *enclave.Bundle, stage int, active []string, first []canon.Signed) (canon.Signed, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	out, err := c.share(ctx, b, stage, active, first)
	if err != nil {
		return canon.Signed{}, c.refused(ctx, b, err)
	}
	return out, nil
}

func (c *Custodian) share(ctx context.Context, b *enclave.Bundle, stage int, active []string, first []canon.Signed) (canon.Signed, error) {
	if stage != 1 && stage != 2 {
		return canon.Signed{}, fmt.Errorf("there is no stage %d of an opening", stage)
	}
	s, err := c.examine(ctx, b)
	if err != nil {
		return canon.Signed{}, err
	}
	if err := c.committed(ctx, s, active); err != nil {
		return canon.Signed{}, err
	}
	if s.dossier.Program != nil {
		return c.shareJoint(ctx, b, s, stage, active)
	}
	var keep []bool
	if stage == 2 {
		counts, err := c.tally(ctx, s, 1, nil, active, first)
		if err != nil {
			return canon.Signed{}, err
		}
		keep, _ = c.decide(s.dossier, counts)
	}
	path := filepath.Join(c.cfg.Dir, "shares", fmt.Sprintf("%x-%d.json", s.dossier.PlanDigest[:], stage))
	if stored, err := c.stored(path); err == nil {
		return stored, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return canon.Signed{}, err
	}
	set, err := c.compute(ctx, s, stage, s.dossier.terms(stage, keep))
	if err != nil {
		return canon.Signed{}, err
	}
	signed, err := keys.SealWith(c.cfg.Signer, KindShares, set)
	if err != nil {
		return canon.Signed{}, err
	}
	entry := enclave.Entry{Type: enclave.EntryShare, Subject: signed.Digest(), By: c.Name(), Job: s.dossier.Receipt.Job, At: canon.At(c.cfg.Clock())}
	proof, err := c.announce(ctx, entry)
	if err == nil {
		err = c.catchUp(ctx, s.dossier, proof)
	}
	if err != nil {
		return canon.Signed{}, err
	}
	failpoint.Hit(failpoint.SharesLogged)
	if err := durable.WriteFile(path, canon.MustMarshal(signed), 0o600); err != nil {
		return canon.Signed{}, err
	}
	failpoint.Hit(failpoint.SharesStored)
	return signed, nil
}

// stored returns shares that were handed out before, exactly as they were.
func (c *Custodian) stored(path string) (canon.Signed, error) {
	var s canon.Signed
	data, err := os.ReadFile(path)
	if err != nil {
		return s, err
	}
	if err = canon.Unmarshal(data, &s); err == nil {
		var key ed25519.PublicKey
		if key, err = c.key(c.Name()); err == nil {
			err = s.Verify(c.Name(), key)
		}
	}
	if err != nil {
		return s, fmt.Errorf("stored shares %s are damaged; remove the file and they are computed again, to the same bytes: %w", path, err)
	}
	return s, nil
}

// committed insists that every active custodian has charged this plan in its own ledger, and that nothing was overspent
// by charges that crossed.
func (c *Custodian) committed(ctx context.Context, s *session, active []string) error {
	d := s.dossier
	if _, err := c.chargedByAll(ctx, d, active); err != nil {
		return err
	}
	for i := range s.keys {
		if have := c.ledger.paid(s.keys[i], d.KeysetSum, d.Keyset.Quorum, d.Grant.Scenario); have.ciphertext != s.cts[i].Digest {
			return refuse(ErrSecondCiphertext, "term %d: ciphertext %s, committed was %s", i, s.cts[i].Digest.Short(), have.ciphertext.Short())
		}
	}
	return nil
}

// chargedByAll merges the active custodians' ledgers and says what was charged for a plan.
func (c *Custodian) chargedByAll(ctx context.Context, d *Dossier, active []string) (charged, error) {
	if r := c.checkActive(d, active); r != nil {
		return charged{}, r
	}
	if err := c.merge(ctx, active); err != nil {
		return charged{}, err
	}
	charge, ok := c.ledger.charged(d.PlanDigest)
	for _, name := range active {
		if !ok || !charge.by[name] {
			return charge, refuse(ErrNotCommitted, "custodian %q has not charged plan %s", name, d.PlanDigest.Short())
		}
	}
	if r := c.afford(d, 0, 0, 0); r != nil {
		return charge, r
	}
	return charge, nil
}

// piece unwraps a piece into memory; it is the caller's to erase.
func (c *Custodian) piece(ctx context.Context, id keys.PieceID) (keys.Piece, error) {
	data, err := c.cfg.Keys.Piece(ctx, id)
	if errors.Is(err, keys.ErrNoPiece) {
		return keys.Piece{}, refuse(ErrForeignKeyset, "piece %d of keyset %s is not held here", id.Piece, id.Keyset.Short()).Because(err)
	}
	if err != nil {
		return keys.Piece{}, err
	}
	return keys.ParsePiece(data)
}

// held lists the pieces of a keyset that this custodian holds.
func (c *Custodian) held(ks *enclave.Keyset) []int {
	me := slices.Index(ks.Custodians, c.Name())
	var out []int
	for i, p := range ks.Pieces {
		if p.Holds(me) {
			out = append(out, i)
		}
	}
	return out
}

// compute derives the shares of some terms for every piece held here.
func (c *Custodian) compute(ctx context.Context, s *session, stage int, terms []int) (*ShareSet, error) {
	if have := s.own[stage]; have != nil && slices.Equal(have.Terms, terms) {
		return have, nil
	}
	set := &ShareSet{By: c.Name(), Plan: s.dossier.PlanDigest, Stage: stage, Terms: terms, Pieces: []PieceShares{}}
	if set.Terms == nil {
		set.Terms = []int{}
	}
	for _, piece := range c.held(&s.dossier.Keyset) {
		shares, err := c.computePiece(ctx, s, piece, terms)
		if err != nil {
			return nil, err
		}
		set.Pieces = append(set.Pieces, PieceShares{Piece: piece, Shares: shares})
	}
	s.own[stage] = set
	return set, nil
}

func (c *Custodian) computePiece(ctx context.Context, s *session, piece int, terms []int) ([]byte, error) {
	d := s.dossier
	id := keys.PieceID{Keyset: d.Dealing, Piece: piece}
	held, err := c.piece(ctx, id)
	if err != nil {
		return nil, err
	}
	defer held.Erase()
	params, err := he.Compile(d.Keyset.Params)
	if err != nil {
		return nil, err
	}
	key, err := he.ParseKeyPiece(params, held.Key)
	if err != nil {
		return nil, err
	}
	defer key.Erase()
	epoch, err := c.cfg.Keys.PRF(ctx, id, epochContext(d.Keyset.Epoch))
	if err != nil {
		return nil, err
	}
	defer clear(epoch[:])
	opener := he.NewOpener(key)
	defer opener.Erase()
	bound := new(big.Int).Lsh(big.NewInt(1), uint(params.Set.SmudgeBits(len(d.Keyset.Pieces))))
	out := make([]byte, 0, len(terms)*params.ShareBytes())
	for _, i := range terms {
		me := d.Plan.Measures[d.Terms[i].Measure]
		eta, smudge := derive(epoch[:], s.keys[i], s.cts[i].Digest, dp.LaplaceScale(d.Keyset.EntityRows, me.Delta, me.EpsilonMicro), bound)
		h, err := opener.Share(&s.cts[i], eta, smudge)
		if err != nil {
			return nil, err
		}
		out = append(out, params.EncodeShare(h)...)
	}
	return out, nil
}

func epochContext(epoch int64) []byte {
	return binary.LittleEndian.AppendUint64([]byte("yingzhou epoch key v1\x00"), uint64(epoch))
}

// derive gives a piece's noise and smudging for one question. Noise depends on the question alone, so asking again
// gains nothing; smudging also on the ciphertext, of which there is only one per question.
func derive(epochKey []byte, noiseKey, ciphertext enclave.Digest, b dp.Scale, bound *big.Int) (eta, smudge *big.Int) {
	eta = dp.Laplace(dp.NewStream(epochKey, []byte("noise"), noiseKey[:]), b)
	smudge = dp.NewStream(epochKey, []byte("smudge"), noiseKey[:], ciphertext[:]).Symmetric(bound)
	return eta, smudge
}

// tally checks everyone's shares of a stage, compares those of pieces that several hold, and combines them: one value
// per term of the stage, in the stage's order.
func (c *Custodian) tally(ctx context.Context, s *session, stage int, keep []bool, active []string, sets []canon.Signed) ([]int64, error) {
	d := s.dossier
	params, err := he.Compile(d.Keyset.Params)
	if err != nil {
		return nil, err
	}
	terms := d.terms(stage, keep)
	type source struct {
		by     string
		shares []byte
	}
	pieces := make([]source, len(d.Keyset.Pieces))
	width := params.ShareBytes()
	compare := func(piece int, from source) error {
		have := pieces[piece]
		if have.shares == nil {
			pieces[piece] = from
			return nil
		}
		if bytes.Equal(have.shares, from.shares) {
			return nil
		}
		at := 0
		for bytes.Equal(have.shares[at*width:(at+1)*width], from.shares[at*width:(at+1)*width]) {
			at++
		}
		e := &CrossCheckError{By: c.Name(), Accused: []string{have.by, from.by}, Piece: piece, Term: terms[at]}
		e.Accused = slices.DeleteFunc(e.Accused, func(n string) bool { return n == c.Name() })
		return refuse(ErrCrossCheck, "%q", e.Accused).Because(e)
	}
	own, err := c.compute(ctx, s, stage, terms)
	if err != nil {
		return nil, err
	}
	for _, p := range own.Pieces {
		pieces[p.Piece] = source{by: c.Name(), shares: p.Shares}
	}
	var seen []string
	for _, signed := range sets {
		set, err := c.openSet(d, signed, stage, terms, width)
		if err != nil {
			return nil, refuse(ErrCrossCheck, "a share set").Because(err)
		}
		seen = append(seen, set.By)
		for _, p := range set.Pieces {
			if err := compare(p.Piece, source{by: set.By, shares: p.Shares}); err != nil {
				return nil, err
			}
		}
	}
	slices.Sort(seen)
	if !slices.Equal(seen, active) {
		return nil, refuse(ErrNotCommitted, "shares came from %q, active are %q", seen, active)
	}
	values := make([]int64, len(terms))
	for k, i := range terms {
		shares := make([]*big.Int, len(pieces))
		for p, src := range pieces {
			if src.shares == nil {
				return nil, refuse(ErrNotCommitted, "no active custodian holds piece %d", p)
			}
			if shares[p], err = params.ParseShare(src.shares[k*width : (k+1)*width]); err != nil {
				return nil, refuse(ErrCrossCheck, "piece %d from %q", p, src.by).Because(err)
			}
		}
		values[k] = params.Combine(&s.cts[i], shares)
	}
	return values, nil
}

// openSet parses a peer's shares strictly: signed by it, for this plan, stage and terms, and for exactly its pieces.
func (c *Custodian) openSet(d *Dossier, signed canon.Signed, stage int, terms []int, width int) (*ShareSet, error) {
	var set ShareSet
	if err := signed.Open(KindShares, &set); err != nil {
		return nil, err
	}
	key, err := c.key(set.By)
	if err == nil {
		err = signed.Verify(set.By, key)
	}
	if err != nil {
		return nil, err
	}
	who := slices.Index(d.Keyset.Custodians, set.By)
	if who < 0 || set.Plan != d.PlanDigest || set.Stage != stage || !slices.Equal(set.Terms, terms) {
		return nil, fmt.Errorf("shares of %q are for plan %s, stage %d, %d terms; wanted plan %s, stage %d, %d terms",
			set.By, set.Plan.Short(), set.Stage, len(set.Terms), d.PlanDigest.Short(), stage, len(terms))
	}
	var want []int
	for i, p := range d.Keyset.Pieces {
		if p.Holds(who) {
			want = append(want, i)
		}
	}
	for i, p := range set.Pieces {
		if i >= len(want) || p.Piece != want[i] || len(p.Shares) != width*len(terms) {
			return nil, fmt.Errorf("shares of %q are not one per term for each of its pieces", set.By)
		}
	}
	if len(set.Pieces) != len(want) {
		return nil, fmt.Errorf("shares of %q cover %d of its %d pieces", set.By, len(set.Pieces), len(want))
	}
	return &set, nil
}

// decide applies the cohort rule to the noised counts of stage 1.
func (c *Custodian) decide(d *Dossier, stage1 []int64) (keep []bool, rules []string) {
	counts := make([]int64, len(d.Cells))
	for k, i := range d.terms(1, nil) {
		if d.Terms[i].Measure == 0 {
			counts[d.Terms[i].Cell] = stage1[k]
		}
	}
	return program.Keep(&d.Plan, len(d.Keyset.Pieces), d.Cells, counts)
}

// outcome recomputes the table and what the release says of it from everyone's shares.
func (c *Custodian) outcome(ctx context.Context, s *session, active []string, first, second []canon.Signed) (*enclave.Table, *enclave.Release, error) {
	d := s.dossier
	var table *enclave.Table
	var keep []bool
	var err error
	if d.Program != nil {
		table, keep, err = c.tableJoint(s, active, first)
	} else {
		table, keep, err = c.table(ctx, s, active, first, second)
	}
	if err != nil {
		return nil, nil, err
	}
	table.Salt = salt(d, append(slices.Clone(first), second...))
	charge, ok := c.ledger.charged(d.PlanDigest)
	if !ok {
		return nil, nil, refuse(ErrNotCommitted, "plan %s was not charged", d.PlanDigest.Short())
	}
	spent, made := charge.datasetMicro, charge.last
	if charge.job != d.Receipt.Job {
		spent = 0
	}
	if d.Receipt.Ended.After(made.Time) {
		made = d.Receipt.Ended
	}
	suppressed := int64(0)
	for _, k := range keep {
		if !k {
			suppressed++
		}
	}
	return table, &enclave.Release{Job: d.Receipt.Job, Operator: d.Plan.Operator, Scenario: d.Plan.Scenario, Grant: d.Plan.Grant,
		Manifest: d.Plan.Manifest, Keyset: d.KeysetSum, Plan: d.PlanDigest, Receipt: canon.DigestOf(d.Receipt), Table: canon.DigestOf(table),
		Cells: int64(len(d.Cells)), Suppressed: suppressed, ChargedMicro: spent, Custodians: active, Made: made}, nil
}

// table opens both stages and tabulates them.
func (c *Custodian) table(ctx context.Context, s *session, active []string, first, second []canon.Signed) (*enclave.Table, []bool, error) {
	d := s.dossier
	stage1, err := c.tally(ctx, s, 1, nil, active, first)
	if err != nil {
		return nil, nil, err
	}
	keep, rules := c.decide(d, stage1)
	values := program.NewValues(len(d.Cells), len(d.Plan.Measures))
	fill := func(stage int, opened []int64) {
		for k, i := range d.terms(stage, keep) {
			t := d.Terms[i]
			values.Set(t.Cell, t.Measure, t.Bin, opened[k])
		}
	}
	fill(1, stage1)
	if len(d.terms(2, keep)) > 0 {
		stage2, err := c.tally(ctx, s, 2, keep, active, second)
		if err != nil {
			return nil, nil, err
		}
		fill(2, stage2)
	}
	table, err := program.Tabulate(&d.Plan, &d.Manifest, len(d.Keyset.Pieces), d.Cells, keep, rules, values)
	return table, keep, err
}

// salt is a secret that every custodian derives alike: a hash of the shares themselves, of which each has 200 bits of
// smudging. It keeps the table's published digest from confirming a guess of its content.
func salt(d *Dossier, sets []canon.Signed) []byte {
	var bodies [][]byte
	for _, s := range sets {
		bodies = append(bodies, s.Body)
	}
	slices.SortFunc(bodies, bytes.Compare)
	h := sha256.New()
	h.Write([]byte("yingzhou table salt\x00"))
	h.Write(d.PlanDigest[:])
	for _, b := range bodies {
		sum := sha256.Sum256(b)
		h.Write(sum[:])
	}
	return h.Sum(nil)
}
