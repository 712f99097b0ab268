package enclave

// KindBundle is the file that `lab audit receipt` writes and `lab audit verify` reads.
const KindBundle = "yingzhou.bundle.v1"

// Bundle is a release receipt: every artefact and statement behind a release with the proofs that each was in the log.
// With the lab's root public key it verifies offline; it carries no figure of the result.
type Bundle struct {
	Format     string     `json:"format"` // KindBundle
	Roster     Signed     `json:"roster"`
	Statements []Signed   `json:"statements"` // licence, application, consents, decisions
	Grant      Signed     `json:"grant"`
	Keysets    []Signed   `json:"keysets"` // of every dataset of the scenario
	Manifest   Signed     `json:"manifest"`
	Manifests  []Signed   `json:"manifests,omitempty"` // of the datasets of JOIN, in the plan's order
	Plan       Signed     `json:"plan"`
	Receipt    Signed     `json:"receipt"`
	Release    Signed     `json:"release,omitzero"` // absent while custodians are asked for it
	Proofs     []LogProof `json:"proofs"`
}
