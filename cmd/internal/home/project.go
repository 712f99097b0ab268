package home

import (
	"context"
	"fmt"

	"yingzhou.dev/lab/sandbox"
)

// NewProject draws a project key at the steward's agency.
func (h *Home) NewProject(ctx context.Context, project, steward string) error {
	a, err := h.agency(ctx, steward)
	if err != nil {
		return err
	}
	return a.NewProject(ctx, project)
}

// GiveProject sends a project key from one agency to another. Between agencies that are not in one folder the message in
// the middle travels as a file.
func (h *Home) GiveProject(ctx context.Context, project, from, to string) error {
	a, err := h.agency(ctx, from)
	if err != nil {
		return err
	}
	_, roster, err := h.Lab.Roster(ctx)
	if err != nil {
		return err
	}
	party, ok := roster.Find(to)
	if !ok {
		return fmt.Errorf("steward %q: %w: `lab person list` names the people", to, sandbox.ErrNotFound)
	}
	message, err := a.GiveProject(ctx, project, party)
	if err != nil {
		return err
	}
	b, err := h.agency(ctx, to)
	if err != nil {
		return err
	}
	return b.TakeProject(ctx, project, message)
}

// DestroyProject destroys a steward's agency's copy of a project key.
func (h *Home) DestroyProject(ctx context.Context, project, steward string) error {
	a, err := h.agency(ctx, steward)
	if err != nil {
		return err
	}
	return a.DestroyProject(ctx, project)
}
