package docker

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/network"

	"yingzhou.dev/lab/sandbox/runner"
	"yingzhou.dev/lab/sandbox/runner/internal/seccomp"
)

// membership is a task's place in a group's network.
type membership struct {
	network string // its name
	address netip.Addr
	hosts   []string // "name:address" of every member
}

const labelGroup = "dev.yingzhou.group"

func (r *Runner) networkName(id string) string { return "yingzhou-" + r.cfg.Instance + "-" + id }

// StartGroup implements runner.Grouper.
func (r *Runner) StartGroup(ctx context.Context, g runner.Group) ([]runner.Handle, error) {
	g, err := g.Check()
	if err != nil {
		return nil, err
	}
	if r.cfg.Runtime != "" && gVisor(r.cfg.Runtime) {
		return nil, fmt.Errorf("group %q: %w: gVisor is run without a network here", g.ID, runner.ErrUnavailable)
	}
	name := r.networkName(g.ID)
	subnet, err := r.eng.createNetwork(ctx, name, map[string]string{labelInstance: r.cfg.Instance, labelGroup: g.ID})
	if err != nil {
		return nil, fmt.Errorf("group %q: making its network: %w", g.ID, err)
	}
	hosts := make([]string, len(g.Members))
	addresses := make([]netip.Addr, len(g.Members))
	at := subnet.Addr().Next() // the first is the gateway's that is not there
	for i, m := range g.Members {
		at = at.Next()
		addresses[i], hosts[i] = at, m.Name+":"+at.String()
	}
	var handles []runner.Handle
	for i, m := range g.Members {
		h, err := r.start(ctx, m.Task, &membership{name, addresses[i], hosts})
		if err != nil {
			return nil, errors.Join(fmt.Errorf("group %q: member %q: %w", g.ID, m.Name, err), r.undo(context.WithoutCancel(ctx), g.ID, handles))
		}
		handles = append(handles, h)
	}
	return handles, nil
}

func (r *Runner) undo(ctx context.Context, id string, started []runner.Handle) error {
	var err error
	for _, h := range started {
		err = errors.Join(err, r.Remove(ctx, h))
	}
	return errors.Join(err, r.RemoveGroup(ctx, id))
}

// RemoveGroup implements runner.Grouper.
func (r *Runner) RemoveGroup(ctx context.Context, id string) error {
	name := r.networkName(id)
	left, err := r.eng.members(ctx, name)
	if errors.Is(err, runner.ErrNotFound) {
		return nil
	}
	for _, c := range left {
		err = errors.Join(err, r.eng.remove(ctx, c))
	}
	if err = errors.Join(err, r.eng.removeNetwork(ctx, name)); err != nil {
		return fmt.Errorf("removing network of group %q: %w", id, err)
	}
	return nil
}

// join puts a task into its group's network. What it may do beyond a task that is alone stands here.
func (m *membership) join(c *container.Config, h *container.HostConfig) *network.NetworkingConfig {
	c.NetworkDisabled, h.NetworkMode = false, container.NetworkMode(m.network)
	for i, o := range h.SecurityOpt {
		if o == "seccomp="+seccomp.Docker() {
			h.SecurityOpt[i] = "seccomp=" + seccomp.DockerGroup() // TCP over IPv4, and no other socket
		}
	}
	h.ExtraHosts = m.hosts // so that nobody needs a resolver
	// Docker's own resolver, at 127.0.0.11 in the container, passes on what it does not know, on an internal network too
	// (CVE-2024-29018). What it is told to ask here is the container's own loopback, where nobody answers.
	h.DNS = []string{"127.0.0.1"}
	// A link-local address of the host would be at the other end of the bridge.
	h.Sysctls = map[string]string{"net.ipv6.conf.all.disable_ipv6": "1", "net.ipv6.conf.default.disable_ipv6": "1"}
	return &network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{
		m.network: {IPAMConfig: &network.EndpointIPAMConfig{IPv4Address: m.address.String()}}}}
}

// subnets are where groups' networks lie: the range for benchmarks (RFC 2544), which no other network should use.
var subnets = netip.MustParsePrefix("198.18.0.0/15")

const subnetBits = 28 // 16 addresses

// subnet is the i-th choice for a network, which begins anywhere.
func subnet(name string, i int) netip.Prefix {
	sum := sha256.Sum256([]byte(name))
	n := binary.BigEndian.Uint32(sum[:]) + uint32(i)
	base := binary.BigEndian.Uint32(subnets.Addr().AsSlice())
	var raw [4]byte
	binary.BigEndian.PutUint32(raw[:], base+n%(1<<(subnetBits-15))<<(32-subnetBits))
	return netip.PrefixFrom(netip.AddrFrom4(raw), subnetBits)
}
