package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"yingzhou.dev/lab/cmd/internal/archive"
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/durable"
)

// A daemon's backup is a folder with an archive of what the daemon keeps and a list. It is made and put back by the
// daemon's own program with -backup and -restore, on its own machine, while the daemon does not run. What is in a Vault is
// not in it.

// ErrRunning means that the daemon runs.
var ErrRunning = errors.New("the daemon runs: stop it first")

// ErrStale means that a backup is older than what others have seen. To go on from it would fork the log.
var ErrStale = errors.New("the backup is older than the log that others have seen")

// Piece is a file or folder that a daemon keeps.
type Piece struct {
	Name string                // in the archive: the key of the configuration
	Path string                // on this machine
	Skip func(rel string) bool // what can be made again, by paths relative to Path; nil = nothing
}

// Keeper is a daemon that has something to back up.
type Keeper interface {
	Daemon
	// Pieces lists what is kept in files.
	Pieces() []Piece
	// Save writes what is kept elsewhere into a scratch folder, and says what more there is and the log's checkpoint.
	Save(ctx context.Context, env Env, scratch string) (more []Piece, checkpoint string, err error)
	// Accept judges what would be put back, by where it was unpacked, before anything is; load, which may be nil, puts back
	// what is kept elsewhere.
	Accept(ctx context.Context, env Env, unpacked map[string]string, b *Backup) (load func(context.Context) error, err error)
}

// Backup is the list of a daemon's backup.
type Backup struct {
	Kind       string         `json:"kind"`
	Lab        string         `json:"lab"`
	Daemon     string         `json:"daemon"` // lab:///LAB/ROLE/NAME
	Made       canon.Time     `json:"made"`
	Checkpoint string         `json:"checkpoint"` // of the log, signed and cosigned; empty where the daemon keeps none
	Pieces     []string       `json:"pieces"`
	File       string         `json:"file"`
	Bytes      int64          `json:"bytes"`
	Digest     enclave.Digest `json:"digest"`
}

const (
	backupKind = "yingzhou.daemon-backup.v1"
	backupFile = "backup.json"
	backupTar  = "kept.tar"
)

// hold takes the configuration file's lock: together with others while a daemon runs, alone for a backup. The kernel
// releases it when the process ends, however it ends.
func hold(path string, alone bool) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	how := unix.LOCK_SH
	if alone {
		how = unix.LOCK_EX
	}
	if err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrRunning
			if !alone {
				err = errors.New("a backup of it is being made or put back")
			}
		}
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), f.Close())
	}
	return f, nil
}

// Save writes the backup of a daemon, by its configuration file, to a new folder.
func Save(ctx context.Context, path string, k Keeper, env Env, to string) (_ *Backup, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("backing up: %w", err)
		}
	}()
	lock, err := hold(path, true)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	if err := os.Mkdir(to, 0o700); err != nil { // a new one: a backup is not mixed with another
		return nil, err
	}
	scratch, err := os.MkdirTemp("", "backup-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(scratch)) }()
	more, checkpoint, err := k.Save(ctx, env, scratch)
	if err != nil {
		return nil, err
	}
	b := &Backup{Kind: backupKind, Lab: k.Shared().Lab, Daemon: env.TLS.Name().String(), Made: canon.At(env.Clock()), Checkpoint: checkpoint, File: backupTar}
	w, err := archive.Create(filepath.Join(to, b.File))
	if err != nil {
		return nil, err
	}
	defer w.Abort()
	for _, p := range append(k.Pieces(), more...) {
		info, err := os.Stat(p.Path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // nothing was kept yet
		}
		if err == nil {
			err = w.Add(p.Path, p.Name)
		}
		if err == nil && info.IsDir() {
			err = w.AddTree(ctx, p.Path, p.Name+"/", func(rel string) bool { return transient(rel) || p.Skip != nil && p.Skip(rel) })
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.Name, err)
		}
		b.Pieces = append(b.Pieces, p.Name)
	}
	if b.Bytes, b.Digest, err = w.Commit(); err != nil {
		return nil, err
	}
	// The list comes last: a folder with it is whole.
	return b, durable.WriteFile(filepath.Join(to, backupFile), canon.MustMarshal(b), 0o600)
}

// transient are files that belong to a process that ran.
func transient(rel string) bool {
	base := filepath.Base(rel)
	return strings.HasPrefix(base, ".tmp-") || base == "lock" || base == ".lock" || strings.HasPrefix(base, "lock.")
}

