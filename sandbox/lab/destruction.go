package lab

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/failpoint"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox"
)

// word is a custodian's, as it was given and as it reads.
type word struct {
	signed enclave.Signed
	body   *enclave.Destruction
}

func opened(words []word) (out []*enclave.Destruction) {
	for _, w := range words {
		out = append(out, w.body)
	}
	return out
}

// words are what custodians have said on an order, by name. Of two that one gave, after it was restored and destroyed again
// what had come back, the first stands.
func (l *Lab) words(ctx context.Context, o *order) (out []word, _ error) {
	all, err := l.cfg.Store.Artefacts(ctx, enclave.KindDestruction)
	if err != nil {
		return nil, err
	}
	for _, s := range all {
		var d enclave.Destruction
		if err := s.Open(enclave.KindDestruction, &d); err != nil {
			return nil, err
		}
		if d.Order == o.digest && !slices.ContainsFunc(out, func(w word) bool { return w.body.By == d.By }) {
			out = append(out, word{s, &d})
		}
	}
	slices.SortFunc(out, func(a, b word) int { return strings.Compare(a.body.By, b.body.By) })
	return out, nil
}

// round tries everything that a disposal still lacks. Only what keeps the control plane itself from going on is an error.
func (l *Lab) round(ctx context.Context, o *order) error {
	if l.cfg.Destroyer == nil {
		return errors.New("this control plane cannot destroy anything")
	}
	leave, err := l.ends.enter(ctx, o.Keyset)
	if err != nil {
		return err
	}
	defer leave()
	if err := l.announceDisposal(ctx, o); err != nil { // a crash may have come before it
		return err
	}
	if _, err := l.certificate(ctx, o.digest); err == nil || !errors.Is(err, sandbox.ErrNotFound) {
		return err
	}
	ks, latest, all, roster, err := l.ending(ctx, o)
	if err != nil {
		return err
	}
	blobs, err := l.blobsOf(ctx, o.Keyset)
	if err != nil {
		return err
	}
	dataKeys, attempt, own := l.discard(ctx, o, blobs)
	l.ends.note(o, theBlobs, "")
	if own != nil {
		l.cfg.Logger.WarnContext(ctx, "disposal waits", "dataset", o.Dataset, "error", own)
		l.ends.note(o, theBlobs, "the control plane's own data keys and blobs are not destroyed yet; its log says why")
	}
	if err := l.hear(ctx, o, ks, latest, all); err != nil {
		return err
	}
	words, err := l.words(ctx, o)
	if err != nil || own != nil || len(enclave.Gone(ks, latest, opened(words), roster)) > 0 {
		return err
	}
	c := enclave.Disposal{Order: o.signed, Keysets: all, Destructions: []enclave.Signed{}, Blobs: blobs, DataKeys: dataKeys, Attempt: attempt, By: l.cfg.Lab.Name(), Made: l.now()}
	for _, w := range words {
		c.Destructions = append(c.Destructions, w.signed)
	}
	return l.certify(ctx, o, c, roster)
}

// keysSetting remembers how many data keys were destroyed: whoever looks again finds none.
func keysSetting(order enclave.Digest) string { return "disposal-keys " + order.String() }

func (l *Lab) discard(ctx context.Context, o *order, blobs []enclave.Digest) (dataKeys int64, attempt string, err error) {
	if dataKeys, attempt, err = l.cfg.Destroyer.Discard(ctx, o.Keyset, blobs); err != nil {
		return 0, "", err
	}
	if dataKeys > 0 {
		return dataKeys, attempt, l.cfg.Store.SetSetting(ctx, keysSetting(o.digest), fmt.Append(nil, dataKeys))
	}
	switch data, err := l.cfg.Store.Setting(ctx, keysSetting(o.digest)); {
	case errors.Is(err, sandbox.ErrNotFound):
		return 0, attempt, nil
	case err != nil:
		return 0, "", err
	default:
		_, err = fmt.Sscan(string(data), &dataKeys)
		return dataKeys, attempt, err
	}
}

