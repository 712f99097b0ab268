package mpc

import (
	"fmt"
	"math/bits"
	"time"
)

// Cost is what a program takes at one node, as package engine evaluates it. All but sorts are exact; how many comparisons
// a sort makes depends on chance a little, and Cost has what they are on average.
type Cost struct {
	Rounds int64 // messages that must be waited for, one after the other
	Words  int64 // of 8 bytes, sent to the two other nodes together, by the node that sends most
}

// Bytes is what one node sends.
func (c Cost) Bytes() int64 { return 8 * c.Words }

// Time is an estimate for nodes that are latency apart, with a core each: work goes with the words sent, some 100 ns for
// each where columns of a million rows are compared, sorted and joined.
func (c Cost) Time(latency time.Duration) time.Duration {
	return time.Duration(c.Rounds)*latency + time.Duration(c.Words)*100*time.Nanosecond
}

func (c *Cost) add(rounds, words int64) {
	c.Rounds += rounds
	c.Words += words
}

// Cost prices the program, or says what Check says. Row counts of tables must be right, or about right.
func (p *Program) Cost() (Cost, error) {
	types, err := p.Check()
	if err != nil {
		return Cost{}, err
	}
	c := pricer{types: types}
	c.add(1, 8) // agreeing on the program
	for _, s := range p.Steps {
		c.step(s)
	}
	for _, r := range p.Releases {
		c.release(r)
	}
	for _, r := range p.Keys {
		c.keyRelease(r)
	}
	c.agree()
	return c.Cost, nil
}

type pricer struct {
	Cost
	types map[string]Type
}

// plane is the machine words of a bit per row.
func plane(rows int64) int64 { return (rows + 63) / 64 }

func levels(n int64) int64 { return int64(bits.Len64(uint64(max(0, n-1)))) }

func (c *pricer) step(s Step) {
	rows := c.types[s.Out[0]].Rows
	switch s.Op {
	case OpConstant, OpLinear, OpXor, OpNot, OpBit:
	case OpMul, OpSelect:
		c.add(1, rows)
	case OpAnd, OpOr:
		c.add(1, plane(rows))
	case OpNumber:
		c.numbers(rows)
	case OpLess, OpEqual:
		c.compare(s, rows)
	case OpWord:
		c.word(rows, int64(c.types[s.In[0]].Bits()))
	case OpSort:
		c.sort(rows, c.width(s.By, s.By)+index(rows))
		c.move(rows, len(s.In))
	case OpJoin:
		c.join(s)
	case OpDistinct, OpGroup:
		c.group(s, rows)
	}
}

func (c *pricer) numbers(rows int64) { c.add(2, rows) }

func (c *pricer) compare(s Step, rows int64) {
	x, y := c.types[s.In[0]], c.types[s.In[1]]
	if x.Kind == Word {
		width := int64(max(x.Bits(), y.Bits()))
		if s.Op == OpLess {
			c.decide(rows, width+1)
		} else {
			c.all(rows, width)
		}
		return
	}
	width := int64(bits.Len64(uint64(x.Bound) + uint64(y.Bound)))
	if s.Op == OpLess {
		c.negative(rows, width+1)
	} else {
		c.halves(rows, width)
		c.all(rows, width)
	}
}

func (c *pricer) halves(rows, width int64) { c.add(1, plane(rows)*width) }

func (c *pricer) negative(rows, width int64) {
	c.halves(rows, width)
	c.decide(rows, width)
}

func (c *pricer) decide(rows, width int64) {
	for width > 1 {
		pairs := width / 2
		values := (pairs + width%2) / 2 // package engine says which
		if width -= pairs; width == 1 {
			values = 1
		}
		c.add(1, plane(rows)*(values+pairs-1))
	}
}

func (c *pricer) all(rows, width int64) { c.add(levels(width), plane(rows)*(width-1)) }

func (c *pricer) word(rows, width int64) {
	c.halves(rows, width)
	c.add(1, plane(rows))
	for span := int64(1); span < width; span *= 2 {
		upper := int64(0)
		for b := range width {
			if b&span != 0 {
				upper++
			}
		}
		c.add(1, 2*upper*plane(rows))
	}
}

// width is the bits of key columns, each as wide as what it is compared with.
func (c *pricer) width(by, beside []string) int64 {
	total := 0
	for i := range by {
		total += max(c.types[by[i]].Bits(), c.types[beside[i]].Bits())
	}
	return int64(total)
}

func index(rows int64) int64 { return max(1, levels(rows)) }

// move shuffles columns there or back.
func (c *pricer) move(rows int64, columns int) { c.add(3, 2*rows*int64(columns)) }

