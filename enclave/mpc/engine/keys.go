package engine

import (
	"cmp"
	"context"
	"fmt"
	"math/bits"
	"slices"

	"yingzhou.dev/lab/enclave/mpc"
)

// keyRelease opens the keys of groups whose noised count reaches the minimum. Every row's count gets noise, whether it is
// its key's row or not; which rows pass is opened after a shuffle, so it tells their number alone.
func (j *job) keyRelease(ctx context.Context, r mpc.KeyRelease) (out mpc.KeysOutput, err error) {
	if err := j.at(ctx, fmt.Sprintf("key release %q", r.Name)); err != nil {
		return out, err
	}
	out = mpc.KeysOutput{Name: r.Name, Counts: []int64{}, Keys: [][]mpc.Pair{}, Sums: [][]mpc.Pair{}}
	question := j.questions.Value("keys", r.Noise, nil, append(slices.Clone(r.Keys), r.Last, r.Count)...)
	n := int(j.types[r.Count].Rows)
	count := plus(j.column(r.Count), newShare(n))
	j.noisedRows(count, r.Noise, question)
	pass := j.passing(count, r, n)

	// The tag of a row says nothing about it, and is the same when the question is asked again: it breaks ties and keys the
	// noise of the sums, which only the rows that pass need.
	columns := append([]share{pass, count, j.tags(n, question)}, j.columns(r.Keys)...)
	for _, s := range r.Sums {
		columns = append(columns, j.column(s.Column))
	}
	sums := 3 + len(r.Keys)
	columns = j.apply(j.shuffle(n), columns, func(c int) bool { return c < 3 || c >= sums })
	flags := lowBits(columns[0])
	chosen := j.chosen(j.openWords(flags), columns[1], columns[2], n, r.Limit)

	for _, e := range chosen {
		out.Counts = append(out.Counts, e.count)
	}
	for k := range r.Keys {
		out.Keys = append(out.Keys, pairs(pick(columns[3+k], chosen)))
	}
	for i, s := range r.Sums {
		x := pick(columns[sums+i], chosen)
		questions := make([]mpc.Digest, len(chosen))
		for k, e := range chosen {
			questions[k] = j.questions.Value("key sum", s.Noise, []int64{e.tag}, append(slices.Clone(r.Keys), r.Last, r.Count, s.Column)...)
		}
		j.noised(x, s.Noise, questions)
		out.Sums = append(out.Sums, pairs(x))
	}
	return out, nil
}

// passing is the number 1 in a row that is its key's and whose noised count reaches the minimum.
func (j *job) passing(count share, r mpc.KeyRelease, n int) share {
	reach := uint64(j.types[r.Count].Bound) + r.Noise.Part().TailBound(64).Uint64() + uint64(r.MinCount)
	minimum := newShare(n)
	j.constant(minimum, uint64(r.MinCount))
	enough := j.lessNumbers(count, minimum, bits.Len64(reach)+1)
	j.not(enough)
	return j.numbers(j.and(enough, lowBits(j.column(r.Last))), n)
}

type entry struct {
	row        int
	count, tag int64
}

// chosen opens the noised counts of the rows that pass and orders them, the greatest first.
func (j *job) chosen(flags []uint64, count, tag share, n int, limit int64) []entry {
	var out []entry
	for i := range n {
		if bit(flags, i) {
			out = append(out, entry{row: i})
		}
	}
	if len(out) == 0 {
		return out
	}
	opened := j.openNumbers(concat([]share{pick(count, out), pick(tag, out)}))
	for i := range out {
		out[i].count, out[i].tag = int64(opened[i]), int64(opened[len(out)+i])
	}
	slices.SortFunc(out, func(a, b entry) int { return cmp.Or(cmp.Compare(b.count, a.count), cmp.Compare(a.tag, b.tag)) })
	if limit > 0 && int64(len(out)) > limit {
		out = out[:limit]
	}
	return out
}

func pick(x share, rows []entry) share {
	out := newShare(len(rows))
	for i, e := range rows {
		out.a[i], out.b[i] = x.a[e.row], x.b[e.row]
	}
	return out
}

func pairs(x share) []mpc.Pair {
	out := make([]mpc.Pair, x.len())
	for i := range out {
		out[i] = mpc.Pair{x.a[i], x.b[i]}
	}
	return out
}
