package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"yingzhou.dev/lab/cmd/internal/cli"
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/enclave/mpc/prio3"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox"
	"yingzhou.dev/lab/sandbox/lab"
)

func (a *app) collectCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "collect", Short: "Collections: count reports of many untrusted senders",
		Long: `A collection asks many reporters, such as meters or village committees, for one measurement each. Every report is
split between two aggregators and proves that it is within its bounds (Prio3). Neither aggregator sees a measurement;
together they release noised totals of whole batches, charged to the budgets of the dataset and of the scenario as jobs are.

An analyst defines a collection, a steward of the data's owner confirms it and its reporters. Their reports come to the
owner's gateway; the steward delivers them, batch by batch, and the analyst has each batch released.`}
	cmd.AddCommand(a.enrolCmd(), a.defineCmd(), a.confirmCmd(), a.reportCmd(), a.deliverCmd(), a.collectReleaseCmd(), a.collectReceiptCmd(), a.collectListCmd())
	return cmd
}

// reporterKeys is the file of `lab collect enrol`: private keys of reporters, for trying out. A real meter makes its own.
type reporterKeys struct {
	Kind string        `json:"kind"`
	Keys []reporterKey `json:"keys"`
}

type reporterKey struct {
	Name string `json:"name"`
	Sign []byte `json:"sign"` // Ed25519 seed
}

const reporterKeysKind = "yingzhou.reporter-keys.v1"

func (a *app) enrolCmd() *cobra.Command {
	var out, private string
	cmd := &cobra.Command{Use: "enrol NAMES", Short: "Make keys for reporters named in a file, one a line (for trying out)", Args: cobra.ExactArgs(1),
		Long: `enrol draws a signing key for each name and writes two files: the enrolment, which a collection names, and the private
keys, for "lab collect report". Real reporters make their own keys and hand in the public halves.`,
		Example: `  lab collect enrol meters.txt -o meters.json --keys meters.keys`,
		RunE: func(cmd *cobra.Command, args []string) error {
			data, err := cli.ReadFile(args[0])
			if err != nil {
				return err
			}
			names := strings.Fields(string(data))
			slices.Sort(names)
			list, own := enclave.Enrolment{Reporters: []enclave.Reporter{}}, reporterKeys{Kind: reporterKeysKind, Keys: []reporterKey{}}
			for _, n := range slices.Compact(names) {
				public, key, err := ed25519.GenerateKey(nil)
				if err != nil {
					return err
				}
				list.Reporters = append(list.Reporters, enclave.Reporter{Name: n, Verify: public})
				own.Keys = append(own.Keys, reporterKey{n, key.Seed()})
			}
			if err := list.Validate(); err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			put := func(v any) func(io.Writer) error {
				return func(w io.Writer) error { _, err := w.Write(canon.MustMarshal(v)); return err }
			}
			if err := a.write(private, put(own)); err != nil {
				return err
			}
			if err := a.write(out, put(list)); err != nil {
				return err
			}
			fmt.Fprintf(a.errs, "Made keys for %d reporters.\n", len(list.Reporters))
			return nil
		}}
	cmd.Flags().StringVarP(&out, "output", "o", "", "file for the enrolment; default: standard output")
	cmd.Flags().StringVar(&private, "keys", "", "file for the private keys")
	cmd.MarkFlagRequired("keys")
	return cmd
}

