package engine

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"yingzhou.dev/lab/enclave/mpc/link"
	"yingzhou.dev/lab/enclave/mpc/mpctest"
)

// Benchmarks run three processes connected by TLS over the loopback interface: this one is node 0 and starts the others,
// which do what lines on their standard input say. All three make the same data from one seed and keep their shares.

const (
	million = 1 << 20
	nodeEnv = "YINGZHOU_MPC_BENCH_NODE"
)

func TestMain(m *testing.M) {
	if id := os.Getenv(nodeEnv); id != "" {
		if err := benchNode(int(id[0]-'0'), os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "bench node", id, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// measures are operations to measure: each prepares its inputs at one node and returns what to repeat.
var measures = map[string]func(p *party, rows int) func(){
	"mul": func(p *party, n int) func() {
		x, y, z := benchNumbers(p, n, 1), benchNumbers(p, n, 2), newShare(n)
		return func() { p.mulTo(z, x, y) }
	},
	"and": func(p *party, n int) func() {
		x, y := benchNumbers(p, n, 1), benchNumbers(p, n, 2)
		return func() { p.and(x, y) }
	},
	"less": func(p *party, n int) func() {
		x, y := benchNumbers(p, n, 1), benchNumbers(p, n, 2)
		return func() { p.numbers(p.lessNumbers(x, y, 64), n) }
	},
	"less20bits": func(p *party, n int) func() {
		x, y := benchNumbers(p, n, 1), benchNumbers(p, n, 2)
		return func() { p.numbers(p.lessNumbers(x, y, 20), n) }
	},
	"lessToBit": func(p *party, n int) func() {
		x, y := benchNumbers(p, n, 1), benchNumbers(p, n, 2)
		return func() { p.lessNumbers(x, y, 64) }
	},
	"grouped18": func(p *party, n int) func() {
		x := benchNumbers(p, n, 1)
		var cells []share
		for g := range 18 {
			cells = append(cells, benchNumbers(p, n, uint64(g)))
		}
		return func() { p.inner(cells, x) }
	},
	"shuffle": func(p *party, n int) func() {
		x := benchNumbers(p, n, 1)
		return func() { p.apply(p.shuffle(n), []share{x}, numbers) }
	},
	"sort": func(p *party, n int) func() { // a 44-bit key and the row number: 64 bits
		x, y := benchNumbers(p, n, 1), benchNumbers(p, n, 2)
		return func() {
			s := p.sort(p.indexed(field{x, 44}))
			p.bring(s, []share{y}, numbers)
		}
	},
	"sort64": func(p *party, n int) func() { // a 64-bit key and the row number: 84 bits
		x, y := benchNumbers(p, n, 1), benchNumbers(p, n, 2)
		return func() {
			s := p.sort(p.indexed(field{x, 64}))
			p.bring(s, []share{y}, numbers)
		}
	},
	"radixBit": func(p *party, n int) func() { // one bit of a radix sort, of which a word has 64, to compare with
		x, y, z := benchNumbers(p, n, 1), benchNumbers(p, n, 2), benchNumbers(p, n, 3)
		b := x.slice(0, wordsFor(n))
		return func() {
			p.mul(p.numbers(b, n), y) // where each row goes
			out := p.apply(p.shuffle(n), []share{y, z}, func(c int) bool { return c == 0 })
			p.openNumbers(out[0])
		}
	},
	"joinSum": func(p *party, n int) func() { // two tables of n/2 rows, SUM(value) GROUP BY town
		half := n / 2
		on, by := benchNumbers(p, half, 1), benchNumbers(p, half, 2)
		value := benchNumbers(p, half, 3)
		var towns []share
		for g := range 18 {
			towns = append(towns, benchNumbers(p, half, uint64(g)))
		}
		return func() {
			_, values := p.join([]field{{on, 64}}, []field{{by, 64}}, nil, []share{value})
			p.inner(towns, values[0])
		}
	},
}

// benchNumbers is one node's share of random values: components from seeds that the holders have in common.
func benchNumbers(p *party, n int, seed uint64) share {
	x := newShare(n)
	for c, part := range [2][]uint64{x.a, x.b} {
		rng := rand.New(rand.NewPCG(seed, uint64((p.id+c)%3)))
		for i := range part {
			part[i] = rng.Uint64()
		}
	}
	return x
}

func connectNode(id int, listener net.Listener, next string) (*party, *link.Mesh, error) {
	cfg, err := mpctest.Config(id, listener, next)
	if err != nil {
		return nil, nil, err
	}
	m, err := link.Connect(context.Background(), cfg)
	if err != nil {
		return nil, nil, err
	}
	p, err := newParty(id, m.Next, m.Prev)
	return p, m, err
}

func benchNode(id int, in io.Reader, out io.Writer) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Fprintln(out, listener.Addr())
	lines := bufio.NewScanner(in)
	lines.Scan()
	p, m, err := connectNode(id, listener, lines.Text())
	if err != nil {
		return err
	}
	defer m.Close()
	var again func()
	for lines.Scan() {
		if line := lines.Text(); line != "again" {
			var name string
			var rows int
			if _, err := fmt.Sscan(line, &name, &rows); err != nil {
				return err
			}
			again = measures[name](p, rows)
		} else {
			again()
		}
	}
	return lines.Err()
}

// nodes starts nodes 1 and 2 and returns node 0 and a function that tells the others what to do.
func nodes(b *testing.B) (*party, func(line string)) {
	b.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	addr := [3]string{listener.Addr().String()}
	var stdin [3]io.WriteCloser
	for id := 1; id < 3; id++ {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), fmt.Sprint(nodeEnv, "=", id))
		cmd.Stderr = os.Stderr
		if stdin[id], err = cmd.StdinPipe(); err != nil {
			b.Fatal(err)
		}
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			b.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		line, err := bufio.NewReader(stdout).ReadString('\n')
		if err != nil {
			b.Fatal(err)
		}
		addr[id] = strings.TrimSpace(line)
		b.Cleanup(func() {
			stdin[id].Close()
			cmd.Wait()
		})
	}
	say := func(line string) {
		for id := 1; id < 3; id++ {
			if _, err := io.WriteString(stdin[id], line+"\n"); err != nil {
				b.Fatal(err)
			}
		}
	}
	fmt.Fprintln(stdin[1], addr[2])
	fmt.Fprintln(stdin[2], addr[0])
	p, m, err := connectNode(0, listener, addr[1])
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(m.Close)
	return p, say
}