// Restore puts a daemon's backup back to where its configuration says. Nothing that is there is replaced, but for files
// that are the same; nothing is changed unless the archive is whole and the daemon accepts it.
func Restore(ctx context.Context, path string, k Keeper, env Env, from string) (_ *Backup, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("restoring from %s: %w", from, err)
		}
	}()
	lock, err := hold(path, true)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	b, err := readBackup(from)
	if err != nil {
		return nil, err
	}
	if me := env.TLS.Name().String(); b.Daemon != me {
		return nil, fmt.Errorf("it is the backup of %s, and this is %s", b.Daemon, me)
	}
	if err := archive.Check(filepath.Join(from, b.File), b.Digest); err != nil {
		return nil, err
	}
	r := &restoring{paths: map[string]string{}, unpacked: map[string]string{}}
	defer func() { err = errors.Join(err, r.sweep()) }()
	for _, p := range k.Pieces() {
		r.paths[p.Name] = p.Path
	}
	if err := r.unpack(ctx, from, b); err != nil {
		return nil, err
	}
	if err := r.free(); err != nil {
		return nil, err
	}
	load, err := k.Accept(ctx, env, r.unpacked, b)
	if err != nil {
		return nil, err
	}
	if load != nil {
		if err := load(ctx); err != nil {
			return nil, err
		}
	}
	return b, r.place()
}

func readBackup(from string) (*Backup, error) {
	data, err := os.ReadFile(filepath.Join(from, backupFile))
	if err != nil {
		return nil, err
	}
	var b Backup
	if err := canon.Unmarshal(data, &b); err != nil || b.Kind != backupKind || b.File != filepath.Base(b.File) {
		return nil, fmt.Errorf("%s is not the list of a daemon's backup", filepath.Join(from, backupFile))
	}
	return &b, nil
}

// restoring is a restore under way.
type restoring struct {
	paths    map[string]string // where pieces belong, by name; one without place is for the daemon to load
	unpacked map[string]string // where they lie meanwhile, beside that
}

const staging = ".restoring"

// unpack unpacks each piece beside where it belongs, on the same file system.
func (r *restoring) unpack(ctx context.Context, from string, b *Backup) error {
	for _, name := range b.Pieces {
		at := r.paths[name] + staging
		if r.paths[name] == "" {
			dir, err := os.MkdirTemp("", "restore-")
			if err != nil {
				return err
			}
			at = filepath.Join(dir, "piece")
		} else {
			if err := os.RemoveAll(at); err != nil { // of a restore that was cut off
				return err
			}
			if err := durable.MkdirAll(filepath.Dir(at), 0o700); err != nil {
				return err
			}
		}
		r.unpacked[name] = at
	}
	return archive.Extract(ctx, filepath.Join(from, b.File), func(name string) (string, error) {
		piece, rel, inside := strings.Cut(name, "/")
		at, known := r.unpacked[piece]
		if !known {
			return "", fmt.Errorf("%s is no piece of the backup's list", name)
		}
		if !inside {
			return at, nil
		}
		return archive.Under(at, rel)
	})
}

// free refuses to replace what is there.
func (r *restoring) free() error {
	for name, to := range r.paths {
		at, ok := r.unpacked[name]
		info, err := os.Stat(to)
		if !ok || errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if info.IsDir() {
			if have, err := os.ReadDir(to); err == nil && len(have) == 0 {
				continue
			}
			return fmt.Errorf("%s: %s is there: move it away first (%w)", name, to, fs.ErrExist)
		}
		same, err := same(at, to)
		if err != nil || !same {
			return errors.Join(fmt.Errorf("%s: another %s is there: move it away first (%w)", name, to, fs.ErrExist), err)
		}
	}
	return nil
}

func same(a, b string) (bool, error) {
	x, err1 := os.ReadFile(a)
	defer clear(x)
	y, err2 := os.ReadFile(b)
	defer clear(y)
	return bytes.Equal(x, y), errors.Join(err1, err2)
}

func (r *restoring) place() error {
	for name, to := range r.paths {
		at, ok := r.unpacked[name]
		if !ok {
			continue
		}
		if info, err := os.Stat(to); err == nil && info.IsDir() { // an empty one
			if err := os.Remove(to); err != nil {
				return err
			}
		}
		if err := os.Rename(at, to); err != nil {
			return err
		}
		if err := durable.SyncDir(filepath.Dir(to)); err != nil {
			return err
		}
	}
	return nil
}

func (r *restoring) sweep() error {
	var errs []error
	for name, at := range r.unpacked {
		if r.paths[name] == "" {
			at = filepath.Dir(at)
		}
		errs = append(errs, os.RemoveAll(at))
	}
	return errors.Join(errs...)
}
