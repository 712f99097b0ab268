package engine

// Transcript receives every product of a job as this node holds it, before anything that depends on it is opened. It is the
// seam for a batch verification against a node that adds an error to what it sends and to what it keeps alike, which the
// digests do not catch. Slices are valid during the call only.
//
// Products are not all that a node could falsify so: the bits that node 0 shares (halves), conversions (numbers) and the
// hops of a shuffle are messages of their own kind, and need checks of theirs (a product, a product and a permutation
// argument) before one may speak of security against malicious nodes.
//
// What a verification would cost: distributed zero-knowledge proofs (Boneh, Boyle, Corrigan-Gibbs, Gilboa and Ishai, CRYPTO
// 2019; over rings Boyle, Gilboa, Ishai and Nof, CCS 2019) send O(√N) words for N products, but a product mod 2 or 2^64
// must be lifted to a Galois extension of degree 40 to 47 for an error of 2^-40, in which one multiplication costs some
// thousand instructions even when several bits share an element. BenchmarkTranscript reports N: a sort of a million rows
// has about 2.7 thousand million products of bits, so the proofs would take minutes where the sort takes seconds. Cut and
// choose of triples (Furukawa, Lindell, Nof and Weinstein, EUROCRYPT 2017; Araki et al., S&P 2017) sends seven bits for a
// product where this engine sends one, or three for four in a comparison, and fits the shape of bit planes: a sort would
// take some eight to ten times as long.
type Transcript interface {
	// Multiplied records z = x·y of numbers (additive) or z = x∧y of words of bits. Components are this node's two.
	Multiplied(additive bool, x, y, z [2][]uint64)
	// Summed records z[k] = Σ xs[k]·y.
	Summed(xs [][2][]uint64, y, z [2][]uint64)
	// Chosen records z = u ⊕ Σ xs[k]∧ys[k], word by word.
	Chosen(xs, ys [][2][]uint64, u, z [2][]uint64)
	// Verify fails if a product so far is wrong. The engine calls it before each opening.
	Verify() error
}

func (s share) both() [2][]uint64 { return [2][]uint64{s.a, s.b} }

func (p *party) record(additive bool, x, y, z share) {
	if p.transcript != nil {
		p.transcript.Multiplied(additive, x.both(), y.both(), z.both())
	}
}

func (p *party) recordSums(xs []share, y, z share) {
	if p.transcript == nil {
		return
	}
	p.transcript.Summed(allOf(xs), y.both(), z.both())
}

func (p *party) recordChoice(s summed, z share) {
	p.transcript.Chosen(allOf(s.x), allOf(s.y), s.u.both(), z.both())
}

func allOf(xs []share) [][2][]uint64 {
	all := make([][2][]uint64, len(xs))
	for i, x := range xs {
		all[i] = x.both()
	}
	return all
}
