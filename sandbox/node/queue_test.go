package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"yingzhou.dev/lab/sandbox"
	"yingzhou.dev/lab/sandbox/lab"
)

func queue(t interface{ Fatal(...any) }, cpus float64, memory int64) *Queue {
	q, err := NewQueue(cpus, memory)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// TestFifty queues fifty jobs of three operators on two processors: the one who asks first for forty does not keep the
// others waiting, none is started beyond the node, all end.
func TestFifty(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := queue(t, 2, 2*leastMemory)
		var mu sync.Mutex
		var ended []string
		running, most := 0, 0
		var group sync.WaitGroup
		for i := range 50 {
			operator := "many"
			if i >= 40 {
				operator = []string{"few", "some"}[i%2]
			}
			group.Go(func() {
				release, err := q.Admit(t.Context(), lab.Need{Job: sandbox.JobID(fmt.Sprint(i)), Operator: operator, CPUs: 1, MemoryMiB: 10}, func(int) {})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				running++
				most = max(most, running)
				mu.Unlock()
				time.Sleep(time.Second)
				mu.Lock()
				running--
				ended = append(ended, operator)
				mu.Unlock()
				release()
			})
			synctest.Wait()
		}
		group.Wait()
		if most != 2 || len(ended) != 50 {
			t.Errorf("%d at once, %d ended", most, len(ended))
		}
		for operator, within := range map[string]int{"few": 20, "some": 20} { // five each, a third of the turns
			last := 0
			for i, o := range ended {
				if o == operator {
					last = i + 1
				}
			}
			if last > within {
				t.Errorf("%s ended as number %d of %v", operator, last, ended)
			}
		}
	})
}

// TestLargeJob is not starved by small ones that always fit.
func TestLargeJob(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := queue(t, 2, 4*leastMemory)
		admit := func(operator string, cpus float64, work time.Duration) (started *time.Time) {
			started = new(time.Time)
			go func() {
				release, err := q.Admit(t.Context(), lab.Need{Operator: operator, CPUs: cpus}, func(int) {})
				if err != nil {
					t.Error(err)
					return
				}
				*started = time.Now()
				time.Sleep(work)
				release()
			}()
			synctest.Wait()
			return started
		}
		admit("small", 1, 3*time.Second)
		large := admit("large", 2, time.Second)
		asked := time.Now()
		for i := range 40 {
			admit(fmt.Sprint("small", i), 1, 3*time.Second)
			time.Sleep(time.Second)
		}
		time.Sleep(time.Minute)
		if large.IsZero() || large.Sub(asked) > (patience+3)*3*time.Second {
			t.Errorf("the large job started after %v", large.Sub(asked))
		}
	})
}

func TestPosition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := queue(t, 1, leastMemory)
		first, err := q.Admit(t.Context(), lab.Need{Operator: "a", CPUs: 1}, func(int) {})
		if err != nil {
			t.Fatal(err)
		}
		var heard [2][]int
		ctx, cancel := context.WithCancelCause(t.Context())
		why := errors.New("cancelled by the operator")
		var group sync.WaitGroup
		for i := range heard {
			group.Go(func() {
				c := t.Context()
				if i == 0 {
					c = ctx
				}
				release, err := q.Admit(c, lab.Need{Operator: fmt.Sprint(i), CPUs: 1}, func(n int) { heard[i] = append(heard[i], n) })
				if i == 0 {
					if !errors.Is(err, why) {
						t.Errorf("a job that left: %v", err)
					}
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
				release()
			})
			synctest.Wait()
		}
		cancel(why)
		synctest.Wait()
		if got := fmt.Sprint(heard); got != "[[0] [1 0]]" {
			t.Errorf("they heard %s", got)
		}
		first()
		first() // giving back twice gives nothing
		group.Wait()
		if len(q.running)+len(q.waiting) != 0 {
			t.Errorf("left: %v, %v", q.running, q.waiting)
		}
	})
}

func TestTooLarge(t *testing.T) {
	q := queue(t, 2, 1024)
	_, err := q.Admit(t.Context(), lab.Need{CPUs: 1, MemoryMiB: 1500}, func(int) {})
	var large *lab.TooLargeError
	if !errors.As(err, &large) || !strings.Contains(err.Error(), "needs 1 processors and 3000 MiB") || !strings.Contains(err.Error(), "has 2 and 1024 MiB") {
		t.Error(err)
	}
	if _, err := NewQueue(0, 1); err == nil {
		t.Error("a queue for nothing")
	}
}

// TestNeverBeyond starts and ends jobs at random: what runs always fits, and everything that was asked for ends up running.
func TestNeverBeyond(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		q := queue(t, 4, 8*leastMemory)
		held := map[*waiter]bool{}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			if rapid.Bool().Draw(t, "ask") || len(held) == 0 {
				n := budget(lab.Need{Operator: rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "operator"), CPUs: float64(rapid.IntRange(1, 4).Draw(t, "cpus")),
					MemoryMiB: rapid.Int64Range(1, 4*leastMemory).Draw(t, "memory")})
				w := &waiter{need: n, ahead: -1, started: make(chan struct{}), moved: make(chan struct{}, 1)}
				q.mu.Lock()
				q.waiting = append(q.waiting, w)
				q.advance()
				q.mu.Unlock()
				held[w] = true
			} else {
				w := rapid.SampledFrom(slices.SortedFunc(maps.Keys(held), func(a, b *waiter) int { return int(a.need.MemoryMiB - b.need.MemoryMiB) })).Draw(t, "which")
				q.leave(w)
				delete(held, w)
			}
			var cpus float64
			var memory int64
			for _, r := range q.running {
				cpus, memory = cpus+r.CPUs, memory+r.MemoryMiB
			}
			if cpus > q.cpus || memory > q.memory {
				t.Fatalf("%g processors and %d MiB are running", cpus, memory)
			}
			if len(q.running) == 0 && len(q.waiting) > 0 {
				t.Fatalf("nothing runs and %d wait", len(q.waiting))
			}
		}
	})
}
