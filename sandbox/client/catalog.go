package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/store"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox"
	labv1 "yingzhou.dev/lab/sandbox/api/v1"
	"yingzhou.dev/lab/sandbox/lab"
)

// Statements returns what the caller may see of the record, and who owns which dataset. Nothing of it is verified yet:
// operators.Authorize and the registry do that with the roster.
func (c *Client) Statements(ctx context.Context) (operators.Statements, error) {
	roster, _, err := c.Roster(ctx)
	if err != nil {
		return operators.Statements{}, err
	}
	out := operators.Statements{Roster: roster, RootKey: c.cfg.RootKey, Owners: map[string]string{}}
	for m, err := range received(c.operator.ListStatements(ctx, &labv1.ListStatementsRequest{})) {
		if err != nil {
			return out, err
		}
		for name, owner := range m.GetOwners() {
			out.Owners[name] = owner
		}
		for _, data := range m.GetStatements() {
			s, err := parse(data)
			if err != nil {
				return out, fmt.Errorf("a statement on record: %w", err)
			}
			out.All = append(out.All, s)
		}
	}
	return out, nil
}

// Scenario finds an application by name or digest; the newest of a name.
func (c *Client) Scenario(ctx context.Context, name string) (enclave.Digest, *operators.Scenario, error) {
	st, err := c.Statements(ctx)
	if err != nil {
		return enclave.Digest{}, nil, err
	}
	for _, s := range slices.Backward(st.All) {
		var sc operators.Scenario
		if s.Kind == operators.KindScenario && s.Open(operators.KindScenario, &sc) == nil && (sc.Name == name || s.Digest().String() == name) {
			return s.Digest(), &sc, nil
		}
	}
	return enclave.Digest{}, nil, fmt.Errorf("scenario %q: %w", name, sandbox.ErrNotFound)
}

// Datasets lists the catalogue.
func (c *Client) Datasets(ctx context.Context) ([]lab.Dataset, error) {
	_, roster, err := c.Roster(ctx)
	if err != nil {
		return nil, err
	}
	a, err := c.catalog.ListDatasets(ctx, &labv1.ListDatasetsRequest{})
	if err != nil {
		return nil, problem(err)
	}
	var out []lab.Dataset
	for _, m := range a.GetDatasets() {
		d, err := dataset(roster, m)
		if err != nil {
			return nil, err
		}
		out = append(out, *d)
	}
	return out, nil
}

// Dataset finds a lineage with its keyset and current manifest.
func (c *Client) Dataset(ctx context.Context, name string) (*lab.Dataset, error) {
	_, roster, err := c.Roster(ctx)
	if err != nil {
		return nil, err
	}
	a, err := c.catalog.GetDataset(ctx, &labv1.GetDatasetRequest{Name: name})
	if err != nil {
		return nil, problem(err)
	}
	d, err := dataset(roster, a.GetDataset())
	if err == nil && d.Name != name {
		err = fmt.Errorf("asked for dataset %q, the lab answered with %q", name, d.Name)
	}
	return d, err
}

// ownKeyset verifies one keyset of a dataset.
func ownKeyset(roster *operators.Roster, name string, data []byte) (enclave.Signed, *enclave.Keyset, error) {
	signed, err := parse(data)
	if err != nil {
		return signed, nil, err
	}
	by, err := roster.VerifyPast(signed, enclave.KindKeyset, operators.RoleSteward)
	if err != nil {
		return signed, nil, err
	}
	var ks enclave.Keyset
	if err := signed.Open(enclave.KindKeyset, &ks); err != nil {
		return signed, nil, err
	}
	if by.Body != ks.Owner || ks.Dataset != name {
		return signed, nil, fmt.Errorf("keyset %s is of dataset %q of %q, signed for %q", signed.Digest().Short(), ks.Dataset, ks.Owner, by.Body)
	}
	return signed, &ks, nil
}

