package lab

import (
	"context"
	"fmt"
	"math"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/sandbox"
)

// Need is what a job takes of a node while its worker runs.
type Need struct {
	Job       sandbox.JobID
	Operator  string // jobs of different operators take turns
	CPUs      float64
	MemoryMiB int64 // estimated
}

// Admission lets workers start, so many at a time as a node can carry. What jobs are handed to this process at all is a
// matter of the Queue.
type Admission interface {
	// Admit waits for the job's turn and returns a function that gives back what it took. ahead hears, at once and
	// whenever it changes, how many jobs are to start before this one. A job that the node could never carry is a
	// *TooLargeError. When ctx ends first, the job has left the queue.
	Admit(ctx context.Context, n Need, ahead func(jobs int)) (release func(), err error)
}

// TooLargeError says what a job would need.
type TooLargeError struct {
	Need      Need
	CPUs      float64 // what the node has for all jobs together
	MemoryMiB int64
}

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("the job needs %g processors and %d MiB of memory, and this lab's node has %g and %d MiB for jobs: ask for fewer groups, or have the node enlarged",
		e.Need.CPUs, e.Need.MemoryMiB, e.CPUs, e.MemoryMiB)
}

// Bounds on a worker's memory, in MiB: what the program takes without data, and how much of an estimate it may be wrong.
const (
	workerMiB  = 64
	workerCPUs = 1
)

// need estimates what a job's worker takes: the results that it holds until all are hashed, two polynomials for each term
// of a rows layout and one number for each of a cube's, and the accumulators of the term that it computes. Inputs are
// mapped; the kernel gives their pages back when something else needs them.
func (l *Lab) need(job sandbox.Job, d *dossier) (Need, error) {
	params, err := enclave.LookupParams(d.plan.Params)
	if err != nil {
		return Need{}, err
	}
	_, terms, err := d.plan.Expand(d.manifest)
	if err != nil {
		return Need{}, err
	}
	layout, ok := d.manifest.Layout(d.plan.Layout)
	if !ok {
		return Need{}, fmt.Errorf("plan names layout %q, which the manifest lacks", d.plan.Layout)
	}
	poly := int64(params.N()) * int64(len(params.Q)) * 8
	bytes := int64(len(terms)) * 4096
	if layout.Kind == enclave.Rows {
		bytes += int64(len(terms))*2*poly + 3*2*poly
	}
	return Need{Job: job.ID, Operator: job.Operator, CPUs: workerCPUs, MemoryMiB: workerMiB + int64(math.Ceil(float64(bytes)/(1<<20)))}, nil
}

// admit waits in the node's queue, and says so to whoever watches. A joint job has no worker here: it is computed by the
// custodians' nodes, which have machines of their own.
func (l *Lab) admit(ctx context.Context, job sandbox.Job, d *dossier, watch func(sandbox.Job)) (func(), error) {
	if l.cfg.Admission == nil || d.plan.Joint != nil {
		return func() {}, nil
	}
	need, err := l.need(job, d)
	if err != nil {
		return nil, err
	}
	return l.cfg.Admission.Admit(ctx, need, func(ahead int) {
		if ahead > 0 {
			l.report(ctx, &job, fmt.Sprintf("waiting for a worker, %d before it", ahead), 0, watch)
		}
	})
}
