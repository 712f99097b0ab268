package main

import (
	"context"
	"crypto/ed25519"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"yingzhou.dev/lab/cmd/internal/cli"
	"yingzhou.dev/lab/cmd/internal/home"
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/mpc/prio3"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/operators"
)

func (a *app) collectCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "collect", Short: "Collections: count reports of many untrusted senders",
		Long: `A collection asks many reporters, such as meters or village committees, for one measurement each. Every report is
split between two aggregators and proves that it is within its bounds (Prio3). Neither aggregator sees a measurement;
together they release noised totals of whole batches.`}
	cmd.AddCommand(a.enrolCmd(), a.defineCmd(), a.confirmCmd(), a.reportCmd(), a.collectReleaseCmd(), a.collectListCmd())
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
"vector" a number up to --max (2^b-1) for each of --labels. Every release spends --epsilon of each reporter; all of
--releases together must fit the scenario's budget. A steward of the dataset's owner confirms the collection, and with it
the list of reporters.`,
		Example: `  lab collect define winter --scenario meters --dataset meters --column kwh --kind sum --max 2000 \
      --reporters meters.json --epsilon 0.5 --releases 4 --min-batch 1000 --until 2027-03-31`,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			here, err := a.embedded(ctx)
			if err != nil {
				return err
			}
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
			d, err := here.DefineCollection(ctx, c, data)
			if err != nil {
				return err
			}
			return a.print(map[string]enclave.Digest{"collection": d}, func(w io.Writer) {
				fmt.Fprintf(w, "Defined collection %q (%s). A steward of the owner of %q confirms it with `lab collect confirm %s`.\n", c.Name, d.Short(), c.Dataset, c.Name)
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
	return &cobra.Command{Use: "confirm NAME", Short: "Confirm a collection and its reporters, as the owner's steward", Args: cobra.ExactArgs(1),
		Example: `  lab collect confirm winter --as lin.hua`,
		RunE: func(cmd *cobra.Command, args []string) error {
			here, err := a.embedded(cmd.Context())
			if err != nil {
				return err
			}
			who, err := a.person(cmd.Context(), operators.RoleSteward)
			if err != nil {
				return err
			}
			if err := here.ConfirmCollection(cmd.Context(), args[0], who); err != nil {
				return err
			}
			fmt.Fprintf(a.out, "Confirmed collection %q. Reporters may report.\n", args[0])
			return nil
		}}
}

func (a *app) reportCmd() *cobra.Command {
	var private, out string
	cmd := &cobra.Command{Use: "report NAME VALUES", Short: "Report as enrolled reporters, for trying out", Args: cobra.ExactArgs(2),
		Long: `report reads a CSV file without header, a reporter's name and its measurement in each line (for a histogram the label,
