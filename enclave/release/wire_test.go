package release_test

import (
	"context"
	"errors"
	"io"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"yingzhou.dev/lab/enclave"
	enclavev1 "yingzhou.dev/lab/enclave/api/v1"
	"yingzhou.dev/lab/enclave/custodian"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/enclave/refusal"
	"yingzhou.dev/lab/enclave/release"
	"yingzhou.dev/lab/enclave/release/service"
	"yingzhou.dev/lab/enclave/seal"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/pki"
	"yingzhou.dev/lab/internal/rpc"
	"yingzhou.dev/lab/operators"
	labfeed "yingzhou.dev/lab/sandbox/feed"
	"yingzhou.dev/lab/sandbox/lab"
)

// table opens what a release sealed to the analyst.
func (w *world) table(rel canon.Signed, sealed []byte) *enclave.Table {
	w.t.Helper()
	plain, err := w.ids["analyst"].Open(keys.TableInfo(rel.Digest()), sealed)
	w.check(err)
	var tab enclave.Table
	w.check(canon.Unmarshal(plain, &tab))
	return &tab
}

func (n *wire) release(b *enclave.Bundle) (*lab.Outcome, error) {
	n.t.Helper()
	return n.gate().Release(n.t.Context(), b, nil)
}

// The whole release over TLS gives what it gives in one process: the same shares to the byte, the same table.
func TestReleaseOverTheWire(t *testing.T) {
	for name, query := range map[string]string{"cube": cubeQuery, "rows": rowsQuery} {
		t.Run(name, func(t *testing.T) {
			w := ready(t)
			b := w.job(query, 2_000_000)
			_, inProcess, err := w.open(b, custodianNames...)
			w.check(err)
			was := map[string][]byte{}
			for _, c := range custodianNames {
				was[c+"/1"], was[c+"/2"] = w.shares(c, b, 1), w.shares(c, b, 2)
				w.forgetShares(c)
			}
			n := networked(w)
			var stages []string
			out, err := n.gate().Release(t.Context(), b, func(s string) { stages = append(stages, s) })
			w.check(err)
			if diff := cmp.Diff([]string{release.StageCommit, release.StageCounts, release.StageValues, release.StageEndorse}, stages); diff != "" {
				t.Errorf("stages (-want +got)\n%s", diff)
			}
			if diff := cmp.Diff(inProcess, w.table(out.Release, out.Table)); diff != "" {
				t.Errorf("table (-in process +over the wire)\n%s", diff)
			}
			for _, c := range custodianNames {
				for stage, key := range map[int]string{1: c + "/1", 2: c + "/2"} {
					if !slices.Equal(w.shares(c, b, stage), was[key]) {
						t.Errorf("shares of %s in stage %d are not byte-identical", c, stage)
					}
				}
			}
			b.Release, b.Proofs = out.Release, append(b.Proofs, out.Proof)
			if _, rel, err := release.CheckRelease(b, w.root.Verify(), build); err != nil || len(rel.Custodians) != 3 {
				t.Errorf("offline verification gives %+v, %v", rel, err)
			}
			for _, c := range custodianNames { // anybody may recheck, over the wire too, with own evidence or a peer's
				by, err := n.client(c).Recheck(t.Context(), b, "")
				if err != nil || by != c {
					t.Errorf("%s rechecks with the evidence of %q: %v", c, by, err)
				}
			}
		})
	}
}

