package engine

import (
	"fmt"
	"math/bits"

	"yingzhou.dev/lab/enclave/mpc"
)

// evaluate makes the columns of one step. Check has made sure of kinds, frames and ranges.
func (j *job) evaluate(s mpc.Step) {
	switch s.Op {
	case mpc.OpJoin:
		matched, values := j.join(j.fields(s.On, s.By), j.fields(s.By, s.On), j.where(s.Where), j.columns(s.In))
		j.set(s, append([]share{matched}, values...)...)
	case mpc.OpSort:
		sorted := j.sort(j.indexed(j.fields(s.By, nil)...))
		j.set(s, j.bring(sorted, j.columns(s.In), func(c int) bool { return j.types[s.In[c]].Kind == mpc.Number })...)
	case mpc.OpDistinct:
		j.set(s, j.distinct(j.fields(s.By, nil), j.where(s.Where)))
	case mpc.OpGroup:
		one, sums := j.group(j.fields(s.By, nil), j.where(s.Where), j.columns(s.In))
		j.set(s, append([]share{one}, sums...)...)
	case mpc.OpConstant:
		x := newShare(int(j.types[s.Out[0]].Rows))
		j.constant(x, uint64(s.Const[0]))
		j.set(s, x)
	case mpc.OpLinear:
		j.set(s, j.linear(uint64(s.Const[0]), s.Const[1:], j.columns(s.In)...))
	default:
		j.set(s, j.rowwise(s, j.columns(s.In)))
	}
}

func (j *job) set(s mpc.Step, values ...share) {
	for i, v := range values {
		j.values[s.Out[i]] = v
	}
}

func (j *job) rowwise(s mpc.Step, in []share) share {
	t := j.types[s.In[0]]
	switch s.Op {
	case mpc.OpMul:
		return j.mul(in[0], in[1])
	case mpc.OpSelect:
		return j.selectNumber(in[0], in[1], in[2])
	case mpc.OpLess, mpc.OpEqual:
		return j.compare(s)
	case mpc.OpAnd:
		return j.and(in[0], in[1])
	case mpc.OpOr:
		return j.or(in[0], in[1])
	case mpc.OpXor:
		return xor(in[0], in[1])
	case mpc.OpNot:
		x := newShare(in[0].len())
		copyShare(x, in[0])
		j.not(x)
		return x
	case mpc.OpBit:
		return lowBits(in[0])
	case mpc.OpNumber:
		return j.numbers(in[0], int(t.Rows))
	case mpc.OpWord:
		return j.word(in[0], t.Bits())
	}
	panic(fmt.Sprintf("engine: operation %q passed the check", s.Op))
}

// compare is less or equal, of numbers on as many bits as their difference has, of words on those that vary.
func (j *job) compare(s mpc.Step) share {
	x, y := j.types[s.In[0]], j.types[s.In[1]]
	if x.Kind == mpc.Word {
		a, b := j.fields(s.In[:1], s.In[1:])[0], j.fields(s.In[1:], s.In[:1])[0]
		if s.Op == mpc.OpLess {
			return j.lessWords(a, b)
		}
		return j.equalWords(a, b)
	}
	width := bits.Len64(uint64(x.Bound) + uint64(y.Bound))
	a, b := j.column(s.In[0]), j.column(s.In[1])
	if s.Op == mpc.OpLess {
		return j.lessNumbers(a, b, width+1)
	}
	return j.zero(sub(a, b), width)
}
