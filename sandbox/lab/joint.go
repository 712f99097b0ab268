package lab

import (
	"context"
	"errors"
	"fmt"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/sandbox"
	"yingzhou.dev/lab/sandbox/plan"
)

// Joint jobs are computed by the custodians' nodes, after the custodians have charged them: the noised counts of cells
// open during the run. Their receipt therefore comes first. It says which program will read which blobs with which node
// program; the outputs that the custodians sign, and whose digests the log has, say what came of it.

// ErrNoNodes means that a lab has no compute nodes.
var ErrNoNodes = errors.New("this lab has no compute nodes, and the plan needs three")

// NodeIsolation says what stands around the custodians' compute nodes, as receipts of joint jobs will say it; "" if there
// are no nodes.
func (l *Lab) NodeIsolation(ctx context.Context) (string, error) {
	if l.cfg.NodeProgram == nil {
		return "", nil
	}
	_, isolation, err := l.cfg.NodeProgram(ctx)
	if errors.Is(err, ErrNoNodes) {
		err = nil
	}
	return isolation, err
}

// program names the program that a job's plan runs in.
func (l *Lab) program(ctx context.Context, d *dossier) (enclave.Digest, error) {
	if d.plan.Joint == nil {
		return l.cfg.Worker.Identify(ctx)
	}
	if l.cfg.NodeProgram == nil {
		return enclave.Digest{}, ErrNoNodes
	}
	program, _, err := l.cfg.NodeProgram(ctx)
	return program, err
}

// turn has joint jobs opened one after the other. Each keeps three nodes busy, and custodians who take two jobs up in
// different order would wait for each other.
func (l *Lab) turn(ctx context.Context, job *sandbox.Job, b *enclave.Bundle, watch func(sandbox.Job)) (done func(), err error) {
	var p enclave.Plan
	if err := b.Plan.Open(enclave.KindPlan, &p); err != nil || p.Joint == nil {
		return func() {}, err
	}
	leave := func() { <-l.joint }
	select {
	case l.joint <- struct{}{}:
		return leave, nil
	default:
	}
	l.report(ctx, job, "waiting for the nodes, which compute another job", 0, watch)
	select {
	case l.joint <- struct{}{}:
		return leave, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// announceJoint signs the receipt of a joint plan.
func (l *Lab) announceJoint(ctx context.Context, job sandbox.Job, d *dossier, program enclave.Digest) (enclave.Signed, string, error) {
	manifests := append([]*enclave.Manifest{d.manifest}, d.others...)
	_, terms, err := d.plan.Expand(enclave.View(manifests))
	if err != nil {
		return enclave.Signed{}, "", err
	}
	prog, err := plan.Program(d.plan)
	if err != nil {
		return enclave.Signed{}, "", err
	}
	inputs := []enclave.Digest{}
	for i, t := range prog.Tables {
		layout, ok := manifests[i].Layout(d.plan.Joint.Sources[i].Layout)
		if !ok {
			return enclave.Signed{}, "", fmt.Errorf("dataset %q has no layout %q", t.Name, d.plan.Joint.Sources[i].Layout)
		}
		for _, c := range t.Columns {
			if v := layout.Find(c.Name); v >= 0 {
				inputs = append(inputs, layout.Vectors[v].Blob)
			}
		}
	}
	_, isolation, err := l.cfg.NodeProgram(ctx)
	if err != nil {
		return enclave.Signed{}, "", err
	}
	now := l.now()
	signed, err := signAs(l.cfg.Node, enclave.KindReceipt, enclave.Receipt{Job: string(job.ID), Plan: job.Plan, Inputs: inputs, Worker: program, Isolation: isolation,
		Terms: int64(len(terms)), Output: canon.Sum(d.plan.Joint.Program), Started: now, Ended: now, By: l.cfg.Node.Name()})
	return signed, isolation, err
}