func TestOneCustodianDownAndComingBack(t *testing.T) {
	n := overTheWire(t)
	b := n.job(cubeQuery, 2_000_000)
	n.stop("cust-c")
	out, err := n.release(b)
	n.check(err)
	var rel enclave.Release
	n.check(out.Release.Open(enclave.KindRelease, &rel))
	if diff := cmp.Diff([]string{"cust-a", "cust-b"}, rel.Custodians); diff != "" {
		t.Errorf("custodians (-want +got)\n%s", diff)
	}
	n.start("cust-c")
	b.Release, b.Proofs = out.Release, append(b.Proofs, out.Proof)
	by, err := n.client("cust-c").Recheck(t.Context(), b, "") // it was away: it fetches a peer's evidence
	if err != nil || by == "cust-c" {
		t.Errorf("the custodian that was away rechecks with the evidence of %q: %v", by, err)
	}
	for _, name := range []string{"cust-a", "cust-b"} { // whoever leads: it dials one that was away every 3 s at most
		n.check(eventually(t, func() error { _, err := n.nodes[name].peers["cust-c"].Seen(t.Context()); return err }))
	}
	out, err = n.release(n.job(rowsQuery, 1_000_000))
	n.check(err)
	n.check(out.Release.Open(enclave.KindRelease, &rel))
	if len(rel.Custodians) != 3 {
		t.Errorf("after its return %q took part", rel.Custodians)
	}
	// Two down: nothing happens, it is said that nothing was refused, and the job goes on when one is back.
	n.stop("cust-b")
	n.stop("cust-c")
	third := n.job("SELECT COUNT(*) FROM water", 500_000)
	_, err = n.release(third)
	var quorum *refusal.QuorumError
	if !errors.As(err, &quorum) || quorum.Have >= quorum.Need {
		t.Errorf("with two custodians down: %v", err)
	}
	if reason, final := n.gate().Refused(err); final {
		t.Errorf("two custodians that are down count as a refusal: %s", reason)
	}
	n.start("cust-b")
	n.check(eventually(t, func() error { _, err := n.release(third); return err }))
}

func TestNetworkCutBetweenTwo(t *testing.T) {
	t.Run("labd and a custodian", func(t *testing.T) {
		n := overTheWire(t)
		b := n.job(cubeQuery, 2_000_000)
		n.between(theLab, "cust-a", true)
		out, err := n.release(b) // cust-a cannot announce anything and is left out
		n.check(err)
		first := n.table(out.Release, out.Table)
		n.between(theLab, "cust-a", false)
		n.stop("cust-b")
		n.check(eventually(t, func() (err error) { out, err = n.release(b); return err }))
		if diff := cmp.Diff(first.Rows, n.table(out.Release, out.Table).Rows); diff != "" {
			t.Errorf("rows (-before +after)\n%s", diff)
		}
		if lines := n.journal("cust-a"); len(lines) != 0 {
			t.Errorf("a log that cannot be reached was taken for a reason to refuse: %+v", lines)
		}
	})
	t.Run("two custodians", func(t *testing.T) {
		n := overTheWire(t)
		b := n.job(cubeQuery, 2_000_000)
		n.between("cust-a", "cust-b", true)
		if _, err := n.client("cust-a").Lead(t.Context(), b, nil); err != nil { // with cust-c
			t.Error(err)
		}
		if _, err := n.client("cust-b").Lead(t.Context(), b, nil); err != nil {
			t.Error(err)
		}
		// cust-c reaches both, which do not reach each other: whoever refuses to go on without the other is left out.
		_, err := n.client("cust-c").Lead(t.Context(), b, nil)
		var away *refusal.UnavailableError
		if err != nil && !errors.As(err, &away) {
			t.Errorf("led by the one in the middle: %v", err)
		}
		n.between("cust-a", "cust-b", false)
		n.check(eventually(t, func() error { _, err := n.client("cust-c").Lead(t.Context(), b, nil); return err }))
		for _, c := range custodianNames {
			if got := n.custodians[c].Charges(); got != 1 {
				t.Errorf("%s has %d charges of its own, want 1", c, got)
			}
		}
	})
	t.Run("in the middle of a blob", func(t *testing.T) {
		n := overTheWire(t)
		b := n.job(cubeQuery, 2_000_000)
		var once sync.Once
		cut := n.links[[2]string{"cust-b", theLab}]
		n.plane.lie(func(p *plane) {
			p.blob = func(_ context.Context, who string, _ enclave.Digest, _ int64) (rc readCloser, err error, done bool) {
				if who == "cust-b" {
					once.Do(func() { cut.set(true); cut.set(false) })
				}
				return nil, nil, false
			}
		})
		var out *lab.Outcome
		var rel enclave.Release
		n.check(eventually(t, func() (err error) {
			if out, err = n.release(b); err != nil {
				return err
			}
			n.check(out.Release.Open(enclave.KindRelease, &rel))
			if len(rel.Custodians) != 3 {
				return &refusal.UnavailableError{What: "cust-b"}
			}
			return nil
		}))
	})
}

