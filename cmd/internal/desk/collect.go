package desk

import (
	"context"
	"errors"

	"yingzhou.dev/lab/enclave"
)

// ConfirmReporters confirms a collection and uploads its list of reporters, as a steward of the data's owner.
func (r *Remote) ConfirmReporters(ctx context.Context, name string, enrolment []byte, steward string) (err error) {
	a, done, err := r.agency(ctx, steward)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	return a.ConfirmCollection(ctx, name, enrolment)
}

// Deliver uploads files of reports and hands them in as one batch, as a steward of the data's owner.
func (r *Remote) Deliver(ctx context.Context, name string, batch int64, files []string, steward string) (_ *enclave.Delivery, err error) {
	a, done, err := r.agency(ctx, steward)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, done()) }()
	return a.DeliverReports(ctx, name, batch, files)
}
