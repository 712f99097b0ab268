package home

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"yingzhou.dev/lab/cmd/internal/agency"
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/enclave/mpc/prio3"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/durable"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox"
)

// Collections lie in plane/collections/NAME: collection.json and enrolment.json, and released-N.json with the table of
// batch N sealed to the analyst. Each aggregator's own state is custodians/NAME/collections/DIGEST.

var collectionName = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,62}$`)

func (h *Home) collectionDir(name string) string { return h.path("plane", "collections", name) }

// DefineCollection signs a collection as its analyst and keeps it until the data's owner confirms it.
func (h *Home) DefineCollection(ctx context.Context, c enclave.Collection, enrolment []byte) (enclave.Digest, error) {
	var none enclave.Digest
	if !collectionName.MatchString(c.Name) {
		return none, fmt.Errorf("defining collection: %q is not a name of small letters, digits, _ and - that begins with a letter: %w", c.Name, operators.ErrInvalid)
	}
	id, err := h.Identity(c.By)
	if err != nil {
		return none, err
	}
	if _, err := os.Stat(h.collectionDir(c.Name)); err == nil {
		return none, fmt.Errorf("defining collection %q: %w: there is one of this name", c.Name, sandbox.ErrConflict)
	}
	c.Enrolment, c.Made = canon.Sum(enrolment), canon.At(h.Now())
	signed, err := keys.SealWith(id, enclave.KindCollection, c)
	if err != nil {
		return none, err
	}
	t, err := prio3.NewTask(signed, enrolment)
	if err != nil {
		return none, err
	}
	g, err := h.authorizeCollection(ctx, &c)
	if err != nil {
		return none, err
	}
	if err := prio3.Granted(&c, g); err != nil {
		return none, fmt.Errorf("%w: %w", operators.ErrInvalid, err)
	}
	dir := h.collectionDir(c.Name)
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return none, err
	}
	return t.Digest, errors.Join(durable.WriteFile(filepath.Join(dir, "enrolment.json"), enrolment, 0o600),
		durable.WriteFile(filepath.Join(dir, "collection.json"), canon.MustMarshal(signed), 0o600))
}

// ConfirmCollection adds the signature of the owner of the data: that these are its reporters. The log has the
// collection before anybody can report to it.
func (h *Home) ConfirmCollection(ctx context.Context, name, steward string) error {
	own, err := h.agency(ctx, steward)
	if err != nil {
		return err
	}
	signed, task, err := h.collection(ctx, name)
	if err != nil {
		return err
	}
	d, err := h.Lab.Dataset(ctx, task.Dataset)
	if err != nil {
		return err
	}
	if d.Keyset.Owner != own.Party().Body {
		return fmt.Errorf("collection %q: dataset %q %w: it is of %s", name, task.Dataset, agency.ErrNotYours, d.Keyset.Owner)
	}
	if signed.Verify(steward, own.Party().Key()) == nil {
		return nil // confirmed before
	}
	sig, err := own.Steward().Sign(enclave.KindCollection, signed.Body)
	if err != nil {
		return err
	}
	signed.Sigs = append(signed.Sigs, sig)
	if err := h.Lab.Announce(ctx, enclave.Entry{Type: enclave.EntryCollection, Subject: task.Digest, By: steward, At: canon.At(h.Now())}); err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(h.collectionDir(name), "collection.json"), canon.MustMarshal(signed), 0o600)
}

// collection reads a collection and checks its analyst's signature.
func (h *Home) collection(ctx context.Context, name string) (signed canon.Signed, t *prio3.Task, err error) {
	if !collectionName.MatchString(name) {
		return signed, nil, fmt.Errorf("collection %q: %w", name, sandbox.ErrNotFound)
	}
	data, err := os.ReadFile(filepath.Join(h.collectionDir(name), "collection.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return signed, nil, fmt.Errorf("collection %q: %w: `lab collect list` names them", name, sandbox.ErrNotFound)
	}
	if err != nil {
		return signed, nil, fmt.Errorf("collection %q: %w", name, err)
	}
	if err := canon.Unmarshal(data, &signed); err != nil {
		return signed, nil, fmt.Errorf("collection %q: %w", name, err)
	}
	enrolment, err := os.ReadFile(filepath.Join(h.collectionDir(name), "enrolment.json"))
	if err != nil {
		return signed, nil, fmt.Errorf("collection %q: %w", name, err)
	}
	if t, err = prio3.NewTask(signed, enrolment); err != nil {
		return signed, nil, err
	}
	_, roster, err := h.Lab.Roster(ctx)
	if err != nil {
		return signed, nil, err
	}
	p, ok := roster.Find(t.By)
	if !ok || p.Role != operators.RoleAnalyst || p.Body != t.Operator || signed.Verify(t.By, p.Key()) != nil {
		return signed, nil, fmt.Errorf("collection %q: %w: it is not signed by an analyst of %s", name, canon.ErrSignature, t.Operator)
	}
	return signed, t, nil
}

// Collection reads a collection that its owner has confirmed.
func (h *Home) Collection(ctx context.Context, name string) (*prio3.Task, error) {
	signed, t, err := h.collection(ctx, name)
	if err != nil {
		return nil, err
	}
	return t, h.confirmed(ctx, signed, t)
}

// confirmed checks that a steward of the data's owner signed too, and that the log has it.
func (h *Home) confirmed(ctx context.Context, signed canon.Signed, t *prio3.Task) error {
	_, roster, err := h.Lab.Roster(ctx)
	if err != nil {
		return err
	}
	d, err := h.Lab.Dataset(ctx, t.Dataset)
	if err != nil {
		return err
	}
	owner := slices.ContainsFunc(roster.WithRole(operators.RoleSteward), func(p operators.Party) bool {
		return p.Body == d.Keyset.Owner && signed.Verify(p.Name, p.Key()) == nil
	})
	logged, err := h.records.Entries(ctx, sandbox.EntryFilter{Subject: t.Digest, Type: enclave.EntryCollection})
	if err != nil {
		return err
	}
	if !owner || len(logged) == 0 {
		return fmt.Errorf("collection %q: %w: a steward of %s has not confirmed it: `lab collect confirm %s`", t.Name, sandbox.ErrConflict, d.Keyset.Owner, t.Name)
	}
	return nil
}

// Collections names the collections here.
func (h *Home) Collections() ([]string, error) {
	entries, err := os.ReadDir(h.path("plane", "collections"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("listing collections: %w", err)
	}
	var out []string
	for _, e := range entries {
		if e.IsDir() {
			out = append(out, e.Name())
		}
	}
	return out, nil
}

// authorizeCollection concludes afresh from all statements whether the collection may be released.
func (h *Home) authorizeCollection(ctx context.Context, c *enclave.Collection) (*operators.Grant, error) {
	st, err := h.Lab.Statements(ctx)
	if err != nil {
		return nil, err
	}
	return operators.Authorize(st, operators.Request{Operator: c.Operator, Scenario: c.Scenario, Analyst: c.By, Now: h.Now()})
}

// AggregatorKeys are the receiving keys of a collection's aggregators, leader's first: what a reporter needs.
func (h *Home) AggregatorKeys(ctx context.Context, t *prio3.Task) (out [2][]byte, err error) {
	_, roster, err := h.Lab.Roster(ctx)
	if err != nil {
		return out, err
	}
	for i, name := range t.Aggregators {
		p, ok := roster.Find(name)
		if !ok || p.Role != operators.RoleCustodian {
			return out, fmt.Errorf("collection %q: %w: %q is not a custodian of the roster", t.Name, sandbox.ErrConflict, name)
		}
		out[i] = p.HPKE
	}
	return out, nil
}

// Released is a batch of a collection that was released, its table opened by the analyst.
type Released struct {
	Digest    enclave.Digest    `json:"release"`
	Collected enclave.Collected `json:"collected"`
	Table     enclave.Table     `json:"table"`
}

type releasedFile struct {
	Collected canon.Signed     `json:"collected"`
	Sealed    []byte           `json:"sealed"`
	Proof     enclave.LogProof `json:"proof"`
}

// ReleaseBatch has the two aggregators count a spool of reports and release the batch. Asking again for a batch that was
// released gives it again.
func (h *Home) ReleaseBatch(ctx context.Context, name string, batch int64, reports io.Reader) error {
	t, err := h.Collection(ctx, name)
	if err != nil {
		return err
	}
	_, roster, err := h.Lab.Roster(ctx)
	if err != nil {
		return err
	}
	analyst, _ := roster.Find(t.By) // Collection found it
	var both [2]*prio3.Aggregator
	for i := range both {
		if both[i], err = h.aggregator(ctx, t, roster, i); err != nil {
			return err
		}
		defer both[i].Close()
	}
	out, err := both[0].Lead(ctx, both[1], batch, func() ([]byte, error) { return prio3.ReadReport(reports) }, analyst.HPKE)
	if err != nil {
		return err
	}
	return durable.WriteFile(h.releasedFile(name, batch), canon.MustMarshal(releasedFile{out.Collected, out.Sealed, out.Proof}), 0o600)
}

func (h *Home) releasedFile(name string, batch int64) string {
	return filepath.Join(h.collectionDir(name), fmt.Sprintf("released-%d.json", batch))
}

func (h *Home) aggregator(ctx context.Context, t *prio3.Task, roster *operators.Roster, i int) (*prio3.Aggregator, error) {
	name := t.Aggregators[i]
	id := h.parties[name]
	if id == nil {
		return nil, fmt.Errorf("collection %q: aggregator %q is not here: %w", t.Name, name, sandbox.ErrNotFound)
	}
	peer, ok := roster.Find(t.Aggregators[1-i])
	if !ok {
		return nil, fmt.Errorf("collection %q: %w: %q is not in the roster", t.Name, sandbox.ErrConflict, t.Aggregators[1-i])
	}
	logKeys, err := h.LogKeys(ctx)
	if err != nil {
		return nil, err
	}
	return prio3.NewAggregator(prio3.Config{Dir: h.path("custodians", name, "collections", fmt.Sprintf("%x", t.Digest[:])), Task: t, Identity: id, Peer: peer,
		Log: h.Log, LogKeys: logKeys, Authorize: h.authorizeCollection, Clock: h.opts.Clock})
}

// Batch opens a released batch as the analyst and checks that the table is the one that both aggregators announced.
func (h *Home) Batch(ctx context.Context, name string, batch int64) (*Released, error) {
	_, t, err := h.collection(ctx, name)
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(h.releasedFile(name, batch))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("batch %d of collection %q: %w", batch, name, sandbox.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	var f releasedFile
	r := &Released{}
	if err := canon.Unmarshal(data, &f); err != nil {
		return nil, err
	}
	if err := f.Collected.Open(enclave.KindCollected, &r.Collected); err != nil {
		return nil, err
	}
	_, roster, err := h.Lab.Roster(ctx)
	if err != nil {
		return nil, err
	}
	for _, a := range t.Aggregators {
		p, _ := roster.Find(a)
		if err := f.Collected.Verify(a, p.Key()); err != nil {
			return nil, fmt.Errorf("batch %d of collection %q: %w", batch, name, err)
		}
	}
	id, err := h.Identity(t.By)
	if err != nil {
		return nil, err
	}
	r.Digest = f.Collected.Digest()
	plain, err := id.Open(keys.TableInfo(r.Digest), f.Sealed)
	if err != nil {
		return nil, err
	}
	if canon.Sum(plain) != r.Collected.Table || !bytes.Equal(r.Collected.Collection[:], t.Digest[:]) {
		return nil, fmt.Errorf("batch %d of collection %q: %w: the table is not the one announced", batch, name, canon.ErrSignature)
	}
	return r, canon.Unmarshal(plain, &r.Table)
}