// eventually repeats what a connection that is being made again may still refuse.
func eventually(t *testing.T, try func() error) error {
	t.Helper()
	var away *refusal.UnavailableError
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := try()
		if err == nil || !errors.As(err, &away) || time.Now().After(deadline) {
			return err
		}
	}
}

func TestSlowPeer(t *testing.T) {
	n := overTheWire(t)
	b := n.job(cubeQuery, 2_000_000)
	for ends, l := range n.links {
		if slices.Contains(ends[:], "cust-b") {
			l.slow(3 * time.Millisecond) // some 5 MB/s and 6 ms
		}
	}
	out, err := n.release(b)
	n.check(err)
	if len(out.Release.Sigs) != 3 {
		t.Errorf("a slow custodian was left out: %d signatures", len(out.Release.Sigs))
	}
	// One that never answers costs the caller's time and no more.
	n.links[[2]string{"cust-a", "cust-b"}].slow(time.Hour)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err = n.nodes["cust-a"].peers["cust-b"].Seen(ctx)
	var away *refusal.UnavailableError
	if !errors.As(err, &away) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a peer that does not answer gives %v", err)
	}
	n.cutOff("cust-b", true) // wakes what sleeps
}

// A custodian's process ends in each stage of a release. Asked again, it finishes with the same bytes and one charge.
func TestRestartInTheMiddleOfARelease(t *testing.T) {
	n := overTheWire(t)
	b := n.job(cubeQuery, 2_000_000)
	for _, at := range []string{release.StageCommit, release.StageCounts, release.StageValues, release.StageEndorse} {
		for _, who := range []string{"cust-b", "cust-a"} { // a member, the leader
			lead := n.client("cust-a")
			_, err := lead.Lead(t.Context(), b, func(stage string) {
				if stage == at {
					n.reboot(who)
				}
			})
			if who == "cust-a" && err == nil {
				t.Errorf("a leader that ended in stage %q gave an outcome", at)
			}
		}
	}
	first, err := n.client("cust-b").Lead(t.Context(), b, nil)
	n.check(err)
	again, err := n.client("cust-c").Lead(t.Context(), b, nil)
	n.check(err)
	if diff := cmp.Diff(n.table(first.Release, first.Table), n.table(again.Release, again.Table)); diff != "" {
		t.Errorf("another leader, another table\n%s", diff)
	}
	for _, c := range custodianNames {
		if got := n.custodians[c].Charges(); got != 1 {
			t.Errorf("%s has %d charges of its own, want 1", c, got)
		}
	}
}

func TestTablesCoverEveryMethod(t *testing.T) {
	n := overTheWire(t)
	for _, fault := range rpc.Merge(custodian.Methods(), rpc.Platform()).Faults(n.nodes["cust-a"].server.GetServiceInfo()) {
		t.Error(fault)
	}
	for _, fault := range rpc.Merge(labfeed.Methods(), rpc.Platform()).Faults(n.labd.GetServiceInfo()) {
		t.Error(fault)
	}
}

