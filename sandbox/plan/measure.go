package plan

import (
	"cmp"
	"fmt"
	"math/big"
	"slices"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/dp"
	"yingzhou.dev/lab/internal/canon"
)

// wideParams is the parameter set to recommend where sums do not fit.
const wideParams = "bgv14-t58"

// tailBits bounds the probability that noise carries a sum out of the plaintext range, 2^-tailBits per opening.
const tailBits = 64

// artefacts checks that grant, keyset and manifest belong together and are what planning rests on.
func (b *builder) artefacts() {
	m, ks, g := b.Manifest, b.Keyset, b.Grant
	bad := func(hint, format string, args ...any) {
		b.refuse(CodeArtefact, Pos{}, fmt.Sprintf(format, args...), hint)
	}
	const steward = "ask the steward to seal the dataset again under its keyset"
	if m.Dataset != ks.Dataset || m.Owner != ks.Owner {
		bad(steward, "manifest is of dataset %q of %q, the keyset of %q of %q", m.Dataset, m.Owner, ks.Dataset, ks.Owner)
	}
	if m.Keyset != b.KeysetDigest {
		bad(steward, "manifest was sealed under another keyset than the one given")
	}
	if _, err := enclave.LookupParams(ks.Params); err != nil {
		bad(steward, "keyset: %v", err)
	}
	if ks.EntityRows <= 0 || ks.EntityRows > enclave.MaxRows || len(ks.Pieces) == 0 {
		bad(steward, "keyset allows %d rows per entity and has %d pieces", ks.EntityRows, len(ks.Pieces))
	}
	if m.RowsBound <= 0 || m.RowsBound > enclave.MaxRows {
		bad(steward, "manifest bounds rows by %d, which is not within 1 to %d", m.RowsBound, enclave.MaxRows)
	}
	for _, c := range m.Columns {
		if c.Type == enclave.TypeNumber && (c.Scale < 0 || c.Scale > 6 || c.Min > c.Max || c.Min < -canon.MaxInt || c.Max > canon.MaxInt) {
			bad(steward, "column %q has no usable range", c.Name)
		}
	}
	if g.MinCohort <= 0 || g.MarginMilli < 0 || len(g.Limits) != len(g.Datasets) {
		bad("apply again", "grant has no usable cohort rule or limits")
		return
	}
	use, limit, ok := g.Dataset(m.Dataset)
	if !ok {
		bad("apply for a scenario that names it", "scenario was not granted dataset %q", m.Dataset)
		return
	}
	b.use = use
	if b.ask() > limit.EpsilonMicro {
		b.refuse(CodeEpsilon, Pos{}, fmt.Sprintf("ε %s is more than the %s that the scenario may spend on dataset %q at all",
			micro(b.ask()), micro(limit.EpsilonMicro), m.Dataset), "ask for less")
	}
}

func (b *builder) ask() int64 {
	if b.EpsilonMicro == 0 {
		return b.Grant.JobEpsilonMicro
	}
	return b.EpsilonMicro
}

func (b *builder) epsilon() {
	b.asked = b.ask()
	if b.asked <= 0 || b.asked > b.Grant.JobEpsilonMicro {
		b.refuse(CodeEpsilon, Pos{}, fmt.Sprintf("ε %s is not within 0 to %s, the most that one job may spend", micro(b.asked), micro(b.Grant.JobEpsilonMicro)),
			"ask for at most "+micro(b.Grant.JobEpsilonMicro))
	}
	if b.asked > b.Keyset.BudgetMicro {
		b.refuse(CodeEpsilon, Pos{}, fmt.Sprintf("ε %s is more than the dataset's whole budget of %s", micro(b.asked), micro(b.Keyset.BudgetMicro)), "ask for less")
	}
}

// micro writes millionths as a decimal.
func micro(v int64) string { return enclave.FormatScaled(v, 6) }

