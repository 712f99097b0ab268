package home

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"yingzhou.dev/lab/cmd/internal/archive"
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/release"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/durable"
	"yingzhou.dev/lab/sandbox/audit"
	"yingzhou.dev/lab/sandbox/db"
)

// ErrStale means that a backup's log is older than what a witness or a custodian has seen. To go on from it would fork
// the log, and every custodian would refuse it.
var ErrStale = errors.New("the backup is older than the log that others have seen")

func (o Options) withDefaults() Options {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return o
}

// Restore puts parts of a backup into a lab's folder, or all of them if none is named. A part that is there is not
// replaced: move it away first. Nothing is changed unless every archive is whole and the log is no older than what the
// witness, the custodians in the folder and those in witnesses (folders of a witness's state, wherever they are) have
// seen. Metadata goes into the database that the options name, which must be empty, or else into a file.
func Restore(ctx context.Context, from, dir string, opts Options, parts, witnesses []string) (*Backup, error) {
	b, err := readBackup(from)
	if err != nil {
		return nil, err
	}
	if len(parts) == 0 {
		for _, p := range b.Parts {
			parts = append(parts, p.Name)
		}
	}
	r := &restoring{backup: b, from: from, opts: opts.withDefaults(), dir: dir, witnesses: witnesses}
	if err := r.run(ctx, parts); err != nil {
		return nil, fmt.Errorf("restoring from %s: %w", from, err)
	}
	return b, nil
}

func readBackup(from string) (*Backup, error) {
	data, err := os.ReadFile(filepath.Join(from, backupFile))
	if err != nil {
		return nil, fmt.Errorf("reading backup: %w", err)
	}
	var b Backup
	if err := canon.Unmarshal(data, &b); err != nil || b.Kind != backupKind {
		return nil, fmt.Errorf("reading backup: %s is not a backup's", filepath.Join(from, backupFile))
	}
	return &b, nil
}

// restoring is a restore under way.
type restoring struct {
	backup    *Backup
	from, dir string
	staging   string // beside the lab's folder, on its file system
	opts      Options
	witnesses []string
}

func (r *restoring) run(ctx context.Context, parts []string) (err error) {
	if err := r.free(parts); err != nil {
		return err
	}
	if err := durable.MkdirAll(r.dir, 0o700); err != nil {
		return err
	}
	h := &Home{Dir: r.dir, Name: r.backup.Lab, Root: r.backup.Root, opts: r.opts}
	if err := h.acquire(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.Close(context.WithoutCancel(ctx))) }()
	if r.staging, err = os.MkdirTemp(r.dir, "restoring-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(r.staging)) }()
	for _, p := range parts {
		if err := r.unpack(ctx, p); err != nil {
			return fmt.Errorf("part %s: %w", p, err)
		}
	}
	plane := slices.Contains(parts, "plane")
	if plane {
		if err := r.current(ctx); err != nil {
			return err
		}
		if err := r.records(ctx, h); err != nil {
			return err
		}
	}
	return r.place(parts)
}

// free refuses parts that are there, parts that the backup lacks, and the folder of another lab.
func (r *restoring) free(parts []string) error {
	switch s, err := readSettings(r.dir); {
	case errors.Is(err, ErrNoLab):
		if !slices.Contains(parts, "plane") {
			return fmt.Errorf("%s holds no lab yet: restore part plane first", r.dir)
		}
	case err != nil:
		return err
	case !bytes.Equal(s.Root, r.backup.Root):
		return fmt.Errorf("%s is another lab than the backup's %q", r.dir, r.backup.Lab)
	}
	for _, p := range parts {
		if !slices.ContainsFunc(r.backup.Parts, func(have BackupPart) bool { return have.Name == p }) {
			return fmt.Errorf("the backup has no part %q", p)
		}
		if _, err := os.Stat(filepath.Join(r.dir, p)); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("part %s is there: move %s away first (%w)", p, filepath.Join(r.dir, p), fs.ErrExist)
		}
	}
	return nil
}

