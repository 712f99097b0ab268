// Node is one of three compute nodes of a joint job. Its custodian starts it with everything it may know on standard
// input: the program, the keys of the two components that it holds, its noise key, where the blobs are and who its peers
// are. It opens its shares, checks them against their commitments, evaluates the program in step with the two others over
// TLS, and writes its output with the digests of what it sent and received to standard output. It keeps nothing.
//
// Progress goes to standard error, a line a step. Exit codes: 0 done; 1 the job failed (a message follows on standard
// error) and nothing may be released.
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"yingzhou.dev/lab/cmd/internal/nodejob"
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/mpc"
	"yingzhou.dev/lab/enclave/mpc/engine"
	"yingzhou.dev/lab/enclave/mpc/link"
	"yingzhou.dev/lab/enclave/mpc/shares"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Stdin, os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "node:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, in io.Reader, out, progress io.Writer) error {
	var job nodejob.Job
	dec := json.NewDecoder(bufio.NewReader(in))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&job); err != nil {
		return fmt.Errorf("reading the job: %w", err)
	}
	start := time.Now()
	say := func(step string) { fmt.Fprintf(progress, "%8.3f %s\n", time.Since(start).Seconds(), step) }
	say("opening shares")
	dealt, err := load(ctx, &job)
	if err != nil {
		return err
	}
	cert, err := tls.X509KeyPair(job.Certificate, job.Key)
	if err != nil {
		return fmt.Errorf("reading this node's certificate: %w", err)
	}
	listener, err := net.Listen(job.Network, job.Listen)
	if err != nil {
		return fmt.Errorf("listening for the node before this one: %w", err)
	}
	say("connecting")
	mesh, err := link.Connect(ctx, link.Config{Party: job.Party, Certificate: cert, Peers: job.Pins, Job: job.Plan, Listener: listener,
		Stall: time.Duration(job.StallSeconds) * time.Second,
		Dial: func(ctx context.Context) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, job.Network, job.Next)
		}})
	if err != nil {
		return err
	}
	defer mesh.Close()
	next, prev := record(mesh.Next), record(mesh.Prev)
	o, err := engine.Run(ctx, engine.Config{Party: job.Party, Next: next, Prev: prev, NoiseKey: job.NoiseKey, Abort: mesh.Abort, Progress: say}, &job.Program, *dealt)
	if err != nil {
		return err
	}
	say("done")
	res := nodejob.Result{Output: *o, SentBytes: next.bytes + prev.bytes}
	res.SentNext, res.ReceivedNext = next.digests()
	res.SentPrev, res.ReceivedPrev = prev.digests()
	return json.NewEncoder(out).Encode(res)
}

// load opens the node's components of every column that the program names.
func load(ctx context.Context, job *nodejob.Job) (*mpc.Dealt, error) {
	if len(job.Sources) != len(job.Program.Tables) {
		return nil, errors.New("reading the job: one source for each table is needed")
	}
	dealt := &mpc.Dealt{Columns: map[string][2]mpc.Component{}, Commitments: mpc.Commitments{}}
	for i, s := range job.Sources {
		t := job.Program.Tables[i]
		var cols []string
		for _, c := range t.Columns {
			cols = append(cols, c.Name)
		}
		held, err := shares.Load(ctx, s.Keyset, &s.Layout, job.Party, s.Keys, cols, func(d enclave.Digest) (io.ReadCloser, error) { return os.Open(job.Blobs[d.String()]) })
		if err != nil {
			return nil, fmt.Errorf("table %q: %w", t.Name, err)
		}
		of, err := shares.Commitments(&s.Layout, t.Name, cols)
		if err != nil {
			return nil, fmt.Errorf("table %q: %w", t.Name, err)
		}
		for name, pair := range held {
			dealt.Columns[t.Name+"."+name] = pair
		}
		for name, parts := range of {
			dealt.Commitments[name] = parts
		}
	}
	return dealt, nil
}
