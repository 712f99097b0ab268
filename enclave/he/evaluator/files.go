package evaluator

import (
	"errors"
	"fmt"
	"sync"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/store"
)

// Kinds of file that the evaluator maps.
const (
	KindBlob  = "blob"  // a sealed blob as it is
	KindPanel = "panel" // a rows blob expanded
)

// Files serves an evaluator from mapped files. Mappings last until Close.
type Files struct {
	locate func(d enclave.Digest, kind string) string

	mu    sync.Mutex
	maps  map[string]*store.Mapping
	blobs map[enclave.Digest]*Blob
}

// NewFiles serves files from where locate says they lie.
func NewFiles(locate func(d enclave.Digest, kind string) string) *Files {
	return &Files{locate: locate, maps: map[string]*store.Mapping{}, blobs: map[enclave.Digest]*Blob{}}
}

func (f *Files) mapped(path string) ([]byte, error) {
	if m := f.maps[path]; m != nil {
		return m.Bytes(), nil
	}
	m, err := store.MapFile(path)
	if err != nil {
		return nil, err
	}
	f.maps[path] = m
	return m.Bytes(), nil
}

// Blob maps and parses a sealed blob.
func (f *Files) Blob(d enclave.Digest) (*Blob, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if b := f.blobs[d]; b != nil {
		return b, nil
	}
	data, err := f.mapped(f.locate(d, KindBlob))
	if err != nil {
		return nil, err
	}
	b, err := ParseBlob(data)
	if err != nil {
		return nil, fmt.Errorf("blob %s: %w: %w", d.Short(), enclave.ErrBlob, err)
	}
	f.blobs[d] = b
	return b, nil
}

// Panel maps an expanded panel of a parameter set that the caller knows from the manifest.
func (f *Files) Panel(p *Params, d enclave.Digest) (*Panel, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	data, err := f.mapped(f.locate(d, KindPanel))
	if err != nil {
		return nil, err
	}
	v, err := OpenPanel(p, data)
	if err != nil {
		return nil, fmt.Errorf("panel of blob %s: %w: %w", d.Short(), enclave.ErrBlob, err)
	}
	return v, nil
}

// With makes the files an evaluator's Inputs for one parameter set.
func (f *Files) With(p *Params) Inputs { return filesOf{f, p} }

type filesOf struct {
	*Files
	p *Params
}

func (f filesOf) Panel(d enclave.Digest) (*Panel, error) { return f.Files.Panel(f.p, d) }

// Forget unmaps one blob's files; whatever was opened from them must no longer be used.
func (f *Files) Forget(d enclave.Digest) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.blobs, d)
	var errs []error
	for _, kind := range []string{KindBlob, KindPanel} {
		path := f.locate(d, kind)
		if m := f.maps[path]; m != nil {
			errs = append(errs, m.Close())
			delete(f.maps, path)
		}
	}
	return errors.Join(errs...)
}

// Close unmaps everything.
func (f *Files) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var errs []error
	for _, m := range f.maps {
		errs = append(errs, m.Close())
	}
	clear(f.maps)
	clear(f.blobs)
	return errors.Join(errs...)
}
