// Node is one of three compute nodes of a joint job:
//
//	node INPUTS LINKS
//
// Its custodian has it started with everything that it must know and others must not on standard input: the program, the
// keys of the two components that it holds, its noise key, its TLS key and its peers' pins. Blobs are in the folder INPUTS;
// in LINKS are two sockets, behind which its custodian carries bytes to and from its peers. It opens its shares, checks
// them against their commitments, evaluates the program in step with the two others over TLS, and writes its output with
// the digests of what it sent and received to standard output. It keeps nothing.
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
	"path/filepath"
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
	err := errors.New("want two arguments: the folders of inputs and of sockets")
	if len(os.Args) == 3 {
		err = run(ctx, os.Args[1], os.Args[2], os.Stdin, os.Stdout, os.Stderr)
	}
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "node:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, inputs, links string, in io.Reader, out, progress io.Writer) error {
	var job nodejob.Job
	dec := json.NewDecoder(bufio.NewReader(in))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&job); err != nil {
		return fmt.Errorf("reading the job: %w", err)
	}
	start := time.Now()
	say := func(step string) { fmt.Fprintf(progress, "%8.3f %s\n", time.Since(start).Seconds(), step) }
	say("opening shares")
	dealt, err := load(ctx, &job, inputs)
	if err != nil {
		return err
	}
	cert, err := tls.X509KeyPair(job.Certificate, job.Key)
	if err != nil {
		return fmt.Errorf("reading this node's certificate: %w", err)
	}
	say("connecting")
	prev, err := net.Dial("unix", filepath.Join(links, link.Prev))
	if err != nil {
		return fmt.Errorf("connecting to the node before this one: %w", err)
	}
	next, err := net.Dial("unix", filepath.Join(links, link.Next))
	if err != nil {
		return fmt.Errorf("connecting to the node after this one: %w", err)
	}
	stall := time.Duration(job.StallSeconds) * time.Second
	mesh, err := link.Connect(ctx, link.Config{Party: job.Party, Certificate: cert, Peers: job.Pins, Job: job.Plan, Handshake: stall, Stall: stall,
		Listener: &one{conn: prev}, Dial: func(context.Context) (net.Conn, error) { return next, nil }})
	if err != nil {
		return err
	}
	defer mesh.Close()
	after, before := record(mesh.Next), record(mesh.Prev)
	o, err := engine.Run(ctx, engine.Config{Party: job.Party, Next: after, Prev: before, NoiseKey: job.NoiseKey, Abort: mesh.Abort, Progress: say}, &job.Program, *dealt)
	if err != nil {
		return err
	}
	say("done")
	res := nodejob.Result{Output: *o, SentBytes: after.bytes + before.bytes}
	res.SentNext, res.ReceivedNext = after.digests()
	res.SentPrev, res.ReceivedPrev = before.digests()
	return json.NewEncoder(out).Encode(res)
}

// one is a listener that has one connection: the custodian made sure whose it is before there was a node.
type one struct {
	conn net.Conn
	used bool
}

func (o *one) Accept() (net.Conn, error) {
	if o.used {
		return nil, io.EOF
	}
	o.used = true
	return o.conn, nil
}

func (o *one) Close() error   { return nil }
func (o *one) Addr() net.Addr { return o.conn.LocalAddr() }

// load opens the node's components of every column that the program names.
func load(ctx context.Context, job *nodejob.Job, inputs string) (*mpc.Dealt, error) {
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
		held, err := shares.Load(ctx, s.Keyset, &s.Layout, job.Party, s.Keys, cols, func(d enclave.Digest) (io.ReadCloser, error) {
			return os.Open(filepath.Join(inputs, nodejob.BlobName(d)))
		})
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
