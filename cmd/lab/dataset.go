package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"yingzhou.dev/lab/cmd/internal/cli"
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/seal/schema"
	"yingzhou.dev/lab/enclave/seal/table"
	"yingzhou.dev/lab/operators"
)

func (a *app) datasetCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "dataset", Short: "Datasets: describe, register, look at the catalogue"}
	cmd.AddCommand(a.describeCmd(), a.registerCmd(), a.datasetListCmd(), a.datasetShowCmd(), a.disposeCmd(), a.certificateCmd())
	return cmd
}

func (a *app) describeCmd() *cobra.Command {
	var out string
	var opts table.Options
	cmd := &cobra.Command{Use: "describe FILE", Short: "Draft a schema for a table, for the steward to edit", Args: cobra.ExactArgs(1),
		Long: `describe reads a CSV (UTF-8 or GB18030), Parquet or xlsx file and drafts a Frictionless Table Schema with the
yingzhou block: types, domains, bounds, entity key, layouts. Texts that begin with "EDIT:" must be written by a person
before the schema can be registered. It prints findings that deserve a look; neither they nor the schema hold a row.`,
		Example: `  lab dataset describe water.csv -o water.schema.json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := cli.CheckFile(args[0]); err != nil {
				return err
			}
			in, err := table.Open(args[0], opts)
			if err != nil {
				return err
			}
			defer in.Close()
			s, report, err := schema.Describe(in, schema.DescribeOptions{})
			if err != nil {
				return err
			}
			data, err := s.Encode()
			if err != nil {
				return err
			}
			fmt.Fprint(a.errs, report)
			return a.write(out, func(w io.Writer) error {
				_, err := w.Write(data)
				return err
			})
		}}
	cmd.Flags().StringVarP(&out, "output", "o", "", "file to write; default: standard output")
	tableFlags(cmd, &opts)
	return cmd
}

func tableFlags(cmd *cobra.Command, opts *table.Options) {
	cmd.Flags().StringVar(&opts.Encoding, "encoding", "", "utf-8 or gb18030; default: detected")
	cmd.Flags().StringVar(&opts.Sheet, "sheet", "", "worksheet of an xlsx file with several")
}

func (a *app) registerCmd() *cobra.Command {
	return &cobra.Command{Use: "register SCHEMA", Short: "Register a dataset and deal its key to the custodians, as its steward", Args: cobra.ExactArgs(1),
		Long: `register draws the dataset's key, deals its pieces to the custodians and enters the dataset in the catalogue. Rows
per entity, budget and parameter set belong to the key and cannot change later.`,
		Example: `  lab dataset register water.schema.json --as lin.hua`,
		RunE: func(cmd *cobra.Command, args []string) error {
			who, err := a.person(cmd.Context(), operators.RoleSteward)
			if err != nil {
				return err
			}
			data, err := cli.ReadFile(args[0])
			if err != nil {
				return err
			}
			s, err := schema.Parse(data)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			ks, err := a.home.RegisterDataset(cmd.Context(), s, who)
			if err != nil {
				return err
			}
			return a.print(ks, func(w io.Writer) {
				fmt.Fprintf(w, "Registered dataset %q of %s.\n", ks.Dataset, ks.Owner)
				fmt.Fprintf(w, "Its key (%s) is split into %d pieces for %s; any %d of them open, fewer cannot.\n", ks.Params, len(ks.Pieces), strings.Join(ks.Custodians, ", "), ks.Quorum)
				fmt.Fprintf(w, "Budget ε %s, at most %d rows of one entity.\n", enclave.FormatScaled(ks.BudgetMicro, 6), ks.EntityRows)
				fmt.Fprintf(w, "  next: seal FILE --dataset %s --as %s\n", ks.Dataset, who)
			})
		}}
}

func (a *app) datasetListCmd() *cobra.Command {
	return &cobra.Command{Use: "list", Short: "List the catalogue", Args: cobra.NoArgs, Example: "  lab dataset list",
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := a.open(cmd.Context())
			if err != nil {
				return err
			}
			all, err := h.Datasets(cmd.Context())
			if err != nil {
				return err
			}
			type row struct {
				Dataset  string           `json:"dataset"`
				Owner    string           `json:"owner"`
				Version  int64            `json:"version"`
				Catalog  *enclave.Catalog `json:"catalog,omitempty"`
				Budget   int64            `json:"budget_micro"`
				Keyset   enclave.Digest   `json:"keyset"`
				Manifest enclave.Digest   `json:"manifest,omitzero"`
			}
			rows := []row{}
			for _, d := range all {
				r := row{Dataset: d.Name, Owner: d.Keyset.Owner, Budget: d.Keyset.BudgetMicro, Keyset: d.KeysetDigest, Manifest: d.ManifestDigest}
				if d.Manifest != nil {
					r.Version, r.Catalog = d.Manifest.Version, &d.Manifest.Catalog
				}
				rows = append(rows, r)
			}
			return a.print(rows, func(w io.Writer) {
				var lines [][]string
				for _, r := range rows {
					title := "(nothing sealed yet)"
					if r.Catalog != nil {
						title = r.Catalog.Title
					}
					lines = append(lines, []string{r.Dataset, r.Owner, fmt.Sprint(r.Version), enclave.FormatScaled(r.Budget, 6), title})
				}
				cli.Grid(w, []string{"dataset", "owner", "version", "budget ε", "title"}, lines)
			})
		}}
}

func (a *app) datasetShowCmd() *cobra.Command {
	return &cobra.Command{Use: "show NAME", Short: "Show a dataset: columns, rules, layouts", Args: cobra.ExactArgs(1), Example: "  lab dataset show water",
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := a.open(cmd.Context())
			if err != nil {
				return err
			}
			d, err := h.Dataset(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.print(struct {
				Keyset   *enclave.Keyset        `json:"keyset"`
				Manifest *enclave.Manifest      `json:"manifest,omitempty"`
				Disposal *enclave.DisposalOrder `json:"disposal,omitempty"`
			}{d.Keyset, d.Manifest, d.Disposal}, func(w io.Writer) {
				showDataset(w, d.Keyset, d.Manifest)
				if o := d.Disposal; o != nil {
					fmt.Fprintf(w, "\n  disposed of  %s, by %s: purpose %s, %s\n", o.Made.Format("2006-01-02 15:04"), o.By, o.Cause, o.Reason)
				}
			})
		}}
}

func showDataset(w io.Writer, ks *enclave.Keyset, m *enclave.Manifest) {
	fmt.Fprintf(w, "%s of %s\n  key         %s, %d of %s\n  budget      ε %s, at most %d rows of one entity\n", ks.Dataset, ks.Owner, ks.Params, ks.Quorum,
		strings.Join(ks.Custodians, ", "), enclave.FormatScaled(ks.BudgetMicro, 6), ks.EntityRows)
	if m == nil {
		fmt.Fprintln(w, "  nothing sealed yet")
		return
	}
	c := m.Catalog
	fmt.Fprintf(w, "  version     %d, sealed %s by %s, at most %d rows\n", m.Version, m.Made.Format("2006-01-02 15:04"), m.By, m.RowsBound)
	fmt.Fprintf(w, "  catalogue   %s · %s · level %d · sharing %s · opening %s · %s · %s\n  basis       %s\n\n", c.Title, c.Classification, c.Level, c.Sharing, c.Opening, c.UpdateCycle, c.Unit, c.LegalBasis)
	var rows [][]string
	for _, col := range m.Columns {
		values := ""
		switch {
		case col.Type == enclave.TypeCategory:
			values = strings.Join(col.Domain, " ")
		case col.Type == enclave.TypeNumber:
			values = enclave.FormatScaled(col.Min, col.Scale) + " to " + enclave.FormatScaled(col.Max, col.Scale)
			if col.Size() > 0 {
				values += fmt.Sprintf(", %d bins", col.Size())
			}
		}
		if r := []rune(values); len(r) > 60 {
			values = string(r[:57]) + "…"
		}
		var us []string
		for _, u := range col.Uses {
			us = append(us, string(u))
		}
		rows = append(rows, []string{col.Name, col.Type, strings.Join(us, "+"), values, col.Title})
	}
	cli.Grid(w, []string{"column", "type", "uses", "values", "title"}, rows)
	fmt.Fprintln(w)
	for _, l := range m.Layouts {
		var axes []string
		for _, ax := range l.Axes {
			if len(ax) > 0 {
				axes = append(axes, strings.Join(ax, "×"))
			}
		}
		fmt.Fprintf(w, "  layout %-14s %s over %s, %d vectors\n", l.Name, l.Kind, strings.Join(axes, "; "), len(l.Vectors))
	}
}
