package mpc

import (
	"fmt"
	"slices"

	"yingzhou.dev/lab/internal/canon"
)

// Digest names the program.
func (p *Program) Digest() Digest { return canon.DigestOf(p) }

// Commitments are the three of each table column, by "table.column".
type Commitments map[string][Nodes]Digest

// Questions names columns by what they are: the operation, its constants and the names of what it takes, down to the
// commitments of dealt columns. Two columns with one name hold the same values whatever the programs call them, so noise
// keyed by names is the same for the same question; different questions never share a name. Equivalent computations may
// have different names, which costs budget and is safe.
type Questions map[string]Digest

const kindQuestion = "yingzhou.mpc-question.v1"

type question struct {
	Kind   string   `json:"kind"`
	Op     Op       `json:"op"`
	In     []Digest `json:"in,omitempty"`
	By     []Digest `json:"by,omitempty"`
	On     []Digest `json:"on,omitempty"`
	Where  Digest   `json:"where,omitzero"`
	Const  []int64  `json:"const,omitempty"`
	Text   []string `json:"text,omitempty"`
	Number int64    `json:"number,omitempty"` // of the column, for steps that make several
}

// Questions names every column of a program that passes Check, and every table under its own name.
func (p *Program) Questions(c Commitments) (Questions, error) {
	out := Questions{}
	for _, t := range p.Tables {
		var all []Digest
		for _, col := range t.Columns {
			name := t.Name + "." + col.Name
			parts, ok := c[name]
			if !ok {
				return nil, fmt.Errorf("naming questions: no commitments to column %q", name)
			}
			out[name] = canon.DigestOf(question{Kind: kindQuestion, Op: "input", In: parts[:], Text: []string{string(col.Kind)}})
			all = append(all, out[name])
		}
		slices.SortFunc(all, compare)
		out[t.Name] = canon.DigestOf(question{Kind: kindQuestion, Op: "table", In: all, Const: []int64{t.Rows}})
	}
	for _, s := range p.Steps {
		q := question{Kind: kindQuestion, Op: s.Op, In: out.of(s.In), By: out.of(s.By), On: out.of(s.On), Where: out[s.Where]}
		for _, v := range s.Const {
			q.Text = append(q.Text, fmt.Sprint(v)) // beyond what canonical numbers hold
		}
		switch s.Op {
		case OpConstant:
			q.In = []Digest{out[s.Frame]}
		case OpMul, OpEqual, OpAnd, OpOr, OpXor:
			slices.SortFunc(q.In, compare)
		}
		for i, name := range s.Out {
			q.Number = int64(i)
			out[name] = canon.DigestOf(q)
		}
	}
	return out, nil
}

func (q Questions) of(names []string) []Digest {
	var out []Digest
	for _, n := range names {
		out = append(out, q[n])
	}
	return out
}

func compare(a, b Digest) int { return slices.Compare(a[:], b[:]) }

// Value names one noised value: what is computed, of which columns, with which public numbers and how much noise.
func (q Questions) Value(what string, n Noise, numbers []int64, columns ...string) Digest {
	form := question{Kind: kindQuestion, Op: Op(what), In: q.of(columns)}
	for _, v := range append([]int64{n.Rows, n.Delta, n.EpsilonMicro}, numbers...) {
		form.Text = append(form.Text, fmt.Sprint(v))
	}
	return canon.DigestOf(form)
}

// EpsilonMicro is what the program spends at most, by basic composition.
func (p *Program) EpsilonMicro() int64 {
	var total int64
	for _, r := range p.Releases {
		total += r.Count.EpsilonMicro
		for _, s := range r.Sums {
			total += s.Noise.EpsilonMicro
		}
		for _, x := range r.Quantiles {
			total += x.Noise.EpsilonMicro
		}
	}
	for _, r := range p.Keys {
		total += r.Noise.EpsilonMicro
		for _, s := range r.Sums {
			total += s.Noise.EpsilonMicro
		}
	}
	return total
}