// lineage verifies the keysets of a dataset, the oldest first.
func lineage(roster *operators.Roster, m *labv1.Dataset) (out []enclave.Signed, _ error) {
	owner := ""
	for i, data := range append([][]byte{m.GetKeyset()}, m.GetRefreshes()...) {
		s, ks, err := ownKeyset(roster, m.GetName(), data)
		if err == nil && i > 0 && ks.Owner != owner {
			err = fmt.Errorf("keyset %s is of %q, the first one of %q", s.Digest().Short(), ks.Owner, owner)
		}
		if err != nil {
			return nil, fmt.Errorf("dataset %q: %w", m.GetName(), err)
		}
		out, owner = append(out, s), ks.Owner
	}
	return out, nil
}

// dataset verifies what a dataset's owner signed.
func dataset(roster *operators.Roster, m *labv1.Dataset) (*lab.Dataset, error) {
	out := &lab.Dataset{Name: m.GetName()}
	fail := func(err error) (*lab.Dataset, error) { return nil, fmt.Errorf("dataset %q: %w", m.GetName(), err) }
	keysets, err := lineage(roster, m)
	if err != nil {
		return nil, err
	}
	out.KeysetDigest = keysets[0].Digest()
	if out.Keyset, out.Dealing, err = enclave.Lineage(out.KeysetDigest, keysets, 0); err != nil {
		return fail(err)
	}
	if out.Keyset.Epoch != int64(len(keysets)) {
		return fail(fmt.Errorf("it has %d keysets, and the latest in their line is of epoch %d", len(keysets), out.Keyset.Epoch))
	}
	if data := m.GetDisposal(); len(data) > 0 {
		signed, err := parse(data)
		if err != nil {
			return fail(err)
		}
		if out.Disposal, err = enclave.OpenOrder(signed, roster); err != nil {
			return fail(err)
		}
		if out.DisposalDigest = signed.Digest(); out.Disposal.Keyset != out.KeysetDigest {
			return fail(fmt.Errorf("disposal order %s is of keyset %s", out.DisposalDigest.Short(), out.Disposal.Keyset.Short()))
		}
	}
	if len(m.GetManifest()) == 0 {
		return out, nil
	}
	manifest, err := parse(m.GetManifest())
	if err != nil {
		return fail(err)
	}
	by, err := roster.VerifyPast(manifest, enclave.KindManifest, operators.RoleSteward)
	if err != nil {
		return fail(err)
	}
	out.Manifest, out.ManifestDigest = &enclave.Manifest{}, manifest.Digest()
	if err := manifest.Open(enclave.KindManifest, out.Manifest); err != nil {
		return fail(err)
	}
	if by.Body != out.Keyset.Owner || out.Manifest.Dataset != out.Name || out.Manifest.Keyset != out.KeysetDigest {
		return fail(fmt.Errorf("manifest %s does not belong to it", out.ManifestDigest.Short()))
	}
	return out, nil
}

// Lineage returns the keysets of a dataset as its owner's stewards signed them, the oldest first.
func (c *Client) Lineage(ctx context.Context, name string) ([]enclave.Signed, error) {
	_, roster, err := c.Roster(ctx)
	if err != nil {
		return nil, err
	}
	a, err := c.catalog.GetDataset(ctx, &labv1.GetDatasetRequest{Name: name})
	if err != nil {
		return nil, problem(err)
	}
	return lineage(roster, a.GetDataset())
}

// OrderDisposal hands in an order that the caller has signed alone, and says how far the disposal is now.
func (c *Client) OrderDisposal(ctx context.Context, order enclave.Signed) (*lab.Disposal, error) {
	a, err := c.catalog.OrderDisposal(ctx, &labv1.OrderDisposalRequest{Order: canon.MustMarshal(order)})
	if err != nil {
		return nil, problem(err)
	}
	return c.disposal(ctx, a.GetDisposal())
}

// Disposal says how far the end of a dataset is. Its order and, once there is one, its certificate are verified. One that
// nobody asked for is sandbox.ErrNotFound.
func (c *Client) Disposal(ctx context.Context, dataset string) (*lab.Disposal, error) {
	a, err := c.catalog.GetDisposal(ctx, &labv1.GetDisposalRequest{Dataset: dataset})
	if err != nil {
		return nil, problem(err)
	}
	return c.disposal(ctx, a.GetDisposal())
}

