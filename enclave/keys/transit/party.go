package transit

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"

	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/enclave/vault"
	"yingzhou.dev/lab/enclave/vault/signer"
)

// Party is a custodian whose signing key is in transit and whose receiving key lies wrapped in kv: what keys.Identity is
// on files. The receiving key is HPKE's, which Vault cannot compute with: it is unwrapped for the moment of one message.
type Party struct {
	*signer.Signer
	ring *Keyring
}

// The names under which a party's keys lie.
const (
	signKey     = "sign"
	receiverKey = "receiver"
)

// MakeParty makes what is missing of a party's keys and returns it with the public halves for the roster. The signing key
// is made by whoever sets the Vault up, the receiving key here. It can be repeated.
func MakeParty(ctx context.Context, c *vault.Client, name string) (p *Party, verify ed25519.PublicKey, receive []byte, err error) {
	own, err := signer.Read(ctx, c, name, signKey)
	if err != nil {
		return nil, nil, nil, err
	}
	ring := New(c)
	private, err := ring.Get(ctx, receiverKey)
	defer func() { clear(private) }()
	if errors.Is(err, vault.ErrNotFound) {
		if private, _, err = keys.NewReceiver(); err == nil {
			err = ring.Put(ctx, receiverKey, private)
		}
	}
	if err == nil {
		receive, err = keys.ReceiverPublic(private)
	}
	if err != nil {
		return nil, nil, nil, fmt.Errorf("receiving key of %q: %w", name, err)
	}
	return &Party{Signer: own, ring: ring}, own.Verify(), receive, nil
}

// OpenParty is a party whose public key the roster has. It calls nothing: the Vault may be down now and back later.
func OpenParty(c *vault.Client, name string, verify ed25519.PublicKey) *Party {
	return &Party{Signer: signer.Open(c, name, signKey, verify), ring: New(c)}
}

// Keyring is the party's custody of pieces, on the same Vault.
func (p *Party) Keyring() *Keyring { return p.ring }

// Open decrypts a message to this party, such as a dealt piece.
func (p *Party) Open(info, sealed []byte) ([]byte, error) {
	private, err := p.ring.Get(context.Background(), receiverKey) // as Sign: no context of its own, bounded by patience
	if err != nil {
		return nil, fmt.Errorf("opening a message to %q: %w", p.Name(), err)
	}
	defer clear(private)
	return keys.OpenWith(private, info, sealed)
}

func (p *Party) LogValue() slog.Value { return slog.StringValue("[party " + p.Name() + "]") }
func (p *Party) String() string       { return "[party " + p.Name() + "]" }
