package engine

import (
	"yingzhou.dev/lab/enclave/dp"
	"yingzhou.dev/lab/enclave/mpc"
)

// noised adds to every value this node's part of its noise and those of the two others, in place: nobody ever sees a value
// without them. questions says what each value answers, and so what its noise is. One round.
func (j *job) noised(x share, n mpc.Noise, questions []mpc.Digest) {
	part := n.Part()
	mine := make([]uint64, x.len())
	for i, q := range questions {
		mine[i] = uint64(part.Draw(j.noise(q)).Int64())
	}
	j.addInputs(x, mine)
}

// noisedRows is noised for one question of many rows.
func (j *job) noisedRows(x share, n mpc.Noise, question mpc.Digest) {
	part, s := n.Part(), j.noise(question)
	mine := make([]uint64, x.len())
	for i := range mine {
		mine[i] = uint64(part.Draw(s).Int64())
	}
	j.addInputs(x, mine)
}

// noise is this node's stream for a question.
func (j *job) noise(question mpc.Digest) *dp.Stream {
	return dp.NewStream(j.cfg.NoiseKey, []byte("mpc noise"), question[:])
}

func (j *job) addInputs(x share, mine []uint64) {
	for _, part := range j.inputAll(mine) {
		for i := range x.a {
			x.a[i] += part.a[i]
		}
		for i := range x.b {
			x.b[i] += part.b[i]
		}
	}
}

// tags are numbers that are random to everybody and the same whenever the question is asked again. One round.
func (j *job) tags(n int, question mpc.Digest) share {
	s := dp.NewStream(j.cfg.NoiseKey, []byte("mpc tags"), question[:])
	mine := make([]uint64, n)
	for i := range mine {
		mine[i] = s.Uint64()
	}
	x := newShare(n)
	j.addInputs(x, mine)
	return x
}
