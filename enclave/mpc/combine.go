package mpc

import (
	"errors"
	"fmt"
	"slices"
)

// ErrDisagree means that the nodes do not tell the same story.
var ErrDisagree = errors.New("nodes disagree")

// Combine opens what three nodes computed. Every component is held by two of them; a difference, as in anything they
// opened among themselves, is refused with an error that names both.
func Combine(p *Program, outputs [Nodes]Output) (*Result, error) {
	c := combiner{out: outputs}
	for i, o := range outputs {
		if o.Party != i || o.Program != p.Digest() {
			return nil, fmt.Errorf("combining outputs: %w: output %d is of node %d and of program %s", ErrDisagree, i, o.Party, o.Program)
		}
		if len(o.Releases) != len(p.Releases) || len(o.Keys) != len(p.Keys) {
			return nil, fmt.Errorf("combining outputs: %w: node %d lacks a release", ErrDisagree, i)
		}
	}
	r := &Result{}
	for i := range p.Releases {
		rel, err := c.release(i, len(p.Releases[i].Sums))
		if err != nil {
			return nil, fmt.Errorf("combining release %q: %w", p.Releases[i].Name, err)
		}
		rel.Name = p.Releases[i].Name
		r.Releases = append(r.Releases, rel)
	}
	for i := range p.Keys {
		keys, err := c.keys(i, len(p.Keys[i].Keys), len(p.Keys[i].Sums))
		if err != nil {
			return nil, fmt.Errorf("combining key release %q: %w", p.Keys[i].Name, err)
		}
		keys.Name = p.Keys[i].Name
		r.Keys = append(r.Keys, keys)
	}
	return r, nil
}

type combiner struct{ out [Nodes]Output }

func (c *combiner) release(i, sums int) (ReleaseResult, error) {
	first := c.out[0].Releases[i]
	r := ReleaseResult{Counts: first.Counts, Kept: first.Kept, Quantiles: first.Quantiles}
	for n := 1; n < Nodes; n++ {
		other := c.out[n].Releases[i]
		same := slices.Equal(first.Counts, other.Counts) && slices.Equal(first.Kept, other.Kept) &&
			slices.EqualFunc(first.Quantiles, other.Quantiles, func(a, b [][]int64) bool {
				return slices.EqualFunc(a, b, slices.Equal[[]int64])
			})
		if !same {
			return r, fmt.Errorf("%w: nodes 0 and %d opened different counts or quantiles", ErrDisagree, n)
		}
	}
	for s := range sums {
		words, err := open(Number, len(first.Counts), func(n int) [][]Pair { return c.out[n].Releases[i].Sums }, s)
		if err != nil {
			return r, err
		}
		values := make([]int64, len(words))
		for k, w := range words {
			values[k] = int64(w)
		}
		r.Sums = append(r.Sums, values)
	}
	return r, nil
}

func (c *combiner) keys(i, keys, sums int) (KeysResult, error) {
	r := KeysResult{Counts: c.out[0].Keys[i].Counts}
	for n := 1; n < Nodes; n++ {
		if !slices.Equal(r.Counts, c.out[n].Keys[i].Counts) {
			return r, fmt.Errorf("%w: nodes 0 and %d opened different counts", ErrDisagree, n)
		}
	}
	for k := range keys {
		words, err := open(Word, len(r.Counts), func(n int) [][]Pair { return c.out[n].Keys[i].Keys }, k)
		if err != nil {
			return r, err
		}
		r.Keys = append(r.Keys, words)
	}
	for s := range sums {
		words, err := open(Number, len(r.Counts), func(n int) [][]Pair { return c.out[n].Keys[i].Sums }, s)
		if err != nil {
			return r, err
		}
		values := make([]int64, len(words))
		for k, w := range words {
			values[k] = int64(w)
		}
		r.Sums = append(r.Sums, values)
	}
	return r, nil
}

// open puts the components of column at together.
func open(kind Kind, rows int, of func(node int) [][]Pair, at int) ([]uint64, error) {
	var held [Nodes][]Pair
	for n := range held {
		if at >= len(of(n)) || len(of(n)[at]) != rows {
			return nil, fmt.Errorf("%w: node %d has not %d values of column %d", ErrDisagree, n, rows, at)
		}
		held[n] = of(n)[at]
	}
	out := make([]uint64, rows)
	for k := range out {
		for n := range held {
			if next := (n + 1) % Nodes; held[n][k][1] != held[next][k][0] {
				return nil, fmt.Errorf("%w: nodes %d and %d hold different components of value %d of column %d", ErrDisagree, n, next, k, at)
			}
		}
		if kind == Number {
			out[k] = held[0][k][0] + held[1][k][0] + held[2][k][0]
		} else {
			out[k] = held[0][k][0] ^ held[1][k][0] ^ held[2][k][0]
		}
	}
	return out, nil
}
