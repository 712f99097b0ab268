package release

import (
	"crypto/ed25519"
	"errors"
	"slices"
	"time"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/mpc"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/operators"
)

// BuildFunc rebuilds a plan from what it rests on. It is sandbox/plan.Build, handed in so that imports go one way; it
// must be pure.
type BuildFunc func(q Question) (*enclave.Plan, error)

// Question is everything a plan is a function of.
type Question struct {
	Query          string
	EpsilonMicro   int64
	Grant          *operators.Grant
	GrantDigest    enclave.Digest
	Keyset         *enclave.Keyset
	KeysetDigest   enclave.Digest
	Manifest       *enclave.Manifest
	ManifestDigest enclave.Digest
	Others         []Other // datasets of JOIN
}

// Other is one more dataset of a join.
type Other struct {
	Keyset         *enclave.Keyset
	KeysetDigest   enclave.Digest // lineage
	Dealing        enclave.Digest // Keyset itself
	Manifest       *enclave.Manifest
	ManifestDigest enclave.Digest
}

// Dossier is a bundle that was checked: parsed artefacts that fit together.
type Dossier struct {
	Roster   *operators.Roster
	Grant    operators.Grant
	Keyset   enclave.Keyset
	Manifest enclave.Manifest
	Layout   *enclave.Layout
	Plan     enclave.Plan
	Receipt  enclave.Receipt
	Cells    []enclave.Cell
	Terms    []enclave.Term

	PlanDigest enclave.Digest
	KeysetSum  enclave.Digest     // lineage: the first keyset, which manifest, blobs and ledgers name
	Dealing    enclave.Digest     // Keyset itself: the first one, or the refresh of the plan's epoch
	Others     []Other            // of a join
	Program    *mpc.Program       // of a joint plan; Layout is then nil
	View       *enclave.Manifest  // what Cells and Tabulate speak of: the manifest itself, or the view of a joint plan
	Checkpoint enclave.Checkpoint // latest that a proof led to
	CheckText  string
	Keys       enclave.LogKeys

	Collection *enclave.Collection // of a batch of a collection, which has neither manifest nor plan nor receipt
	Delivery   enclave.Delivery    // of the batch

	shown map[enclave.Digest]bool // statements that the dossier shows
}

// Check verifies everything about a job that signatures, pure rules and the log can show, at the given time: the whole
// chain up to the Receipt. Custodians run it before they take part and anyone may run it offline afterwards. It does
// not execute the plan. The error is a *Refusal without a custodian's name.
func Check(b *enclave.Bundle, root ed25519.PublicKey, build BuildFunc, now time.Time) (*Dossier, error) {
	d := &Dossier{PlanDigest: b.Plan.Digest(), shown: shown(b.Statements)}
	steps := []func(*enclave.Bundle) *Refusal{
		func(b *enclave.Bundle) *Refusal { return d.roster(b, root) },
		d.data,
		func(b *enclave.Bundle) *Refusal { return d.grant(b, root, now) },
		func(b *enclave.Bundle) *Refusal { return d.plan(b, build) },
		d.receipt,
		d.logged,
	}
	for _, step := range steps {
		if r := step(b); r != nil {
			return nil, r
		}
	}
	return d, nil
}

func shown(statements []canon.Signed) map[enclave.Digest]bool {
	out := map[enclave.Digest]bool{}
	for _, s := range statements {
		out[s.Digest()] = true
	}
	return out
}

func (d *Dossier) roster(b *enclave.Bundle, root ed25519.PublicKey) *Refusal {
	r, err := operators.OpenRoster(b.Roster, root)
	if err != nil {
		return refuse(ErrDossier, "roster").Because(err)
	}
	d.Roster = r
	if d.Keys, err = LogKeys(r); err != nil {
		return refuse(ErrDossier, "roster's log keys").Because(err)
	}
	return nil
}

// data checks manifests and keysets: both of each dataset signed by a steward of one and the same agency.
func (d *Dossier) data(b *enclave.Bundle) *Refusal {
	var claimed enclave.Plan
	if err := b.Plan.Open(enclave.KindPlan, &claimed); err != nil {
		return refuse(ErrDossier, "plan").Because(err)
	}
	first, r := d.dataset(b, b.Manifest, claimed.Epoch)
	if r != nil {
		return r
	}
	d.Manifest, d.Keyset, d.KeysetSum, d.Dealing, d.View = *first.Manifest, *first.Keyset, first.KeysetDigest, first.Dealing, first.Manifest
	for i, signed := range b.Manifests {
		if claimed.Joint == nil || i+1 >= len(claimed.Joint.Sources) {
			return refuse(ErrPlanMismatch, "dossier has %d more manifests than the plan has datasets", len(b.Manifests)-i)
		}
		other, r := d.dataset(b, signed, claimed.Joint.Sources[i+1].Epoch)
		if r != nil {
			return r
		}
		d.Others = append(d.Others, *other)
	}
	return nil
}