// unpack checks an archive and unpacks it into the staging folder.
func (r *restoring) unpack(ctx context.Context, part string) error {
	i := slices.IndexFunc(r.backup.Parts, func(p BackupPart) bool { return p.Name == part })
	p := r.backup.Parts[i]
	path := filepath.Join(r.from, p.File)
	if err := archive.Check(path, p.Digest); err != nil {
		return err
	}
	root := filepath.Join(r.staging, filepath.FromSlash(part))
	if err := os.MkdirAll(root, 0o700); err != nil {
		return err
	}
	return archive.Extract(ctx, path, func(name string) (string, error) {
		if part == "plane" && name == "@"+settingsFile { // the one file from above its part
			return filepath.Join(r.staging, settingsFile), nil
		}
		return archive.Under(root, name)
	})
}

// current compares the staged log with what others have seen of it, here and wherever we were told to look.
func (r *restoring) current(ctx context.Context) error {
	staged := &Home{Dir: r.staging, Root: r.backup.Root}
	keys, err := staged.foundersLogKeys()
	if err != nil {
		return err
	}
	if r.backup.Checkpoint == "" {
		return nil
	}
	if _, err := audit.Fsck(ctx, staged.LogDir(), keys); err != nil {
		return err
	}
	seen := map[string]enclave.Checkpoint{}
	for _, dir := range append([]string{filepath.Join(r.dir, "witness", "state"), filepath.Join(r.staging, "witness", "state")}, r.witnesses...) {
		if seen["witness "+dir], err = audit.SeenBy(dir, keys); err != nil {
			return err
		}
	}
	for _, root := range []string{r.dir, r.staging} {
		states, err := filepath.Glob(filepath.Join(root, "custodians", "*", "state"))
		if err != nil {
			return err
		}
		for _, dir := range states {
			if seen["custodian "+filepath.Base(filepath.Dir(dir))+" in "+root], err = release.SeenBy(dir); err != nil {
				return err
			}
		}
	}
	for who, cp := range seen {
		switch _, err := audit.Extends(staged.LogDir(), keys, cp); {
		case errors.Is(err, audit.ErrSplitView):
			return fmt.Errorf("%w: %s: %w", ErrStale, who, err)
		case err != nil:
			return err
		}
	}
	return nil
}

// records puts the saved metadata where the lab will look for it.
func (r *restoring) records(ctx context.Context, h *Home) error {
	if r.opts.Database == "" {
		return nil // the file is in place
	}
	saved := filepath.Join(r.staging, databaseFile)
	into, err := db.OpenPostgres(ctx, db.Postgres{DSN: r.opts.Database})
	if err != nil {
		return err
	}
	err = into.LoadFrom(ctx, saved)
	if err == nil {
		err = h.own(ctx, into)
	}
	if err = errors.Join(err, into.Close()); err != nil {
		return err
	}
	leftovers, err := filepath.Glob(saved + "*") // the file and what its opening made
	for _, path := range leftovers {
		err = errors.Join(err, os.Remove(path))
	}
	return errors.Join(err, durable.WriteFile(filepath.Join(r.staging, elsewhereFile), []byte(elsewhereText), 0o600))
}

// place moves the parts from the staging folder into the lab's. The settings come last: a folder with them is a lab.
func (r *restoring) place(parts []string) error {
	for _, p := range parts {
		if p == "plane" {
			if err := os.MkdirAll(filepath.Join(r.staging, "plane", "tmp"), 0o700); err != nil {
				return err
			}
		}
		to := filepath.Join(r.dir, filepath.FromSlash(p))
		if err := durable.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			return err
		}
		if err := os.Rename(filepath.Join(r.staging, filepath.FromSlash(p)), to); err != nil {
			return err
		}
		if err := durable.SyncDir(filepath.Dir(to)); err != nil {
			return err
		}
	}
	for _, sub := range []string{"people", "agencies", "custodians", "witness"} { // empty ones are in no archive
		if err := durable.MkdirAll(filepath.Join(r.dir, sub), 0o700); err != nil {
			return err
		}
	}
	staged := filepath.Join(r.staging, settingsFile)
	if _, err := os.Stat(staged); errors.Is(err, fs.ErrNotExist) {
		return nil // without part plane
	}
	if err := os.Rename(staged, filepath.Join(r.dir, settingsFile)); err != nil {
		return err
	}
	return durable.SyncDir(r.dir)
}
