package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"yingzhou.dev/lab/cmd/internal/home/hometest"
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/failpoint"
)

// Flows of the end of keys and of datasets. In the embedded lab one command does everybody's part; of services a steward's
// or an official's client asks labd and the custodians, and each custodian's own people rotate its wrapping keys.
func lifecycle() []*flow {
	return []*flow{
		{name: "refresh", command: always("lab", "key", "refresh", hometest.Dataset), after: refreshesAgain, leaves: ofTheLog,
			points: []failpoint.Point{failpoint.KeysetKept, failpoint.PieceStored, failpoint.KeysetLogged, failpoint.KeysetStored, failpoint.KeyAnnounced,
				failpoint.PiecesDestroyed, failpoint.KeysetForgotten}},
		{name: "rotation", command: always("lab", "key", "rotate", hometest.Dataset), after: rotatesAgain, leaves: ofTheLog,
			points: []failpoint.Point{failpoint.KeyAnnounced, failpoint.PiecesRotated, failpoint.WrapAdded, failpoint.WrapUsed, failpoint.WrapDropped}},
		// A job was released, so that custodians have copies of the blobs.
		{name: "disposal", prepare: [][]string{submit(question)}, command: always(dispose()...), after: isDisposedOf, leaves: ofTheLog,
			points: []failpoint.Point{failpoint.OrderStored, failpoint.OrderLogged, failpoint.PiecesDestroyed, failpoint.CopiesDropped, failpoint.KeyAnnounced, failpoint.WordStored,
				failpoint.WordKept, failpoint.BlobsDiscarded, failpoint.KeyForgotten, failpoint.CertKept, failpoint.CertLogged, failpoint.CertStored}},
		{name: "request of disposal", command: always(dispose("--as", hometest.Official)...), after: secondAgrees, leaves: but(request...), points: request},
	}
}

var request = []failpoint.Point{failpoint.RequestLogged, failpoint.RequestStored}

func dispose(flags ...string) []string {
	return append([]string{"lab", "dataset", "dispose", hometest.Dataset, "--cause", "achieved", "--reason", "项目验收[2026]8", "--confirm", hometest.Dataset}, flags...)
}

// refreshesAgain deals the key once more, also where the first time came to its end: no piece of an epoch before is left,
// what was sealed before still opens, and the new epoch is charged by itself.
func refreshesAgain(ctx context.Context, l *lab) error {
	if _, err := l.must(ctx, "lab", "key", "refresh", hometest.Dataset); err != nil {
		return err
	}
	return errors.Join(l.erased(ctx), jobEnds(ctx, l))
}

// erased checks that no custodian has anything of a keyset that was replaced.
func (l *lab) erased(ctx context.Context) error {
	var keysets []struct {
		Keyset enclave.Digest `json:"keyset"`
		State  string         `json:"state"`
	}
	if err := l.read(ctx, &keysets, "lab", "key", "show", hometest.Dataset); err != nil {
		return err
	}
	replaced := 0
	for _, ks := range keysets {
		piece := hex.EncodeToString(fmt.Appendf(nil, "%x/", ks.Keyset[:16])) // as the file keyring names them
		found := append(l.glob(l.custodians()+"/keyring/"+piece+"*"), l.glob(fmt.Sprintf("%s/state/keysets/%x.json", l.custodians(), ks.Keyset[:]))...)
		switch {
		case ks.State == "in force" && len(found) != len(custodians)*3: // two pieces and a note at each
			return fmt.Errorf("of the keyset in force there is %q", found)
		case ks.State == "replaced" && len(found) > 0:
			return fmt.Errorf("of a keyset that was replaced there is still %q", found)
		case ks.State == "replaced":
			replaced++
		}
	}
	if replaced == 0 {
		return fmt.Errorf("of %d keysets none was replaced", len(keysets))
	}
	return nil
}

// rotatesAgain ends a rotation that was cut off. Every custodian then has one wrapping key, another than before it, and
// what it wraps opens.
func rotatesAgain(ctx context.Context, l *lab) error {
	was := map[string]string{}
	found := l.glob(l.custodians() + "/keyring/wrapping.key")
	for _, path := range found {
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		was[path] = string(data)
	}
	if len(found) != len(custodians) {
		return fmt.Errorf("wrapping keys are in %q", found)
	}
	whose := custodians
	if l.services == nil {
		whose = []string{""} // one command for all
	}
	for _, who := range whose {
		own := *l
		own.who = who
		if _, err := own.must(ctx, "lab", "key", "rotate", hometest.Dataset); err != nil {
			return err
		}
	}
	for path, before := range was {
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if len(data) != 32 || len(before) == 32 && string(data) == before {
			return fmt.Errorf("%s has %d bytes, or is what it was before the rotation", path, len(data))
		}
	}
	return jobEnds(ctx, l)
}

