// Package gate is the control plane's way to the custodians: it asks one of them to lead a release and passes over one
// that cannot be reached, and has each destroy what it holds of a dataset that ends. It sees what they sign and a table that
// only the analyst can open.
package gate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"google.golang.org/grpc/status"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/custodian"
	"yingzhou.dev/lab/enclave/refusal"
	"yingzhou.dev/lab/sandbox/lab"
)

// Gate implements lab.Gate over the network.
type Gate struct {
	custodians []*custodian.Client
	turn       atomic.Uint64
}

// New makes a gate of all custodians of the lab.
func New(custodians ...*custodian.Client) (*Gate, error) {
	if len(custodians) == 0 {
		return nil, errors.New("gate: want at least one custodian")
	}
	return &Gate{custodians: custodians}, nil
}

// Release implements lab.Gate. Any custodian may lead, so they take turns; all give the same bytes.
func (g *Gate) Release(ctx context.Context, b *enclave.Bundle, step func(string)) (*lab.Outcome, error) {
	first := g.turn.Add(1)
	var lost []error
	for i := range g.custodians {
		lead := g.custodians[(first+uint64(i))%uint64(len(g.custodians))]
		out, err := lead.Lead(ctx, b, step)
		if err == nil {
			return &lab.Outcome{Release: out.Release, Table: out.Table, Proof: out.Proof}, nil
		}
		if refusal.Final(err) || ctx.Err() != nil {
			return nil, err
		}
		lost = append(lost, err)
	}
	return nil, errors.Join(lost...)
}

// Collect implements lab.Collector: the leader that the collection names counts a batch with its helper.
func (g *Gate) Collect(ctx context.Context, b *enclave.CollectionBundle) (*lab.Collected, error) {
	var c enclave.Collection
	if err := b.Collection.Open(enclave.KindCollection, &c); err != nil {
		return nil, err
	}
	if err := c.Validate(); err != nil {
		return nil, err
	}
	i := slices.IndexFunc(g.custodians, func(cu *custodian.Client) bool { return cu.Name() == c.Aggregators[0] })
	if i < 0 {
		return nil, fmt.Errorf("custodian %q: the control plane's configuration does not say where it is", c.Aggregators[0])
	}
	out, err := g.custodians[i].LeadBatch(ctx, b)
	if err != nil {
		return nil, err
	}
	return &lab.Collected{Release: out.Release, Table: out.Table, Proof: out.Proof}, nil
}

// Refused implements lab.Gate: a refusal that asking again cannot change ends a job.
func (g *Gate) Refused(err error) (string, bool) {
	if refusal.Final(err) {
		return err.Error(), true
	}
	return "", false
}

// Destroy is a part of lab.Destroyer: it has one custodian destroy what it holds of an order's lineage. Errors say what a
// person may know: which custodian, and its refusal or that it cannot be reached.
func (g *Gate) Destroy(ctx context.Context, name string, order, roster enclave.Signed) (enclave.Signed, error) {
	i := slices.IndexFunc(g.custodians, func(c *custodian.Client) bool { return c.Name() == name })
	if i < 0 {
		return enclave.Signed{}, fmt.Errorf("custodian %q: the control plane's configuration does not say where it is", name)
	}
	word, err := g.custodians[i].Dispose(ctx, order, &roster)
	if err == nil {
		return word, nil
	}
	if st, ok := refusal.Status(err); ok {
		err = &told{text: status.Convert(st.Err()).Message(), cause: err}
	}
	return word, err
}

// told is an error in the words that may be shown, with what is behind it.
type told struct {
	text  string
	cause error
}

func (t *told) Error() string { return t.text }
func (t *told) Unwrap() error { return t.cause }
