package engine

import (
	"errors"
	"slices"
	"sync"
	"testing"

	"yingzhou.dev/lab/enclave/mpc"
)

// small is a program with every kind of step and opening, over few rows.
func small(n, m int64, keys bool) (*mpc.Program, cleartext) {
	p := &mpc.Program{Tables: []mpc.Table{
		{Name: "a", Rows: n, Columns: []mpc.Column{{Name: "id", Kind: mpc.Word}, {Name: "x", Kind: mpc.Number, Bound: 1 << 20}}},
		{Name: "b", Rows: m, Columns: []mpc.Column{{Name: "id", Kind: mpc.Word}, {Name: "y", Kind: mpc.Number, Bound: 1 << 20}, {Name: "cell", Kind: mpc.Number, Bound: 1}}},
	}}
	matched, cols := p.Join([]string{"a.id"}, "", []string{"a.x"}, []string{"b.id"})
	in := p.Number(p.And(p.Bit(matched), p.Less("b.y", cols[0])))
	key := p.Word("b.y")
	last, count, sums := p.Group([]string{key}, in, "b.y")
	few := mpc.Noise{Rows: 1, Delta: 1, EpsilonMicro: 20_000_000}
	p.Releases = []mpc.Release{{Name: "r", Cells: []string{"b.cell"}, Who: in, Count: few, MinCount: -100,
		Sums:      []mpc.Sum{{Column: p.Mul(in, "b.y"), Noise: few}},
		Quantiles: []mpc.Quantile{{Column: "b.y", Fractions: []int64{500_000}, Min: 0, Max: 4, Unit: 1, Noise: few}}}}
	if !keys {
		return p, smallData(int(n), int(m))
	}
	p.Keys = []mpc.KeyRelease{{Name: "k", Keys: []string{key}, Last: last, Count: count, Noise: few, MinCount: 1, Sums: []mpc.Sum{{Column: sums[0], Noise: few}}}}
	return p, smallData(int(n), int(m))
}

func smallData(n, m int) cleartext {
	return cleartext{
		"a.id": each(n, func(i int) uint64 { return uint64(i) }), "a.x": each(n, func(i int) uint64 { return uint64(i * 100) }),
		"b.id": each(m, func(i int) uint64 { return uint64(i) }), "b.y": each(m, func(i int) uint64 { return uint64(i % 4) }),
		"b.cell": each(m, func(i int) uint64 { return uint64(i % 2) }),
	}
}

// wire stands between a node and its peer, and sees and may change every message that it sends.
type wire struct {
	Peer
	sent func(step uint32, words []uint64) ([]uint64, error)
}

func (w wire) Send(step uint32, words []uint64) error {
	out, err := w.sent(step, slices.Clone(words))
	if err != nil {
		return err
	}
	return w.Peer.Send(step, out)
}

// tap puts a wire on all six directions.
func (w *trio) tap(sent func(from, to int, step uint32, words []uint64) ([]uint64, error)) {
	for i := range 3 {
		for side, to := range []int{(i + 1) % 3, (i + 2) % 3} {
			w.peers[i][side] = wire{w.peers[i][side], func(step uint32, words []uint64) ([]uint64, error) { return sent(i, to, step, words) }}
		}
	}
}

// A node flips one bit of any one message. Every other node that needs it must notice before the job ends, at the latest
// before anything is opened that depends on it, so no output is complete.
func TestOneFlippedBitIsCaught(t *testing.T) {
	for _, c := range []struct {
		n, m  int64
		every int
	}{{2, 3, 1}, {9, 12, 6}} {
		flipEach(t, c.n, c.m, c.every)
	}
}

func flipEach(t *testing.T, n, m int64, every int) {
	p, d := small(n, m, true)
	dealt := dealAll(t, p, d)
	var mu sync.Mutex
	count := [3][3]int{}
	w := newTrio(t)
	w.tap(func(from, to int, _ uint32, words []uint64) ([]uint64, error) {
		mu.Lock()
		defer mu.Unlock()
		count[from][to]++
		return words, nil
	})
	if _, errs := w.runAll(t, p, dealt, nil); errors.Join(errs[:]...) != nil {
		t.Fatal(errs)
	}
	total, caught := 0, map[string]int{}
	for from := range 3 {
		for to := range 3 {
			if from == to {
				continue
			}
			for k := range count[from][to] {
				if (k+from)%every != 0 || testing.Short() && k%5 != 0 {
					continue
				}
				if step, sent := flipOne(t, p, dealt, from, to, k); sent { // the shape of a sort depends on chance
					total++
					caught[step]++
				}
			}
		}
	}
	t.Logf("%d messages flipped, one at a time; caught at %v", total, caught)
	if total < 20 {
		t.Errorf("only %d messages", total)
	}
}

