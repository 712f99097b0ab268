package main

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"yingzhou.dev/lab/cmd/internal/cli"
	"yingzhou.dev/lab/cmd/internal/desk"
	"yingzhou.dev/lab/cmd/internal/home"
	"yingzhou.dev/lab/cmd/internal/planner"
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/refusal"
	"yingzhou.dev/lab/enclave/release"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox"
	"yingzhou.dev/lab/sandbox/audit"
)

func (a *app) auditCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "audit", Short: "The log, receipts and their verification"}
	cmd.AddCommand(a.logCmd(), a.receiptCmd(), a.verifyCmd(), a.recheckCmd(), a.fsckCmd())
	return cmd
}

// entryTypes are the types of log entry, in the order of a job's way.
var entryTypes = []string{enclave.EntryRoster, enclave.EntryStatement, enclave.EntryKeyset, enclave.EntryManifest, enclave.EntryPlan, enclave.EntryReceipt,
	enclave.EntryCharge, enclave.EntryShare, enclave.EntryRelease, enclave.EntryRefusal, enclave.EntryFailure, enclave.EntryCancel,
	enclave.EntryCollection, enclave.EntryDelivery,
	enclave.EntryRotation, enclave.EntryRetirement, enclave.EntryDisposalRequest, enclave.EntryDisposal, enclave.EntryDestruction, enclave.EntryCertificate}

func (a *app) logCmd() *cobra.Command {
	var kind, job string
	cmd := &cobra.Command{Use: "log", Short: "Print the log", Args: cobra.NoArgs, Example: "  lab audit log --type release\n  lab audit log --job job-1ng8fwe65awk9mgm",
		RunE: func(cmd *cobra.Command, args []string) error {
			if kind != "" && !slices.Contains(entryTypes, kind) {
				return cli.Usage("--type %q is not one of %s", kind, strings.Join(entryTypes, ", "))
			}
			if job != "" {
				if _, err := jobArg([]string{job}); err != nil {
					return err
				}
			}
			h, err := a.open(cmd.Context())
			if err != nil {
				return err
			}
			_, cp, err := h.Checkpoint(cmd.Context())
			if err != nil {
				return err
			}
			type row struct {
				Index int64 `json:"index"`
				enclave.Entry
			}
			all := []row{}
			for rec, err := range h.Entries(cmd.Context(), 0, cp.Size) {
				if err != nil {
					return err
				}
				if (kind == "" || rec.Entry.Type == kind) && (job == "" || rec.Entry.Job == job) {
					all = append(all, row{rec.Index, rec.Entry})
				}
			}
			return a.print(all, func(w io.Writer) {
				var rows [][]string
				for _, r := range all {
					rows = append(rows, []string{fmt.Sprint(r.Index), r.At.Format(time.DateTime), r.Type, r.By, r.Job, r.Subject.Short(), r.Reason})
				}
				cli.Grid(w, []string{"#", "time (UTC)", "type", "by", "job", "subject", "reason"}, rows)
				fmt.Fprintf(w, "%d entries, root %s, signed by the log and its witness\n", cp.Size, cp.Root.Short())
			})
		}}
	cmd.Flags().StringVar(&kind, "type", "", "only entries of a type")
	cmd.RegisterFlagCompletionFunc("type", cobra.FixedCompletions(entryTypes, cobra.ShellCompDirectiveNoFileComp))
	cmd.Flags().StringVar(&job, "job", "", "only entries of a job")
	return cmd
}

func (a *app) receiptCmd() *cobra.Command {
	var out string
	cmd := &cobra.Command{Use: "receipt JOB", Short: "Write a release's receipt: all that is needed to verify it offline", Args: cobra.ExactArgs(1),
		Long: `receipt writes every artefact and statement behind a release with the proofs that each was in the log. It holds no
figure of the result. Anyone can verify it with the lab's root public key and nothing else.`,
		Example: "  lab audit receipt job-1ng8fwe65awk9mgm -o release.receipt",
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := jobArg(args)
			if err != nil {
				return err
			}
			data, err := a.receipt(cmd.Context(), id)
			if err != nil {
				return err
			}
			return a.write(out, func(w io.Writer) error {
				_, err := w.Write(data)
				return err
			})
		}}
	cmd.Flags().StringVarP(&out, "output", "o", "", "file to write; default: standard output")
	return cmd
}