// sort fits what package engine does to its choice of comparisons: 1.08·log₂ n − 0.3 for each row, in 10 + 1.57·log₂ n
// batches, or more where a batch would be beyond a million.
func (c *pricer) sort(rows, width int64) {
	c.move(rows, int((width+63)/64))
	if rows < 2 {
		return
	}
	whole := int64(1) << (bits.Len64(uint64(rows)) - 1)
	log := int64(100*(bits.Len64(uint64(rows))-1)) + 100*(rows-whole)/whole // hundredths, straight between powers
	compares, batches := rows*(108*log-3000)/10_000, 10+157*log/10_000
	if rows <= 8 {
		compares, batches = rows*(rows-1)/2, 1
	}
	batches = max(batches, compares>>20)
	for range batches {
		c.decide(compares/batches, width)
		c.open(plane(compares / batches))
	}
}

// runs compares neighbours.
func (c *pricer) runs(rows, width int64) {
	if rows > 1 {
		c.all(rows-1, width)
		c.numbers(rows - 1)
	}
}

func (c *pricer) scan(rows int64, columns int) {
	k := int64(columns)
	for ; rows > 1; rows /= 2 {
		c.add(2, (1+k)*(rows/2)+k*((rows-1)/2))
	}
}

// JoinColumns is how many columns, the one that says what matched included, a join carries at a time.
const JoinColumns = 4

func (c *pricer) join(s Step) {
	rows := c.types[s.On[0]].Rows + c.types[s.By[0]].Rows
	width := c.width(s.On, s.By)
	c.sort(rows, width+index(rows))
	c.runs(rows, width)
	for rest := 1 + len(s.In); rest > 0; rest -= JoinColumns {
		columns := min(rest, JoinColumns)
		c.move(rows, columns)
		c.scan(rows, columns)
		c.move(rows, columns)
	}
}

func (c *pricer) group(s Step, rows int64) {
	width := c.width(s.By, s.By)
	key := width + index(rows)
	if s.Where != "" {
		key++
		if len(s.In) > 0 {
			c.add(1, rows*int64(len(s.In)))
		}
	}
	c.sort(rows, key)
	c.runs(rows, width)
	columns := 1 + len(s.In)
	if s.Op == OpDistinct {
		if s.Where != "" {
			c.move(rows, 1)
			c.add(1, rows)
		}
		c.move(rows, 1)
		return
	}
	c.move(rows, columns)
	if s.Where != "" {
		c.add(1, rows)
	}
	c.scan(rows, columns)
	c.add(1, rows*int64(columns))
	c.move(rows, columns+1)
}

func (c *pricer) agree() { c.add(1, 24) }

func (c *pricer) open(words int64) {
	c.agree()
	c.add(1, words+4)
}

// noised is three inputs at once.
func (c *pricer) noised(values int64) { c.add(1, values) }

func (c *pricer) release(r Release) {
	rows := c.types[r.rows()].Rows
	cells := int64(max(1, len(r.Cells)))
	inner := func() {
		if len(r.Cells) > 0 {
			c.add(1, cells)
		}
	}
	if r.Who != "" {
		inner()
	}
	c.noised(cells)
	c.open(cells)
	for range r.Sums {
		inner()
		c.noised(cells)
	}
	for _, q := range r.Quantiles {
		beyond := q.Min + q.Unit<<q.Steps()
		bound := uint64(max(c.types[q.Column].Bound, beyond, -q.Min))
		width := int64(bits.Len64(bound+uint64(max(beyond, -q.Min)))) + 1
		if r.Who != "" {
			c.add(1, rows)
		}
		for range q.Steps() {
			for range q.Fractions {
				c.negative(rows, width)
				c.numbers(rows)
				inner()
			}
			c.noised(cells * int64(len(q.Fractions)))
			c.open(cells * int64(len(q.Fractions)))
		}
	}
}

func (c *pricer) keyRelease(r KeyRelease) {
	count := c.types[r.Count]
	c.noised(count.Rows)
	reach := uint64(count.Bound) + r.Noise.Part().TailBound(tailBits).Uint64() + uint64(r.MinCount)
	c.negative(count.Rows, int64(bits.Len64(reach))+1)
	c.add(1, plane(count.Rows))
	c.numbers(count.Rows)
	c.noised(count.Rows) // tags
	c.move(count.Rows, 3+len(r.Keys)+len(r.Sums))
	c.open(plane(count.Rows))
	c.open(0) // of the keys that pass
	for range r.Sums {
		c.noised(0)
	}
}

// String is for people.
func (c Cost) String() string {
	return fmt.Sprintf("%d rounds, %.1f MB sent by each node", c.Rounds, float64(c.Bytes())/1e6)
}