func (a *app) defineCmd() *cobra.Command {
	var scenario, epsilon, until, enrolment string
	var c enclave.Collection
	cmd := &cobra.Command{Use: "define NAME", Short: "Define a collection within an approved scenario, as an analyst", Args: cobra.ExactArgs(1),
		Long: `define says what reporters are asked: "count" a yes or no, "sum" a number up to --max, "histogram" one of --labels,
"vector" a number up to --max (2^b-1) for each of --labels. Every release is charged --epsilon; all of --releases together
must fit what the scenario was granted. A steward of the dataset's owner confirms the collection, and with it the list of
reporters.`,
		Example: `  lab collect define winter --scenario meters --dataset meters --column kwh --kind sum --max 2000 \
      --reporters meters.json --epsilon 0.5 --releases 4 --min-batch 1000 --until 2027-03-31`,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			who, err := a.person(ctx, operators.RoleAnalyst)
			if err != nil {
				return err
			}
			_, roster, err := a.home.Roster(ctx)
			if err != nil {
				return err
			}
			p, _ := roster.Find(who) // person found it
			c.Name, c.Operator, c.By = args[0], p.Body, who
			if c.Scenario, _, err = a.home.Scenario(ctx, scenario); err != nil {
				return err
			}
			if c.EpsilonMicro, err = parseScaled(epsilon, 6); err != nil {
				return cli.Usage("--epsilon: %w", err)
			}
			if c.NotAfter, err = day("--until", until, true); err != nil {
				return err
			}
			data, err := cli.ReadFile(enrolment)
			if err != nil {
				return err
			}
			if len(c.Aggregators) == 0 {
				for _, p := range roster.WithRole(operators.RoleCustodian)[:2] {
					c.Aggregators = append(c.Aggregators, p.Name)
				}
			}
			dataset, err := a.home.Dataset(ctx, c.Dataset)
			if err != nil {
				return err
			}
			c.Keyset, c.Made = dataset.KeysetDigest, canon.At(a.home.Now())
			c.Enrolment, c.EnrolmentBytes = canon.Sum(data), int64(len(data))
			id, err := a.home.Identity(who)
			if err != nil {
				return err
			}
			signed, err := keys.SealWith(id, enclave.KindCollection, c)
			if err != nil {
				return err
			}
			if _, err := prio3.NewTask(signed, data); err != nil {
				return err
			}
			if err := a.home.DefineCollection(ctx, signed); err != nil {
				return err
			}
			d := signed.Digest()
			return a.print(map[string]enclave.Digest{"collection": d}, func(w io.Writer) {
				fmt.Fprintf(w, "Defined collection %q (%s). A steward of the owner of %q confirms it with `lab collect confirm %s` and the list of reporters.\n", c.Name, d.Short(), c.Dataset, c.Name)
			})
		}}
	f := cmd.Flags()
	f.StringVar(&scenario, "scenario", "", "approved scenario")
	f.StringVar(&c.Dataset, "dataset", "", "dataset that the measurements belong to")
	f.StringVar(&c.Column, "column", "", "column that is measured")
	f.StringVar(&c.Measurement.Kind, "kind", "", "count, sum, histogram or vector")
	f.Int64Var(&c.Measurement.Max, "max", 0, "greatest value of a sum or vector")
	f.StringSliceVar(&c.Measurement.Labels, "labels", nil, "labels of a histogram or vector")
	f.StringSliceVar(&c.Aggregators, "aggregators", nil, "two custodians, leader and helper; default: the first two")
	f.StringVar(&enrolment, "reporters", "", "enrolment file")
	f.StringVar(&epsilon, "epsilon", "", "ε of one release")
	f.Int64Var(&c.Releases, "releases", 1, "most releases ever")
	f.Int64Var(&c.MinBatch, "min-batch", 100, "fewest good reports that are released")
	f.StringVar(&until, "until", "", "last day, like 2027-12-31")
	for _, n := range []string{"scenario", "dataset", "column", "kind", "reporters", "epsilon", "until"} {
		cmd.MarkFlagRequired(n)
	}
	return cmd
}

func (a *app) confirmCmd() *cobra.Command {
	var enrolment string
	cmd := &cobra.Command{Use: "confirm NAME", Short: "Confirm a collection and its reporters, as the owner's steward", Args: cobra.ExactArgs(1),
		Long: `confirm signs a collection for the owner of the data and hands in the list of reporters, which must be the one that the
collection names: from then on whoever is on it may report.`,
		Example: `  lab collect confirm winter --reporters meters.json --as lin.hua`,
		RunE: func(cmd *cobra.Command, args []string) error {
			who, err := a.person(cmd.Context(), operators.RoleSteward)
			if err != nil {
				return err
			}
			list, err := cli.ReadFile(enrolment)
			if err != nil {
				return err
			}
			if err := a.home.ConfirmReporters(cmd.Context(), args[0], list, who); err != nil {
				return err
			}
			fmt.Fprintf(a.out, "Confirmed collection %q. Reporters may report.\n", args[0])
			return nil
		}}
	cmd.Flags().StringVar(&enrolment, "reporters", "", "enrolment file")
	cmd.MarkFlagRequired("reporters")
	return cmd
}

