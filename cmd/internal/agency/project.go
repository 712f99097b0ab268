package agency

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"time"

	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/enclave/seal"
	"yingzhou.dev/lab/enclave/seal/identifier"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox"
	"yingzhou.dev/lab/sandbox/lab"
)

// A project key makes the pseudonyms by which the rows of several agencies are matched. One agency draws it and sends it
// to the others, each time encrypted to a steward; it lies in the agencies' own keyrings and nowhere else. At the project's
// end each agency destroys its copy: from then on nobody can make a pseudonym again or try identifiers against one.

var projectName = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,62}$`)

func projectKeyName(project string) string { return "project key " + project }

func projectInfo(project, steward string) []byte {
	return []byte("yingzhou project key v1\x00" + project + "\x00" + steward)
}

// endedName is where an agency notes that it has destroyed a project's key, so that no old message brings it back.
func endedName(project string) string { return "project ended " + project }

// open refuses a project whose key was destroyed here.
func (a *Agency) open(ctx context.Context, project string) error {
	when, err := a.ring.Get(ctx, endedName(project))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	}
	return fmt.Errorf("project %q: %w: its key was destroyed here on %s, for good", project, sandbox.ErrConflict, when)
}

// NewProject draws a project key.
func (a *Agency) NewProject(ctx context.Context, project string) error {
	if !projectName.MatchString(project) {
		return fmt.Errorf("project %q: want small letters, digits, _ and -, beginning with a letter: %w", project, operators.ErrInvalid)
	}
	if err := a.open(ctx, project); err != nil {
		return err
	}
	key := make([]byte, identifier.KeyBytes)
	if _, err := rand.Read(key); err != nil {
		return fmt.Errorf("project %q: %w", project, err)
	}
	defer clear(key)
	err := a.ring.Put(ctx, projectKeyName(project), key)
	if errors.Is(err, keys.ErrExists) {
		return fmt.Errorf("project %q: %w: its key is here already", project, sandbox.ErrConflict)
	}
	return err
}

// DestroyProject destroys this agency's copy of a project key and takes none of that name again. It can be repeated.
func (a *Agency) DestroyProject(ctx context.Context, project string) error {
	ended := a.open(ctx, project)
	if ended != nil && !errors.Is(ended, sandbox.ErrConflict) {
		return ended
	}
	if ended == nil { // else: taken up after a failure
		key, err := a.projectKey(ctx, project)
		if err != nil {
			return err
		}
		clear(key)
		// First the note: what is cut off after it has only to be repeated.
		if err := a.ring.Put(ctx, endedName(project), []byte(a.cfg.Clock().UTC().Format(time.DateTime))); err != nil {
			return err
		}
	}
	if err := a.ring.Forget(ctx, projectKeyName(project)); err != nil {
		return err
	}
	key, err := a.ring.Get(ctx, projectKeyName(project))
	clear(key)
	if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("project %q: the key that was destroyed is still there (%w)", project, errors.Join(err, sandbox.ErrDamaged))
	}
	return nil
}

// GiveProject encrypts a project key to a steward of another agency.
func (a *Agency) GiveProject(ctx context.Context, project string, to operators.Party) ([]byte, error) {
	if to.Role != operators.RoleSteward {
		return nil, fmt.Errorf("project %q: %q is no data steward: %w", project, to.Name, operators.ErrInvalid)
	}
	key, err := a.projectKey(ctx, project)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	return keys.SealTo(to.HPKE, projectInfo(project, to.Name), key)
}

// TakeProject puts a project key that GiveProject encrypted to this steward into the agency's keyring.
func (a *Agency) TakeProject(ctx context.Context, project string, message []byte) error {
	if err := a.open(ctx, project); err != nil {
		return err
	}
	key, err := a.steward.Open(projectInfo(project, a.party.Name), message)
	if err != nil || len(key) != identifier.KeyBytes {
		return fmt.Errorf("project %q: the key does not open: %w", project, errors.Join(err, operators.ErrInvalid))
	}
	defer clear(key)
	return a.ring.Put(ctx, projectKeyName(project), key)
}

func (a *Agency) projectKey(ctx context.Context, project string) ([]byte, error) {
	if err := a.open(ctx, project); err != nil {
		return nil, err
	}
	key, err := a.ring.Get(ctx, projectKeyName(project))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("key of project %q: %w: `lab project new` draws one, `lab project give` hands it to another agency",
			project, errors.Join(sandbox.ErrNotFound, err))
	}
	return key, nil
}

// sharing gathers what splitting a table needs: the three custodians of its keyset are the nodes.
func (a *Agency) sharing(ctx context.Context, d *lab.Dataset, opts SealOptions) (*seal.Sharing, error) {
	key, err := a.projectKey(ctx, opts.Project)
	if err != nil {
		return nil, err
	}
	_, roster, err := a.cfg.Lab.Roster(ctx)
	if err != nil {
		return nil, err
	}
	out := &seal.Sharing{ProjectKey: key, Scenario: opts.Scenario, Keyset: d.Keyset}
	for _, name := range d.Keyset.Custodians {
		p, ok := roster.Find(name)
		if !ok || p.Role != operators.RoleCustodian {
			return nil, fmt.Errorf("sealing shares of %q: %w: %q is not a custodian of the roster", d.Name, sandbox.ErrConflict, name)
		}
		out.Nodes = append(out.Nodes, p)
	}
	return out, nil
}
