package release

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/he/evaluator"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/enclave/mpc"
	"yingzhou.dev/lab/enclave/mpc/shares"
	"yingzhou.dev/lab/enclave/program"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/durable"
	"yingzhou.dev/lab/internal/failpoint"
)

// Joint plans: three nodes compute on shares, each driven by the custodian of its body. The custodians check the dossier,
// commit the charge and answer to the gate exactly as for ciphertexts; only what stands between charge and table differs.
// A share of a ciphertext is one deterministic function and is kept; a node's output belongs to one run of all three, so
// a repeated request runs again. That opens nothing new: noise is a function of the question, so the same values come
// out, in other shares.

// Node runs a custodian's compute node.
type Node interface {
	// Check holds what a job's receipt says of the nodes, their program and isolation, against this body's own. Its error
	// is a *Refusal where they differ.
	Check(ctx context.Context, r *enclave.Receipt) error
	// Run evaluates a program in step with the nodes of the other custodians of the job, which run it at the same time.
	Run(ctx context.Context, job NodeJob) (*mpc.Output, *Transcript, error)
}

// NodeJob is what a node needs. It holds keys: of the two components that this node holds, and of its noise.
type NodeJob struct {
	Plan     enclave.Digest
	Party    int
	Nodes    []string // custodians whose nodes take part, by party
	Program  *mpc.Program
	Sources  []NodeSource
	NoiseKey []byte
}

// NodeSource is one dataset as a node reads it.
type NodeSource struct {
	Table  string
	Keyset enclave.Digest
	Layout enclave.Layout
	Keys   [2]shares.Key
}

// Transcript says what a node sent and received, by digest and size. What one sent is what its peer received.
type Transcript struct {
	SentNext, SentPrev, ReceivedNext, ReceivedPrev enclave.Digest
	SentBytes                                      int64
	Rounds                                         int64
}

// KindJointOutput is what a node computed, signed by its custodian.
const KindJointOutput = "yingzhou.joint-output.v1"

// JointOutput travels between custodians only: whoever has two of them has the (noised) values.
type JointOutput struct {
	By           string         `json:"by"`
	Plan         enclave.Digest `json:"plan"`
	Output       []byte         `json:"output"` // mpc.Output as JSON: components have 64 bits, beyond canonical numbers
	SentNext     enclave.Digest `json:"sent_next"`
	SentPrev     enclave.Digest `json:"sent_prev"`
	ReceivedNext enclave.Digest `json:"received_next"`
	ReceivedPrev enclave.Digest `json:"received_prev"`
	SentBytes    int64          `json:"sent_bytes"`
}

// joint completes the dossier of a joint plan, which has rebuilt to the same bytes.
func (d *Dossier) joint() *Refusal {
	d.Program = &mpc.Program{}
	if err := canon.Unmarshal(d.Plan.Joint.Program, d.Program); err != nil {
		return refuse(ErrPlanMismatch, "program").Because(err)
	}
	manifests := []*enclave.Manifest{&d.Manifest}
	for _, o := range d.Others {
		manifests = append(manifests, o.Manifest)
	}
	d.View = enclave.View(manifests)
	var err error
	if d.Cells, d.Terms, err = d.Plan.Expand(d.View); err != nil {
		return refuse(ErrPlanMismatch, "plan").Because(err)
	}
	return nil
}

// source is one dataset of a joint plan with its layout.
func (d *Dossier) source(i int) (keyset enclave.Digest, l *enclave.Layout, err error) {
	m := &d.Manifest
	if i > 0 {
		m = d.Others[i-1].Manifest
	}
	l, ok := m.Layout(d.Plan.Joint.Sources[i].Layout)
	if !ok {
		return keyset, nil, fmt.Errorf("dataset %q has no layout %q", m.Dataset, d.Plan.Joint.Sources[i].Layout)
	}
	return m.Keyset, l, l.CheckShares()
}

// jointInputs lists the blobs that the program reads, in the order of its tables.
func (d *Dossier) jointInputs() []enclave.Digest {
	var out []enclave.Digest
	for i, t := range d.Program.Tables {
		_, l, err := d.source(i)
		if err != nil {
			continue // the node refuses it
		}
		for _, c := range t.Columns {
			if v := l.Find(c.Name); v >= 0 {
				out = append(out, l.Vectors[v].Blob)
			}
		}
	}
	return out
}

