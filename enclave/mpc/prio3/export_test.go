package prio3

import (
	"crypto/ed25519"

	"yingzhou.dev/lab/enclave/keys"
)

// Forge makes a report whose leader's share has one element changed before it is sealed: the measurement is out of
// bounds and the proof is of another. Everything else about it is right.
func (t *Task) Forge(reporter int, key ed25519.PrivateKey, public [2][]byte, measurement []uint64, id [16]byte) ([]byte, error) {
	r := &report{collection: t.Digest, reporter: uint32(reporter), id: id}
	var ps []byte
	var shares [2][]byte
	var err error
	t.with(func(v *vdaf) { ps, shares, err = v.shard(measurement, r.id, make([]byte, v.rand)) })
	if err != nil {
		return nil, err
	}
	shares[0][0]++
	r.public = ps
	for i := range r.sealed {
		if r.sealed[i], err = keys.SealTo(public[i], r.info(i), shares[i]); err != nil {
			return nil, err
		}
	}
	return r.encode(key), nil
}

// Resign signs the body of a report again after it was altered.
func Resign(data []byte, key ed25519.PrivateKey) []byte {
	body := data[:len(data)-ed25519.SignatureSize]
	return append(append([]byte(nil), body...), ed25519.Sign(key, signedText(body))...)
}

// HelperAt is where the helper's ciphertext begins.
func (t *Task) HelperAt() int {
	return len(reportMagic) + 32 + idBytes + 4 + t.vdaf.public + t.vdaf.input[0] + sealOverhead
}
