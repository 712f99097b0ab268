package plan

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/rqlite/sql"

	"yingzhou.dev/lab/enclave"
)

// Conditions on numbers. A number was sealed as the bin that it is in, so a condition must hold for all of a bin or for
// none of it. Values are integers in units of 10^-Scale, which makes x <= 39 and x < 40 the same question.

func (b *builder) numeric(col enclave.Column, op sql.Token, e *sql.BinaryExpr, right sql.Expr) *cond {
	if op == sql.BETWEEN || op == sql.NOTBETWEEN {
		leaf := b.between(col, e, right)
		if op == sql.NOTBETWEEN {
			return negate(leaf)
		}
		return leaf
	}
	var leaf *cond
	values, ok := b.values(op, right), true
	for _, v := range values {
		one := b.single(col, op, v)
		switch {
		case one == nil:
			ok = false
		case leaf == nil:
			leaf = one
		default:
			for i, yes := range one.verdict {
				leaf.verdict[i] = leaf.verdict[i] || yes
			}
		}
	}
	if !ok || leaf == nil {
		return nil
	}
	if op == sql.NE || op == sql.NOTIN {
		return negate(leaf)
	}
	return leaf
}

// single reads one value: a number, or for equality a bin's label such as '[20,40)'. The negation of <> and NOT IN is
// left to the caller.
func (b *builder) single(col enclave.Column, op sql.Token, e sql.Expr) *cond {
	at := b.place(b.unparen(e))
	s, isText, isNumber := b.literal(e)
	if isText && (op == sql.EQ || op == sql.NE || op == sql.IN || op == sql.NOTIN) {
		leaf := &cond{col: col, verdict: make([]bool, col.Size())}
		for i := range leaf.verdict {
			if col.Label(i) == s {
				leaf.verdict[i] = true
				return leaf
			}
		}
		b.refuse(CodeDomain, at, fmt.Sprintf("%q is not a bin of %q", clip(s), col.Name), "bins: "+list(labels(col)))
		return nil
	}
	if !isNumber {
		if isText {
			b.refuse(CodeDomain, at, fmt.Sprintf("%q is a number and is compared with text", col.Name), "write the number without quotes; "+edges(col))
		} else {
			b.notLiteral(e)
		}
		return nil
	}
	v, ok := b.scaled(col, s, at)
	if !ok {
		return nil
	}
	lo, hi := int64(math.MinInt64), int64(math.MaxInt64)
	switch op {
	case sql.LT:
		hi = v - 1
	case sql.LE:
		hi = v
	case sql.GE:
		lo = v
	case sql.GT:
		lo = v + 1
	default:
		lo, hi = v, v
	}
	return b.interval(col, lo, hi, at)
}

// between reads [a, b), which includes b where it is the last edge.
func (b *builder) between(col enclave.Column, e *sql.BinaryExpr, right sql.Expr) *cond {
	r, ok := right.(*sql.Range)
	if !ok {
		b.refuse(CodeSyntax, b.at(e.OpPos), "BETWEEN needs two numbers", "write x BETWEEN number AND number")
		return nil
	}
	var ends [2]int64
	for i, end := range []sql.Expr{r.X, r.Y} {
		s, _, isNumber := b.literal(end)
		at := b.place(b.unparen(end))
		if !isNumber {
			b.refuse(CodeSyntax, at, "BETWEEN needs two numbers", "write x BETWEEN number AND number; "+edges(col))
			return nil
		}
		if ends[i], ok = b.scaled(col, s, at); !ok {
			return nil
		}
		if !slices.Contains(col.Bins, ends[i]) {
			b.refuse(CodeBins, at, fmt.Sprintf("%s is not a bin edge of %q", clip(s), col.Name), edges(col)+"; BETWEEN a AND b is a <= x < b")
			ok = false
		}
		if !ok {
			return nil
		}
	}
	last := ends[1] - 1
	if ends[1] == col.Bins[len(col.Bins)-1] {
		last = ends[1]
	}
	return b.interval(col, ends[0], last, b.at(e.OpPos))
}

func (b *builder) scaled(col enclave.Column, s string, at Pos) (int64, bool) {
	v, err := parseDecimal(s, col.Scale)
	if errors.Is(err, errFiner) {
		b.refuse(CodeBins, at, fmt.Sprintf("%s has more decimals than the %d that %q keeps", clip(s), col.Scale, col.Name), edges(col))
	} else if err != nil {
		b.refuse(CodeDomain, at, fmt.Sprintf("%s is out of the range of numbers", clip(s)), edges(col))
	}
	return v, err == nil
}

// interval says for each bin whether all of it is within [lo, hi], and refuses if the interval cuts one.
func (b *builder) interval(col enclave.Column, lo, hi int64, at Pos) *cond {
	leaf := &cond{col: col, verdict: make([]bool, col.Size())}
	for i := range leaf.verdict {
		from, to := col.Bins[i], col.Bins[i+1]-1
		if i == len(leaf.verdict)-1 {
			to++
		}
		switch {
		case lo <= from && to <= hi:
			leaf.verdict[i] = true
		case hi < from || to < lo || lo > hi:
		default:
			hint := edges(col) + "; compare with < and >= at an edge"
			if i == len(leaf.verdict)-1 && hi == to-1 {
				hint = "the last bin includes its upper edge: use <="
			}
			b.refuse(CodeBins, at, fmt.Sprintf("the condition on %q cuts through the bin %s", col.Name, col.Label(i)), hint)
			return nil
		}
	}
	return leaf
}

func labels(col enclave.Column) []string {
	out := make([]string, col.Size())
	for i := range out {
		out[i] = col.Label(i)
	}
	return out
}

func edges(col enclave.Column) string {
	const most = 16
	var out []string
	for i, e := range col.Bins {
		if i == most-1 && len(col.Bins) > most {
			out = append(out, "…", enclave.FormatScaled(col.Bins[len(col.Bins)-1], col.Scale))
			break
		}
		out = append(out, enclave.FormatScaled(e, col.Scale))
	}
	return "edges: " + strings.Join(out, ", ")
}
