// Package custodian asks custodians over the network, for those who are no custodians: the owner's steward who deals key
// pieces, the control plane that wants a release, auditors. It links nothing that opens data. Custodians among themselves
// use package release/service.
package custodian

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"yingzhou.dev/lab/enclave"
	enclavev1 "yingzhou.dev/lab/enclave/api/v1"
	"yingzhou.dev/lab/enclave/refusal"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/rpc"
)

// Methods is the table of CustodianService: who may call what, for how long and with how much. A release at the largest
// plan executes for minutes; the deadlines leave room for that and for the first fetching of blobs.
func Methods() rpc.Table {
	peers, lab, steward := []string{"custodian"}, []string{"lab"}, []string{"steward"}
	return rpc.Table{
		enclavev1.CustodianService_Accept_FullMethodName:      {Roles: steward, Deadline: time.Minute, Max: 16 << 20},
		enclavev1.CustodianService_Retire_FullMethodName:      {Roles: steward, Deadline: time.Minute, Max: 1 << 20},
		enclavev1.CustodianService_Dispose_FullMethodName:     {Roles: []string{"steward", "lab"}, Deadline: 2 * time.Minute, Max: 1 << 20},
		enclavev1.CustodianService_Rotate_FullMethodName:      {Roles: peers, Deadline: 2 * time.Minute}, // its own certificate only
		enclavev1.CustodianService_Records_FullMethodName:     {Roles: peers, Deadline: 2 * time.Minute},
		enclavev1.CustodianService_Commit_FullMethodName:      {Roles: peers, Deadline: 20 * time.Minute, Max: rpc.MaxMessage},
		enclavev1.CustodianService_Share_FullMethodName:       {Roles: peers, Deadline: 10 * time.Minute, Max: rpc.MaxMessage},
		enclavev1.CustodianService_Endorse_FullMethodName:     {Roles: peers, Deadline: 10 * time.Minute, Max: rpc.MaxMessage},
		enclavev1.CustodianService_GetEvidence_FullMethodName: {Roles: peers, Deadline: time.Minute},
		enclavev1.CustodianService_Lead_FullMethodName:        {Roles: lab, Deadline: time.Hour, Max: rpc.MaxMessage},
		enclavev1.CustodianService_Recheck_FullMethodName:     {Roles: []string{"lab", "auditor"}, Deadline: 20 * time.Minute, Max: rpc.MaxMessage},
		enclavev1.CustodianService_LeadBatch_FullMethodName:   {Roles: lab, Deadline: time.Hour, Max: rpc.MaxMessage},
		enclavev1.CustodianService_HelpBatch_FullMethodName:   {Roles: peers, Deadline: time.Hour, Max: rpc.MaxMessage},
		enclavev1.CustodianService_GetStatus_FullMethodName: {Roles: []string{"lab", "custodian", "auditor", "official", "steward"},
			Deadline: 10 * time.Second},
	}
}

// Client asks one custodian.
type Client struct {
	name string
	rpc  enclavev1.CustodianServiceClient
}

// New makes a client of the custodian of that name. The connection's TLS must pin it.
func New(name string, conn grpc.ClientConnInterface) *Client {
	return &Client{name: name, rpc: enclavev1.NewCustodianServiceClient(conn)}
}

// Name is the custodian's name in the roster.
func (c *Client) Name() string { return c.name }

func (c *Client) fault(err error) error {
	return refusal.FromStatus(fmt.Sprintf("custodian %q", c.name), err)
}

// within bounds a call by its row of the table.
func within(ctx context.Context, method string) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, Methods()[method].Deadline)
}

// encode gives an artefact's canonical bytes, if they fit into a message.
func encode(what string, v any) ([]byte, error) {
	data, err := canon.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("sending %s: %w", what, err)
	}
	if len(data) > rpc.MaxMessage-4096 {
		return nil, fmt.Errorf("sending %s: it has %d bytes, a message at most %d", what, len(data), rpc.MaxMessage)
	}
	return data, nil
}

// encodeRoster gives a roster's bytes, or none.
func encodeRoster(roster *canon.Signed) ([]byte, error) {
	if roster == nil {
		return nil, nil
	}
	return encode("a roster", roster)
}

// Accept deals a key piece to the custodian and confirms that what it stored is what the keyset commits to. roster, if
// it is one, tells the custodian of people who joined lately.
func (c *Client) Accept(ctx context.Context, keyset canon.Signed, piece int, sealed []byte, roster *canon.Signed) error {
	ctx, cancel := within(ctx, enclavev1.CustodianService_Accept_FullMethodName)
	defer cancel()
	var ks enclave.Keyset
	if err := keyset.Open(enclave.KindKeyset, &ks); err != nil {
		return fmt.Errorf("dealing a key piece: %w", err)
	}
	if piece < 0 || piece >= len(ks.Pieces) {
		return fmt.Errorf("dealing a key piece: the keyset has no piece %d", piece)
	}
	data, err := encode("a keyset", keyset)
	if err != nil {
		return err
	}
	req := &enclavev1.AcceptRequest{Keyset: data, Piece: int32(piece), Sealed: sealed}
	if req.Roster, err = encodeRoster(roster); err != nil {
		return err
	}
	resp, err := c.rpc.Accept(ctx, req)
	if err != nil {
		return c.fault(err)
	}
	if want := ks.Pieces[piece].Commitment; !bytes.Equal(resp.GetCommitment(), want[:]) {
		return fmt.Errorf("custodian %q confirms another commitment to piece %d than the keyset's", c.name, piece)
	}
	return nil
}