// Whoever has no business with a method is refused before anything is read.
func TestWrongCertificates(t *testing.T) {
	n := overTheWire(t)
	b := n.job(cubeQuery, 2_000_000)
	body := canon.MustMarshal(b)
	call := func(src *pki.Source, do func(context.Context, enclavev1.CustodianServiceClient) error) error {
		conn := n.dial(src, "outside", "cust-a", "custodian")
		defer conn.Close()
		return do(t.Context(), enclavev1.NewCustodianServiceClient(conn))
	}
	methods := map[string]func(context.Context, enclavev1.CustodianServiceClient) error{
		enclavev1.CustodianService_Accept_FullMethodName: func(ctx context.Context, c enclavev1.CustodianServiceClient) error {
			_, err := c.Accept(ctx, &enclavev1.AcceptRequest{})
			return err
		},
		enclavev1.CustodianService_Retire_FullMethodName: func(ctx context.Context, c enclavev1.CustodianServiceClient) error {
			_, err := c.Retire(ctx, &enclavev1.RetireRequest{})
			return err
		},
		enclavev1.CustodianService_Dispose_FullMethodName: func(ctx context.Context, c enclavev1.CustodianServiceClient) error {
			_, err := c.Dispose(ctx, &enclavev1.DisposeRequest{})
			return err
		},
		enclavev1.CustodianService_Rotate_FullMethodName: func(ctx context.Context, c enclavev1.CustodianServiceClient) error {
			_, err := c.Rotate(ctx, &enclavev1.RotateRequest{})
			return err
		},
		enclavev1.CustodianService_Records_FullMethodName: func(ctx context.Context, c enclavev1.CustodianServiceClient) error {
			s, err := c.Records(ctx, &enclavev1.RecordsRequest{})
			if err == nil {
				_, err = s.Recv()
			}
			return err
		},
		enclavev1.CustodianService_Commit_FullMethodName: func(ctx context.Context, c enclavev1.CustodianServiceClient) error {
			_, err := c.Commit(ctx, &enclavev1.CommitRequest{Bundle: body, Active: custodianNames})
			return err
		},
		enclavev1.CustodianService_Share_FullMethodName: func(ctx context.Context, c enclavev1.CustodianServiceClient) error {
			_, err := c.Share(ctx, &enclavev1.ShareRequest{Bundle: body, Stage: 1, Active: custodianNames})
			return err
		},
		enclavev1.CustodianService_Endorse_FullMethodName: func(ctx context.Context, c enclavev1.CustodianServiceClient) error {
			_, err := c.Endorse(ctx, &enclavev1.EndorseRequest{Bundle: body})
			return err
		},
		enclavev1.CustodianService_GetEvidence_FullMethodName: func(ctx context.Context, c enclavev1.CustodianServiceClient) error {
			_, err := c.GetEvidence(ctx, &enclavev1.GetEvidenceRequest{Release: make([]byte, 32)})
			return err
		},
		enclavev1.CustodianService_Lead_FullMethodName: func(ctx context.Context, c enclavev1.CustodianServiceClient) error {
			s, err := c.Lead(ctx, &enclavev1.LeadRequest{Bundle: body})
			if err == nil {
				_, err = s.Recv()
			}
			return err
		},
		enclavev1.CustodianService_LeadBatch_FullMethodName: func(ctx context.Context, c enclavev1.CustodianServiceClient) error {
			_, err := c.LeadBatch(ctx, &enclavev1.LeadBatchRequest{})
			return err
		},
		enclavev1.CustodianService_HelpBatch_FullMethodName: func(ctx context.Context, c enclavev1.CustodianServiceClient) error {
			s, err := c.HelpBatch(ctx)
			if err == nil {
				err = s.Send(&enclavev1.HelpBatchRequest{Call: &enclavev1.HelpBatchRequest_Begin{Begin: 1}})
			}
			if err == nil || errors.Is(err, io.EOF) {
				_, err = s.Recv()
			}
			return err
		},
		enclavev1.CustodianService_Recheck_FullMethodName: func(ctx context.Context, c enclavev1.CustodianServiceClient) error {
			_, err := c.Recheck(ctx, &enclavev1.RecheckRequest{Bundle: body})
			return err
		},
		enclavev1.CustodianService_GetStatus_FullMethodName: func(ctx context.Context, c enclavev1.CustodianServiceClient) error {
			_, err := c.GetStatus(ctx, &enclavev1.GetStatusRequest{})
			return err
		},
	}
	if len(methods) != len(custodian.Methods()) {
		t.Fatalf("%d methods are called, the table has %d", len(methods), len(custodian.Methods()))
	}
	for name, do := range methods {
		allowed := custodian.Methods()[name].Roles
		for role, party := range map[string]string{"analyst": "analyst", "steward": "steward", "official": "official-1", "auditor": "somebody", "node": "node", "lab": theLab, "witness": "witness", "custodian": "cust-b"} {
			err := call(n.ca.Source(t, role, party), do)
			if !slices.Contains(allowed, role) && status.Code(err) != codes.PermissionDenied {
				t.Errorf("%s by a %s gives %v", name, role, err)
			}
			if name == enclavev1.CustodianService_Rotate_FullMethodName { // not even by a peer
				if status.Code(err) != codes.PermissionDenied {
					t.Errorf("%s by a %s gives %v", name, role, err)
				}
				continue
			}
			if slices.Contains(allowed, role) && (status.Code(err) == codes.PermissionDenied || status.Code(err) == codes.Unauthenticated) {
				t.Errorf("%s by a %s gives %v", name, role, err)
			}
		}
		for what, src := range map[string]*pki.Source{"expired": n.ca.Expired(t, allowed[0], "cust-b"), "foreign": n.ca.Foreign(t, allowed[0], "cust-b")} {
			if err := call(src, do); status.Code(err) != codes.Unavailable {
				t.Errorf("%s with a certificate that is %s gives %v", name, what, err)
			}
		}
		if !slices.Contains(allowed, "custodian") {
			continue
		}
		// An authority that is not honest certifies custodians who are none.
		for what, src := range map[string]*pki.Source{"unknown": n.ca.Source(t, "custodian", "cust-z"), "of another role": n.ca.Source(t, "custodian", "analyst")} {
			if err := call(src, do); status.Code(err) != codes.PermissionDenied {
				t.Errorf("%s by a custodian that is %s gives %v", name, what, err)
			}
		}
	}
	for _, c := range custodianNames {
		if got := n.custodians[c].Charges(); c != "cust-a" && got != 0 {
			t.Errorf("%s charged %d times", c, got)
		}
	}
	// The other way: a client does not speak to a server that is another party.
	l := n.links[[2]string{"cust-a", "cust-c"}]
	l.target = func() string { return n.address("cust-b") }
	l.set(true)
	l.set(false)
	if _, err := n.nodes["cust-a"].peers["cust-c"].Seen(t.Context()); err == nil {
		t.Error("cust-b passed for cust-c")
	}
}

