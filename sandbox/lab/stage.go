package lab

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/durable"
	"yingzhou.dev/lab/internal/failpoint"
	"yingzhou.dev/lab/sandbox"
)

// stagedPrefix begins the names of jobs' folders in Config.TempDir.
const stagedPrefix = "job-"

// stage makes a job's input folder, whose name is the job's: a worker that outlived a crash reads from it, and the job
// that is taken up again finds it. The task is written last, under its name at once, so a folder that has one is whole.
func (l *Lab) stage(ctx context.Context, job *sandbox.Job, d *dossier, layout *enclave.Layout, vectors []int, watch func(sandbox.Job)) (string, error) {
	dir := filepath.Join(l.cfg.TempDir, string(job.ID))
	if _, err := os.Stat(filepath.Join(dir, enclave.TaskName)); err == nil {
		return dir, nil
	}
	if err := os.RemoveAll(dir); err != nil {
		return "", err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	undo := func(err error) (string, error) { return "", errors.Join(err, os.RemoveAll(dir)) }
	l.report(ctx, job, "staging inputs", 0, watch)
	if err := l.cfg.Inputs.Stage(ctx, d.keyset, d.plan.Keyset, layout, vectors, dir); err != nil {
		return undo(err)
	}
	failpoint.Hit(failpoint.InputsStaged)
	files, err := l.digests(ctx, dir)
	if err != nil {
		return undo(err)
	}
	task := canon.MustMarshal(enclave.Task{Plan: *d.plan, Manifest: *d.manifest, Files: files})
	if err := durable.WriteFile(filepath.Join(dir, enclave.TaskName), task, 0o444); err != nil {
		return undo(err)
	}
	failpoint.Hit(failpoint.TaskWritten)
	return dir, os.Chmod(dir, 0o755)
}

// digests lists the files of a folder with the digests of their bytes. One that was read before and has not changed since,
// as far as the file system tells, is not read again: the worker reads it anyway, and believes nobody.
func (l *Lab) digests(ctx context.Context, dir string) ([]enclave.TaskFile, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	files := []enclave.TaskFile{}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		d, err := l.seen.digest(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("input %q: %w", e.Name(), err)
		}
		files = append(files, enclave.TaskFile{Name: e.Name(), Digest: d})
	}
	return files, nil
}

// seenFile names a file and its state by what stat(2) tells.
type seenFile struct {
	name       string
	size, time int64
}

func (s *seenFiles) digest(path string) (d enclave.Digest, err error) {
	f, err := os.Open(path)
	if err != nil {
		return d, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return d, err
	}
	key := seenFile{filepath.Base(path), info.Size(), info.ModTime().UnixNano()}
	s.mu.Lock()
	d, ok := s.digests[key]
	s.mu.Unlock()
	if ok {
		return d, nil
	}
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return d, err
	}
	h.Sum(d[:0])
	s.mu.Lock()
	defer s.mu.Unlock()
	s.digests[key] = d
	return d, nil
}

// Sweep removes what a crash left in the temporary folder, before anything is written there.
func (l *Lab) Sweep(ctx context.Context) error {
	if err := durable.Sweep(l.cfg.TempDir); err != nil {
		return fmt.Errorf("sweeping: %w", err)
	}
	return l.Tidy(ctx)
}

// Tidy removes the inputs of jobs that have ended, here or in another process, from the temporary folder. It may run while
// jobs do.
func (l *Lab) Tidy(ctx context.Context) error {
	entries, err := os.ReadDir(l.cfg.TempDir) // before the jobs: what is staged from now on is not in it
	if err != nil {
		return fmt.Errorf("sweeping: %w", err)
	}
	unfinished, err := l.Unfinished(ctx)
	if err != nil {
		return fmt.Errorf("sweeping: %w", err)
	}
	keep := map[string]bool{}
	for _, j := range unfinished {
		keep[string(j.ID)] = true
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), stagedPrefix) || keep[e.Name()] {
			continue
		}
		if err := os.RemoveAll(filepath.Join(l.cfg.TempDir, e.Name())); err != nil {
			return fmt.Errorf("sweeping: %w", err)
		}
	}
	return nil
}