// Retire tells the custodian of a logged refresh, so that it erases what the new keyset replaces. roster is as in Accept.
func (c *Client) Retire(ctx context.Context, keyset canon.Signed, roster *canon.Signed) error {
	ctx, cancel := within(ctx, enclavev1.CustodianService_Retire_FullMethodName)
	defer cancel()
	req := &enclavev1.RetireRequest{}
	var err error
	if req.Keyset, err = encode("a keyset", keyset); err != nil {
		return err
	}
	if req.Roster, err = encodeRoster(roster); err != nil {
		return err
	}
	_, err = c.rpc.Retire(ctx, req)
	return c.fault(err)
}

// Dispose passes a logged order on and returns the custodian's signed word that it destroyed what it held. roster is as in
// Accept.
func (c *Client) Dispose(ctx context.Context, order canon.Signed, roster *canon.Signed) (canon.Signed, error) {
	ctx, cancel := within(ctx, enclavev1.CustodianService_Dispose_FullMethodName)
	defer cancel()
	var word canon.Signed
	req := &enclavev1.DisposeRequest{}
	var err error
	if req.Order, err = encode("an order", order); err != nil {
		return word, err
	}
	if req.Roster, err = encodeRoster(roster); err != nil {
		return word, err
	}
	resp, err := c.rpc.Dispose(ctx, req)
	if err != nil {
		return word, c.fault(err)
	}
	if err := canon.Unmarshal(resp.GetDestruction(), &word); err != nil {
		return word, fmt.Errorf("word of custodian %q: %w", c.name, err)
	}
	return word, nil
}

// Rotate has the custodian wrap the pieces of a lineage under new keys. The connection needs the custodian's own
// certificate.
func (c *Client) Rotate(ctx context.Context, lineage enclave.Digest) error {
	ctx, cancel := within(ctx, enclavev1.CustodianService_Rotate_FullMethodName)
	defer cancel()
	_, err := c.rpc.Rotate(ctx, &enclavev1.RotateRequest{Lineage: lineage[:]})
	return c.fault(err)
}

// Outcome is a finished release as its leader hands it over.
type Outcome struct {
	Release canon.Signed
	Table   []byte // under HPKE to the analyst
	Proof   enclave.LogProof
}

// Lead has the custodian run a release with its peers. step, which may be nil, hears of each stage as it starts.
func (c *Client) Lead(ctx context.Context, b *enclave.Bundle, step func(string)) (*Outcome, error) {
	ctx, cancel := within(ctx, enclavev1.CustodianService_Lead_FullMethodName)
	defer cancel()
	data, err := encode("a dossier", b)
	if err != nil {
		return nil, err
	}
	stream, err := c.rpc.Lead(ctx, &enclavev1.LeadRequest{Bundle: data})
	if err != nil {
		return nil, c.fault(err)
	}
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("custodian %q ended without an outcome", c.name)
		}
		if err != nil {
			return nil, c.fault(err)
		}
		switch e := resp.GetEvent().(type) {
		case *enclavev1.LeadResponse_Stage:
			if step != nil {
				step(e.Stage)
			}
		case *enclavev1.LeadResponse_Outcome:
			return c.outcome(e.Outcome)
		}
	}
}

// LeadBatch has the custodian count and release the batch of a dossier with the collection's helper.
func (c *Client) LeadBatch(ctx context.Context, b *enclave.CollectionBundle) (*Outcome, error) {
	ctx, cancel := within(ctx, enclavev1.CustodianService_LeadBatch_FullMethodName)
	defer cancel()
	data, err := encode("a dossier", b)
	if err != nil {
		return nil, err
	}
	resp, err := c.rpc.LeadBatch(ctx, &enclavev1.LeadBatchRequest{Bundle: data})
	if err != nil {
		return nil, c.fault(err)
	}
	return c.outcome(resp.GetOutcome())
}

func (c *Client) outcome(m *enclavev1.Outcome) (*Outcome, error) {
	out := &Outcome{Table: m.GetTable()}
	if err := errors.Join(canon.Unmarshal(m.GetRelease(), &out.Release), canon.Unmarshal(m.GetProof(), &out.Proof)); err != nil {
		return nil, fmt.Errorf("outcome from custodian %q: %w", c.name, err)
	}
	return out, nil
}

// Recheck has the custodian hold a finished release against its own pieces, with the evidence that the custodian "of" kept;
// with its own or else any if that is empty. It says whose evidence it used. Where that custodian has none, or this one
// has no pieces of the release's epoch any more, it is an enclave.ErrNotFound that says which.
func (c *Client) Recheck(ctx context.Context, b *enclave.Bundle, of string) (evidenceBy string, err error) {
	ctx, cancel := within(ctx, enclavev1.CustodianService_Recheck_FullMethodName)
	defer cancel()
	data, err := encode("a dossier", b)
	if err != nil {
		return "", err
	}
	resp, err := c.rpc.Recheck(ctx, &enclavev1.RecheckRequest{Bundle: data, Of: of})
	if st, _ := status.FromError(err); st.Code() == codes.NotFound {
		return "", fmt.Errorf("custodian %q, on the record of %q: %s: %w", c.name, of, st.Message(), enclave.ErrNotFound)
	}
	return resp.GetEvidenceBy(), c.fault(err)
}

// Status asks where the custodian stands.
func (c *Client) Status(ctx context.Context) (*enclavev1.GetStatusResponse, error) {
	ctx, cancel := within(ctx, enclavev1.CustodianService_GetStatus_FullMethodName)
	defer cancel()
	resp, err := c.rpc.GetStatus(ctx, &enclavev1.GetStatusRequest{})
	if err != nil {
		return nil, c.fault(err)
	}
	if resp.GetName() != c.name {
		return nil, fmt.Errorf("custodian %q calls itself %q", c.name, resp.GetName())
	}
	return resp, nil
}