// Somebody whose certificate says that it is a custodian, because the authority is not honest, asks for shares. What it
// gets is encrypted to the key of the roster, which it does not have.
func TestSharesAreForTheKeyInTheRoster(t *testing.T) {
	n := overTheWire(t)
	b := n.job(cubeQuery, 2_000_000)
	_, err := n.release(b)
	n.check(err)
	thief := n.identity("thief")
	conn := n.dial(n.ca.Source(t, "custodian", "cust-b"), "outside", "cust-a", "custodian")
	peer := service.NewPeer("cust-a", conn, "cust-b", n.custodians["cust-b"].Roster, thief.Open)
	if _, err := peer.Share(t.Context(), b, 1, custodianNames, nil); err == nil {
		t.Error("shares were read without the custodian's key")
	}
	honest := service.NewPeer("cust-a", conn, "cust-b", n.custodians["cust-b"].Roster, n.ids["cust-b"].Open)
	set, err := honest.Share(t.Context(), b, 1, custodianNames, nil)
	if err != nil || string(canon.MustMarshal(set)) != string(n.shares("cust-a", b, 1)) {
		t.Errorf("over the wire the custodian's own shares are others: %v", err)
	}
	resp, err := enclavev1.NewCustodianServiceClient(conn).Share(t.Context(), &enclavev1.ShareRequest{Bundle: canon.MustMarshal(b), Stage: 1, Active: custodianNames})
	n.check(err)
	var open release.ShareSet
	n.check(set.Open(release.KindShares, &open))
	if slices.ContainsFunc(open.Pieces, func(p release.PieceShares) bool { return containsBytes(resp.GetShares(), p.Shares[:16]) }) {
		t.Error("shares travel in the clear inside TLS")
	}
}

