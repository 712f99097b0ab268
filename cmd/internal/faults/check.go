package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"yingzhou.dev/lab/cmd/internal/home"
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/release"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/sandbox/audit"
)

// seen is what was shown of a lab's log before the fault: the trees that the witness and the custodians remember, and
// the shares that were stored, which may have left already.
type seen struct {
	trees  []enclave.Checkpoint
	shares map[string]string
}

func (l *lab) seen() (s seen, err error) {
	s.shares = map[string]string{}
	text, err := os.ReadFile(filepath.Join(l.dir, "witness", "state", "checkpoint.seen"))
	if err == nil {
		body, _, _ := strings.Cut(string(text), "\n\n") // a note's text ends before the empty line of its signatures
		var cp enclave.Checkpoint
		cp, err = enclave.ParseCheckpoint(body + "\n")
		s.trees = append(s.trees, cp)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return s, err
	}
	for _, path := range l.glob(l.custodians() + "/state/log-seen.json") {
		data, err := os.ReadFile(path)
		if err != nil {
			return s, err
		}
		var tree struct {
			Size int64          `json:"size"`
			Root enclave.Digest `json:"root"`
			Note string         `json:"note,omitempty"`
		}
		if err := canon.Unmarshal(data, &tree); err != nil {
			return s, err
		}
		s.trees = append(s.trees, enclave.Checkpoint{Size: tree.Size, Root: tree.Root})
	}
	for _, path := range l.glob(l.custodians() + "/state/shares/*") {
		if strings.HasPrefix(filepath.Base(path), ".tmp-") || l.joint { // nodes that compute again give other shares, of the same values
			continue
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return s, err
		}
		s.shares[path] = string(data)
	}
	return s, nil
}

// custodians is where their folders are.
func (l *lab) custodians() string {
	if l.services != nil {
		return "custodian-*"
	}
	return "custodians/*"
}

func (l *lab) glob(pattern string) []string {
	found, _ := filepath.Glob(filepath.Join(l.dir, pattern)) // the patterns are constants
	return found
}

// intact checks what must hold of every lab that was used again after a fault.
func (l *lab) intact(ctx context.Context, before seen) error {
	for path, data := range before.shares {
		now, err := os.ReadFile(path)
		if err != nil || string(now) != data {
			return fmt.Errorf("a share that was stored before has changed: %s: %w", path, err)
		}
	}
	named, err := l.examine(ctx, before)
	if err != nil {
		return err
	}
	stored := 0
	err = filepath.WalkDir(l.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(l.dir, path)
		if err != nil {
			return err
		}
		if temporary.MatchString(rel) {
			return fmt.Errorf("left behind: %s", rel)
		}
		if blob.MatchString(rel) && e.Type().IsRegular() {
			stored++
		}
		return nil
	})
	if err != nil {
		return err
	}
	if stored != named {
		return fmt.Errorf("%d blobs are stored, manifests name %d", stored, named)
	}
	return l.noWorkers(ctx)
}

// temporary is what nobody needs once everything has come to its end, and blob what the control plane stores, in either
// layout.
var (
	temporary = regexp.MustCompile(`(^|/)(tmp|pending|incoming|mirror/node)/.|(^|/)\.tmp-|/outbox$|/log/.*[0-9]{4,}$`)
	blob      = regexp.MustCompile(`^(plane|labd)/blobs/blobs/`)
)

// examine checks the log and the blobs, which the control plane has put down, and returns how many blobs manifests name.
func (l *lab) examine(ctx context.Context, before seen) (named int, err error) {
	if l.services != nil {
		return l.examineServices(ctx, before)
	}
	var fsck struct{ Blobs int }
	if err := l.read(ctx, &fsck, "lab", "audit", "fsck", "--blobs"); err != nil {
		return 0, err
	}
	h, err := home.Open(ctx, l.dir, home.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, h.Close(context.WithoutCancel(ctx))) }()
	return fsck.Blobs, consistent(ctx, h.Log, before)
}

// consistent checks that the log extends every tree that anybody has seen of it.
func consistent(ctx context.Context, log *audit.Log, before seen) error {
	_, now, err := log.Checkpoint(ctx)
	if err != nil {
		return err
	}
	for _, old := range before.trees {
		proof, err := log.Consistency(ctx, old.Size, now.Size)
		if err != nil {
			return err
		}
		old.Origin = now.Origin
		if err := enclave.CheckConsistency(old, now, proof); err != nil {
			return fmt.Errorf("%w: %w", audit.ErrSplitView, err)
		}
	}
	return nil
}