// allNodes insists that the custodians who take part are those among whom the data was split.
func (d *Dossier) allNodes(active []string) *Refusal {
	for i := range d.Plan.Joint.Sources {
		_, l, err := d.source(i)
		if err != nil {
			return refuse(ErrPlanMismatch, "source %d", i).Because(err)
		}
		if nodes := slices.Sorted(slices.Values(l.Shares.Nodes)); !slices.Equal(nodes, active) {
			return refuse(ErrNotCommitted, "active custodians are %q; dataset %q is split among %q, and all three must take part", active, d.Plan.Joint.Sources[i].Dataset, nodes)
		}
	}
	return nil
}

// prepareJoint mirrors the blobs and names the questions. What is charged and opened under a noise key is the question
// itself, so the key stands for the ciphertext too.
func (c *Custodian) prepareJoint(ctx context.Context, d *Dossier) (*session, error) {
	if c.cfg.Node == nil || c.cfg.Open == nil {
		return nil, refuse(ErrUnauthorized, "this custodian's body runs no compute node")
	}
	commitments := mpc.Commitments{}
	for i, t := range d.Program.Tables {
		keyset, l, err := d.source(i)
		if err != nil {
			return nil, refuse(ErrPlanMismatch, "source %d", i).Because(err)
		}
		var vectors []int
		var names []string
		for _, col := range t.Columns {
			v := l.Find(col.Name)
			if v < 0 {
				return nil, refuse(ErrPlanMismatch, "layout %q has no column %q", l.Name, col.Name)
			}
			vectors, names = append(vectors, v), append(names, col.Name)
		}
		if err := c.cfg.Mirror.Fetch(ctx, keyset, d.Keyset.Params, l, vectors); err != nil {
			if errors.Is(err, enclave.ErrBlob) {
				return nil, refuse(ErrForeignKeyset, "a blob is not what the manifest says").Because(err)
			}
			return nil, fmt.Errorf("mirroring inputs: %w", err)
		}
		of, err := shares.Commitments(l, t.Name, names)
		if err != nil {
			return nil, refuse(ErrPlanMismatch, "source %d", i).Because(err)
		}
		for name, parts := range of {
			commitments[name] = parts
		}
	}
	byMeasure, err := JointNoiseKeys(&d.Plan, d.Program, commitments)
	if err != nil {
		return nil, refuse(ErrPlanMismatch, "program").Because(err)
	}
	s := &session{own: map[int]*ShareSet{}}
	for _, t := range d.Terms {
		s.keys = append(s.keys, byMeasure[t.Measure])
		s.cts = append(s.cts, evaluator.Ciphertext{Digest: byMeasure[t.Measure]})
	}
	return s, nil
}

// JointNoiseKeys names the question behind each measure of a joint plan in its normal form: the columns by what they are
// computed from, down to the commitments to the dealt columns (mpc.Questions), with the noise, the cohort and the keys'
// epochs. Two plans that ask the same of the same data have the same keys, whatever they call things; plans that differ in
// one cell, one constant or the noise have different ones.
func JointNoiseKeys(p *enclave.Plan, prog *mpc.Program, commitments mpc.Commitments) ([]enclave.Digest, error) {
	questions, err := prog.Questions(commitments)
	if err != nil {
		return nil, err
	}
	if len(prog.Releases) != 1 {
		return nil, fmt.Errorf("a plan has one release, and this program has %d", len(prog.Releases))
	}
	r := prog.Releases[0]
	form := struct {
		Kind     string           `json:"kind"`
		Sources  []enclave.Digest `json:"sources"` // keysets, with their epochs below
		Epochs   []int64          `json:"epochs"`
		Cells    []enclave.Digest `json:"cells"`
		Who      enclave.Digest   `json:"who"`
		Least    int64            `json:"min_count"`
		Moment   enclave.Moment   `json:"moment"`
		Column   enclave.Digest   `json:"column,omitzero"`
		Fraction []int64          `json:"quantile,omitempty"` // fraction, min, max, unit
		Rows     int64            `json:"entity_rows"`
		Delta    int64            `json:"delta"`
		Epsilon  int64            `json:"epsilon_micro"`
		// Counted is the ε of the count, by which the cells of every other measure were chosen.
		Counted int64 `json:"count_epsilon_micro"`
	}{Kind: "yingzhou.joint-noise-key.v1", Sources: []enclave.Digest{}, Epochs: []int64{}, Cells: []enclave.Digest{}, Who: questions[r.Who], Least: r.MinCount, Rows: p.EntityRows,
		Counted: p.Measures[0].EpsilonMicro}
	for _, s := range p.Joint.Sources {
		form.Sources, form.Epochs = append(form.Sources, s.Keyset), append(form.Epochs, s.Epoch)
	}
	for _, c := range r.Cells {
		form.Cells = append(form.Cells, questions[c])
	}
	sums, quantiles := r.Sums, r.Quantiles
	var out []enclave.Digest
	for i, me := range p.Measures {
		f := form
		f.Moment, f.Delta, f.Epsilon = me.Moment, me.Delta, me.EpsilonMicro
		switch letter, _ := me.Moment.Split(); {
		case i == 0:
		case letter == "t" && len(quantiles) > 0:
			q := quantiles[0]
			quantiles = quantiles[1:]
			f.Column, f.Fraction, f.Moment = questions[q.Column], append(slices.Clone(q.Fractions), q.Min, q.Max, q.Unit), "t"
		case letter != "t" && len(sums) > 0:
			f.Column, f.Moment = questions[sums[0].Column], "s" // whatever it is called, it is the sum of this column
			sums = sums[1:]
		default:
			return nil, fmt.Errorf("measure %d (%q) is not in the program's release", i, me.Moment)
		}
		out = append(out, canon.DigestOf(f))
	}
	if len(sums)+len(quantiles) > 0 {
		return nil, errors.New("the program's release has more than the plan's measures")
	}
	return out, nil
}

