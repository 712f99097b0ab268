package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"yingzhou.dev/lab/enclave/mpc"
)

// Config is one node's part in a job. Fields without a remark are needed.
type Config struct {
	Party      int
	Next, Prev Peer // the nodes after and before this one in the circle 0, 1, 2
	// NoiseKey is this node's own secret, the same for every job and unknown to the other nodes: it decides the node's part
	// of the noise of every question.
	NoiseKey []byte
	// Abort, if any, tells the peers that the job has failed because of a node (−1: of none).
	Abort func(blames int)
	// Transcript, if any, receives every product and may stop the job before an opening.
	Transcript Transcript
	// Progress, if any, is called before each step.
	Progress func(step string)
	// Done, if any, is told what the program cost this node, in rounds and in words of 8 bytes sent.
	Done func(rounds, words int64)
	Log  *slog.Logger // nil = none
}

// Run evaluates the program at this node, in step with the other two, over the columns dealt to it. It checks the program
// and the commitments first, and that all nodes have the same. An error means that nothing is released: outputs of the
// other nodes cannot be combined without this one's.
func Run(ctx context.Context, cfg Config, program *mpc.Program, dealt mpc.Dealt) (out *mpc.Output, err error) {
	types, err := program.Check()
	if err != nil {
		return nil, err
	}
	if len(cfg.NoiseKey) < 16 {
		return nil, errors.New("running program: a noise key of at least 16 bytes is needed")
	}
	questions, err := program.Questions(dealt.Commitments)
	if err != nil {
		return nil, fmt.Errorf("running program: %w", err)
	}
	p, err := newParty(cfg.Party, cfg.Next, cfg.Prev)
	if err != nil {
		return nil, fmt.Errorf("running program: %w", err)
	}
	p.transcript = cfg.Transcript
	j := &job{party: p, cfg: cfg, program: program, dealt: dealt, types: types, questions: questions,
		values: map[string]share{}, last: lastUses(program)}
	defer func() {
		if r := recover(); r != nil {
			f, ok := r.(*failure)
			if !ok {
				panic(r)
			}
			out, err = nil, fmt.Errorf("running program at node %d: %w", cfg.Party, f.err)
		}
		if err != nil && cfg.Abort != nil {
			cfg.Abort(blamed(err))
		}
	}()
	return j.run(ctx)
}

func blamed(err error) int {
	var p *mpc.PartyError
	var a *mpc.AbortError
	switch {
	case errors.As(err, &a):
		return a.Blames
	case errors.As(err, &p):
		return p.Party
	}
	return nobody
}

// job is the evaluation of one program at one node.
type job struct {
	*party
	cfg       Config
	program   *mpc.Program
	dealt     mpc.Dealt
	types     map[string]mpc.Type
	questions mpc.Questions
	values    map[string]share
	last      map[string]int // step that uses a column last
}

// lastUses says after which step a column's memory may go. Columns of releases stay.
func lastUses(p *mpc.Program) map[string]int {
	last := map[string]int{}
	use := func(i int, names ...string) {
		for _, n := range names {
			if n != "" {
				last[n] = i
			}
		}
	}
	for i, s := range p.Steps {
		use(i, s.Out...)
		use(i, s.In...)
		use(i, s.By...)
		use(i, s.On...)
		use(i, s.Where)
	}
	end := len(p.Steps)
	for _, r := range p.Releases {
		use(end, r.Cells...)
		use(end, r.Who, r.Frame)
		for _, s := range r.Sums {
			use(end, s.Column)
		}
		for _, q := range r.Quantiles {
			use(end, q.Column)
		}
	}
	for _, r := range p.Keys {
		use(end, r.Keys...)
		use(end, r.Last, r.Count)
		for _, s := range r.Sums {
			use(end, s.Column)
		}
	}
	return last
}

func (j *job) at(ctx context.Context, step string) error {
	if err := context.Cause(ctx); err != nil {
		return fmt.Errorf("%s: %w", step, err)
	}
	j.step = step
	if j.cfg.Progress != nil {
		j.cfg.Progress(step)
	}
	if j.cfg.Log != nil {
		j.cfg.Log.DebugContext(ctx, "mpc step", "party", j.id, "step", step, "rounds", j.rounds, "sent_bytes", 8*j.words)
	}
	return nil
}

func (j *job) run(ctx context.Context) (*mpc.Output, error) {
	out := &mpc.Output{Party: j.id, Program: j.program.Digest(), Releases: []mpc.ReleaseOutput{}, Keys: []mpc.KeysOutput{}}
	if err := j.at(ctx, "start"); err != nil {
		return nil, err
	}
	if err := j.verify(); err != nil {
		return nil, err
	}
	j.same(j.agreement())
	for i, s := range j.program.Steps {
		if err := j.at(ctx, fmt.Sprintf("step %d (%s)", i, s.Op)); err != nil {
			return nil, err
		}
		j.evaluate(s)
		for name := range j.values {
			if j.last[name] <= i {
				delete(j.values, name)
			}
		}
	}
	for _, r := range j.program.Releases {
		rel, err := j.release(ctx, r)
		if err != nil {
			return nil, err
		}
		out.Releases = append(out.Releases, rel)
	}
	for _, r := range j.program.Keys {
		keys, err := j.keyRelease(ctx, r)
		if err != nil {
			return nil, err
		}
		out.Keys = append(out.Keys, keys)
	}
	if err := j.at(ctx, "handing over"); err != nil {
		return nil, err
	}
	j.agree(handedOver(out)) // what leaves for the gate is checked like what is opened
	if j.cfg.Done != nil {
		j.cfg.Done(j.rounds, j.words)
	}
	return out, nil
}

func handedOver(out *mpc.Output) share {
	var s share
	add := func(columns [][]mpc.Pair) {
		for _, c := range columns {
			for _, v := range c {
				s.a, s.b = append(s.a, v[0]), append(s.b, v[1])
			}
		}
	}
	for _, r := range out.Releases {
		add(r.Sums)
	}
	for _, r := range out.Keys {
		add(r.Keys)
		add(r.Sums)
	}
	return s
}