func measure(b *testing.B, name string, rows int) {
	p, say := nodes(b)
	say(fmt.Sprint(name, " ", rows))
	again := measures[name](p, rows)
	b.ReportAllocs()
	rounds, words := p.rounds, p.words
	loops, cpu := int64(0), processor()
	for b.Loop() {
		say("again")
		again()
		loops++
	}
	b.ReportMetric(float64(processor()-cpu)/1e6/float64(loops), "cpu-ms/op") // of this node alone: steadier than the clock
	b.ReportMetric(float64(peak())/1e6, "peakMB")
	b.ReportMetric(float64(p.rounds-rounds)/float64(loops), "rounds/op")
	b.ReportMetric(float64(p.words-words)*8/1e6/float64(loops), "sentMB/op")
}

// processor is the time that this process has had a processor.
func processor() time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		panic(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// peak is the most memory that this process ever had, in bytes: of all benchmarks so far.
func peak() int64 {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		panic(err)
	}
	return 1024 * r.Maxrss
}

// Of a million rows, for the table of docs and issue 5.
func BenchmarkMillion(b *testing.B) {
	for _, name := range []string{"mul", "and", "lessToBit", "less", "less20bits", "grouped18", "shuffle", "radixBit", "sort", "sort64", "joinSum"} {
		b.Run(name, func(b *testing.B) { measure(b, name, million) })
	}
}

// counter counts products.
type counter struct{ numbers, bits int64 }

func (c *counter) Multiplied(additive bool, x, _, _ [2][]uint64) {
	if additive {
		c.numbers += int64(len(x[0]))
	} else {
		c.bits += 64 * int64(len(x[0]))
	}
}

func (c *counter) Summed(xs [][2][]uint64, y, _ [2][]uint64) {
	c.numbers += int64(len(xs)) * int64(len(y[0]))
}
func (c *counter) Chosen(xs, _ [][2][]uint64, _, z [2][]uint64) {
	c.bits += 64 * int64(len(xs)) * int64(len(z[0]))
}

func (c *counter) Verify() error { return nil }

// How many products a batch verification would have to check, at a tenth of the million rows.
func BenchmarkTranscript(b *testing.B) {
	const rows = million / 8
	for _, name := range []string{"mul", "less", "grouped18", "sort", "joinSum"} {
		b.Run(name, func(b *testing.B) {
			w := newTrio(b)
			var again [3]func()
			var c counter
			w.party[0].transcript = &c
			w.run(func(p *party) { again[p.id] = measures[name](p, rows) })
			loops := int64(0)
			for b.Loop() {
				w.run(func(p *party) { again[p.id]() })
				loops++
			}
			b.ReportMetric(float64(c.numbers)/float64(loops)/rows, "numbers/row")
			b.ReportMetric(float64(c.bits)/float64(loops)/rows, "bits/row")
		})
	}
}