// isDisposedOf ends the disposal that was begun. Afterwards nothing of the dataset is left anywhere, nor with its owner.
func isDisposedOf(ctx context.Context, l *lab) error {
	if err := l.disposes(ctx, dispose()...); err != nil {
		return err
	}
	if left := l.glob(l.agencies() + "/keyring/" + hex.EncodeToString([]byte("dataset key "+hometest.Dataset)) + "*"); len(left) > 0 {
		return fmt.Errorf("the owner still has its own key: %q", left)
	}
	return l.isGone(ctx)
}

// secondAgrees has an official ask again, to no other effect, and use the dataset, which is in use until a second official
// signs the same. Then it goes.
func secondAgrees(ctx context.Context, l *lab) error {
	if _, err := l.must(ctx, dispose("--as", hometest.Official)...); err != nil {
		return err
	}
	if _, err := l.ask(ctx, "1"); err != nil {
		return err
	}
	if err := l.disposes(ctx, dispose("--as", hometest.Second)...); err != nil {
		return err
	}
	// One that was cut off after its entry is made anew, by another date.
	if found, err := l.entries(ctx, enclave.EntryDisposalRequest); err != nil || !slices.Equal(makers(found), []string{hometest.Official}) {
		return fmt.Errorf("the log has requests by %q: %w", makers(found), err)
	}
	return l.isGone(ctx)
}

// disposes orders a disposal, and waits for its certificate: services go on by themselves with what could not be done at
// once.
func (l *lab) disposes(ctx context.Context, args ...string) error {
	r := l.run(ctx, nil, args...)
	if r.code != 0 && (l.services == nil || !strings.Contains(r.errs, "the lab goes on by itself")) {
		return r.err()
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		c := l.run(ctx, nil, "lab", "dataset", "certificate", hometest.Dataset)
		if c.code == 0 || l.services == nil {
			if c.code != 0 {
				return c.err()
			}
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.Join(ctx.Err(), c.err(), r.err())
		}
	}
}

// isGone checks that a dataset that was disposed of cannot be asked, that nobody has any of it, and that the log has one
// order, one certificate and every custodian's word.
func (l *lab) isGone(ctx context.Context) error {
	if r := l.run(ctx, nil, submit(question)...); r.code == 0 || !strings.Contains(r.errs, "was disposed of") {
		return fmt.Errorf("a dataset that was disposed of is asked: %w", r.err())
	}
	if left := l.glob(l.custodians() + "/keyring/*.wrapped"); len(left) > 0 {
		return fmt.Errorf("pieces are left: %q", left)
	}
	for _, folder := range []string{l.custodians() + "/mirror", "plane", "labd"} {
		for _, sub := range []string{"/blobs/*/*", "/blobs/blobs/*/*", "/state/blobs/*/*", "/derived/*/*", "/state/derived/*/*"} {
			if left := l.glob(folder + sub); slices.ContainsFunc(left, isFile) {
				return fmt.Errorf("blobs are left: %q", left)
			}
		}
	}
	for kind, want := range map[string]int{enclave.EntryDisposal: 1, enclave.EntryCertificate: 1, enclave.EntryDestruction: len(custodians)} {
		found, err := l.entries(ctx, kind)
		if err != nil {
			return err
		}
		n := len(found)
		if kind == enclave.EntryDestruction { // one that was killed between its entry and its word gives another word
			n = len(makers(found))
		}
		if n != want {
			return fmt.Errorf("the log has %d entries of type %s by %q, want %d", len(found), kind, makers(found), want)
		}
	}
	return nil
}

func isFile(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode().IsRegular()
}

// entry is what the checks want of an entry of the log.
type entry struct {
	By      string         `json:"by"`
	Subject enclave.Digest `json:"subject"`
}

// entries lists the log's entries of a type.
func (l *lab) entries(ctx context.Context, kind string) (out []entry, err error) {
	err = l.read(ctx, &out, "lab", "audit", "log", "--type", kind)
	return out, err
}

// makers lists who made entries, each once.
func makers(entries []entry) (by []string) {
	for _, e := range entries {
		by = append(by, e.By)
	}
	slices.Sort(by)
	return slices.Compact(by)
}

// agencies is where the owners' own folders are.
func (l *lab) agencies() string {
	if l.services != nil {
		return filepath.Join("people", "*", "agency")
	}
	return filepath.Join("agencies", "*")
}
