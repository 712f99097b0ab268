package dp

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"math/big"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// reference is a second implementation of the stream and the samplers, from the package's documentation and the paper:
// AES block by block, probabilities as rationals, nothing on machine words. It is the source of the known answers.
type reference struct {
	block   cipher.Block
	counter *big.Int
	unread  []byte
}

func newReference(key []byte, context ...[]byte) *reference {
	var message []byte
	for _, c := range context {
		message = append(binary.BigEndian.AppendUint64(message, uint64(len(c))), c...)
	}
	mac := hmac.New(sha256.New, key)
	mac.Write(message)
	block, err := aes.NewCipher(mac.Sum(nil))
	if err != nil {
		panic(err)
	}
	return &reference{block: block, counter: new(big.Int)}
}

func (r *reference) next() byte {
	if len(r.unread) == 0 {
		r.unread = r.counter.FillBytes(make([]byte, 16))
		r.block.Encrypt(r.unread, r.unread)
		r.counter.Add(r.counter, one)
	}
	b := r.unread[0]
	r.unread = r.unread[1:]
	return b
}

func (r *reference) uniform(n *big.Int) *big.Int {
	span := big.NewInt(1) // least power of two that is at least n
	width := 0
	for span.Cmp(n) < 0 {
		span.Lsh(span, 1)
		width++
	}
	for {
		x := new(big.Int)
		for i := 0; i < width; i += 8 {
			x.Lsh(x, 8).Add(x, big.NewInt(int64(r.next())))
		}
		if x.Mod(x, span).Cmp(n) < 0 {
			return x
		}
	}
}

// unit is a coin exp(−n/d) for n ≤ d.
func (r *reference) unit(n, d *big.Int) bool {
	for k := int64(1); ; k++ {
		parts := new(big.Int).Mul(d, big.NewInt(k))
		u := new(big.Rat).SetFrac(r.uniform(parts), parts)
		if u.Cmp(new(big.Rat).SetFrac(n, parts)) >= 0 {
			return k%2 == 1
		}
	}
}

// coin is a coin exp(−n/d).
func (r *reference) coin(n, d *big.Int) bool {
	whole := new(big.Int).Sub(n, one)
	if whole.Sign() > 0 {
		whole.Quo(whole, d) // ⌈n/d⌉ − 1
	} else {
		whole.SetInt64(0)
	}
	for i := new(big.Int); i.Cmp(whole) < 0; i.Add(i, one) {
		if !r.unit(one, one) {
			return false
		}
	}
	return r.unit(new(big.Int).Sub(n, whole.Mul(whole, d)), d)
}

func (r *reference) laplace(b Scale) *big.Int {
	for {
		u := r.uniform(b.Num)
		if !r.unit(u, b.Num) {
			continue
		}
		v := new(big.Int)
		for r.unit(one, one) {
			v.Add(v, one)
		}
		x := new(big.Rat).SetInt(v.Mul(v, b.Num).Add(v, u))
		x.Mul(x, new(big.Rat).SetFrac(one, b.Den))
		y := new(big.Int).Div(x.Num(), x.Denom())
		minus := r.uniform(big.NewInt(2)).Sign() > 0
		switch {
		case minus && y.Sign() == 0:
		case minus:
			return y.Neg(y)
		default:
			return y
		}
	}
}

func (r *reference) gaussian(num, den *big.Int) *big.Int {
	variance := new(big.Rat).SetFrac(num, den)
	t := big.NewInt(1) // ⌊σ⌋ + 1: the least t with t² > σ²
	for new(big.Rat).SetInt(new(big.Int).Mul(t, t)).Cmp(variance) <= 0 {
		t.Add(t, one)
	}
	for {
		y := r.laplace(Scale{Num: t, Den: one})
		d := new(big.Rat).SetInt(new(big.Int).Abs(y))
		d.Sub(d, new(big.Rat).Quo(variance, new(big.Rat).SetInt(t)))
		d.Mul(d, d).Quo(d, new(big.Rat).Add(variance, variance))
		// The coin is defined over the denominator 2·num·den·t², which the rational has reduced.
		bottom := new(big.Int).Mul(num, den)
		bottom.Mul(bottom, t).Mul(bottom, t).Mul(bottom, big.NewInt(2))
		top := d.Mul(d, new(big.Rat).SetInt(bottom))
		if !top.IsInt() {
			panic("the denominator should clear the exponent")
		}
		if r.coin(top.Num(), bottom) {
			return y
		}
	}
}

