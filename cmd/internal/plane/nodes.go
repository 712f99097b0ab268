package plane

import (
	"context"
	"fmt"
	"strings"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/mpc"
	"yingzhou.dev/lab/sandbox/lab"
	"yingzhou.dev/lab/sandbox/runner/image"
)

// identifyNode implements lab.Config.NodeProgram: what receipts say of the custodians' nodes. It is checked by each of them.
func (p *plane) identifyNode(ctx context.Context) (enclave.Digest, string, error) {
	n := p.cfg.Nodes
	if n.Program == "" {
		return enclave.Digest{}, "", fmt.Errorf("%w (nodes.program of labd's configuration)", lab.ErrNoNodes)
	}
	program, img, err := image.Names(n.Program)
	if err != nil {
		return enclave.Digest{}, "", fmt.Errorf("program of the compute nodes: %w", err)
	}
	contained := n.Isolation == "docker" || p.cfg.Production
	if n.Isolation == "" && !contained {
		own, _, err := p.worker.Isolation(ctx)
		if err != nil {
			return enclave.Digest{}, "", err
		}
		contained = strings.HasPrefix(own, "docker/")
	}
	if contained {
		return img, mpc.Contained, nil
	}
	return program, mpc.Uncontained, nil
}
