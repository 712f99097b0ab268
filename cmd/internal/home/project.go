package home

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"

	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/enclave/seal"
	"yingzhou.dev/lab/enclave/seal/identifier"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox"
	"yingzhou.dev/lab/sandbox/lab"
)

// A project key makes the pseudonyms by which the rows of several agencies are matched. One agency draws it and sends it
// to the others, each time encrypted to a steward; it lies in the agencies' own keyrings and nowhere else.

func projectKeyName(project string) string { return "project key " + project }

func projectInfo(project, steward string) []byte {
	return []byte("yingzhou project key v1\x00" + project + "\x00" + steward)
}

// NewProject draws a project key at the steward's agency.
func (h *Home) NewProject(ctx context.Context, project, steward string) error {
	if !collectionName.MatchString(project) {
		return fmt.Errorf("project %q: want small letters, digits, _ and -, beginning with a letter: %w", project, operators.ErrInvalid)
	}
	_, _, dir, err := h.steward(ctx, steward)
	if err != nil {
		return err
	}
	ring, err := keys.OpenFile(filepath.Join(dir, "keyring"))
	if err != nil {
		return err
	}
	if _, err := ring.Get(projectKeyName(project)); err == nil {
		return fmt.Errorf("project %q: %w: its key is here already", project, sandbox.ErrConflict)
	}
	key := make([]byte, identifier.KeyBytes)
	if _, err := rand.Read(key); err != nil {
		return fmt.Errorf("project %q: %w", project, err)
	}
	defer clear(key)
	return ring.Put(projectKeyName(project), key)
}

// GiveProject sends a project key from one agency to another: encrypted to the other's steward, who puts it into that
// agency's keyring. Between real agencies the message in the middle travels as a file.
func (h *Home) GiveProject(ctx context.Context, project, from, to string) error {
	key, err := h.projectKey(ctx, project, from)
	if err != nil {
		return err
	}
	defer clear(key)
	receiver, party, dir, err := h.steward(ctx, to)
	if err != nil {
		return err
	}
	message, err := keys.SealTo(party.HPKE, projectInfo(project, to), key)
	if err != nil {
		return err
	}
	plain, err := receiver.Open(projectInfo(project, to), message)
	if err != nil {
		return err
	}
	defer clear(plain)
	ring, err := keys.OpenFile(filepath.Join(dir, "keyring"))
	if err != nil {
		return err
	}
	return ring.Put(projectKeyName(project), plain)
}

func (h *Home) projectKey(ctx context.Context, project, steward string) ([]byte, error) {
	_, _, dir, err := h.steward(ctx, steward)
	if err != nil {
		return nil, err
	}
	return projectKeyIn(dir, project)
}

func projectKeyIn(dir, project string) ([]byte, error) {
	ring, err := keys.OpenFile(filepath.Join(dir, "keyring"))
	if err != nil {
		return nil, err
	}
	key, err := ring.Get(projectKeyName(project))
	if err != nil {
		return nil, fmt.Errorf("key of project %q: %w: `lab project new` draws one, `lab project give` hands it to another agency",
			project, errors.Join(sandbox.ErrNotFound, err))
	}
	return key, nil
}

// sharing gathers what splitting a table needs: the three custodians of its keyset are the nodes.
func (h *Home) sharing(ctx context.Context, dir string, d *lab.Dataset, opts SealOptions) (*seal.Sharing, error) {
	key, err := projectKeyIn(dir, opts.Project)
	if err != nil {
		return nil, err
	}
	_, roster, err := h.Lab.Roster(ctx)
	if err != nil {
		return nil, err
	}
	out := &seal.Sharing{ProjectKey: key, Scenario: opts.Scenario}
	for _, name := range d.Keyset.Custodians {
		p, ok := roster.Find(name)
		if !ok || p.Role != operators.RoleCustodian {
			return nil, fmt.Errorf("sealing shares of %q: %w: %q is not a custodian of the roster", d.Name, sandbox.ErrConflict, name)
		}
		out.Nodes = append(out.Nodes, p)
	}
	return out, nil
}
