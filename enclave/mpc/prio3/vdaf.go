package prio3

import (
	"encoding"
	"errors"
	"fmt"
	"math/big"
	"math/bits"
	"slices"

	"github.com/cloudflare/circl/vdaf/prio3/count"
	"github.com/cloudflare/circl/vdaf/prio3/histogram"
	"github.com/cloudflare/circl/vdaf/prio3/sum"
	"github.com/cloudflare/circl/vdaf/prio3/sumvec"

	"yingzhou.dev/lab/enclave"
)

// Orders of the two fields (draft-irtf-cfrg-vdaf-13, section 6.1.2): Field64 for counts and sums, Field128 for the rest.
var (
	order64     = new(big.Int).SetUint64(0xffff_ffff_0000_0001)
	order128, _ = new(big.Int).SetString("340282366920938462946865773367900766209", 10)
)

// errProof means that a report's proof does not verify: its measurement is out of bounds, or its shares do not belong
// together.
var errProof = errors.New("proof of a measurement within bounds does not verify")

// vdaf is one Prio3 function with two aggregators, in bytes. Every length is fixed by the function. Only one goroutine at
// a time may use one: the library's types share the state of their hash between calls, although no document says so.
type vdaf struct {
	public  int    // bytes of a public share
	input   [2]int // bytes of an input share
	prep    int    // bytes of a prep share
	element int    // bytes of a field element, little-endian
	order   *big.Int
	outputs int

	// shard splits a measurement and proves it.
	shard func(measurement []uint64, nonce [16]byte, rand []byte) (public []byte, shares [2][]byte, err error)
	rand  int // bytes that shard draws

	// prepare is an aggregator's first step on a report.
	prepare func(verify [32]byte, nonce [16]byte, aggregator int, public, input []byte) (*prepared, error)
	// finish takes the peer's authenticated prep share, verifies the proof on both and gives the output share. PrepNext of
	// the library verifies nothing by itself, so there is no other way to an output share here.
	finish func(p *prepared, aggregator int, peer []byte) (output any, err error)
	// newTotal begins an aggregate share.
	newTotal func() total
}

// prepared is a report between the two steps: its prep share is for the peer.
type prepared struct {
	share       []byte
	state, mine any // the library's
}

// total is an aggregate share being summed.
type total interface {
	add(output any)
	bytes() ([]byte, error)
}

// compile makes the function of a measurement. context separates collections: shares of one never verify in another.
func compile(m enclave.Measurement, context []byte) (*vdaf, error) {
	n := uint(len(m.Labels))
	switch m.Kind {
	case enclave.MeasureCount:
		f, err := count.New(2, context)
		if err != nil {
			return nil, fmt.Errorf("compiling a count: %w", err)
		}
		return adapt(f, order64, func(x []uint64, nonce *count.Nonce, rand []byte) (count.PublicShare, []count.InputShare, error) {
			if len(x) != 1 || x[0] > 1 {
				return nil, nil, errMeasurement
			}
			return f.Shard(x[0] == 1, nonce, rand)
		})
	case enclave.MeasureSum:
		f, err := sum.New(2, uint64(m.Max), context)
		if err != nil {
			return nil, fmt.Errorf("compiling a sum: %w", err)
		}
		return adapt(f, order64, func(x []uint64, nonce *count.Nonce, rand []byte) (count.PublicShare, []count.InputShare, error) {
			if len(x) != 1 || x[0] > uint64(m.Max) {
				return nil, nil, errMeasurement
			}
			return f.Shard(x[0], nonce, rand)
		})
	case enclave.MeasureHistogram:
		f, err := histogram.New(2, n, chunk(n), context)
		if err != nil {
			return nil, fmt.Errorf("compiling a histogram: %w", err)
		}
		return adapt(f, order128, func(x []uint64, nonce *count.Nonce, rand []byte) (count.PublicShare, []histogram.InputShare, error) {
			if len(x) != 1 || x[0] >= uint64(n) {
				return nil, nil, errMeasurement
			}
			return f.Shard(x[0], nonce, rand)
		})
	case enclave.MeasureVector:
		width := uint(bits.Len64(uint64(m.Max)))
		f, err := sumvec.New(2, n, width, chunk(n*width), context)
		if err != nil {
			return nil, fmt.Errorf("compiling a vector: %w", err)
		}
		return adapt(f, order128, func(x []uint64, nonce *count.Nonce, rand []byte) (count.PublicShare, []histogram.InputShare, error) {
			if uint(len(x)) != n || slices.Max(x) > uint64(m.Max) {
				return nil, nil, errMeasurement
			}
			return f.Shard(x, nonce, rand)
		})
	}
	return nil, fmt.Errorf("there is no measurement %q", m.Kind)
}

var errMeasurement = errors.New("measurement is not within the collection's bounds")

// chunk is the length of the gadget's inputs that makes the proof shortest: near the square root of the circuit's size
// (draft-irtf-cfrg-vdaf-13, section 7.4.3.1).
func chunk(n uint) uint {
	return max(1, uint(new(big.Int).Sqrt(new(big.Int).SetUint64(uint64(n))).Uint64()))
}

// function is what the four types of the library have in common.
type function[In, Prep, State, Out, Agg, P any] interface {
	Params() P
	PrepInit(*count.VerifyKey, *count.Nonce, uint8, count.PublicShare, In) (*State, *Prep, error)
	PrepSharesToPrep([]Prep) (*count.PrepMessage, error)
	PrepNext(*State, *count.PrepMessage) (*Out, error)
	AggregateInit() Agg
	AggregateUpdate(*Agg, *Out)
}

