package plane

import (
	"context"
	"errors"
	"fmt"
	"time"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/store"
	"yingzhou.dev/lab/enclave/store/datakey"
	"yingzhou.dev/lab/internal/failpoint"
	"yingzhou.dev/lab/sandbox/gate"
)

// destroyer carries out disposals (lab.Destroyer): custodians over the network, data keys and blobs here.
type destroyer struct {
	*gate.Gate
	stores   []*store.Store // the blobs, and the node's copies
	dataKeys *datakey.Keys  // nil if blobs lie as they are
}

// Discard implements lab.Destroyer. The wrapping key goes first: what copies of the blobs there are is noise from then on.
func (d *destroyer) Discard(ctx context.Context, lineage enclave.Digest, blobs []enclave.Digest) (keys int64, attempt string, err error) {
	if d.dataKeys != nil {
		destroyed, err := d.dataKeys.Destroy(ctx, lineage)
		if err != nil {
			return 0, "", err
		}
		if destroyed {
			keys = 1
		}
	}
	for _, at := range d.stores {
		for _, b := range blobs {
			if err := at.Delete(b); err != nil {
				return keys, "", err
			}
		}
	}
	failpoint.Hit(failpoint.BlobsDiscarded)
	for _, at := range d.stores {
		for _, b := range blobs {
			if err := at.Verify(ctx, b); !errors.Is(err, enclave.ErrNotFound) {
				return keys, "", fmt.Errorf("blob %s is still there: %w", b.Short(), err)
			}
		}
	}
	return keys, enclave.ErrNotFound.Error(), nil
}

// Rounds of disposals that wait for somebody: often at first, for a custodian that is being restarted, then seldom.
const (
	roundsFirst = 2 * time.Second
	roundsLast  = 5 * time.Minute
)

// disposals runs rounds of every disposal that is not at its end, until ctx ends. Whoever orders one runs the first round.
func (p *plane) disposals(ctx context.Context) error {
	wait := roundsFirst
	for {
		unfinished, err := p.lab.EndDisposals(ctx)
		if err != nil && ctx.Err() == nil {
			p.env.Logger.ErrorContext(ctx, "ending disposals", "error", err)
		}
		if unfinished == 0 {
			wait = roundsFirst
		}
		if pause(ctx, wait) != nil {
			return nil
		}
		wait = min(2*wait, roundsLast)
	}
}
