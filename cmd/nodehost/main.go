// Nodehost runs a custodian's compute node on this machine, shut up with its inputs and two sockets. The custodian starts
// it for each job, so that what holds keys links nothing that speaks to a container engine:
//
//	nodehost identify -program NODE -owner DIR [-isolation docker|process] [-production]
//	nodehost remove   …the same… -id ID
//	nodehost run      …the same… -id ID -want DIGEST -inputs DIR -links DIR [-memory MIB] [-cpus N] [-time D] < JOB
//
// identify prints what it would run, and in what, as JSON. run passes its standard input on to the node without looking at
// it, prints what the node prints, and passes the node's progress on to standard error. It ends with the node: code 0, or 1
// with the reason as the last line of standard error. A signal to end kills the node. remove removes what is left of a node
// whose nodehost was killed.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"yingzhou.dev/lab/cmd/internal/nodehost"
	"yingzhou.dev/lab/cmd/internal/nodejob"
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/sandbox/runner/process"
)

func main() {
	process.Init() // becomes a node's sandbox when it is executed as one
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "nodehost:", err)
		os.Exit(1)
	}
}

// maxJob bounds a job, in bytes: keys, and a program of some thousand steps.
const maxJob = 64 << 20

func run(ctx context.Context, args []string, in io.Reader, out, progress io.Writer) (err error) {
	if len(args) == 0 || !slices.Contains([]string{"identify", "run", "remove"}, args[0]) {
		return errors.New("want identify, run or remove")
	}
	var cfg nodehost.Config
	var job nodejob.Run
	f := flag.NewFlagSet(args[0], flag.ContinueOnError)
	f.SetOutput(progress)
	f.StringVar(&cfg.Program, "program", "", "the node's program")
	f.StringVar(&cfg.Backend, "isolation", "", "docker, process or the best there is")
	f.StringVar(&cfg.Owner, "owner", "", "folder by which the owner's nodes are known")
	f.BoolVar(&cfg.Production, "production", false, "refuse isolation for development")
	want := ""
	if args[0] != "identify" {
		f.StringVar(&job.ID, "id", "", "of the task")
	}
	if args[0] == "run" {
		f.StringVar(&want, "want", "", "SHA-256 of the program that was approved")
		f.StringVar(&job.Inputs, "inputs", "", "folder of blobs")
		f.StringVar(&job.Links, "links", "", "folder of sockets")
		f.Int64Var(&job.Limits.MemoryMiB, "memory", 0, "MiB")
		f.Float64Var(&job.Limits.CPUs, "cpus", 0, "processors")
		f.DurationVar(&job.Limits.Time, "time", 0, "longest run")
	}
	if err := f.Parse(args[1:]); err != nil {
		return err
	}
	if f.NArg() > 0 {
		return fmt.Errorf("unknown argument %q", f.Arg(0))
	}
	host, err := nodehost.New(cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, host.Close()) }()
	if args[0] == "identify" {
		id, err := host.Identify(ctx)
		if err != nil {
			return err
		}
		return json.NewEncoder(out).Encode(id)
	}
	if args[0] == "remove" {
		return host.Remove(ctx, job.ID)
	}
	if job.Program, err = enclave.ParseDigest(want); err != nil {
		return fmt.Errorf("-want: %w", err)
	}
	if job.Stdin, err = io.ReadAll(io.LimitReader(in, maxJob+1)); err != nil {
		return fmt.Errorf("reading the job: %w", err)
	}
	defer clear(job.Stdin)
	if len(job.Stdin) > maxJob {
		return fmt.Errorf("the job has more than %d bytes", maxJob)
	}
	job.Progress = func(line string) { fmt.Fprintln(progress, line) }
	answer, err := host.Run(ctx, job)
	if err != nil {
		return err
	}
	_, err = out.Write(answer)
	return err
}
