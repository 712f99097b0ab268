package node

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"yingzhou.dev/lab/sandbox/lab"
)

// Queue is a node's admission: jobs wait until processors and memory for them are free. It implements lab.Admission.
//
// Next is the operator that has the least of the node now, and of those the one that waited longest since its last turn;
// within an operator, the oldest job. One that does not fit yet may be passed by others that do, but only so often: after
// that nothing starts before it, so that a stream of small jobs cannot starve a large one.
type Queue struct {
	cpus   float64
	memory int64

	mu      sync.Mutex
	waiting []*waiter // in order of arrival
	running []lab.Need
	turn    int64
	last    map[string]int64 // operator → turn at which it last started a job
}

// patience is how often a job that does not fit may be passed.
const patience = 8

type waiter struct {
	need    lab.Need
	passed  int
	ahead   int           // as last told
	started chan struct{} // closed when it may start
	moved   chan struct{} // has room for one: ahead changed
}

// NewQueue makes the queue of a node that has so much for all jobs together.
func NewQueue(cpus float64, memoryMiB int64) (*Queue, error) {
	if !(cpus > 0) || memoryMiB <= 0 {
		return nil, fmt.Errorf("a queue for %g processors and %d MiB lets nothing start", cpus, memoryMiB)
	}
	return &Queue{cpus: cpus, memory: memoryMiB, last: map[string]int64{}}, nil
}

// budget is what a job holds: its limits, not its estimate.
func budget(n lab.Need) lab.Need {
	n.MemoryMiB = max(leastMemory, memorySlack*n.MemoryMiB)
	return n
}

// Admit implements lab.Admission.
func (q *Queue) Admit(ctx context.Context, n lab.Need, ahead func(jobs int)) (release func(), err error) {
	n = budget(n)
	if n.CPUs > q.cpus || n.MemoryMiB > q.memory {
		return nil, &lab.TooLargeError{Need: n, CPUs: q.cpus, MemoryMiB: q.memory}
	}
	w := &waiter{need: n, ahead: -1, started: make(chan struct{}), moved: make(chan struct{}, 1)}
	q.mu.Lock()
	q.waiting = append(q.waiting, w)
	q.advance()
	q.mu.Unlock()
	for {
		select {
		case <-w.started:
			var once sync.Once
			return func() { once.Do(func() { q.give(w) }) }, nil
		default:
		}
		select {
		case <-w.started:
		case <-w.moved:
			q.mu.Lock()
			jobs := w.ahead
			q.mu.Unlock()
			ahead(jobs)
		case <-ctx.Done():
			q.leave(w)
			return nil, fmt.Errorf("waiting for a worker: %w", context.Cause(ctx))
		}
	}
}

// give takes back what a job held.
func (q *Queue) give(w *waiter) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if i := slices.Index(q.running, w.need); i >= 0 {
		q.running = slices.Delete(q.running, i, i+1)
	}
	q.advance()
}

// leave takes a job out that nobody waits for any more, wherever it is.
func (q *Queue) leave(w *waiter) {
	q.mu.Lock()
	if i := slices.Index(q.waiting, w); i >= 0 {
		q.waiting = slices.Delete(q.waiting, i, i+1)
		q.advance()
		q.mu.Unlock()
		return
	}
	q.mu.Unlock()
	q.give(w) // it had just started
}

// advance starts what may start and tells the others where they are. Its caller holds mu.
func (q *Queue) advance() {
	for {
		order := q.order()
		i := slices.IndexFunc(order, func(w *waiter) bool { return q.fits(w.need) })
		for j := range order {
			if i >= 0 && j < i && order[j].passed >= patience {
				i = -1 // it has been passed often enough: wait for it
			}
		}
		if i < 0 {
			q.tell(order)
			return
		}
		for _, w := range order[:i] {
			w.passed++
		}
		w := order[i]
		q.waiting = slices.DeleteFunc(q.waiting, func(x *waiter) bool { return x == w })
		q.running = append(q.running, w.need)
		q.turn++
		q.last[w.need.Operator] = q.turn
		close(w.started)
	}
}

// order is the order in which waiting jobs would start if they all fitted one after another: it takes operators in turn,
// counting what it has given each.
func (q *Queue) order() []*waiter {
	held, last := map[string]float64{}, map[string]int64{}
	for _, n := range q.running {
		held[n.Operator] += q.share(n)
	}
	for o, t := range q.last {
		last[o] = t
	}
	rest, turn := slices.Clone(q.waiting), q.turn
	order := make([]*waiter, 0, len(rest))
	for len(rest) > 0 {
		best := 0
		for i, w := range rest[1:] {
			a, b := w.need.Operator, rest[best].need.Operator
			if held[a] < held[b] || held[a] == held[b] && last[a] < last[b] {
				best = i + 1
			}
		}
		w := rest[best]
		rest = slices.Delete(rest, best, best+1)
		order = append(order, w)
		turn++
		held[w.need.Operator] += q.share(w.need)
		last[w.need.Operator] = turn
	}
	return order
}

// share is the part of the node that a job holds: the larger of its parts of processors and memory.
func (q *Queue) share(n lab.Need) float64 {
	return max(n.CPUs/q.cpus, float64(n.MemoryMiB)/float64(q.memory))
}

func (q *Queue) fits(n lab.Need) bool {
	cpus, memory := n.CPUs, n.MemoryMiB
	for _, r := range q.running {
		cpus += r.CPUs
		memory += r.MemoryMiB
	}
	return cpus <= q.cpus+1e-9 && memory <= q.memory
}

func (q *Queue) tell(order []*waiter) {
	for i, w := range order {
		if w.ahead == i {
			continue
		}
		w.ahead = i
		select {
		case w.moved <- struct{}{}:
		default: // it has yet to hear of the change before, and will find this one
		}
	}
}