// noWorkers looks for a container or a process of the lab's that nobody waits for.
func (l *lab) noWorkers(ctx context.Context) error {
	for file, mark := range map[string]string{"environ": "LAB_DIR=" + l.dir + "\x00", "cmdline": l.dir + "/"} {
		found, err := filepath.Glob("/proc/[0-9]*/" + file)
		if err != nil {
			return err
		}
		for _, path := range found {
			data, err := os.ReadFile(path)
			if err == nil && strings.Contains(string(data), mark) { // another's process cannot be read
				return fmt.Errorf("a process of the lab is still there: %s: %q", filepath.Dir(path), data)
			}
		}
	}
	// A worker in a sandbox of its own has an environment without anything in it, and its input folder as a mount.
	mounts, err := filepath.Glob("/proc/[0-9]*/mountinfo")
	if err != nil {
		return err
	}
	staged := filepath.Base(l.bench.dir) + "/" + filepath.Base(filepath.Dir(l.dir)) + "/"
	for _, path := range mounts {
		data, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(data)) {
			if root := strings.Fields(line); len(root) > 3 && strings.Contains(root[3], staged) { // proc_pid_mountinfo(5)
				return fmt.Errorf("a worker of the lab is still there: %s", filepath.Dir(path))
			}
		}
	}
	if !dockerAnswers(ctx) {
		return nil
	}
	labels := []string{"yingzhou.lab=" + l.nodeDir(), "yingzhou.node.owner=" + l.dir}
	for _, name := range custodians {
		labels = append(labels, "yingzhou.node.owner="+filepath.Join(l.dir, name, "mirror"))
	}
	for _, label := range labels {
		out, err := exec.CommandContext(ctx, "docker", "ps", "-aq", "--filter", "label="+label).Output()
		if err != nil {
			return fmt.Errorf("listing containers: %w", err)
		}
		if len(out) > 0 {
			return fmt.Errorf("containers of the lab are still there: %s: %s", label, out)
		}
	}
	return nil
}

// nodeDir is what the lab's node calls itself.
func (l *lab) nodeDir() string {
	if l.services != nil {
		return filepath.Join(l.dir, "labd", "state")
	}
	return l.dir
}

func dockerAnswers(ctx context.Context) bool {
	return exec.CommandContext(ctx, "docker", "info").Run() == nil
}

// charges checks that every ledger has the same total charges and that nobody charged a plan twice. want is the ε in
// millionths that the dataset has been charged, over all plans.
func (l *lab) charges(ctx context.Context, want int64) error {
	if l.services != nil {
		if err := l.level(ctx); err != nil {
			return err
		}
	}
	found := l.glob(l.custodians() + "/state/ledger.jsonl")
	if len(found) != 3 {
		return fmt.Errorf("%d ledgers", len(found))
	}
	for _, path := range found {
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		type charge struct {
			by   string
			plan enclave.Digest
		}
		times, largest := map[charge]int{}, map[enclave.Digest]int64{}
		for line := range strings.Lines(string(data)) {
			var s canon.Signed
			var r release.Record
			if err := canon.Unmarshal([]byte(strings.TrimSuffix(line, "\n")), &s); err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			if err := s.Open(release.KindLedger, &r); err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			if r.Charge == nil {
				continue
			}
			if l.joint != (len(r.Charge.Also) == 1) || len(r.Charge.Also) > 1 {
				return fmt.Errorf("%s: plan %s is charged to %d datasets beside the first", path, r.Plan.Short(), len(r.Charge.Also))
			}
			times[charge{r.By, r.Plan}]++
			largest[r.Plan] = max(largest[r.Plan], r.Charge.DatasetMicro)
		}
		total := int64(0)
		for _, micro := range largest {
			total += micro
		}
		if total != want {
			return fmt.Errorf("%s: charged ε %s, want %s", path, enclave.FormatScaled(total, 6), enclave.FormatScaled(want, 6))
		}
		for e, n := range times {
			if n != 1 {
				return fmt.Errorf("%s: %s charged plan %s %d times", path, e.by, e.plan.Short(), n)
			}
		}
	}
	return nil
}
