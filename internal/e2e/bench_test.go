package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/he/evaluator"
	"yingzhou.dev/lab/internal/canon"
)

// The worker as a process of its own, over the staged panels of one million rows in 18 groups: how long it takes, and how
// much memory of its own it needs beside the panels that it maps.
func BenchmarkWorker1Mx18(b *testing.B) {
	if testing.Short() {
		b.Skip("writes 1.2 GB")
	}
	worker := filepath.Join(b.TempDir(), "worker")
	build := exec.CommandContext(b.Context(), "go", "build", "-trimpath", "-o", worker, "yingzhou.dev/lab/cmd/worker")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	dir := b.TempDir()
	task, mapped := stage(b, dir, 1<<20, 18)
	if err := os.WriteFile(filepath.Join(dir, enclave.TaskName), canon.MustMarshal(task), 0o600); err != nil {
		b.Fatal(err)
	}
	var anon, file int64
	for b.Loop() {
		cmd := exec.CommandContext(b.Context(), worker, dir)
		var answer, errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = &answer, &errs
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		done := make(chan struct{})
		sampled := make(chan [2]int64)
		go func() { sampled <- sample(cmd.Process.Pid, done) }()
		err := cmd.Wait()
		close(done)
		peaks := <-sampled
		var result enclave.TaskResult
		if err != nil || canon.Unmarshal(answer.Bytes(), &result) != nil || result.Terms != 18 {
			b.Fatalf("worker: %v: %s", err, errs.String())
		}
		anon, file = max(anon, peaks[0]), max(file, peaks[1])
	}
	b.ReportMetric(float64(anon)/1e6, "MB-own")
	b.ReportMetric(float64(file)/1e6, "MB-mapped")
	b.ReportMetric(float64(mapped)/1e6, "MB-inputs")
}

// sample watches a process until done and returns the peaks of its anonymous and its file-backed resident memory. The
// kernel keeps only the peak of their sum (ru_maxrss), which is mostly the mapped panels.
func sample(pid int, done <-chan struct{}) (peak [2]int64) {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return peak
		case <-tick.C:
		}
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			continue // between its end and Wait
		}
		for line := range strings.Lines(string(data)) {
			for i, name := range []string{"RssAnon:", "RssFile:"} {
				if text, ok := strings.CutPrefix(line, name); ok {
					if kb, err := strconv.ParseInt(strings.Fields(text)[0], 10, 64); err == nil {
						peak[i] = max(peak[i], kb<<10)
					}
				}
			}
		}
	}
}

// stage writes the panels of a value vector and of one indicator per group. Their residues are uniform, which is what a
// ciphertext looks like to whoever has no key; the kernel's work does not depend on them.
func stage(b *testing.B, dir string, rows, groups int) (enclave.Task, int64) {
	p, err := evaluator.Compile(enclave.DefaultParams)
	if err != nil {
		b.Fatal(err)
	}
	m := enclave.Manifest{Dataset: "data", Columns: []enclave.Column{{Name: "g", Type: enclave.TypeCategory}, {Name: "x", Type: enclave.TypeNumber, Max: 1 << 13}},
		RowsBound: int64(rows), Layouts: []enclave.Layout{{Name: "rows", Kind: enclave.Rows, Axes: [][]string{{"g"}}}}}
	l := &m.Layouts[0]
	total, files := int64(0), []enclave.TaskFile{}
	vector := func(name string) {
		v := enclave.Vector{Name: name, Blob: canon.Sum([]byte(name)), Chunks: int64(rows / p.N())}
		f, err := os.Create(filepath.Join(dir, hex.EncodeToString(v.Blob[:])+"."+evaluator.KindPanel))
		if err != nil {
			b.Fatal(err)
		}
		v.Bytes = p.PanelBytes(v.Chunks)
		if err := uniformPanel(f, p, v); err != nil {
			b.Fatal(err)
		}
		hash := sha256.New()
		_, err = io.Copy(hash, io.NewSectionReader(f, 0, v.Bytes))
		if err := errors.Join(err, f.Close()); err != nil {
			b.Fatal(err)
		}
		files = append(files, enclave.TaskFile{Name: filepath.Base(f.Name()), Digest: enclave.Digest(hash.Sum(nil))})
		total += v.Bytes
		l.Vectors = append(l.Vectors, v)
	}
	vector("s:x")
	for g := range groups {
		m.Columns[0].Domain = append(m.Columns[0].Domain, fmt.Sprint("group ", g))
		vector(enclave.IndicatorName([]string{"g"}, int64(g)))
	}
	plan := enclave.Plan{Dataset: "data", Manifest: canon.DigestOf(m), Params: enclave.DefaultParams, Layout: "rows", Axis: []string{"g"},
		Keep: []enclave.Run{{Count: int64(groups)}}, Groups: []string{"g"}, Measures: []enclave.Measure{{Moment: "s:x", Delta: 1 << 12, EpsilonMicro: 1, Stage: 2}},
		Outputs: []enclave.Output{{Name: "s", Func: "SUM", Args: []string{"x"}}}}
	return enclave.Task{Plan: plan, Manifest: m, Files: files}, total
}

// uniformPanel writes blocks of residues; a panel goes prime by prime, so each block is below the prime of its place.
func uniformPanel(w io.Writer, p *evaluator.Params, v enclave.Vector) error {
	words := make([]uint64, p.Words())
	p.Uniform(v.Blob[:], words)
	data := make([]byte, 0, 8*p.N())
	for limb := range len(p.Set.Q) {
		data = data[:0]
		for _, x := range words[limb*p.N() : (limb+1)*p.N()] {
			data = binary.LittleEndian.AppendUint64(data, x)
		}
		for range 2 * v.Chunks {
			if _, err := w.Write(data); err != nil {
				return err
			}
		}
	}
	return nil
}