// flipOne runs the program with one bit of the k-th message between two nodes flipped, and says at which step it was found.
func flipOne(t *testing.T, p *mpc.Program, dealt [3]mpc.Dealt, from, to, k int) (found string, sent bool) {
	t.Helper()
	w := newTrio(t)
	seen := 0
	var mu sync.Mutex
	var flipped uint32
	w.tap(func(f, o int, step uint32, words []uint64) ([]uint64, error) {
		mu.Lock()
		defer mu.Unlock()
		if f == from && o == to {
			if seen == k {
				flipped, sent = step, true
				words[len(words)-1] ^= 1 << (k % 64)
			}
			seen++
		}
		return words, nil
	})
	outs, errs := w.runAll(t, p, dealt, nil)
	if !sent {
		return "", false
	}
	for i, err := range errs {
		var e *mpc.PartyError
		if errors.Is(err, mpc.ErrInconsistent) && errors.As(err, &e) {
			found = e.Step
		} else if err != nil && !errors.Is(err, mpc.ErrGone) {
			t.Errorf("message %d from %d to %d, step %d: node %d fails with %v", k, from, to, flipped, i, err)
		}
	}
	if found == "" {
		t.Errorf("message %d from %d to %d (step %d): not caught: %v", k, from, to, flipped, errs)
	}
	if outs[0] != nil && outs[1] != nil && outs[2] != nil {
		t.Errorf("message %d from %d to %d (step %d): all three nodes hand over an output", k, from, to, flipped)
	}
	return found, true
}

// No opening may come between a flipped message and its discovery: after it, the only messages that a node may still
// send are those that it had no reason to hold back. So the check of each opening compares what went before, and a node
// that finds a difference stops.
func TestNothingOpensAfterAFlip(t *testing.T) {
	w := newTrio(t)
	x := [3]share{}
	for i, s := range deal(randomWords(100), true) {
		x[i] = s
	}
	w.tap(func(from, to int, step uint32, words []uint64) ([]uint64, error) {
		if step == 1 && from == 1 {
			words[0] ^= 1
		}
		return words, nil
	})
	w.start(t)
	opened := [3]bool{}
	errs := w.run(func(p *party) {
		z := p.mul(x[p.id], x[p.id]) // message 1
		p.openNumbers(z)             // messages 2 and 3
		opened[p.id] = true
	})
	if opened != [3]bool{} {
		t.Errorf("opened at %v", opened)
	}
	found := 0
	for _, err := range errs {
		if errors.Is(err, mpc.ErrInconsistent) {
			found++
		}
	}
	if found == 0 {
		t.Errorf("errors are %v", errs)
	}
}

// A message that opens is itself changed: the digest from the other holder catches it before the value is returned.
func TestFlippedOpeningIsCaught(t *testing.T) {
	for from := range 3 {
		w := newTrio(t)
		x := deal(randomWords(100), true)
		w.tap(func(f, to int, step uint32, words []uint64) ([]uint64, error) {
			if f == from && to == (from+1)%3 && step == 2 {
				words[99] ^= 1 << 63
			}
			return words, nil
		})
		w.start(t)
		errs := w.run(func(p *party) { p.openNumbers(x[p.id]) })
		err := errs[(from+1)%3]
		var e *mpc.PartyError
		if !errors.Is(err, mpc.ErrInconsistent) || !errors.As(err, &e) || e.Party != from {
			t.Errorf("node %d lies and its victim says %v", from, err)
		}
	}
}

// What one node holds differs from what another holds of the same component, though every message was right.
func TestDifferentCopiesAreCaught(t *testing.T) {
	w := newTrio(t)
	x := deal(randomWords(10), true)
	x[1].a[3]++
	errs := w.run(func(p *party) { p.openNumbers(x[p.id]) })
	if !errors.Is(errors.Join(errs[:]...), mpc.ErrInconsistent) {
		t.Errorf("errors are %v", errs)
	}
}

// Every node is killed at every message that it sends. The others must end with an error that names it or a node that
// stopped because of it, and nothing is released.
func TestKilledAtEachMessage(t *testing.T) {
	p, d := small(2, 3, true)
	dealt := dealAll(t, p, d)
	killed := errors.New("killed")
	messages := 0
	for victim := range 3 {
		for k := 0; ; k += 1 + 6*int(b2u(testing.Short())) {
			w := newTrio(t)
			n, reached := 0, false
			w.tap(func(from, _ int, _ uint32, words []uint64) ([]uint64, error) {
				if from != victim {
					return words, nil
				}
				if n++; n > k {
					reached = true
					return nil, killed
				}
				return words, nil
			})
			outs, errs := w.runAll(t, p, dealt, nil)
			if !reached {
				break
			}
			messages++
			if !errors.Is(errs[victim], killed) {
				t.Fatalf("node %d killed at message %d: %v", victim, k, errs[victim])
			}
			complete := 0
			for i, o := range outs {
				if o != nil {
					complete++
				} else if !errors.Is(errs[i], mpc.ErrGone) && i != victim {
					t.Errorf("node %d killed at message %d: node %d says %v", victim, k, i, errs[i])
				}
			}
			if complete == 3 {
				t.Errorf("node %d killed at message %d: three outputs", victim, k)
			}
		}
	}
	t.Logf("killed at %d messages", messages)
}
