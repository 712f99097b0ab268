package audit

import (
	"context"
	"encoding/base64"
	"fmt"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"yingzhou.dev/lab/enclave"
)

// maxCosignature bounds what a witness may answer, in bytes. An Ed25519 cosignature line has about 150.
const maxCosignature = 16 << 10

// checkpointText is the signed text of a checkpoint (C2SP tlog-checkpoint, "Note text").
func checkpointText(cp enclave.Checkpoint) string {
	return fmt.Sprintf("%s\n%d\n%s\n", cp.Origin, cp.Size, base64.StdEncoding.EncodeToString(cp.Root[:]))
}

// consistency proves that the tree extends its first old entries. There is nothing to prove for none or all of them.
func consistency(tree *tree, cp enclave.Checkpoint, old int64) ([]enclave.Digest, error) {
	if old == 0 || old == cp.Size {
		return digests(nil), nil
	}
	path, err := tlog.ProveTree(cp.Size, old, tree.under(cp.Root))
	if err != nil {
		return nil, fmt.Errorf("proving that %d entries extend %d: %w", cp.Size, old, err)
	}
	return digests(path), nil
}

// cosign gets the witness's signature on a signed checkpoint and returns the note with both. The witness may be ahead of
// what we stored (we stopped after it signed) or behind (it was down): it is then asked once more from where it stands.
func (l *Log) cosign(ctx context.Context, tree *tree, cp enclave.Checkpoint, signed []byte) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	text, err := l.ask(ctx, tree, cp, signed, l.witnessed)
	if err != nil {
		seen, sizeErr := l.witness.Size(ctx)
		if sizeErr != nil || seen == l.witnessed {
			return "", err
		}
		if seen > cp.Size {
			return "", fmt.Errorf("%w: it has seen %d entries, the log has %d", ErrSplitView, seen, cp.Size)
		}
		l.witnessed = seen
		if text, err = l.ask(ctx, tree, cp, signed, seen); err != nil {
			return "", err
		}
	}
	l.witnessed = cp.Size
	return text, nil
}

func (l *Log) ask(ctx context.Context, tree *tree, cp enclave.Checkpoint, signed []byte, old int64) (string, error) {
	if old < 0 || old > cp.Size {
		return "", fmt.Errorf("%w: it has seen %d entries, the log has %d", ErrSplitView, old, cp.Size)
	}
	proof, err := consistency(tree, cp, old)
	if err != nil {
		return "", err
	}
	lines, err := l.witness.Cosign(ctx, old, proof, signed)
	if err != nil {
		return "", err
	}
	return mergeSignatures(l.keys, cp, signed, lines)
}

// mergeSignatures adds the witness's signature lines to a checkpoint that the log has signed. What it returns holds
// exactly the signatures that verify under keys, and both are among them.
func mergeSignatures(keys enclave.LogKeys, cp enclave.Checkpoint, signed, lines []byte) (string, error) {
	if len(lines) > maxCosignature {
		return "", fmt.Errorf("cosignature has %d bytes, more than %d", len(lines), maxCosignature)
	}
	all := append(append([]byte(nil), signed...), lines...)
	n, err := note.Open(all, note.VerifierList(keys.Log, keys.Witness))
	if err != nil {
		return "", fmt.Errorf("reading cosignature: %w", err)
	}
	for i, s := range n.Sigs { // note.Open accepts any value in the unused bits of base64
		raw, err := base64.StdEncoding.DecodeString(s.Base64)
		if err != nil {
			return "", fmt.Errorf("reading cosignature: %w", err)
		}
		n.Sigs[i].Base64 = base64.StdEncoding.EncodeToString(raw)
	}
	text, err := note.Sign(&note.Note{Text: n.Text, Sigs: n.Sigs})
	if err != nil {
		return "", fmt.Errorf("reading cosignature: %w", err)
	}
	got, err := keys.Open(string(text))
	if err != nil {
		return "", fmt.Errorf("reading cosignature: %w", err)
	}
	if got != cp {
		return "", fmt.Errorf("witness signed a checkpoint of %d entries, want the one of %d", got.Size, cp.Size)
	}
	return string(text), nil
}