func (c *Client) disposal(ctx context.Context, m *labv1.Disposal) (*lab.Disposal, error) {
	_, roster, err := c.Roster(ctx)
	if err != nil {
		return nil, err
	}
	out := &lab.Disposal{InForce: m.GetInForce(), Waiting: m.GetWaiting()}
	if out.Order, err = parse(m.GetOrder()); err != nil {
		return nil, fmt.Errorf("disposal order: %w", err)
	}
	if out.InForce {
		_, err = enclave.OpenOrder(out.Order, roster)
	} else {
		_, err = enclave.OpenRequest(out.Order, roster)
	}
	if err != nil || len(m.GetReceipt()) == 0 {
		return out, err
	}
	out.Receipt = &enclave.DisposalReceipt{}
	if err := canon.Unmarshal(m.GetReceipt(), out.Receipt); err != nil {
		return nil, fmt.Errorf("certificate of a disposal: %w", err)
	}
	checked, err := out.Receipt.Check(c.cfg.RootKey, LogKeys)
	if err == nil && checked.Certificate.Order.Digest() != out.Order.Digest() {
		err = fmt.Errorf("certificate %s is of another order", checked.Digest.Short())
	}
	return out, err
}

// RegisterKeyset enters a dataset in the catalogue, after its key was dealt. For its owner's steward, who signed it.
func (c *Client) RegisterKeyset(ctx context.Context, s enclave.Signed) error {
	_, err := c.catalog.RegisterKeyset(ctx, &labv1.RegisterKeysetRequest{Keyset: canon.MustMarshal(s)})
	return problem(err)
}

// chunk is how many bytes of a blob travel in one message.
const chunk = 1 << 20

// Upload sends blobs of a local store that the lab does not have yet. It may be called again after any failure.
func (c *Client) Upload(ctx context.Context, from *store.Store, blobs []enclave.Digest, progress func(bytes int64)) error {
	if progress == nil {
		progress = func(int64) {}
	}
	for part := range slices.Chunk(blobs, 1000) {
		ask := &labv1.MissingBlobsRequest{}
		for _, d := range part {
			ask.Digests = append(ask.Digests, d.String())
		}
		a, err := c.catalog.MissingBlobs(ctx, ask)
		if err != nil {
			return problem(err)
		}
		missing, err := digests(a.GetDigests())
		if err != nil {
			return err
		}
		for _, d := range missing {
			if err := c.upload(ctx, from, d, progress); err != nil {
				return fmt.Errorf("uploading blob %s: %w", d.Short(), err)
			}
		}
	}
	return nil
}

func (c *Client) upload(ctx context.Context, from *store.Store, d enclave.Digest, progress func(int64)) error {
	ctx, cancel := context.WithCancel(ctx) // ends the stream where a read fails: half a blob is none
	defer cancel()
	f, err := os.Open(from.Path(d))
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	up, err := c.catalog.UploadBlob(ctx)
	if err != nil {
		return problem(err)
	}
	send := func(m *labv1.UploadBlobRequest) error {
		err := up.Send(m)
		if errors.Is(err, io.EOF) { // the server has answered already: its answer says why
			_, err = up.CloseAndRecv()
			if err == nil {
				err = errors.New("the lab ended the upload early")
			}
		}
		return problem(err)
	}
	if err := send(&labv1.UploadBlobRequest{Part: &labv1.UploadBlobRequest_Header{Header: &labv1.BlobHeader{Digest: d.String(), Size: info.Size()}}}); err != nil {
		return err
	}
	for {
		buf := make([]byte, chunk) // gRPC may keep it until the answer
		n, err := f.Read(buf)
		if n > 0 {
			if err := send(&labv1.UploadBlobRequest{Part: &labv1.UploadBlobRequest_Data{Data: buf[:n]}}); err != nil {
				return err
			}
			progress(int64(n))
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	_, err = up.CloseAndRecv()
	return problem(err)
}

// Publish makes a sealed version current, once its blobs are uploaded. For its owner's steward, who signed it.
func (c *Client) Publish(ctx context.Context, s enclave.Signed) error {
	_, err := c.catalog.PublishManifest(ctx, &labv1.PublishManifestRequest{Manifest: canon.MustMarshal(s)})
	return problem(err)
}