for a vector one column per label), and appends one report each to a spool file: what their devices would send.`,
		Example: `  lab collect report winter values.csv --keys meters.keys -o winter.reports`,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			h, err := a.embedded(ctx)
			if err != nil {
				return err
			}
			t, err := h.Collection(ctx, args[0])
			if err != nil {
				return err
			}
			public, err := h.AggregatorKeys(ctx, t)
			if err != nil {
				return err
			}
			signers, err := readKeys(private)
			if err != nil {
				return err
			}
			in, err := os.Open(args[1])
			if err != nil {
				return cli.With(cli.NotFound, err)
			}
			defer in.Close()
			spool, err := os.OpenFile(out, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
			if err != nil {
				return fmt.Errorf("writing reports: %w", err)
			}
			n, err := report(ctx, t, public, signers, in, spool)
			if err := errors.Join(err, spool.Close()); err != nil {
				return fmt.Errorf("%s: %w", args[1], err)
			}
			fmt.Fprintf(a.out, "Reported %d measurements to collection %q, %d bytes each.\n", n, t.Name, t.ReportBytes())
			return nil
		}}
	cmd.Flags().StringVar(&private, "keys", "", "private keys of the reporters")
	cmd.Flags().StringVarP(&out, "output", "o", "", "spool file to append to")
	cmd.MarkFlagRequired("keys")
	cmd.MarkFlagRequired("output")
	return cmd
}

func readKeys(path string) (map[string]ed25519.PrivateKey, error) {
	data, err := cli.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var f reporterKeys
	if err := canon.Unmarshal(data, &f); err != nil || f.Kind != reporterKeysKind {
		return nil, cli.Usage("%s is not a file of `lab collect enrol --keys`", path)
	}
	out := map[string]ed25519.PrivateKey{}
	for _, k := range f.Keys {
		if len(k.Sign) != ed25519.SeedSize {
			return nil, cli.Usage("%s holds a key that is none", path)
		}
		out[k.Name] = ed25519.NewKeyFromSeed(k.Sign)
	}
	return out, nil
}

// report makes a report of every line. Errors name the line, never the measurement.
func report(ctx context.Context, t *prio3.Task, public [2][]byte, signers map[string]ed25519.PrivateKey, in io.Reader, spool io.Writer) (n int, err error) {
	index := map[string]int{}
	for i, r := range t.Reporters {
		index[r.Name] = i
	}
	r := csv.NewReader(in)
	for {
		line, err := r.Read()
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return n, err
		}
		at, enrolled := index[line[0]]
		key, own := signers[line[0]]
		if !enrolled || !own {
			return n, cli.Usage("line %d: %q is not enrolled, or has no key here", n+1, line[0])
		}
		x, err := measurement(t.Measurement, line[1:])
		if err != nil {
			return n, cli.Usage("line %d: %w", n+1, err)
		}
		data, err := t.Report(at, key, public, x)
		if err == nil {
			err = prio3.WriteReport(spool, data)
		}
		if err != nil {
			return n, fmt.Errorf("line %d: %w", n+1, err)
		}
		n++
	}
}

func measurement(m enclave.Measurement, texts []string) ([]uint64, error) {
	if m.Kind == enclave.MeasureHistogram && len(texts) == 1 {
		i := slices.Index(m.Labels, texts[0])
		if i < 0 {
			return nil, errors.New("the label is not one of the collection's")
		}
		return []uint64{uint64(i)}, nil
	}
	out := make([]uint64, len(texts))
	for i, s := range texts {
		v, err := strconv.ParseUint(s, 10, 32)
		if err != nil {
			return nil, errors.New("a measurement is not a whole number")
		}
		out[i] = v
	}
	return out, nil
}

func (a *app) collectReleaseCmd() *cobra.Command {
	var spool string
	var batch int64
	cmd := &cobra.Command{Use: "release NAME", Short: "Count a spool of reports and release the batch, as the analyst", Args: cobra.ExactArgs(1),
		Long: `release hands the reports to the two aggregators. They refuse bad ones one by one, and give a noised total if enough good
ones remain and the scenario still stands. Each report counts in one batch only, whatever is sent again. Without --reports
it shows a batch that was released.`,
		Example: `  lab collect release winter --batch 1 --reports winter.reports`,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			ctx := cmd.Context()
			here, err := a.embedded(ctx)
			if err != nil {
				return err
			}
			if _, err := a.person(ctx, operators.RoleAnalyst); err != nil {
				return err
			}
			if spool != "" {
				in, err := os.Open(spool)
				if err != nil {
					return cli.With(cli.NotFound, err)
				}
				defer in.Close()
				if err := here.ReleaseBatch(ctx, args[0], batch, in); err != nil {
					if errors.Is(err, prio3.ErrBatch) {
						err = cli.With(cli.Refused, err)
					}
					return err
				}
			}
			r, err := here.Batch(ctx, args[0], batch)
			if err != nil {
				return err
			}
			return a.print(r, func(w io.Writer) { writeBatch(w, r) })
		}}
	cmd.Flags().StringVar(&spool, "reports", "", "spool of reports")
	cmd.Flags().Int64Var(&batch, "batch", 1, "number of the batch, from 1")
	return cmd
}

func writeBatch(w io.Writer, r *home.Released) {
	fmt.Fprintf(w, "Batch %d: %d reports counted.\n", r.Collected.Batch, r.Collected.Reports)
	for _, f := range r.Collected.Refused {
		fmt.Fprintf(w, "Refused %d: %s.\n", f.Count, f.Rule)
	}
	header, rows := (&result{Table: r.Table}).lines()
	cli.Grid(w, header, rows)
	for _, s := range r.Table.Suppressed {
		fmt.Fprintf(w, "Held back: %s: %s.\n", strings.Join(s.Labels, ", "), s.Rule)
	}
}

func (a *app) collectListCmd() *cobra.Command {
	return &cobra.Command{Use: "list", Short: "List collections", Args: cobra.NoArgs, Example: "  lab collect list",
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := a.embedded(cmd.Context())
			if err != nil {
				return err
			}
			names, err := h.Collections()
			if err != nil {
				return err
			}
			return a.print(names, func(w io.Writer) {
				for _, n := range names {
					fmt.Fprintln(w, n)
				}
			})
		}}
}
