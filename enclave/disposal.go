package enclave

import (
	"fmt"
	"slices"
)

// Kinds of the artefacts that end a dataset (art. 19).
const (
	KindDisposalOrder = "yingzhou.disposal-order.v1"
	KindDestruction   = "yingzhou.destruction.v1"
	KindDisposal      = "yingzhou.disposal.v1"
)

// Causes of a disposal, as art. 19 lists them: the purpose is achieved, cannot be achieved any more (its time is over),
// or the owner wants it so.
const (
	CauseAchieved  = "achieved"
	CauseExpired   = "expired"
	CauseWithdrawn = "withdrawn"
)

// DisposalOrder is the owner's demand that a dataset be destroyed. Its log entry, whose subject is the lineage's first
// keyset, ends the dataset for good: from then on no custodian takes part in opening anything of it.
type DisposalOrder struct {
	Dataset string `json:"dataset"`
	Owner   string `json:"owner"`
	Keyset  Digest `json:"keyset"` // lineage
	Cause   string `json:"cause"`
	Reason  string `json:"reason"`
	By      string `json:"by"` // steward
	Made    Time   `json:"made"`
}

// Validate checks what an order says by itself.
func (o *DisposalOrder) Validate() error {
	if o.Dataset == "" || o.Owner == "" || o.Keyset.IsZero() || o.Reason == "" {
		return fmt.Errorf("disposal order for dataset %q: dataset, owner, keyset and reason are required", o.Dataset)
	}
	if !slices.Contains([]string{CauseAchieved, CauseExpired, CauseWithdrawn}, o.Cause) {
		return fmt.Errorf("disposal order for dataset %q: cause %q is not %s, %s or %s", o.Dataset, o.Cause, CauseAchieved, CauseExpired, CauseWithdrawn)
	}
	return nil
}

// Destruction is a custodian's word that it destroyed every piece and wrapping key of a lineage that it held, tried to
// use them afterwards, and failed.
type Destruction struct {
	Order     Digest      `json:"order"`
	Keyset    Digest      `json:"keyset"` // lineage
	Destroyed []Destroyed `json:"destroyed"`
	By        string      `json:"by"` // custodian
	Made      Time        `json:"made"`
}

// Destroyed is one piece that is gone.
type Destroyed struct {
	Keyset  Digest `json:"keyset"` // that dealt it: the first one or a refresh
	Piece   int    `json:"piece"`
	Attempt string `json:"attempt"` // what using it gave afterwards
}

// Disposal is the certificate: that order, every custodian's destruction, and what the control plane removed. With the
// root key alone it verifies offline.
type Disposal struct {
	Order        Signed   `json:"order"`
	Keysets      []Signed `json:"keysets"` // the whole lineage, oldest first
	Destructions []Signed `json:"destructions"`
	Blobs        []Digest `json:"blobs"`     // sealed blobs of every version, deleted; sorted
	DataKeys     int64    `json:"data_keys"` // data keys of the blob store that were destroyed
	Attempt      string   `json:"attempt"`   // what reading a blob gave afterwards
	By           string   `json:"by"`        // lab
	Made         Time     `json:"made"`
}
