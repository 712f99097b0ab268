// Package mpc holds the nouns of three-party computation on secret-shared tables: the Program that three nodes evaluate,
// the Components in which an agency deals its columns, and the Output that a node hands to the release gate. It does no
// I/O and imports none of its children: package link connects the nodes, package engine evaluates a program. A planner
// can therefore write, check, price and digest a program without linking either.
//
// # Sharing
//
// A number x is split into three components with x = x₀ + x₁ + x₂ mod 2⁶⁴, a word or a bit into three with
// x = x₀ ⊕ x₁ ⊕ x₂. Node i holds components i and i+1 (mod 3): any two nodes hold all three, one node lacks one and knows
// nothing. The protocols are those of Araki, Furukawa, Lindell, Nof and Ohara, "High-Throughput Semi-Honest Secure
// Three-Party Computation with an Honest Majority" (CCS 2016), with sorting after Hamada et al., "Practically Efficient
// Multi-party Sorting Algorithms from Comparison Sort Algorithms" (ICISC 2012).
//
// # What it protects, and against whom
//
// One corrupt node that follows the protocol learns the public facts (the program, row counts, and the noised counts that
// the program opens) and nothing else; its messages are independent of the inputs. On top of that, faults and
// inconsistent cheating are detected: every component that crosses the wire is digested at both ends, and nothing is
// opened before the digests agree, the comparison bits of a sort included. A node that adds the same error to what it
// sends and to what it keeps is not detected: its error passes into the result, though it learns nothing that the opened
// bits of a shuffled sort do not tell. Package engine keeps the seam for the batch verification that would catch it.
//
// # Programs
//
// A Program is a list of steps on named columns, each made once. A column has a kind and belongs to a frame: a table, or
// what a sort made of one. Columns of one frame have the same number of rows in the same order. Row counts are public.
//
//	p := mpc.Program{Tables: []mpc.Table{
//		{Name: "people", Columns: []mpc.Column{{Name: "id", Kind: mpc.Word}, {Name: "age", Kind: mpc.Number, Bound: 130}}},
//		{Name: "visits", Columns: []mpc.Column{{Name: "id", Kind: mpc.Word}, {Name: "cost", Kind: mpc.Number, Bound: 1 << 24}}},
//	}}
//	matched, cols := p.Join([]string{"people.id"}, "", []string{"people.age"}, []string{"visits.id"})
//	young := p.Less(cols[0], p.Constant("visits", 60))
//	in := p.Number(p.And(p.Bit(matched), p.Not(young)))
//	p.Releases = []mpc.Release{{Who: in, …}}
//
// A Release is what may leave: noised counts per cell, then, for the cells whose noised count reaches a minimum, noised
// sums and quantiles. Nothing else of a program is ever opened.
//
// # Noise
//
// Each node adds its own part to a value while it is still shared, drawn from its own key and the question alone: the same
// question gets the same noise. Two honest parts make a full discrete Laplace sample (package dp, Polya), so a corrupt
// node faces the whole ε and the operator a little less; the price is one and a half times the variance.
package mpc
