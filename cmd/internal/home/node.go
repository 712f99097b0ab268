package home

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"yingzhou.dev/lab/cmd/internal/nodejob"
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/mpc"
	"yingzhou.dev/lab/enclave/mpc/link"
	"yingzhou.dev/lab/enclave/release"
	"yingzhou.dev/lab/enclave/store"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/durable"
)

// Three compute nodes in one folder: development only. Each custodian starts its own as a process of the program "node"
// and hands it its keys through a pipe; the three meet on sockets in a temporary folder. In production they run at three
// bodies, and nothing in the protocol changes.

// nodeStall is how long a node waits for a peer.
const nodeStall = 60

// nodeRunner is one custodian's.
type nodeRunner struct {
	h    *Home
	name string
	own  *store.Store
}

// identifyNode implements lab.Config.NodeProgram.
func (h *Home) identifyNode(context.Context) (enclave.Digest, string, error) {
	d, err := h.node.ComputeDigest()
	if err == nil && (d.IsZero() || h.Production) {
		err = fmt.Errorf("node program %s: %w: joint jobs need three nodes (in production, at three bodies)", h.node.ComputeProgram(), fs.ErrNotExist)
	}
	return d, "three processes (development only)", err
}

// Run implements release.Node.
func (n *nodeRunner) Run(ctx context.Context, job release.NodeJob) (*mpc.Output, *release.Transcript, error) {
	in := nodejob.Job{Plan: job.Plan, Party: job.Party, Program: *job.Program, NoiseKey: job.NoiseKey, Blobs: map[string]string{}, Network: "unix", StallSeconds: nodeStall}
	for i, s := range job.Sources {
		in.Sources = append(in.Sources, nodejob.Source{Keyset: s.Keyset, Layout: s.Layout, Keys: s.Keys})
		for _, c := range job.Program.Tables[i].Columns {
			if v := s.Layout.Find(c.Name); v >= 0 {
				d := s.Layout.Vectors[v].Blob
				in.Blobs[d.String()] = n.own.Path(d)
			}
		}
	}
	var err error
	for i, name := range job.Nodes {
		if in.Pins[i], err = n.h.nodePin(name); err != nil {
			return nil, nil, err
		}
	}
	if in.Certificate, in.Key, err = n.h.nodeCertificate(n.name); err != nil {
		return nil, nil, err
	}
	// Socket names have a length limit that a lab's folder may exceed.
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("yz-%s-%s", canon.Sum([]byte(n.h.Dir)).Short(), job.Plan.Short()))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, fmt.Errorf("making a folder for sockets: %w", err)
	}
	in.Listen, in.Next = filepath.Join(dir, fmt.Sprint(job.Party)), filepath.Join(dir, fmt.Sprint((job.Party+1)%mpc.Nodes))
	if err := os.Remove(in.Listen); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("removing an old socket: %w", err)
	}
	defer os.Remove(dir) // the last of the three finds it empty
	defer os.Remove(in.Listen)
	res, err := n.start(ctx, in)
	if err != nil {
		return nil, nil, err
	}
	return &res.Output, &release.Transcript{SentNext: res.SentNext, SentPrev: res.SentPrev, ReceivedNext: res.ReceivedNext, ReceivedPrev: res.ReceivedPrev, SentBytes: res.SentBytes}, nil
}

func (n *nodeRunner) start(ctx context.Context, in nodejob.Job) (*nodejob.Result, error) {
	data, err := json.Marshal(in)
	if err != nil {
		return nil, fmt.Errorf("starting node: %w", err)
	}
	defer clear(data)
	cmd := exec.CommandContext(ctx, n.h.node.ComputeProgram())
	cmd.Env = []string{"TMPDIR=" + os.TempDir()}
	cmd.Stdin = bytes.NewReader(data)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Run(); err != nil {
		lines := strings.Split(strings.TrimSpace(said.String()), "\n")
		return nil, fmt.Errorf("node of %q: %w: %s", n.name, err, lines[len(lines)-1])
	}
	if n.h.opts.NodeLog != nil {
		n.h.opts.NodeLog(n.name, said.String())
	}
	var res nodejob.Result
	if err := json.Unmarshal(out.Bytes(), &res); err != nil {
		return nil, fmt.Errorf("node of %q: its answer: %w", n.name, err)
	}
	return &res, nil
}

// nodeCertificate is the custodian's node's own, made at first use. Peers know its key by its pin.
func (h *Home) nodeCertificate(custodian string) (cert, key []byte, err error) {
	dir := h.path("custodians", custodian)
	certPath, keyPath := filepath.Join(dir, "node.crt"), filepath.Join(dir, "node.key")
	h.nodes.Lock()
	defer h.nodes.Unlock()
	cert, err = os.ReadFile(certPath)
	if err == nil {
		key, err = os.ReadFile(keyPath)
		return cert, key, err
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("node certificate of %q: %w", custodian, err)
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("node certificate of %q: %w", custodian, err)
	}
	// Pinned by its key: dates and names say nothing, so they never expire.
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: custodian}, NotBefore: time.Unix(0, 0), NotAfter: time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		return nil, nil, fmt.Errorf("node certificate of %q: %w", custodian, err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, fmt.Errorf("node certificate of %q: %w", custodian, err)
	}
	cert, key = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})
	return cert, key, errors.Join(durable.WriteFile(keyPath, key, 0o600), durable.WriteFile(certPath, cert, 0o644))
}

func (h *Home) nodePin(custodian string) (link.Pin, error) {
	cert, key, err := h.nodeCertificate(custodian)
	if err != nil {
		return link.Pin{}, err
	}
	defer clear(key)
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return link.Pin{}, fmt.Errorf("node certificate of %q: %w", custodian, err)
	}
	return link.PinOf(pair)
}
