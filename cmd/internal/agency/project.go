package agency

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"

	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/enclave/seal"
	"yingzhou.dev/lab/enclave/seal/identifier"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox"
	"yingzhou.dev/lab/sandbox/lab"
)

// A project key makes the pseudonyms by which the rows of several agencies are matched. One agency draws it and sends it
// to the others, each time encrypted to a steward; it lies in the agencies' own keyrings and nowhere else.

var projectName = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,62}$`)

func projectKeyName(project string) string { return "project key " + project }

func projectInfo(project, steward string) []byte {
	return []byte("yingzhou project key v1\x00" + project + "\x00" + steward)
}

// NewProject draws a project key.
func (a *Agency) NewProject(project string) error {
	if !projectName.MatchString(project) {
		return fmt.Errorf("project %q: want small letters, digits, _ and -, beginning with a letter: %w", project, operators.ErrInvalid)
	}
	ring, err := keys.OpenFile(filepath.Join(a.cfg.Dir, "keyring"))
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

// GiveProject encrypts a project key to a steward of another agency.
func (a *Agency) GiveProject(project string, to operators.Party) ([]byte, error) {
	if to.Role != operators.RoleSteward {
		return nil, fmt.Errorf("project %q: %q is no data steward: %w", project, to.Name, operators.ErrInvalid)
	}
	key, err := a.projectKey(project)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	return keys.SealTo(to.HPKE, projectInfo(project, to.Name), key)
}

// TakeProject puts a project key that GiveProject encrypted to this steward into the agency's keyring.
func (a *Agency) TakeProject(project string, message []byte) error {
	key, err := a.steward.Open(projectInfo(project, a.party.Name), message)
	if err != nil || len(key) != identifier.KeyBytes {
		return fmt.Errorf("project %q: the key does not open: %w", project, errors.Join(err, operators.ErrInvalid))
	}
	defer clear(key)
	ring, err := keys.OpenFile(filepath.Join(a.cfg.Dir, "keyring"))
	if err != nil {
		return err
	}
	return ring.Put(projectKeyName(project), key)
}

func (a *Agency) projectKey(project string) ([]byte, error) {
	ring, err := keys.OpenFile(filepath.Join(a.cfg.Dir, "keyring"))
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
func (a *Agency) sharing(ctx context.Context, d *lab.Dataset, opts SealOptions) (*seal.Sharing, error) {
	key, err := a.projectKey(opts.Project)
	if err != nil {
		return nil, err
	}
	_, roster, err := a.cfg.Lab.Roster(ctx)
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
