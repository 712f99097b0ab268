package release

import (
	"fmt"

	fnote "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/operators"
)

// LogKeys reads the keys that a checkpoint must be signed with from the roster: the log's Ed25519 note key and the
// witness's cosignature key (C2SP tlog-cosignature).
func LogKeys(r *operators.Roster) (enclave.LogKeys, error) {
	log, err := note.NewVerifier(r.Log)
	if err != nil {
		return enclave.LogKeys{}, fmt.Errorf("log key of the roster: %w", err)
	}
	witness, err := fnote.NewVerifierForCosignatureV1(r.Witness)
	if err != nil {
		return enclave.LogKeys{}, fmt.Errorf("witness key of the roster: %w", err)
	}
	return enclave.LogKeys{Origin: log.Name(), Log: log, Witness: witness}, nil
}