func (a *app) receipt(ctx context.Context, id sandbox.JobID) ([]byte, error) {
	h, err := a.open(ctx)
	if err != nil {
		return nil, err
	}
	job, err := h.Job(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("job %s: %w", id, err)
	}
	if job.Release.IsZero() {
		return nil, cli.With(cli.NotFound, fmt.Errorf("job %s is %s: only a released job has a receipt", id, job.State))
	}
	b, err := h.Bundle(ctx, id)
	if err != nil {
		return nil, err
	}
	return canon.Marshal(b)
}

// verified is what verification concludes.
type verified struct {
	Joint       bool           `json:"joint,omitempty"`
	Job         string         `json:"job"`
	Release     enclave.Digest `json:"release"`
	Operator    string         `json:"operator"`
	Dataset     string         `json:"dataset"`
	Query       string         `json:"query"`
	Worker      enclave.Digest `json:"worker"`
	Isolation   string         `json:"isolation"`
	Custodians  []string       `json:"custodians"`
	Cells       int64          `json:"cells"`
	Suppressed  int64          `json:"suppressed"`
	EpsilonUsed string         `json:"charged_epsilon"`
	LogSize     int64          `json:"log_size"`
	Made        enclave.Time   `json:"made"`
}

// verify checks a receipt with nothing but the root key.
func verify(data, root []byte) (*verified, error) {
	var b enclave.Bundle
	if err := canon.Unmarshal(data, &b); err != nil {
		return nil, cli.With(cli.Unverified, fmt.Errorf("receipt: %w", err))
	}
	if b.Format != enclave.KindBundle {
		return nil, cli.With(cli.Unverified, fmt.Errorf("receipt: format %q, want %q", b.Format, enclave.KindBundle))
	}
	d, rel, err := release.CheckRelease(&b, root, planner.Build)
	if err != nil {
		return nil, cli.With(cli.Unverified, err)
	}
	datasets := d.Plan.Dataset
	if d.Plan.Joint != nil {
		for _, s := range d.Plan.Joint.Sources[1:] {
			datasets += ", " + s.Dataset
		}
	}
	return &verified{Joint: d.Plan.Joint != nil, Job: rel.Job, Release: b.Release.Digest(), Operator: rel.Operator, Dataset: datasets, Query: d.Plan.Query,
		Worker: d.Receipt.Worker, Isolation: d.Receipt.Isolation, Custodians: rel.Custodians, Cells: rel.Cells, Suppressed: rel.Suppressed,
		EpsilonUsed: enclave.FormatScaled(rel.ChargedMicro, 6), LogSize: d.Checkpoint.Size, Made: rel.Made}, nil
}

// verifiedDisposal is what verification of a certificate concludes.
type verifiedDisposal struct {
	Dataset     string         `json:"dataset"`
	Owner       string         `json:"owner"`
	Cause       string         `json:"cause"`
	Reason      string         `json:"reason"`
	OrderedBy   []string       `json:"ordered_by"`
	Certificate enclave.Digest `json:"certificate"`
	Custodians  []string       `json:"custodians"`
	Blobs       int            `json:"blobs"`
	DataKeys    int64          `json:"data_keys"`
	LogSize     int64          `json:"log_size"`
	Made        enclave.Time   `json:"made"`
}