func (a *app) deliverCmd() *cobra.Command {
	var batch int64
	cmd := &cobra.Command{Use: "deliver NAME FILE...", Short: "Deliver reports as one batch, as the owner's steward", Args: cobra.MinimumNArgs(2),
		Long: `deliver hands in files of reports, as the owner's gateway took them from reporters, as one batch of a collection. It signs
the list of what it hands in: nothing can be left out or put in on the way. Whose reports count the aggregators decide.
Until a batch is charged, another delivery takes its place; after that only the same reports can be released.`,
		Example: `  lab collect deliver winter winter.reports --batch 1 --as lin.hua`,
		RunE: func(cmd *cobra.Command, args []string) error {
			who, err := a.person(cmd.Context(), operators.RoleSteward)
			if err != nil {
				return err
			}
			d, err := a.home.Deliver(cmd.Context(), args[0], batch, args[1:], who)
			if errors.Is(err, fs.ErrNotExist) {
				return cli.With(cli.NotFound, err)
			}
			if err != nil {
				return err
			}
			n := int64(0)
			for _, b := range d.Blobs {
				n += b.Bytes
			}
			fmt.Fprintf(a.out, "Delivered batch %d of collection %q: %d bytes of reports. Its analyst has it released with `lab collect release`.\n", d.Batch, args[0], n)
			return nil
		}}
	cmd.Flags().Int64Var(&batch, "batch", 1, "number of the batch, from 1")
	return cmd
}

// releasedBatch is a batch that was released, its table opened by the analyst.
type releasedBatch struct {
	Digest    enclave.Digest    `json:"release"`
	Collected enclave.Collected `json:"collected"`
	Table     enclave.Table     `json:"table"`
}

// openBatch opens a batch as its analyst and checks that both aggregators have signed for this very table.
func (a *app) openBatch(ctx context.Context, name string, b *lab.Batch, who string) (*releasedBatch, error) {
	c, err := a.home.Collection(ctx, name)
	if err != nil {
		return nil, err
	}
	_, roster, err := a.home.Roster(ctx)
	if err != nil {
		return nil, err
	}
	r := &releasedBatch{Digest: b.Release.Digest()}
	if err := b.Release.Open(enclave.KindCollected, &r.Collected); err != nil {
		return nil, err
	}
	for _, name := range c.Aggregators {
		p, _ := roster.Find(name)
		if err := b.Release.Verify(name, p.Key()); err != nil {
			return nil, cli.With(cli.Unverified, fmt.Errorf("batch %d of collection %q: %w", r.Collected.Batch, c.Name, err))
		}
	}
	id, err := a.home.Identity(who)
	if err != nil {
		return nil, err
	}
	plain, err := id.Open(keys.TableInfo(r.Digest), b.Table)
	if err != nil {
		return nil, fmt.Errorf("opening batch %d of collection %q: its table is for %q: %w", r.Collected.Batch, c.Name, c.By, err)
	}
	if canon.Sum(plain) != r.Collected.Table || r.Collected.Collection != c.Digest {
		return nil, cli.With(cli.Unverified, fmt.Errorf("batch %d of collection %q: the table is not the one announced", r.Collected.Batch, c.Name))
	}
	return r, canon.Unmarshal(plain, &r.Table)
}

