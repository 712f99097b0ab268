package engine

import "math/bits"

// key is what rows are ordered by: a number of so many bits per row, in words shared by XOR, the lowest first.
type key struct {
	words []share
	bits  int
}

func (k key) rows() int { return k.words[0].len() }

// field is a part of a key: the low bits of words.
type field struct {
	share
	bits int
}

// wordField is the part of a word that varies: all of a dealt word, and of a number made a word (party.word) that fits
// count bits the low count−1 and the highest. No message, as shifts and masks act on each component alike.
func wordField(x share, count int) field {
	if count >= 64 {
		return field{x, 64}
	}
	low := uint64(1)<<(count-1) - 1
	out := newShare(x.len())
	for i, v := range x.a {
		out.a[i] = v&low | v>>63<<(count-1)
	}
	for i, v := range x.b {
		out.b[i] = v&low | v>>63<<(count-1)
	}
	return field{out, count}
}

// flagField is a flag, as numbers 0 or 1, or its opposite.
func (p *party) flagField(x share, not bool) field {
	out := newShare(x.len())
	for i, v := range x.a {
		out.a[i] = v & 1
	}
	for i, v := range x.b {
		out.b[i] = v & 1
	}
	if not {
		if p.id == 0 {
			flipLow(out.a)
		}
		if p.id == 2 {
			flipLow(out.b)
		}
	}
	return field{out, 1}
}

func flipLow(x []uint64) {
	for i := range x {
		x[i] ^= 1
	}
}

// pack joins fields to one key, the most significant field first.
func pack(fields ...field) key {
	total := 0
	for _, f := range fields {
		total += f.bits
	}
	k := key{bits: total}
	n := fields[0].len()
	for range (total + 63) / 64 {
		k.words = append(k.words, newShare(n))
	}
	at := 0
	for i := len(fields) - 1; i >= 0; i-- {
		f := fields[i]
		w, off := at/64, at%64
		mask := ^uint64(0) >> (64 - f.bits) // components may be anything above
		place(k.words[w].a, f.a, mask, off)
		place(k.words[w].b, f.b, mask, off)
		if off+f.bits > 64 {
			place(k.words[w+1].a, f.a, mask, off-64)
			place(k.words[w+1].b, f.b, mask, off-64)
		}
		at += f.bits
	}
	return k
}

// place adds the masked x to z, shifted left, or right if negative.
func place(z, x []uint64, mask uint64, left int) {
	for i, v := range x {
		if v &= mask; left >= 0 {
			z[i] |= v << left
		} else {
			z[i] |= v >> -left
		}
	}
}

// indexed puts the row number below the other fields, which makes keys distinct and sorting stable. It happens before the
// shuffle, so the number is as secret as the rest.
func (p *party) indexed(fields ...field) key {
	n := fields[0].len()
	numbers := make([]uint64, n)
	for i := range numbers {
		numbers[i] = uint64(i)
	}
	return pack(append(fields, field{p.public(numbers), max(1, bits.Len(uint(max(0, n-1))))})...)
}

// at is an operand of less: the key of the rows that index lists.
func (k key) at(index []uint32) operand {
	row := make([]uint64, blockRows)
	return func(dst share, b, w int) {
		part := index[b*blockRows : min((b+1)*blockRows, len(index))]
		for m, word := range k.words {
			count := min(64, k.bits-64*m)
			for c, component := range [2][]uint64{word.a, word.b} {
				for i, q := range part {
					row[i] = component[q]
				}
				to := dst.a
				if c == 1 {
					to = dst.b
				}
				sliced(to[64*m*w:(64*m+count)*w], w, count, row[:len(part)])
			}
		}
	}
}