// verifyDisposal checks the certificate of a disposal with nothing but the root key; ok says that it is one.
func verifyDisposal(data, root []byte) (v *verifiedDisposal, ok bool, _ error) {
	var r enclave.DisposalReceipt
	if err := canon.Unmarshal(data, &r); err != nil || r.Format != enclave.KindDisposalReceipt {
		return nil, false, nil
	}
	d, err := r.Check(root, release.LogKeys)
	if err != nil {
		return nil, true, cli.With(cli.Unverified, err)
	}
	v = &verifiedDisposal{Dataset: d.Order.Dataset, Owner: d.Order.Owner, Cause: d.Order.Cause, Reason: d.Order.Reason, Certificate: d.Digest,
		Blobs: len(d.Certificate.Blobs), DataKeys: d.Certificate.DataKeys, LogSize: d.LogSize, Made: d.Certificate.Made}
	for _, s := range d.Certificate.Order.Sigs {
		v.OrderedBy = append(v.OrderedBy, s.By)
	}
	for _, s := range d.Certificate.Destructions {
		v.Custodians = append(v.Custodians, s.Sigs[0].By)
	}
	return v, true, nil
}

func (v *verifiedDisposal) text(w io.Writer) {
	fmt.Fprintf(w, "Verified: dataset %q of %s is destroyed, by certificate %s of %s.\n", v.Dataset, v.Owner, v.Certificate.Short(), v.Made.Format(time.DateTime))
	fmt.Fprintf(w, "  ordered by %s: purpose %s, %s\n", strings.Join(v.OrderedBy, " and "), v.Cause, v.Reason)
	fmt.Fprintf(w, "  %d custodians destroyed what they held of its key and could not use it afterwards: %s\n", len(v.Custodians), strings.Join(v.Custodians, ", "))
	fmt.Fprintf(w, "  %d sealed blobs are deleted, and %d key(s) that they were encrypted with at rest\n", v.Blobs, v.DataKeys)
	fmt.Fprintf(w, "  order, words and certificate follow one another in a log of %d entries that its witness cosigned\n", v.LogSize)
}

// verifiedBatch is what verification of a collection's receipt concludes.
type verifiedBatch struct {
	Collection  string                 `json:"collection"`
	Batch       int64                  `json:"batch"`
	Release     enclave.Digest         `json:"release"`
	Operator    string                 `json:"operator"`
	Dataset     string                 `json:"dataset"`
	Column      string                 `json:"column"`
	Reports     int64                  `json:"reports"`
	Refused     []enclave.RefusedCount `json:"refused"`
	Custodians  []string               `json:"custodians"`
	EpsilonUsed string                 `json:"epsilon"`
	DeliveredBy string                 `json:"delivered_by"`
	LogSize     int64                  `json:"log_size"`
	Made        enclave.Time           `json:"made"`
}

// verifyBatch checks a batch's receipt with nothing but the root key; ok says that it is one.
func verifyBatch(data, root []byte) (v *verifiedBatch, ok bool, _ error) {
	var b enclave.CollectionBundle
	if err := canon.Unmarshal(data, &b); err != nil || b.Format != enclave.KindCollectionBundle {
		return nil, false, nil
	}
	d, c, err := release.CheckCollected(&b, root)
	if err != nil {
		return nil, true, cli.With(cli.Unverified, err)
	}
	return &verifiedBatch{Collection: d.Collection.Name, Batch: c.Batch, Release: b.Collected.Digest(), Operator: d.Collection.Operator, Dataset: d.Collection.Dataset,
		Column: d.Collection.Column, Reports: c.Reports, Refused: c.Refused, Custodians: c.Aggregators, EpsilonUsed: enclave.FormatScaled(c.ChargedMicro, 6),
		DeliveredBy: d.Delivery.By, LogSize: d.Checkpoint.Size, Made: c.Made}, true, nil
}

func (v *verifiedBatch) text(w io.Writer) {
	fmt.Fprintf(w, "Verified: release %s of batch %d of collection %q.\n", v.Release.Short(), v.Batch, v.Collection)
	fmt.Fprintf(w, "  %s asked for %q of dataset %q; licence, application, consents and two approvals are signed, in force at %s and in the log\n", v.Operator, v.Column, v.Dataset, v.Made.Format(time.DateTime))
	fmt.Fprintf(w, "  the owner confirmed it and its reporters; %s delivered the reports\n", v.DeliveredBy)
	refused := int64(0)
	for _, r := range v.Refused {
		refused += r.Count
	}
	fmt.Fprintf(w, "  %s counted %d reports, refused %d, and signed for ε %s\n", strings.Join(v.Custodians, " and "), v.Reports, refused, v.EpsilonUsed)
	fmt.Fprintf(w, "  every step is in a log of %d entries that its witness cosigned\n", v.LogSize)
}