func containsBytes(data, part []byte) bool {
	for i := 0; i+len(part) <= len(data); i++ {
		if slices.Equal(data[i:i+len(part)], part) {
			return true
		}
	}
	return false
}

// Calls that are repeated change nothing; calls out of order, mixed between releases or spoilt on the way are refused.
func TestReplayedAndMixedUpCalls(t *testing.T) {
	n := overTheWire(t)
	b, other := n.job(cubeQuery, 2_000_000), n.job(rowsQuery, 1_000_000)
	pair := []string{"cust-a", "cust-b"}
	a := service.NewPeer("cust-a", n.dial(n.ca.Source(t, "custodian", "cust-b"), "cust-b", "cust-a", "custodian"), "cust-b", n.custodians["cust-b"].Roster, n.ids["cust-b"].Open)
	bb := n.nodes["cust-a"].peers["cust-b"]
	ctx := t.Context()
	refused := func(what string, err error, rule error) {
		t.Helper()
		var r *refusal.Refusal
		if !errors.Is(err, rule) || !errors.As(err, &r) || r.Custodian != "cust-a" {
			t.Errorf("%s gives %v, want a refusal: %v", what, err, rule)
		}
	}
	_, err := a.Share(ctx, b, 1, pair, nil)
	refused("a share before the commit", err, release.ErrNotCommitted)
	n.check(a.Commit(ctx, b, pair))
	_, err = a.Share(ctx, b, 1, pair, nil)
	refused("a share before the other's commit", err, release.ErrNotCommitted)
	n.check(bb.Commit(ctx, b, pair))
	for range 3 {
		n.check(a.Commit(ctx, b, pair))
	}
	_, err = a.Share(ctx, b, 2, pair, nil)
	refused("stage 2 before stage 1", err, release.ErrNotCommitted)
	fa, err := a.Share(ctx, b, 1, pair, nil)
	n.check(err)
	fb, err := bb.Share(ctx, b, 1, pair, nil)
	n.check(err)
	again, err := a.Share(ctx, b, 1, pair, nil)
	if err != nil || again.Digest() != fa.Digest() {
		t.Errorf("the repeated share is another: %v", err)
	}
	_, err = a.Share(ctx, b, 2, pair, []canon.Signed{fa, fa})
	refused("one custodian's shares twice", err, release.ErrNotCommitted)
	_, err = a.Share(ctx, other, 2, pair, []canon.Signed{fa, fb})
	refused("another release's shares", err, release.ErrNotCommitted)
	_, err = a.Share(ctx, b, 1, []string{"cust-b", "cust-c"}, nil)
	refused("a quorum without it", err, release.ErrNotCommitted)
	_, err = a.Share(ctx, b, 3, pair, nil)
	if status.Code(err) == codes.OK || err == nil {
		t.Error("there is a stage 3")
	}
	_, err = a.Endorse(ctx, b, enclave.Release{Custodians: pair}, enclave.LogProof{Entry: []byte("{}"), Path: []enclave.Digest{}}, pair, []canon.Signed{fa, fb}, nil)
	if err == nil {
		t.Error("an empty release was endorsed")
	}
	// Shares encrypted for another call, plan or custodian do not open.
	raw := enclavev1.NewCustodianServiceClient(n.dial(n.ca.Source(t, "custodian", "cust-c"), "outside", "cust-a", "custodian"))
	if _, err := raw.Share(ctx, &enclavev1.ShareRequest{Bundle: canon.MustMarshal(b), Stage: 2, Active: pair, First: []byte("replayed")}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("shares that do not open give %v", err)
	}
	for what, body := range map[string][]byte{"nothing": nil, "no artefact": []byte("{}"), "trailing data": append(canon.MustMarshal(b), ' ')} {
		if _, err := raw.Commit(ctx, &enclavev1.CommitRequest{Bundle: body, Active: pair}); status.Code(err) != codes.InvalidArgument {
			t.Errorf("a dossier of %s gives %v", what, err)
		}
	}
	if got := n.custodians["cust-a"].Charges(); got != 1 {
		t.Errorf("%d charges, want 1", got)
	}
}