// hear asks all custodians of the lineage at once that have not given their word, also those that only held pieces which
// were replaced since: they are not waited for.
func (l *Lab) hear(ctx context.Context, o *order, ks *enclave.Keyset, latest enclave.Digest, keysets []enclave.Signed) error {
	signed, roster, err := l.Roster(ctx)
	if err != nil {
		return err
	}
	words, err := l.words(ctx, o)
	if err != nil {
		return err
	}
	var names []string
	for _, s := range keysets {
		var ks enclave.Keyset
		if err := s.Open(enclave.KindKeyset, &ks); err != nil {
			return err
		}
		names = append(names, ks.Custodians...)
	}
	slices.Sort(names)
	names = slices.DeleteFunc(slices.Compact(names), func(name string) bool {
		return slices.ContainsFunc(words, func(w word) bool { return w.body.By == name })
	})
	answers := make([]enclave.Signed, len(names))
	errs := make([]error, len(names))
	var g sync.WaitGroup
	for i, name := range names {
		g.Go(func() {
			if answers[i], errs[i] = l.cfg.Destroyer.Destroy(ctx, name, o.signed, signed); errs[i] != nil {
				return
			}
			w, err := enclave.OpenWord(answers[i], o.digest, roster)
			switch {
			case err != nil:
			case w.By != name || w.Keyset != o.Keyset:
				err = fmt.Errorf("it answers with the word of %q on keyset %s", w.By, w.Keyset.Short())
			case slices.Contains(enclave.Gone(ks, latest, []*enclave.Destruction{w}, roster), name):
				err = fmt.Errorf("it does not say that it destroyed every piece of keyset %s that it held", latest.Short())
			}
			if err != nil {
				errs[i] = fmt.Errorf("custodian %q: %w", name, err)
			}
		})
	}
	g.Wait()
	for i, name := range names {
		l.ends.note(o, name, "")
		if errs[i] != nil {
			l.ends.note(o, name, errs[i].Error())
			l.cfg.Logger.WarnContext(ctx, "disposal waits", "dataset", o.Dataset, "custodian", name, "error", errs[i])
			continue
		}
		if _, err := l.cfg.Store.PutArtefact(ctx, answers[i], l.cfg.Clock()); err != nil {
			return err
		}
		failpoint.Hit(failpoint.WordKept)
	}
	return l.index(ctx) // for the proofs of what custodians wrote
}

// blobsOf lists the sealed blobs of every version of a lineage.
func (l *Lab) blobsOf(ctx context.Context, origin enclave.Digest) ([]enclave.Digest, error) {
	manifests, err := l.cfg.Store.Artefacts(ctx, enclave.KindManifest)
	if err != nil {
		return nil, err
	}
	out := []enclave.Digest{}
	for _, s := range manifests {
		var m enclave.Manifest
		if err := s.Open(enclave.KindManifest, &m); err != nil {
			return nil, err
		}
		if m.Keyset != origin {
			continue
		}
		for _, layout := range m.Layouts {
			for _, v := range layout.Vectors {
				out = append(out, v.Blob)
			}
		}
	}
	reports, err := collectionBlobs(ctx, l.cfg.Store)
	if err != nil {
		return nil, err
	}
	out = append(out, reports[origin]...)
	slices.SortFunc(out, func(a, b enclave.Digest) int { return slices.Compare(a[:], b[:]) })
	return slices.Compact(out), nil
}

// candidateSetting is where the one certificate of an order lies before it is logged: two processes that end a disposal at
// one time, or one that is cut off, must not sign two.
func candidateSetting(order enclave.Digest) string { return "disposal-certificate " + order.String() }