// dataset checks one manifest and finds the keyset that the plan was made for: of the manifest's lineage, the one of the
// plan's epoch. That it is the latest is for custodians to judge, who follow the log.
func (d *Dossier) dataset(b *enclave.Bundle, manifest canon.Signed, epoch int64) (*Other, *Refusal) {
	out := &Other{Manifest: &enclave.Manifest{}, ManifestDigest: manifest.Digest()}
	by, err := d.Roster.VerifyPast(manifest, enclave.KindManifest, operators.RoleSteward)
	if err != nil {
		return nil, refuse(ErrDossier, "manifest").Because(err)
	}
	if err := manifest.Open(enclave.KindManifest, out.Manifest); err != nil {
		return nil, refuse(ErrDossier, "manifest").Because(err)
	}
	m := out.Manifest
	if by.Body != m.Owner {
		return nil, refuse(ErrForeignKeyset, "manifest of %q was signed by %q of %q", m.Owner, by.Name, by.Body)
	}
	out.KeysetDigest = m.Keyset
	var r *Refusal
	out.Keyset, out.Dealing, r = d.keyset(b, m.Keyset, m.Owner, m.Dataset, epoch)
	return out, r
}

// datasets lists what the plan reads, its own dataset first.
func (d *Dossier) datasets() []Other {
	return append([]Other{{Keyset: &d.Keyset, KeysetDigest: d.KeysetSum, Dealing: d.Dealing, Manifest: &d.Manifest}}, d.Others...)
}

// keyset finds the keyset of an epoch (0 = the latest) in a lineage that an agency calls its own for a dataset.
func (d *Dossier) keyset(b *enclave.Bundle, origin enclave.Digest, owner, dataset string, epoch int64) (*enclave.Keyset, enclave.Digest, *Refusal) {
	var own []enclave.Signed // those that the owner signed
	for _, signed := range b.Keysets {
		by, err := d.Roster.VerifyPast(signed, enclave.KindKeyset, operators.RoleSteward)
		if err != nil {
			return nil, origin, refuse(ErrDossier, "keyset").Because(err)
		}
		if by.Body == owner {
			own = append(own, signed)
		} else if signed.Digest() == origin {
			return nil, origin, refuse(ErrForeignKeyset, "dataset %q of %q names keyset %s, which %q of %q signed", dataset, owner, origin.Short(), by.Name, by.Body)
		}
	}
	ks, dealing, err := enclave.Lineage(origin, own, epoch)
	if errors.Is(err, enclave.ErrNotFound) {
		return nil, origin, refuse(ErrDossier, "keyset %s of dataset %q, epoch %d, is not in the dossier", origin, dataset, epoch)
	}
	if err != nil {
		return nil, origin, refuse(ErrForeignKeyset, "keyset").Because(err)
	}
	if ks.Owner != owner || ks.Dataset != dataset {
		return nil, origin, refuse(ErrForeignKeyset, "dataset %q of %q names keyset %s, which is for dataset %q of %q", dataset, owner, origin.Short(), ks.Dataset, ks.Owner)
	}
	return ks, dealing, nil
}

// owners maps every dataset of the scenario to the agency that signed its keyset.
func (d *Dossier) owners(b *enclave.Bundle) (map[string]string, *Refusal) {
	out := map[string]string{}
	for _, signed := range b.Keysets {
		var ks enclave.Keyset
		by, err := d.Roster.VerifyPast(signed, enclave.KindKeyset, operators.RoleSteward)
		if err == nil {
			err = signed.Open(enclave.KindKeyset, &ks)
		}
		if err != nil {
			return nil, refuse(ErrDossier, "keyset %s", signed.Digest().Short()).Because(err)
		}
		if by.Body != ks.Owner {
			return nil, refuse(ErrForeignKeyset, "keyset of %q was signed by %q of %q", ks.Owner, by.Name, by.Body)
		}
		if other, ok := out[ks.Dataset]; ok && other != ks.Owner {
			return nil, refuse(ErrForeignKeyset, "two agencies, %q and %q, claim dataset %q", other, ks.Owner, ks.Dataset)
		}
		out[ks.Dataset] = ks.Owner
	}
	return out, nil
}