func (a *app) verifyCmd() *cobra.Command {
	var rootHex string
	cmd := &cobra.Command{Use: "verify RECEIPT|JOB", Short: "Verify a release or a disposal offline", Args: cobra.ExactArgs(1),
		Long: `verify checks a receipt file from beginning to end: roster, licence, application, consents, approvals, the plan rebuilt
from its query, the worker's receipt, the custodians' signatures and the log proofs. Of the certificate of a disposal
("lab dataset certificate") it checks the order, every custodian's word, the signatures and the log proofs; of a collection's
batch ("lab collect receipt") the collection, the delivery, both aggregators' signatures and the rest. It opens no lab
when --root is given; otherwise it takes the root key, or the receipt itself, from the lab.`,
		Example: `  lab audit verify release.receipt --root 9f2c…
  lab audit verify job-1ng8fwe65awk9mgm`,
		RunE: func(cmd *cobra.Command, args []string) error {
			root, err := hex.DecodeString(rootHex)
			if err != nil || rootHex != "" && len(root) != ed25519.PublicKeySize {
				return cli.Usage("--root wants the %d hexadecimal digits that `lab init` printed", 2*ed25519.PublicKeySize)
			}
			var data []byte
			if id, perr := sandbox.ParseJobID(args[0]); perr == nil {
				data, err = a.receipt(cmd.Context(), id)
			} else {
				data, err = cli.ReadFile(args[0])
			}
			if err != nil {
				return err
			}
			if rootHex == "" {
				h, err := a.open(cmd.Context())
				if err != nil {
					return err
				}
				root = h.RootKey()
			}
			if d, ok, err := verifyDisposal(data, root); ok {
				if err != nil {
					return err
				}
				return a.print(d, d.text)
			}
			if b, ok, err := verifyBatch(data, root); ok {
				if err != nil {
					return err
				}
				return a.print(b, b.text)
			}
			v, err := verify(data, root)
			if err != nil {
				return err
			}
			return a.print(v, func(w io.Writer) {
				fmt.Fprintf(w, "Verified: release %s of job %s.\n", v.Release.Short(), v.Job)
				fmt.Fprintf(w, "  %s asked of %s: %s\n", v.Operator, v.Dataset, v.Query)
				fmt.Fprintf(w, "  licence, application, consents and two approvals are signed, in force at %s and in the log\n", v.Made.Format(time.DateTime))
				fmt.Fprintf(w, "  the plan rebuilds from the query; worker %s is the approved one (%s)\n", v.Worker.Short(), v.Isolation)
				how := "computed it again"
				if v.Joint {
					how = "computed it together on secret shares, compared their messages"
				}
				fmt.Fprintf(w, "  %s %s, and signed %d cells, %d of them held back, for ε %s\n", strings.Join(v.Custodians, ", "), how, v.Cells, v.Suppressed, v.EpsilonUsed)
				fmt.Fprintf(w, "  every step is in a log of %d entries that its witness cosigned\n", v.LogSize)
			})
		}}
	cmd.Flags().StringVar(&rootHex, "root", "", "the lab's root public key in hexadecimal; verifies without any lab")
	return cmd
}