// shareJoint runs this custodian's node and signs what it computed. It is called under c.mu.
func (c *Custodian) shareJoint(ctx context.Context, b *enclave.Bundle, s *session, stage int, active []string) (canon.Signed, error) {
	d := s.dossier
	if stage != 1 {
		return canon.Signed{}, fmt.Errorf("a joint plan has no stage %d", stage)
	}
	job, err := c.nodeJob(ctx, d)
	if err != nil {
		return canon.Signed{}, err
	}
	if err := c.cfg.Node.Check(ctx, &d.Receipt); err != nil {
		return canon.Signed{}, err
	}
	// Other jobs need not wait for the nodes, which may take minutes. What was decided before is decided again after.
	c.mu.Unlock()
	out, tr, err := c.cfg.Node.Run(ctx, job)
	clear(job.NoiseKey)
	for i := range job.Sources {
		clear(job.Sources[i].Keys[:])
	}
	c.mu.Lock()
	if err != nil {
		return canon.Signed{}, fmt.Errorf("compute node of custodian %q: %w", c.Name(), err)
	}
	if s, err = c.examine(ctx, b); err == nil {
		err = c.committed(ctx, s, active)
	}
	if err != nil {
		return canon.Signed{}, err
	}
	body, err := json.Marshal(out)
	if err != nil {
		return canon.Signed{}, fmt.Errorf("compute node of custodian %q: %w", c.Name(), err)
	}
	signed, err := keys.SealWith(c.cfg.Signer, KindJointOutput, JointOutput{By: c.Name(), Plan: d.PlanDigest, Output: body,
		SentNext: tr.SentNext, SentPrev: tr.SentPrev, ReceivedNext: tr.ReceivedNext, ReceivedPrev: tr.ReceivedPrev, SentBytes: tr.SentBytes})
	if err != nil {
		return canon.Signed{}, err
	}
	entry := enclave.Entry{Type: enclave.EntryShare, Subject: signed.Digest(), By: c.Name(), Job: d.Receipt.Job, At: canon.At(c.cfg.Clock())}
	proof, err := c.announce(ctx, entry)
	if err == nil {
		err = c.catchUp(ctx, d, proof)
	}
	if err != nil {
		return canon.Signed{}, err
	}
	failpoint.Hit(failpoint.SharesLogged)
	path := filepath.Join(c.cfg.Dir, "shares", fmt.Sprintf("%x-joint.json", d.PlanDigest[:]))
	if err := durable.WriteFile(path, canon.MustMarshal(signed), 0o600); err != nil {
		return canon.Signed{}, err
	}
	failpoint.Hit(failpoint.SharesStored)
	return signed, nil
}

// nodeJob gathers what this custodian's node needs: the keys of its components, and its noise key.
func (c *Custodian) nodeJob(ctx context.Context, d *Dossier) (NodeJob, error) {
	job, sources := NodeJob{Plan: d.PlanDigest, Program: d.Program}, d.datasets()
	for i, t := range d.Program.Tables {
		keyset, l, err := d.source(i)
		if err != nil {
			return job, refuse(ErrPlanMismatch, "source %d", i).Because(err)
		}
		if i == 0 {
			job.Nodes, job.Party = l.Shares.Nodes, slices.Index(l.Shares.Nodes, c.Name())
		}
		if job.Party < 0 || !slices.Equal(l.Shares.Nodes, job.Nodes) {
			return job, refuse(ErrForeignKeyset, "dataset %q was not split for this custodian, or for other nodes than the first", t.Name)
		}
		secret, err := c.nodeSecret(ctx, sources[i].Dealing, sources[i].Keyset)
		if err != nil {
			return job, err
		}
		k, err := shares.Unlock(keyset, l, job.Party, secret, c.cfg.Open)
		clear(secret[:])
		if err != nil {
			return job, refuse(ErrForeignKeyset, "component keys of dataset %q do not open: if a custodian was replaced, its owner seals it anew", t.Name).Because(err)
		}
		job.Sources = append(job.Sources, NodeSource{Table: t.Name, Keyset: keyset, Layout: *l, Keys: k})
	}
	noise, err := c.ownNoise(ctx, d, "node noise")
	job.NoiseKey = noise
	return job, err
}

