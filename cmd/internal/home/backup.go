package home

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"yingzhou.dev/lab/cmd/internal/archive"
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/durable"
)

// A backup is a folder with an archive for each part of the lab, so that each body can keep its own and nobody another's,
// and a list of them. Whoever has the parts of two custodians and of the control plane has everything: they belong into
// different hands, as the parts themselves do.

const (
	backupKind = "yingzhou.backup.v1"
	backupFile = "backup.json"
)

// Backup is the list of a backup's parts.
type Backup struct {
	Kind       string       `json:"kind"`
	Lab        string       `json:"lab"`
	Root       []byte       `json:"root"` // the lab's root public key
	Made       canon.Time   `json:"made"`
	Checkpoint string       `json:"checkpoint"` // of the log, signed and cosigned; empty for a log without entries
	Parts      []BackupPart `json:"parts"`
}

// BackupPart is one archive.
type BackupPart struct {
	Name   string         `json:"name"` // folder of the lab: "plane", "custodians/NAME"
	File   string         `json:"file"`
	Bytes  int64          `json:"bytes"`
	Digest enclave.Digest `json:"digest"`
}

// Parts lists the folders of a lab that belong to different bodies.
func Parts(dir string) ([]string, error) {
	var out []string
	for _, pattern := range []string{"plane", "people", "witness", "custodians/*", "agencies/*"} {
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return nil, err
		}
		for _, path := range found {
			rel, err := filepath.Rel(dir, path)
			if err != nil {
				return nil, err
			}
			out = append(out, filepath.ToSlash(rel))
		}
	}
	return out, nil
}

// passing are what a part can do without: it is copied or derived again, or belongs to a process that ran.
func passing(part, rel string) bool {
	base := filepath.Base(rel)
	if strings.HasPrefix(base, ".tmp-") || base == "lock" {
		return true
	}
	under := func(dir string) bool { return rel == dir || strings.HasPrefix(rel, dir+"/") }
	switch {
	case part == "plane":
		return under("tmp") || under("blobs/incoming") || under("blobs/derived") || strings.HasPrefix(rel, "lab.db") || rel == "database"
	case strings.HasPrefix(part, "custodians/"):
		return under("mirror") // copied from the control plane and checked again
	}
	return false
}

// Save writes a backup of a lab's parts, or of all if none is named, to a new folder. Nobody else may use the lab
// meanwhile.
func Save(ctx context.Context, dir string, opts Options, to string, parts []string) (_ *Backup, err error) {
	s, err := readSettings(dir)
	if err != nil {
		return nil, err
	}
	h := &Home{Dir: dir, Name: s.Name, Root: s.Root, opts: opts.withDefaults()}
	if err := h.acquire(ctx); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, h.Close(context.WithoutCancel(ctx))) }()
	all, err := Parts(dir)
	if err != nil {
		return nil, err
	}
	if len(parts) == 0 {
		parts = all
	}
	for _, p := range parts {
		if !slices.Contains(all, p) {
			return nil, fmt.Errorf("backing up: there is no part %q; there are %s", p, strings.Join(all, ", "))
		}
	}
	if err := os.Mkdir(to, 0o700); err != nil { // a new one: a backup is not mixed with another
		return nil, fmt.Errorf("backing up: %w", err)
	}
	b := &Backup{Kind: backupKind, Lab: h.Name, Root: h.Root, Made: canon.At(h.Now())}
	if text, err := os.ReadFile(h.path("plane", "log", "checkpoint.cosigned")); err == nil {
		b.Checkpoint = string(text)
	}
	for _, p := range parts {
		done, err := h.archive(ctx, p, to)
		if err != nil {
			return nil, fmt.Errorf("backing up %s: %w", p, err)
		}
		b.Parts = append(b.Parts, done)
	}
	// The list comes last: a folder with it is whole.
	if err := durable.WriteFile(filepath.Join(to, backupFile), canon.MustMarshal(b), 0o600); err != nil {
		return nil, fmt.Errorf("backing up: %w", err)
	}
	return b, nil
}

// archive writes one part.
func (h *Home) archive(ctx context.Context, part, to string) (BackupPart, error) {
	done := BackupPart{Name: part, File: strings.ReplaceAll(part, "/", "-") + ".tar"}
	w, err := archive.Create(filepath.Join(to, done.File))
	if err != nil {
		return done, err
	}
	defer w.Abort()
	if part == "plane" {
		if err := h.archivePlane(ctx, w); err != nil {
			return done, err
		}
	}
	if err := w.AddTree(ctx, h.path(part), "", func(rel string) bool { return passing(part, rel) }); err != nil {
		return done, err
	}
	done.Bytes, done.Digest, err = w.Commit()
	return done, err
}

// archivePlane adds what is not a file of the folder: the lab's settings, and the metadata as it is at one moment.
func (h *Home) archivePlane(ctx context.Context, w *archive.Writer) error {
	records, err := h.openRecords(ctx)
	if err != nil {
		return err
	}
	defer records.Close()
	scratch, err := os.MkdirTemp("", "backup-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	saved := filepath.Join(scratch, "lab.db")
	if err := records.SaveTo(ctx, saved); err != nil {
		return err
	}
	return errors.Join(w.Add(saved, "lab.db"), w.Add(h.path(settingsFile), "@"+settingsFile))
}