func (a *app) fsckCmd() *cobra.Command {
	var blobs bool
	cmd := &cobra.Command{Use: "fsck", Short: "Check every byte of the log, and with --blobs of the sealed blobs", Args: cobra.NoArgs,
		Long: `fsck checks the log of a lab in a folder under its public keys alone. It works on a lab that is too damaged to open.

Of a lab that is a service it reads the whole log and verifies it from here: the signatures of log and witness, every entry,
that the log extends the one that was checked from this folder before, and that all statements, datasets, disposals and
releases that you may see are signed as they should be and in the log. It remembers the checkpoint in the folder. Sealed
blobs are checked where they lie.`,
		Example: "  lab audit fsck\n  lab audit fsck --blobs",
		RunE: func(cmd *cobra.Command, args []string) error {
			if a.client != "" {
				return a.fsckRemote(cmd.Context(), blobs)
			}
			e, err := home.Examine(cmd.Context(), a.dir, a.options(), blobs)
			switch {
			case errors.Is(err, audit.ErrDamaged), errors.Is(err, enclave.ErrBlob), errors.Is(err, enclave.ErrNotFound):
				return cli.With(cli.Unverified, err)
			case err != nil:
				return err
			}
			type logReport struct {
				Origin     string         `json:"origin"`
				Entries    int64          `json:"entries"`
				Root       enclave.Digest `json:"root"`
				Files      int            `json:"files"`
				Uncosigned int64          `json:"uncosigned"`
			}
			cp := e.Log.Checkpoint
			return a.print(struct {
				Log   logReport `json:"log"`
				Blobs int       `json:"blobs"`
			}{logReport{cp.Origin, cp.Size, cp.Root, e.Log.Files, e.Log.Uncosigned}, e.Blobs}, func(w io.Writer) {
				fmt.Fprintf(w, "The log is whole: %d entries in %d files, root %s, signed by %s and its witness.\n", cp.Size, e.Log.Files, cp.Root.Short(), cp.Origin)
				if e.Log.Uncosigned > 0 {
					fmt.Fprintf(w, "%d more entries await the witness; opening the lab has them cosigned.\n", e.Log.Uncosigned)
				}
				if blobs {
					fmt.Fprintf(w, "%d sealed blobs are whole.\n", e.Blobs)
				}
			})
		}}
	cmd.Flags().BoolVar(&blobs, "blobs", false, "also hash every sealed blob")
	return cmd
}

// fsckRemote checks the log of a lab that is a service.
func (a *app) fsckRemote(ctx context.Context, blobs bool) error {
	if blobs {
		return cli.Usage("--blobs: sealed blobs are checked where they lie, on labd's machine")
	}
	h, err := a.open(ctx)
	if err != nil {
		return err
	}
	r, ok := h.(*desk.Remote)
	if !ok {
		return fmt.Errorf("%T is no lab behind a service", h)
	}
	found, err := r.Fsck(ctx)
	if errors.Is(err, refusal.ErrLogFork) || errors.Is(err, operators.ErrSignature) {
		return cli.With(cli.Unverified, err)
	}
	if err != nil {
		return err
	}
	cp := found.Checkpoint
	return a.print(struct {
		Origin     string         `json:"origin"`
		Entries    int64          `json:"entries"`
		Root       enclave.Digest `json:"root"`
		Extends    int64          `json:"extends"`
		Types      map[string]int `json:"types"`
		Statements int            `json:"statements"`
		Whole      bool           `json:"whole"`
		Keysets    int            `json:"keysets"`
		Manifests  int            `json:"manifests"`
		Disposals  int            `json:"disposals"`
		Releases   int            `json:"releases"`
	}{cp.Origin, cp.Size, cp.Root, found.Before, found.Entries, found.Statements, found.Whole, found.Keysets, found.Manifests, found.Disposals, found.Releases}, func(w io.Writer) {
		fmt.Fprintf(w, "The log is whole: %d entries, root %s, signed by %s and its witness.\n", cp.Size, cp.Root.Short(), cp.Origin)
		if found.Before > 0 {
			fmt.Fprintf(w, "It extends the log of %d entries that was checked from here before.\n", found.Before)
		} else {
			fmt.Fprintln(w, "It was not checked from here before: this checkpoint is remembered.")
		}
		all := ""
		if found.Whole {
			all = ", and the log announces no other statement"
		}
		fmt.Fprintf(w, "Signed and in the log: %d statements, %d keysets, %d manifests, %d disposals, %d releases%s.\n",
			found.Statements, found.Keysets, found.Manifests, found.Disposals, found.Releases, all)
	})
}