func (d *Dossier) grant(b *enclave.Bundle, root ed25519.PublicKey, now time.Time) *Refusal {
	var claimed operators.Grant
	if err := b.Grant.Open(operators.KindGrant, &claimed); err != nil {
		return refuse(ErrDossier, "grant").Because(err)
	}
	analyst, err := d.Roster.Signer(b.Plan, enclave.KindPlan, operators.RoleAnalyst)
	if err != nil {
		return refuse(ErrUnauthorized, "plan must be signed by the analyst who asks").Because(err)
	}
	owners, r := d.owners(b)
	if r != nil {
		return r
	}
	if r := d.authorize(b, root, owners, operators.Request{Operator: claimed.Operator, Scenario: claimed.Scenario, Analyst: analyst.Name, Now: now}); r != nil {
		return r
	}
	if sum := canon.DigestOf(d.Grant); sum != b.Grant.Digest() {
		return refuse(ErrUnauthorized, "grant %s is not what the statements give, %s", b.Grant.Digest().Short(), sum.Short())
	}
	return nil
}

// authorize concludes from the statements, and from who owns which dataset, what is granted.
func (d *Dossier) authorize(b *enclave.Bundle, root ed25519.PublicKey, owners map[string]string, r operators.Request) *Refusal {
	g, err := operators.Authorize(operators.Statements{Roster: b.Roster, RootKey: root, All: b.Statements, Owners: owners}, r)
	if err != nil {
		return refuse(ErrUnauthorized, "scenario %s", r.Scenario.Short()).Because(err)
	}
	d.Grant = *g
	return nil
}

func (d *Dossier) plan(b *enclave.Bundle, build BuildFunc) *Refusal {
	if err := b.Plan.Open(enclave.KindPlan, &d.Plan); err != nil {
		return refuse(ErrDossier, "plan").Because(err)
	}
	again, err := build(Question{Query: d.Plan.Query, EpsilonMicro: d.Plan.AskedMicro, Grant: &d.Grant, GrantDigest: b.Grant.Digest(),
		Keyset: &d.Keyset, KeysetDigest: d.KeysetSum, Manifest: &d.Manifest, ManifestDigest: b.Manifest.Digest(), Others: d.Others})
	if err != nil {
		return refuse(ErrPlanMismatch, "query is refused here").Because(err)
	}
	if sum := canon.DigestOf(again); sum != d.PlanDigest {
		return refuse(ErrPlanMismatch, "plan %s, rebuilt %s", d.PlanDigest.Short(), sum.Short())
	}
	if d.Plan.Joint != nil {
		return d.joint()
	}
	if d.Layout, _ = d.Manifest.Layout(d.Plan.Layout); d.Layout == nil {
		return refuse(ErrPlanMismatch, "manifest has no layout %q", d.Plan.Layout)
	}
	if d.Cells, d.Terms, err = d.Plan.Expand(&d.Manifest); err != nil {
		return refuse(ErrPlanMismatch, "plan").Because(err)
	}
	return nil
}

func (d *Dossier) receipt(b *enclave.Bundle) *Refusal {
	if _, err := d.Roster.VerifyPast(b.Receipt, enclave.KindReceipt, operators.RoleNode); err != nil {
		return refuse(ErrReceipt, "signature").Because(err)
	}
	if err := b.Receipt.Open(enclave.KindReceipt, &d.Receipt); err != nil {
		return refuse(ErrReceipt, "content").Because(err)
	}
	var inputs []enclave.Digest
	if d.Program != nil {
		inputs = d.jointInputs()
	} else {
		inputs, _ = d.Layout.Inputs(d.Terms)
	}
	switch {
	case d.Receipt.Plan != d.PlanDigest:
		return refuse(ErrReceipt, "it is for plan %s, not %s", d.Receipt.Plan.Short(), d.PlanDigest.Short())
	case !slices.Contains(d.Grant.Workers, d.Receipt.Worker):
		return refuse(ErrReceipt, "worker %s was not approved for the scenario; approved are %v", d.Receipt.Worker, d.Grant.Workers)
	case d.Receipt.Terms != int64(len(d.Terms)):
		return refuse(ErrReceipt, "it has %d terms, the plan %d", d.Receipt.Terms, len(d.Terms))
	case d.Program != nil && d.Receipt.Output != canon.Sum(d.Plan.Joint.Program):
		return refuse(ErrReceipt, "it announces another program than the plan's")
	case !slices.Equal(d.Receipt.Inputs, inputs):
		return refuse(ErrReceipt, "its inputs are not the plan's")
	}
	return nil
}

