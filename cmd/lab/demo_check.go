package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/program/reference"
	"yingzhou.dev/lab/enclave/seal/schema"
	"yingzhou.dev/lab/enclave/seal/table"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/sandbox"
	"yingzhou.dev/lab/sandbox/audit"
)

// rows yields the table in the clear, as sealing encodes it: for the true values that only a demo may show.
func (s *source) rows(yield func(reference.Row) bool) {
	in, err := table.Open(s.path, table.Options{Keys: s.schema.Keys()})
	if err != nil {
		panic(fmt.Sprintf("demo: reading its own table: %v", err)) // it was sealed from the same file a moment ago
	}
	defer in.Close()
	enc, err := schema.NewEncoder(s.schema, in.Header())
	if err != nil {
		panic(fmt.Sprintf("demo: encoding its own table: %v", err))
	}
	for {
		row, err := in.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			panic(fmt.Sprintf("demo: reading its own table: %v", err))
		}
		rec, err := enc.Encode(row)
		if err != nil {
			panic(fmt.Sprintf("demo: encoding its own table: %v", err))
		}
		dims := make([]int, len(rec.Index))
		for i, k := range rec.Index {
			dims[i] = int(k)
		}
		if !yield(reference.Row{Dim: dims, Value: rec.Value, Present: rec.Present}) {
			return
		}
	}
}

var _ iter.Seq[reference.Row] = (*source)(nil).rows

// verifyAll verifies every release from its receipt and the root key alone.
func (d *demo) verifyAll(ctx context.Context) error {
	d.heading("6. Every release verified offline, from its receipt and the root key")
	for _, id := range d.jobs {
		job, err := d.home.Lab.Job(ctx, id)
		if err != nil {
			return err
		}
		if job.State != sandbox.Released {
			continue
		}
		data, err := d.receipt(ctx, id)
		if err != nil {
			return err
		}
		v, err := verify(data, d.home.Root)
		if err != nil {
			return err
		}
		d.verified++
		d.say("  %s  release %s: %d cells, %d held back, ε %s, %d custodians", id, v.Release.Short(), v.Cells, v.Suppressed, v.EpsilonUsed, len(v.Custodians))
	}
	return nil
}

// tamper flips single bits and expects each to be noticed.
func (d *demo) tamper(ctx context.Context) error {
	d.heading("7. One flipped bit is caught")
	expect := func(what string, err error) {
		if err == nil {
			d.missed = append(d.missed, what)
			d.say("  %-34s NOT NOTICED", what)
			return
		}
		d.caught = append(d.caught, what)
		text := []rune(err.Error())
		if len(text) > 110 {
			text = append(text[:107], '…')
		}
		d.say("  %-34s %s", what, string(text))
	}
	first, err := d.firstReleased(ctx)
	if err != nil {
		return err
	}
	data, err := d.receipt(ctx, first)
	if err != nil {
		return err
	}
	for _, part := range []string{"plan", "release", "receipt", "manifest", "grant"} {
		bad, err := flipBody(data, part)
		if err != nil {
			return err
		}
		_, verr := verify(bad, d.home.Root)
		expect("a bit of the receipt's "+part, verr)
	}
	blobs, err := d.home.Blobs.List()
	if err != nil {
		return err
	}
	if err := withFlip(d.home.Blobs.Path(blobs[0]), 5000, func() { expect("a bit of a sealed blob", d.home.Blobs.Verify(ctx, blobs[0])) }); err != nil {
		return err
	}
	keys, err := d.home.LogKeys(ctx)
	if err != nil {
		return err
	}
	return d.eachLogFile(func(path string) error {
		rel, err := filepath.Rel(d.home.LogDir(), path)
		if err != nil {
			return err
		}
		return withFlip(path, 40, func() {
			_, ferr := audit.Fsck(ctx, d.home.LogDir(), keys)
			expect("a bit of the log's "+rel, ferr)
		})
	})
}

func (d *demo) firstReleased(ctx context.Context) (sandbox.JobID, error) {
	for _, id := range d.jobs {
		if job, err := d.home.Lab.Job(ctx, id); err != nil || job.State == sandbox.Released {
			return id, err
		}
	}
	return "", errors.New("no job was released")
}

// eachLogFile visits the newest tile, the newest entry bundle and the cosigned checkpoint. Older partial tiles are
// superseded: nothing reads them any more.
func (d *demo) eachLogFile(visit func(path string) error) error {
	newest := map[bool]string{} // by whether it is an entry bundle
	age := map[bool]time.Time{}
	err := filepath.WalkDir(filepath.Join(d.home.LogDir(), "tile"), func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		bundle := strings.Contains(path, string(filepath.Separator)+"entries"+string(filepath.Separator))
		if !info.ModTime().Before(age[bundle]) {
			newest[bundle], age[bundle] = path, info.ModTime()
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, path := range []string{newest[false], newest[true], filepath.Join(d.home.LogDir(), "checkpoint.cosigned")} {
		if err := visit(path); err != nil {
			return err
		}
	}
	return nil
}

// flipBody flips one bit in the middle of one artefact of a receipt.
func flipBody(data []byte, part string) ([]byte, error) {
	var b enclave.Bundle
	if err := json.Unmarshal(data, &b); err != nil {
		return nil, err
	}
	body := map[string]*enclave.Signed{"plan": &b.Plan, "release": &b.Release, "receipt": &b.Receipt, "manifest": &b.Manifest, "grant": &b.Grant}[part]
	body.Body = slices.Clone(body.Body)
	body.Body[len(body.Body)/2] ^= 1
	return canon.Marshal(&b)
}

// withFlip flips a bit of a file, runs f and puts the bit back, whatever the file's mode.
func withFlip(path string, at int, f func()) (err error) {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	at = min(at, len(data)-1)
	flipped := slices.Clone(data)
	flipped[at] ^= 1
	if err := os.Chmod(path, 0o600); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.WriteFile(path, data, 0o600), os.Chmod(path, info.Mode().Perm())) }()
	if err := os.WriteFile(path, flipped, 0o600); err != nil {
		return err
	}
	f()
	return nil
}
