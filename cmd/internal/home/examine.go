package home

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/release"
	"yingzhou.dev/lab/enclave/vault"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox/audit"
	"yingzhou.dev/lab/sandbox/lab"
)

// Examined is what Examine looked at.
type Examined struct {
	Log   audit.Report
	Blobs int // sealed blobs that manifests name
}

// Examine checks every byte of the log and, if blobs is set, every sealed blob that a manifest names. It does not open
// the lab: one that is too damaged to open can still be examined. What is damaged is an audit.ErrDamaged or an
// enclave.ErrBlob; a blob that is missing is an enclave.ErrNotFound.
func Examine(ctx context.Context, dir string, opts Options, blobs bool) (*Examined, error) {
	s, err := readSettings(dir)
	if err != nil {
		return nil, err
	}
	h := &Home{Dir: dir, Name: s.Name, Root: s.Root, opts: opts.withDefaults(), Vaults: map[string]*vault.Client{}}
	if err := h.acquire(ctx); err != nil {
		return nil, err
	}
	e, err := h.examine(ctx, blobs)
	return e, errors.Join(err, h.Close(ctx))
}

func (h *Home) examine(ctx context.Context, blobs bool) (*Examined, error) {
	logKeys, err := h.foundersLogKeys()
	if err != nil {
		return nil, fmt.Errorf("examining lab: %w", err)
	}
	e := &Examined{}
	if e.Log, err = audit.Fsck(ctx, h.LogDir(), logKeys); err != nil || !blobs {
		return e, err
	}
	if err := h.openBlobs(); err != nil {
		return e, err
	}
	records, err := h.openRecords(ctx)
	if err != nil {
		return e, err
	}
	h.closers = append(h.closers, records)
	named, err := lab.NamedBlobs(ctx, records)
	if err != nil {
		return e, err
	}
	for d := range named {
		if err := h.Blobs.Verify(ctx, d); err != nil {
			return e, err
		}
		e.Blobs++
	}
	return e, nil
}

// founders is the roster that the lab was made with.
func (h *Home) founders() (*operators.Roster, error) {
	data, err := os.ReadFile(filepath.Join(h.Dir, rosterFile))
	if err != nil {
		return nil, err
	}
	var signed enclave.Signed
	if err := canon.Unmarshal(data, &signed); err != nil {
		return nil, fmt.Errorf("%s: %w", rosterFile, err)
	}
	roster, err := operators.OpenRoster(signed, h.Root)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", rosterFile, err)
	}
	return roster, nil
}

// foundersLogKeys are the log's keys from that roster: they never change.
func (h *Home) foundersLogKeys() (enclave.LogKeys, error) {
	roster, err := h.founders()
	if err != nil {
		return enclave.LogKeys{}, err
	}
	return release.LogKeys(roster)
}