// nodeSecret gathers the lineage secrets of the pieces that this custodian holds of a keyset.
func (c *Custodian) nodeSecret(ctx context.Context, dealing enclave.Digest, ks *enclave.Keyset) (shares.NodeSecret, error) {
	var lineage [][]byte
	for _, i := range c.held(ks) {
		held, err := c.piece(ctx, keys.PieceID{Keyset: dealing, Piece: i})
		if err != nil {
			return shares.NodeSecret{}, err
		}
		defer held.Erase()
		lineage = append(lineage, held.Lineage)
	}
	return shares.NewNodeSecret(lineage), nil
}

// ownNoise is a noise key of this custodian alone: a hash of the PRFs of every piece of the keyset that it holds. Any
// other custodian lacks one of them, as long as a quorum is two; the same question gets the same noise until the epoch
// ends. what is what it is for.
func (c *Custodian) ownNoise(ctx context.Context, d *Dossier, what string) ([]byte, error) {
	h := sha256.New()
	h.Write([]byte("yingzhou " + what + " v1\x00"))
	for _, piece := range c.held(&d.Keyset) {
		part, err := c.cfg.Keys.PRF(ctx, keys.PieceID{Keyset: d.Dealing, Piece: piece}, append([]byte(what+"\x00"), epochContext(d.Keyset.Epoch)...))
		if err != nil {
			return nil, err
		}
		h.Write(part[:])
	}
	return h.Sum(nil), nil
}

// tableJoint checks everyone's output, combines them and tabulates the result.
func (c *Custodian) tableJoint(s *session, active []string, sets []canon.Signed) (*enclave.Table, []bool, error) {
	d := s.dossier
	_, l, err := d.source(0)
	if err != nil {
		return nil, nil, refuse(ErrPlanMismatch, "source 0").Because(err)
	}
	var outs [mpc.Nodes]mpc.Output
	var said [mpc.Nodes]*JointOutput
	for _, signed := range sets {
		var o JointOutput
		err := signed.Open(KindJointOutput, &o)
		if err == nil {
			key, kerr := c.key(o.By)
			if err = kerr; err == nil {
				err = signed.Verify(o.By, key)
			}
		}
		party := slices.Index(l.Shares.Nodes, o.By)
		if err != nil || o.Plan != d.PlanDigest || party < 0 || said[party] != nil {
			return nil, nil, refuse(ErrCrossCheck, "an output of %q is not a node's of this plan, or one of two", o.By).Because(err)
		}
		if err := parseOutput(o.Output, &outs[party]); err != nil {
			return nil, nil, refuse(ErrCrossCheck, "output of %q", o.By).Because(err)
		}
		said[party] = &o
	}
	for i, o := range said {
		if o == nil {
			return nil, nil, refuse(ErrNotCommitted, "outputs came from %d of %q", len(sets), active)
		}
		next := said[(i+1)%mpc.Nodes]
		if next != nil && (o.SentNext != next.ReceivedPrev || o.ReceivedNext != next.SentPrev) {
			return nil, nil, refuse(ErrCrossCheck, "nodes of %q and %q did not see the same messages", o.By, next.By)
		}
	}
	res, err := mpc.Combine(d.Program, outs)
	if err != nil {
		return nil, nil, refuse(ErrCrossCheck, "outputs of %q", active).Because(err)
	}
	keep, rules, values, err := program.FromResult(&d.Plan, d.Program, d.Cells, res)
	if err != nil {
		return nil, nil, refuse(ErrCrossCheck, "outputs of %q", active).Because(err)
	}
	table, err := program.Tabulate(&d.Plan, d.View, program.JointPieces, d.Cells, keep, rules, values)
	return table, keep, err
}

// parseOutput accepts what json.Marshal writes and nothing else.
func parseOutput(data []byte, out *mpc.Output) error {
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("parsing a node's output: %w", err)
	}
	again, err := json.Marshal(out)
	if err != nil || !bytes.Equal(again, data) {
		return fmt.Errorf("parsing a node's output: %w", canon.ErrNotCanonical)
	}
	return nil
}
