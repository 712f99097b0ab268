// Package runner runs one worker program in isolation over a read-only input folder and returns what it wrote. It does
// not know what the worker computes, holds no key, and takes nothing on trust that it can check: a program runs only
// under the digest that was approved, and a result says which protections were really in force while it ran.
//
// Two back ends: runner/docker for production, and runner/process for development, where no daemon is at hand. In both a
// worker is user 65532 in an empty file system with its inputs at /in, which is also its working folder, and gets no
// network, no writable disk but a small /tmp, no capability, no second process, and bounded CPU, memory, threads, time
// and output. Its only way out is standard output, which is counted, and standard error, of which a tail is kept; a task
// may name Unix sockets besides, behind which whoever made it listens (Task.LinkDir).
//
// What it does not do: protect a worker from the machine it runs on. Inputs are ciphertexts for that reason.
package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"yingzhou.dev/lab/enclave"
)

const (
	// InputFolder is where a worker finds its inputs.
	InputFolder = "/in"
	// LinkFolder is where a worker finds the sockets of Task.LinkDir.
	LinkFolder = "/link"
	// Nobody is the user and group that a worker sees itself as, the "nonroot" of distroless images.
	Nobody = 65532
)

// Errors that callers branch on.
var (
	// ErrUnavailable means that a back end cannot run anything here, for instance because no daemon answers.
	ErrUnavailable = errors.New("isolation is unavailable")
	// ErrDevelopment means that only isolation for development is to be had and production was asked for.
	ErrDevelopment = errors.New("isolation is for development only")
	// ErrInvalid means that a task or a worker breaks a rule that no retry can mend.
	ErrInvalid = errors.New("cannot be run")
	// ErrExists means that a task of this ID has been started and not been removed.
	ErrExists = errors.New("task exists")
	// ErrNotFound means that there is no such task or image.
	ErrNotFound = errors.New("no such task or image")
	// ErrLeave is given as the cause of a context's end by a process that stops and wants its tasks to go on, to be taken
	// over by the next one.
	ErrLeave = errors.New("the task goes on without this process")
	// ErrOutputLost means that a task wrote while nobody read its output: remove it and run it again.
	ErrOutputLost = errors.New("output was lost: remove the task and run it again")
)

// DigestError says that a worker is not the one that was approved.
type DigestError struct {
	Worker    string // path of the program
	Want, Got enclave.Digest
}

func (e *DigestError) Error() string {
	return fmt.Sprintf("worker %q is %s, approved is %s: install the approved worker or have this one approved", e.Worker, e.Got, e.Want)
}

// Handle names a started task of one Runner until it is removed. It is the task's ID.
type Handle string

// Runner is a back end. Its methods may be called from several goroutines at once.
type Runner interface {
	// Probe reports, by trying, what isolation a task would get now.
	Probe(ctx context.Context) (Isolation, error)
	// Prepare takes a copy of the worker program, so that what happens to the file later changes nothing, and returns
	// its image name for Task.Image and its digest: of the program (process) or of the image's config (docker). If want
	// is not zero and differs from got, the error is a *DigestError and nothing was prepared.
	Prepare(ctx context.Context, worker string, want enclave.Digest) (image string, got enclave.Digest, err error)
	// Start returns when the worker runs in its isolation. The context ends the start, not the task.
	Start(ctx context.Context, t Task) (Handle, error)
	// Wait returns when the task has ended, by itself or killed, with all of its output read. When ctx ends first it
	// returns the context's cause and the task goes on.
	Wait(ctx context.Context, h Handle) (Result, error)
	// Logs writes at most max bytes of the end of what the worker has written to standard error so far.
	Logs(ctx context.Context, h Handle, w io.Writer, max int64) error
	// Kill ends the whole task by SIGKILL, as Cancelled. Killing what has ended already does nothing.
	Kill(ctx context.Context, h Handle) error
	// Remove kills what still runs and leaves nothing behind. Removing what is gone already does nothing.
	Remove(ctx context.Context, h Handle) error
	// List returns the tasks that have all of these labels, running or ended, in order of their handles.
	List(ctx context.Context, labels map[string]string) ([]Handle, error)
}

// Adopter is implemented by back ends whose tasks outlive the process that started them.
type Adopter interface {
	// Adopt takes a running task over that an earlier process started with exactly this description, and returns a
	// handle as Start does. Its deadline counts from its own start. What it wrote while nobody was there is lost, so the
	// Result says Adopted. A task that has ended, or that was started with another description, is ErrOutputLost; one
	// that is not there is ErrNotFound.
	Adopt(ctx context.Context, t Task) (Handle, error)
}

// Meter is implemented by back ends that can say what a running task has used.
type Meter interface {
	// CPUTime is the processor time of all of a running task's threads so far, as the host counts it.
	CPUTime(ctx context.Context, h Handle) (time.Duration, error)
}
