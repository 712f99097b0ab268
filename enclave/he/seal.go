package he

import (
	"fmt"

	"github.com/tuneinsight/lattigo/v6/ring"
	"github.com/tuneinsight/lattigo/v6/utils/sampling"

	"yingzhou.dev/lab/enclave/he/internal/modq"
)

// Error distribution of fresh ciphertexts: discrete Gaussian, σ = 3.2, cut at 6σ (Homomorphic Encryption Standard).
var errorDistribution = ring.DiscreteGaussian{Sigma: 3.2, Bound: 19.2}

// Sealer encrypts the chunks of one vector under an owner's key. The uniform half of every ciphertext comes from a
// public seed, so only c0 is stored. One Sealer serves one goroutine; several may share a key and seed as long as no
// chunk is sealed twice, because c1 would repeat under another error.
type Sealer struct {
	key  *SecretKey
	seed [32]byte
	errs ring.Sampler
	c1   []uint64
	work []uint64
	msg  []uint64
}

// NewSealer makes a sealer for a vector whose blob carries seed.
func NewSealer(key *SecretKey, seed [32]byte) (*Sealer, error) {
	prng, err := sampling.NewPRNG()
	if err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	p := key.p
	errs, err := ring.NewSampler(prng, p.ringQ, errorDistribution, false)
	if err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	return &Sealer{key: key, seed: seed, errs: errs, c1: make([]uint64, p.Words()), work: make([]uint64, p.Words()), msg: make([]uint64, p.n)}, nil
}

// Reset points the sealer at another vector's seed.
func (s *Sealer) Reset(seed [32]byte) { s.seed = seed }

// Slots seals up to N values, one per slot, for the rows layout. out gets c0 in the NTT domain, Words() residues.
// Values must lie within ±t/2.
func (s *Sealer) Slots(chunk int64, values []int64, out []uint64) error {
	p := s.key.p
	if err := s.load(values); err != nil {
		return err
	}
	// Any fixed order of the slots will do, since they are only multiplied pairwise and added up: the NTT's own.
	p.ringT.SubRings[0].INTT(s.msg, s.msg)
	s.encrypt(chunk, out)
	return nil
}

// Cells seals up to N cell totals, one per coefficient, for the cube layout. out gets c0 in the coefficient domain.
func (s *Sealer) Cells(chunk int64, values []int64, out []uint64) error {
	if err := s.load(values); err != nil {
		return err
	}
	s.encrypt(chunk, out)
	p := s.key.p
	p.ringQ.INTT(p.poly(out), p.poly(out))
	return nil
}

func (s *Sealer) load(values []int64) error {
	p := s.key.p
	if len(values) > p.n {
		return fmt.Errorf("sealing %d values in a ciphertext of %d", len(values), p.n)
	}
	half := int64(p.t / 2)
	clear(s.msg)
	for i, v := range values {
		if v > half || v < -half {
			return fmt.Errorf("sealing: value %d of the chunk is outside ±t/2 of parameter set %s", i, p.Set.Name)
		}
		if v < 0 {
			s.msg[i] = p.t - uint64(-v)
		} else {
			s.msg[i] = uint64(v)
		}
	}
	return nil
}

// encrypt turns the plaintext polynomial in s.msg into c0 = −c1·s + NTT(e + t⁻¹·m).
func (s *Sealer) encrypt(chunk int64, out []uint64) {
	p := s.key.p
	e := p.poly(s.work)
	s.errs.Read(e)
	half := p.t / 2
	for i, q := range p.q {
		sub := p.ringQ.SubRings[i]
		limb := s.work[i*p.n : (i+1)*p.n]
		inv := p.tInvQ[i]
		invShoup := modq.Shoup(inv, q)
		lower := q*(p.t/q+1) - p.t // ≡ −t: centring m halves the growth of noise in products
		for j, m := range s.msg {
			if m > half {
				m += lower
			}
			limb[j] = modq.Add(limb[j], modq.MulShoup(m, inv, invShoup, q), q)
		}
		sub.NTT(limb, limb)
	}
	p.Expand(s.seed, chunk, s.c1)
	dst := p.poly(out)
	p.ringQ.MulCoeffsBarrett(p.poly(s.c1), p.poly(s.key.s), dst)
	p.ringQ.Sub(e, dst, dst)
}