// measure turns the moments of all outputs into measures: the row count first, alone in stage 1; the others sorted; each
// with an equal part of ε.
func (b *builder) measure() {
	for m := range b.moments {
		stage := int64(2)
		if m == enclave.CountMoment {
			stage = 1
		}
		b.measures = append(b.measures, enclave.Measure{Moment: m, Stage: stage})
	}
	for _, c := range b.ranked {
		b.measures = append(b.measures, enclave.Measure{Moment: enclave.CountMoment, By: c.Name, Stage: 2})
	}
	slices.SortFunc(b.measures, func(x, y enclave.Measure) int {
		return cmp.Or(cmp.Compare(x.Stage, y.Stage), cmp.Compare(x.Moment, y.Moment), cmp.Compare(x.By, y.By))
	})
	k := int64(len(b.measures))
	each := b.asked / k
	if each < 1 {
		b.refuse(CodeEpsilon, Pos{}, fmt.Sprintf("ε %s is too little to divide among %d measures", micro(b.asked), k), "ask for more, or for fewer aggregates")
	}
	for i := range b.measures {
		m := &b.measures[i]
		m.EpsilonMicro = each
		var ok bool
		if m.Delta, ok = b.delta(m.Moment); !ok {
			b.refuse(CodeOverflow, Pos{}, fmt.Sprintf("one row moves %q by more than 2^53", m.Moment), "ask the steward to declare narrower bounds or fewer decimals")
		}
	}
}

// delta is the most that one row adds to a moment, in encoded units; at least 1, for noise needs a scale.
func (b *builder) delta(m enclave.Moment) (int64, bool) {
	letter, cols := m.Split()
	if letter == "n" || letter == "d" || letter == "t" {
		return 1, true
	}
	reach := func(name string) *big.Int {
		c, _ := b.Manifest.Column(name)
		return big.NewInt(c.Reach())
	}
	d := reach(cols[0])
	switch letter {
	case "q":
		d.Mul(d, d)
	case "p":
		d.Mul(d, reach(cols[1]))
	}
	if d.Sign() == 0 {
		return 1, true
	}
	return d.Int64(), d.IsInt64() && d.Int64() <= canon.MaxInt
}

// overflow refuses sums that, with their noise, might leave the range (−T/2, T/2) in which they come out right.
func (b *builder) overflow() {
	params, _ := enclave.LookupParams(b.Keyset.Params) // artefacts checked it
	for _, m := range b.measures {
		if m.Delta < 1 || m.Delta > canon.MaxInt || m.EpsilonMicro < 1 {
			continue // refused already
		}
		if need := largest(m, b.Manifest, b.Keyset); need.Lsh(need, 1).Cmp(new(big.Int).SetUint64(params.T)) >= 0 {
			hint := fmt.Sprintf("ask the steward for a keyset with the wide parameter set %q, narrower bounds or fewer decimals; a larger ε has less noise", wideParams)
			if b.Keyset.Params == wideParams {
				hint = "ask the steward for narrower bounds or fewer decimals; a larger ε has less noise"
			}
			b.refuse(CodeOverflow, Pos{}, fmt.Sprintf("measure %q of up to %d rows may reach ±2^%d with its noise, beyond the plaintext range of %q",
				measureName(m), b.Manifest.RowsBound, need.BitLen()-1, b.Keyset.Params), hint)
		}
	}
}

// largest bounds a measure with its noise, but for a probability of 2^-tailBits.
func largest(m enclave.Measure, man *enclave.Manifest, ks *enclave.Keyset) *big.Int {
	need := new(big.Int).Mul(big.NewInt(man.RowsBound), big.NewInt(m.Delta))
	return need.Add(need, dp.TailBound(dp.LaplaceScale(ks.EntityRows, m.Delta, m.EpsilonMicro), len(ks.Pieces), tailBits))
}

func measureName(m enclave.Measure) string {
	if m.By != "" {
		return string(m.Moment) + " by " + m.By
	}
	return string(m.Moment)
}