// The owner deals pieces over the network, each holder confirms the commitment, and a wrong one is refused on record.
func TestDealingOverTheWire(t *testing.T) {
	n := overTheWire(t)
	steward := n.ca.Source(t, "steward", "steward")
	dealt, err := seal.Deal(seal.Dealing{Dataset: "gas", Params: "bgv13-t36", Custodians: n.roster.WithRole(operators.RoleCustodian), Quorum: 2,
		EntityRows: 1, BudgetMicro: 1_000_000, Made: n.world.at()}, n.ids["steward"], agency)
	n.check(err)
	client := func(name string) *custodian.Client {
		return custodian.New(name, n.dial(steward, "outside", name, "custodian"))
	}
	for _, p := range dealt.Pieces {
		for range 2 { // a repeated delivery is no error
			n.check(client(p.Custodian).Accept(t.Context(), dealt.Keyset, p.Piece, p.Sealed, &n.signed))
		}
	}
	p := dealt.Pieces[0]
	for what, err := range map[string]error{
		"another holder's":    client(custodianNames[p.Piece]).Accept(t.Context(), dealt.Keyset, p.Piece, p.Sealed, nil),
		"spoilt on the way":   client(p.Custodian).Accept(t.Context(), dealt.Keyset, p.Piece, flip(p.Sealed), nil),
		"by no steward":       client(p.Custodian).Accept(t.Context(), canon.Signed{Kind: dealt.Keyset.Kind, Body: dealt.Keyset.Body, Sigs: n.sign("analyst", "x", 1).Sigs}, p.Piece, p.Sealed, nil),
		"of another keyset":   client(p.Custodian).Accept(t.Context(), n.keysets["water"], p.Piece, p.Sealed, nil),
		"with a false roster": client(p.Custodian).Accept(t.Context(), dealt.Keyset, p.Piece, p.Sealed, &dealt.Keyset),
	} {
		if what == "with a false roster" {
			if err == nil {
				t.Error("a false roster was taken")
			}
			continue
		}
		if !errors.Is(err, refusal.ErrPiece) {
			t.Errorf("a piece that is %s gives %v", what, err)
		}
	}
	if lines := n.journal(p.Custodian); len(lines) == 0 || lines[0].Keyset.IsZero() {
		t.Errorf("the journal of %s has %+v", p.Custodian, lines)
	}
	st, err := n.client("cust-a").Status(t.Context())
	if err != nil || st.GetName() != "cust-a" || st.GetTrouble() != "" {
		t.Errorf("status is %v, %v", st, err)
	}
}

// A custodian killed and restored from an old copy asks its peers, over the wire, before it writes anything.
func TestRestoredCustodianOverTheWire(t *testing.T) {
	n := overTheWire(t)
	n.stop("cust-a")
	saved := filepath.Join(t.TempDir(), "state")
	n.copyFolder(filepath.Join(n.dir, "cust-a", "state"), saved)
	n.start("cust-a")
	_, err := n.release(n.job(cubeQuery, 2_000_000))
	n.check(err)
	n.stop("cust-a")
	n.replaceFolder(saved, filepath.Join(n.dir, "cust-a", "state"))
	n.start("cust-a")
	if got := n.custodians["cust-a"].Charges(); got != 0 {
		t.Fatalf("the copy has %d charges", got)
	}
	_, err = n.client("cust-a").Lead(t.Context(), n.job(rowsQuery, 1_000_000), nil)
	n.check(err)
	if got := n.custodians["cust-a"].Charges(); got != 2 {
		t.Errorf("%d charges of its own, want the lost one and the new one", got)
	}
}
