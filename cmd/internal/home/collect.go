package home

import (
	"context"
	"fmt"
	"path/filepath"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/mirror"
	"yingzhou.dev/lab/enclave/mpc/prio3"
	"yingzhou.dev/lab/enclave/release"
	"yingzhou.dev/lab/sandbox/lab"
)

// openAggregator opens what counts reports of collections beside a custodian, in custodians/NAME/collections.
func (h *Home) openAggregator(c *release.Custodian, id party, copies *mirror.Mirror) error {
	host, err := prio3.NewHost(prio3.HostConfig{Dir: filepath.Join(h.path("custodians", c.Name()), "collections"), Identity: id, Gate: c.Collections(), Roster: c.Roster,
		Blobs: copies, Clock: h.opts.Clock})
	if err != nil {
		return err
	}
	h.closers = append(h.closers, host)
	h.aggregators[c.Name()] = host
	return nil
}

// collector lets the control plane have batches of collections counted.
type collector struct{ h *Home }

// Collect implements lab.Collector.
func (c collector) Collect(ctx context.Context, b *enclave.CollectionBundle) (*lab.Collected, error) {
	var col enclave.Collection
	if err := b.Collection.Open(enclave.KindCollection, &col); err != nil {
		return nil, err
	}
	here := func(i int) (*prio3.Host, error) {
		host := c.h.aggregators[col.Aggregators[i]]
		if host == nil {
			return nil, fmt.Errorf("collection %q: %w", col.Name, away{col.Aggregators[i]}.gone())
		}
		return host, nil
	}
	leader, err := here(0)
	if err != nil {
		return nil, err
	}
	helper, err := here(1)
	if err != nil {
		return nil, err
	}
	session, end, err := helper.Help(ctx, b)
	if err != nil {
		return nil, err
	}
	out, err := leader.Lead(ctx, b, func(context.Context, string) (prio3.Peer, error) { return session, nil })
	if ended := end(err == nil); err == nil {
		err = ended
	}
	if err != nil {
		return nil, err
	}
	return &lab.Collected{Release: out.Collected, Table: out.Sealed, Proof: out.Proof}, nil
}

// ConfirmReporters confirms a collection and its list of reporters, as a steward of the data's owner.
func (h *Home) ConfirmReporters(ctx context.Context, name string, enrolment []byte, steward string) error {
	a, err := h.agency(ctx, steward)
	if err != nil {
		return err
	}
	return a.ConfirmCollection(ctx, name, enrolment)
}

// Deliver hands in files of reports as one batch, as a steward of the data's owner.
func (h *Home) Deliver(ctx context.Context, name string, batch int64, files []string, steward string) (*enclave.Delivery, error) {
	a, err := h.agency(ctx, steward)
	if err != nil {
		return nil, err
	}
	return a.DeliverReports(ctx, name, batch, files)
}