type lengths interface {
	RandSize() uint
	OutputLength() uint
	JointRandLength() uint
}

type inputShare[In, P any] interface {
	*In
	encoding.BinaryMarshaler
	encoding.BinaryUnmarshaler
	New(*P, uint) *In
}

type prepShare[Prep, P any] interface {
	*Prep
	encoding.BinaryMarshaler
	encoding.BinaryUnmarshaler
	New(*P) *Prep
}

type marshaler[T any] interface {
	*T
	encoding.BinaryMarshaler
}

type params[P any] interface {
	*P
	lengths
}

// adapt turns one of them into bytes in and bytes out.
func adapt[In, Prep, State, Out, Agg, P any, PIn inputShare[In, P], PPrep prepShare[Prep, P], PAgg marshaler[Agg], PP params[P]](
	f function[In, Prep, State, Out, Agg, P], order *big.Int, split func([]uint64, *count.Nonce, []byte) (count.PublicShare, []In, error),
) (*vdaf, error) {
	par := f.Params()
	v := &vdaf{order: order, element: (order.BitLen() + 7) / 8, rand: int(PP(&par).RandSize()), outputs: int(PP(&par).OutputLength())}
	for i := range v.input {
		b, err := PIn(PIn(new(In)).New(&par, uint(i))).MarshalBinary()
		if err != nil {
			return nil, fmt.Errorf("sizing an input share: %w", err)
		}
		v.input[i] = len(b)
	}
	b, err := PPrep(PPrep(new(Prep)).New(&par)).MarshalBinary()
	if err != nil {
		return nil, fmt.Errorf("sizing a prep share: %w", err)
	}
	v.prep = len(b)
	if PP(&par).JointRandLength() > 0 { // one seed per aggregator
		v.public = 2 * 32
	}
	v.shard = func(x []uint64, nonce [16]byte, rand []byte) (public []byte, shares [2][]byte, err error) {
		n := count.Nonce(nonce)
		ps, in, err := split(x, &n, rand)
		if err != nil {
			return nil, shares, err
		}
		for i := range shares {
			if shares[i], err = PIn(&in[i]).MarshalBinary(); err != nil {
				return nil, shares, err
			}
		}
		return ps, shares, nil
	}
	v.prepare = func(verify [32]byte, nonce [16]byte, aggregator int, public, input []byte) (*prepared, error) {
		in := PIn(new(In)).New(&par, uint(aggregator))
		if err := PIn(in).UnmarshalBinary(input); err != nil {
			return nil, err
		}
		key, n := count.VerifyKey(verify), count.Nonce(nonce)
		state, mine, err := f.PrepInit(&key, &n, uint8(aggregator), count.PublicShare(public), *in)
		if err != nil {
			return nil, err
		}
		share, err := PPrep(mine).MarshalBinary()
		if err != nil {
			return nil, err
		}
		return &prepared{share: share, state: state, mine: mine}, nil
	}
	v.finish = func(p *prepared, aggregator int, peer []byte) (any, error) {
		theirs := PPrep(new(Prep)).New(&par)
		if err := PPrep(theirs).UnmarshalBinary(peer); err != nil {
			return nil, errProof
		}
		both := []Prep{*p.mine.(*Prep), *theirs}
		if aggregator == 1 {
			both[0], both[1] = both[1], both[0]
		}
		msg, err := f.PrepSharesToPrep(both)
		if err != nil {
			return nil, errProof
		}
		out, err := f.PrepNext(p.state.(*State), msg)
		if err != nil {
			return nil, errProof
		}
		return out, nil
	}
	v.newTotal = func() total {
		agg := f.AggregateInit()
		return &aggregate[Agg, Out, PAgg]{agg: &agg, update: f.AggregateUpdate}
	}
	return v, nil
}

type aggregate[Agg, Out any, PAgg marshaler[Agg]] struct {
	agg    *Agg
	update func(*Agg, *Out)
}

func (a *aggregate[Agg, Out, PAgg]) add(output any)         { a.update(a.agg, output.(*Out)) }
func (a *aggregate[Agg, Out, PAgg]) bytes() ([]byte, error) { return PAgg(a.agg).MarshalBinary() }

// Field elements as integers.

func (v *vdaf) integers(share []byte) ([]*big.Int, error) {
	if len(share) != v.outputs*v.element {
		return nil, fmt.Errorf("aggregate share has %d bytes, want %d", len(share), v.outputs*v.element)
	}
	out := make([]*big.Int, v.outputs)
	for i := range out {
		le := slices.Clone(share[i*v.element : (i+1)*v.element])
		slices.Reverse(le)
		if out[i] = new(big.Int).SetBytes(le); out[i].Cmp(v.order) >= 0 {
			return nil, errors.New("aggregate share has an element outside the field")
		}
	}
	return out, nil
}

func (v *vdaf) encode(xs []*big.Int) []byte {
	var out []byte
	for _, x := range xs {
		b := new(big.Int).Mod(x, v.order).FillBytes(make([]byte, v.element))
		slices.Reverse(b)
		out = append(out, b...)
	}
	return out
}

// centred is the representative of x mod the field's order nearest zero.
func (v *vdaf) centred(x *big.Int) *big.Int {
	x = new(big.Int).Mod(x, v.order)
	if new(big.Int).Lsh(x, 1).Cmp(v.order) > 0 {
		x.Sub(x, v.order)
	}
	return x
}