func TestSamplersAgreeWithReference(t *testing.T) {
	positive := rapid.Custom(func(t *rapid.T) *big.Int {
		n := new(big.Int).SetBytes(rapid.SliceOfN(rapid.Byte(), 0, 20).Draw(t, "bytes"))
		return n.Rsh(n, uint(rapid.IntRange(0, 7).Draw(t, "shift"))).Add(n, one)
	})
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.SliceOfN(rapid.Byte(), 1, 4).Draw(t, "key")
		s, r := NewStream(key, []byte("a")), newReference(key, []byte("a"))
		b := Scale{Num: positive.Draw(t, "num"), Den: positive.Draw(t, "den")}
		for range 4 {
			if got, want := Laplace(s, b), r.laplace(b); got.Cmp(want) != 0 {
				t.Fatalf("Laplace at %v is %v, want %v", b, got, want)
			}
		}
		den := positive.Draw(t, "variance den")
		num := new(big.Int).Mul(den, big.NewInt(rapid.Int64Range(0, 90_000).Draw(t, "variance")))
		num.Add(num, new(big.Int).Rsh(den, 1)).Add(num, one)
		if got, want := Gaussian(s, num, den), r.gaussian(num, den); got.Cmp(want) != 0 {
			t.Fatalf("Gaussian at %v/%v is %v, want %v", num, den, got, want)
		}
	})
}

// Machine words meet their limits where Num·k or Num·V passes 64 bits.
func TestWordsAndBigIntegersAgree(t *testing.T) {
	for _, num := range []uint64{1, 2, 255, 256, 257, 1 << 32, 1<<62 + 1, 1<<63 - 1, 1 << 63, 1<<64 - 1} {
		for _, den := range []uint64{1, 3, 1 << 40, 1<<64 - 1} {
			b := Scale{Num: new(big.Int).SetUint64(num), Den: new(big.Int).SetUint64(den)}
			s, r := testStream("limits", 0), newReference([]byte("test key"), []byte("limits"), make([]byte, 8))
			for range 40 {
				if got, want := Laplace(s, b), r.laplace(b); got.Cmp(want) != 0 {
					t.Fatalf("Laplace at %v is %v, want %v", b, got, want)
				}
			}
		}
	}
}

// Ours, drawn by the reference implementation above and kept. A change of stream or sampler would give every question
// asked before fresh noise, and must not pass unnoticed.
func TestKnownAnswers(t *testing.T) {
	wide := new(big.Int).Lsh(one, 70)
	for _, c := range []struct {
		name string
		fast func(*Stream) *big.Int
		slow func(*reference) *big.Int
		want []string
	}{
		{"m·Δ = 100, ε = 0.5", func(s *Stream) *big.Int { return Laplace(s, LaplaceScale(1, 100, 500_000)) },
			func(r *reference) *big.Int { return r.laplace(Scale{big.NewInt(200), one}) },
			strings.Fields("26 -14 265 -21 128 255 -103 97 -100 -246 89 -419")},
		{"m·Δ = 3, ε = 0.7", func(s *Stream) *big.Int { return Laplace(s, LaplaceScale(3, 1, 700_000)) },
			func(r *reference) *big.Int { return r.laplace(Scale{big.NewInt(30), big.NewInt(7)}) },
			strings.Fields("-11 3 5 1 -3 0 4 -3 -1 -1 1 0")},
		{"b = 2^70/3", func(s *Stream) *big.Int { return Laplace(s, Scale{wide, big.NewInt(3)}) },
			func(r *reference) *big.Int { return r.laplace(Scale{wide, big.NewInt(3)}) },
			strings.Fields("510991070535894770487 51527883341251757163 -9879433590273011889 314925490082918629149 " +
				"151068864796047423982 -620761804209875645690 -311130418791060439209 19111907287328721157 " +
				"434205141566549453166 286152213315826560180 144014077438334604708 45605604333650984555")},
		{"σ² = 100", func(s *Stream) *big.Int { return Gaussian(s, big.NewInt(100), one) },
			func(r *reference) *big.Int { return r.gaussian(big.NewInt(100), one) },
			strings.Fields("-25 12 18 -4 1 5 0 -7 2 10 -6 -1")},
		{"σ² = 5/7", func(s *Stream) *big.Int { return Gaussian(s, big.NewInt(5), big.NewInt(7)) },
			func(r *reference) *big.Int { return r.gaussian(big.NewInt(5), big.NewInt(7)) },
			strings.Fields("0 -1 2 0 1 1 -1 -1 -1 -1 -1 0")},
	} {
		s := NewStream([]byte("yingzhou"), []byte("noise"), []byte{1, 2, 3})
		r := newReference([]byte("yingzhou"), []byte("noise"), []byte{1, 2, 3})
		var fast, slow []string
		for range 12 {
			fast, slow = append(fast, c.fast(s).String()), append(slow, c.slow(r).String())
		}
		if diff := cmp.Diff(c.want, fast); diff != "" {
			t.Errorf("%s: samples (-want +got):\n%s", c.name, diff)
		}
		if diff := cmp.Diff(c.want, slow); diff != "" {
			t.Errorf("%s: reference (-want +got):\n%s", c.name, diff)
		}
	}
}