func (a *app) collectReleaseCmd() *cobra.Command {
	var batch int64
	cmd := &cobra.Command{Use: "release NAME", Short: "Have a delivered batch counted and released, as the analyst", Args: cobra.ExactArgs(1),
		Long: `release has the two aggregators count the reports of a batch. They refuse bad ones one by one, and give a noised total if
enough good ones remain, the scenario still stands and the budgets have room. Each report counts in one batch only, whatever
is delivered again. A batch that was released is shown again and costs nothing.`,
		Example: `  lab collect release winter --batch 1`,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			ctx := cmd.Context()
			who, err := a.person(ctx, operators.RoleAnalyst)
			if err != nil {
				return err
			}
			b, err := a.home.ReleaseBatch(ctx, args[0], batch)
			if err != nil {
				return err
			}
			r, err := a.openBatch(ctx, args[0], b, who)
			if err != nil {
				return err
			}
			return a.print(r, func(w io.Writer) { writeBatch(w, r) })
		}}
	cmd.Flags().Int64Var(&batch, "batch", 1, "number of the batch, from 1")
	return cmd
}

func (a *app) collectReceiptCmd() *cobra.Command {
	var batch int64
	var out string
	cmd := &cobra.Command{Use: "receipt NAME", Short: "Write a released batch's receipt, for `lab audit verify`", Args: cobra.ExactArgs(1),
		Long: `receipt writes everything behind a released batch, with proofs that it was logged: approvals, the collection, what was
delivered and what both aggregators signed. It holds no figure of the result and verifies offline.`,
		Example: `  lab collect receipt winter --batch 1 -o winter-1.json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			if _, err := a.open(ctx); err != nil {
				return err
			}
			b, err := a.home.CollectionBundle(ctx, args[0], batch)
			if err != nil {
				return err
			}
			if b.Collected.Kind == "" {
				return fmt.Errorf("batch %d of collection %q is not released: %w", batch, args[0], sandbox.ErrNotFound)
			}
			return a.write(out, func(w io.Writer) error { _, err := w.Write(canon.MustMarshal(b)); return err })
		}}
	cmd.Flags().Int64Var(&batch, "batch", 1, "number of the batch, from 1")
	cmd.Flags().StringVarP(&out, "output", "o", "", "file; default: standard output")
	return cmd
}

func writeBatch(w io.Writer, r *releasedBatch) {
	fmt.Fprintf(w, "Batch %d: %d reports counted, ε %s charged.\n", r.Collected.Batch, r.Collected.Reports, enclave.FormatScaled(r.Collected.ChargedMicro, 6))
	for _, f := range r.Collected.Refused {
		fmt.Fprintf(w, "Refused %d: %s.\n", f.Count, f.Rule)
	}
	header, rows := (&result{Table: r.Table}).lines()
	cli.Grid(w, header, rows)
	for _, s := range r.Table.Suppressed {
		fmt.Fprintf(w, "Held back: %s: %s.\n", strings.Join(s.Labels, ", "), s.Rule)
	}
}

// listedCollection is a line of `lab collect list`.
type listedCollection struct {
	Name      string         `json:"name"`
	Digest    enclave.Digest `json:"collection"`
	Dataset   string         `json:"dataset"`
	Operator  string         `json:"operator"`
	Confirmed bool           `json:"confirmed"`
}

func (a *app) collectListCmd() *cobra.Command {
	return &cobra.Command{Use: "list", Short: "List collections", Args: cobra.NoArgs, Example: "  lab collect list",
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			if _, err := a.open(ctx); err != nil {
				return err
			}
			all, err := a.home.Collections(ctx)
			if err != nil {
				return err
			}
			out := []listedCollection{}
			rows := [][]string{}
			for _, c := range all {
				state := "waits for the owner"
				if c.Confirmed {
					state = "confirmed"
				}
				out = append(out, listedCollection{c.Name, c.Digest, c.Dataset, c.Operator, c.Confirmed})
				rows = append(rows, []string{c.Name, c.Dataset, c.Operator, state})
			}
			return a.print(out, func(w io.Writer) { cli.Grid(w, []string{"name", "dataset", "operator", "state"}, rows) })
		}}
}