// logged insists on an entry of the right type for everything the job rests on.
func (d *Dossier) logged(b *enclave.Bundle) *Refusal {
	need := map[enclave.Digest]string{b.Manifest.Digest(): enclave.EntryManifest, d.PlanDigest: enclave.EntryPlan, b.Receipt.Digest(): enclave.EntryReceipt}
	for _, s := range b.Manifests {
		need[s.Digest()] = enclave.EntryManifest
	}
	return d.proven(b, need)
}

// proven insists on proofs of the entries needed, and of those behind every grant: roster, keysets and statements.
func (d *Dossier) proven(b *enclave.Bundle, need map[enclave.Digest]string) *Refusal {
	proven, r := d.proofs(b)
	if r != nil {
		return r
	}
	need[b.Roster.Digest()] = enclave.EntryRoster
	for _, s := range b.Keysets {
		need[s.Digest()] = enclave.EntryKeyset
	}
	for _, s := range append([]enclave.Digest{d.Grant.Scenario, d.Grant.License}, append(d.Grant.Consents, d.Grant.Approvals...)...) {
		need[s] = enclave.EntryStatement
	}
	for subject, kind := range need {
		if !proven[entryKey{subject, kind}] {
			return refuse(ErrNotLogged, "no proof that %s %s was logged", kind, subject)
		}
	}
	return nil
}

type entryKey struct {
	subject enclave.Digest
	kind    string
}

func (d *Dossier) proofs(b *enclave.Bundle) (map[entryKey]bool, *Refusal) {
	proven := map[entryKey]bool{}
	opened := map[string]enclave.Checkpoint{} // by the text whose signatures were verified
	for _, p := range b.Proofs {
		cp, ok := opened[p.Checkpoint]
		var err error
		if !ok {
			cp, err = d.Keys.Open(p.Checkpoint)
			opened[p.Checkpoint] = cp
		}
		var e enclave.Entry
		if err == nil {
			e, err = p.Under(cp)
		}
		if err != nil {
			return nil, refuse(ErrNotLogged, "proof of entry %d", p.Index).Because(err)
		}
		proven[entryKey{e.Subject, e.Type}] = true
		if cp.Size > d.Checkpoint.Size {
			d.Checkpoint, d.CheckText = cp, p.Checkpoint
		}
	}
	return proven, nil
}

// CheckRelease verifies a finished release as anyone can, offline: the chain at the time of the release, a quorum of
// custodians' signatures, and the release's own log entry.
func CheckRelease(b *enclave.Bundle, root ed25519.PublicKey, build BuildFunc) (*Dossier, *enclave.Release, error) {
	var rel enclave.Release
	if err := b.Release.Open(enclave.KindRelease, &rel); err != nil {
		return nil, nil, refuse(ErrRelease, "content").Because(err)
	}
	d, err := Check(b, root, build, rel.Made.Time)
	if err != nil {
		return nil, nil, err
	}
	if rel.Plan != d.PlanDigest || rel.Receipt != b.Receipt.Digest() || rel.Grant != b.Grant.Digest() || rel.Manifest != b.Manifest.Digest() ||
		rel.Keyset != d.KeysetSum || rel.Scenario != d.Plan.Scenario || rel.Operator != d.Plan.Operator || rel.Job != d.Receipt.Job {
		return nil, nil, refuse(ErrRelease, "it names other artefacts than the bundle holds")
	}
	var signers []string
	for _, name := range d.Keyset.Custodians {
		p, ok := d.Roster.Find(name)
		if ok && p.Role == operators.RoleCustodian && b.Release.Verify(name, p.Key()) == nil {
			signers = append(signers, name)
		}
	}
	if len(signers) < d.Keyset.Quorum {
		return nil, nil, refuse(ErrRelease, "%d valid custodian signatures, %d are needed", len(signers), d.Keyset.Quorum)
	}
	proven, r := d.proofs(b)
	if r != nil {
		return nil, nil, r
	}
	if !proven[entryKey{b.Release.Digest(), enclave.EntryRelease}] {
		return nil, nil, refuse(ErrNotLogged, "no proof that release %s was logged", b.Release.Digest())
	}
	return d, &rel, nil
}