// certify signs, checks, logs and stores the certificate, once.
func (l *Lab) certify(ctx context.Context, o *order, c enclave.Disposal, roster *operators.Roster) error {
	s, err := l.sign(enclave.KindDisposal, c)
	if err != nil {
		return err
	}
	if _, _, err := enclave.CheckDisposal(s, roster); err != nil { // as everybody will
		return err
	}
	err = l.cfg.Store.Atomic(ctx, func(r sandbox.Records) error {
		data, err := r.Setting(ctx, candidateSetting(o.digest))
		if errors.Is(err, sandbox.ErrNotFound) {
			return r.SetSetting(ctx, candidateSetting(o.digest), canon.MustMarshal(s))
		}
		if err == nil {
			err = canon.Unmarshal(data, &s)
		}
		return err
	})
	if err != nil {
		return err
	}
	failpoint.Hit(failpoint.CertKept)
	if err := l.announceOnce(ctx, enclave.Entry{Type: enclave.EntryCertificate, Subject: s.Digest(), By: l.cfg.Lab.Name(), At: l.now()}); err != nil {
		return err
	}
	failpoint.Hit(failpoint.CertLogged)
	_, err = l.cfg.Store.PutArtefact(ctx, s, l.cfg.Clock())
	failpoint.Hit(failpoint.CertStored)
	return err
}

// certificate finds the certificate of an order.
func (l *Lab) certificate(ctx context.Context, order enclave.Digest) (enclave.Signed, error) {
	all, err := l.cfg.Store.Artefacts(ctx, enclave.KindDisposal)
	if err != nil {
		return enclave.Signed{}, err
	}
	for _, s := range all {
		var c enclave.Disposal
		if err := s.Open(enclave.KindDisposal, &c); err != nil {
			return s, err
		}
		if c.Order.Digest() == order {
			return s, nil
		}
	}
	return enclave.Signed{}, fmt.Errorf("certificate of disposal %s: %w", order.Short(), sandbox.ErrNotFound)
}

// disposalReceipt puts a certificate together with what it takes to verify it offline.
func (l *Lab) disposalReceipt(ctx context.Context, o *order, cert enclave.Signed) (*enclave.DisposalReceipt, error) {
	var c enclave.Disposal
	if err := cert.Open(enclave.KindDisposal, &c); err != nil {
		return nil, err
	}
	roster, _, err := l.Roster(ctx)
	if err != nil {
		return nil, err
	}
	out := &enclave.DisposalReceipt{Format: enclave.KindDisposalReceipt, Roster: roster, Certificate: cert}
	needs := []need{{o.Keyset, enclave.EntryDisposal}}
	for _, d := range c.Destructions {
		needs = append(needs, need{d.Digest(), enclave.EntryDestruction})
	}
	for _, n := range append(needs, need{cert.Digest(), enclave.EntryCertificate}) {
		p, err := l.prove(ctx, n)
		if err != nil {
			return nil, err
		}
		out.Proofs = append(out.Proofs, p)
	}
	return out, nil
}

// EndDisposals runs a round of every disposal that is not at its end. Of those that are, it removes once in the life of
// this process what may have come back: blobs from a backup, say, and pieces at a custodian that was restored.
func (l *Lab) EndDisposals(ctx context.Context) (unfinished int, _ error) {
	all, err := disposals(ctx, l.cfg.Store)
	if err != nil {
		return 0, err
	}
	var errs []error
	for _, o := range all {
		_, err := l.certificate(ctx, o.digest)
		switch {
		case errors.Is(err, sandbox.ErrNotFound):
			if err = l.round(ctx, o); err == nil {
				_, err = l.certificate(ctx, o.digest)
			}
			if errors.Is(err, sandbox.ErrNotFound) {
				unfinished++
				err = nil
			}
		case err == nil && !l.ends.gone(o.Keyset):
			err = l.discardAgain(ctx, o)
		}
		if err != nil {
			unfinished++
			errs = append(errs, fmt.Errorf("disposing of dataset %q: %w", o.Dataset, err))
		}
	}
	return unfinished, errors.Join(errs...)
}

// gone says whether this process has removed what came back of a lineage.
func (p *ends) gone(lineage enclave.Digest) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.discarded[lineage]
}

// discardAgain removes what may have come back after a certificate was made.
func (l *Lab) discardAgain(ctx context.Context, o *order) error {
	blobs, err := l.blobsOf(ctx, o.Keyset)
	if err != nil {
		return err
	}
	if _, _, err := l.cfg.Destroyer.Discard(ctx, o.Keyset, blobs); err != nil {
		return err
	}
	l.ends.mu.Lock()
	defer l.ends.mu.Unlock()
	l.ends.discarded[o.Keyset] = true
	return nil
}
