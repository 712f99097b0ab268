package main

import (
	"context"
	"encoding/csv"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/xuri/excelize/v2"

	"yingzhou.dev/lab/cmd/internal/cli"
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/enclave/mpc"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/sandbox"
)

// result is a released table, opened by the analyst who asked, with what the release says of it.
type result struct {
	Job     sandbox.JobID   `json:"job"`
	Digest  enclave.Digest  `json:"release"`
	Release enclave.Release `json:"-"`
	Table   enclave.Table   `json:"table"`
	Charged string          `json:"charged_epsilon"`
	// Isolation stood around whatever computed it: in a joint job, around the nodes.
	Isolation string `json:"isolation"`
}

// result opens a job's release for the analyst who submitted it and checks that the table is the one announced.
func (a *app) result(ctx context.Context, id sandbox.JobID) (*result, error) {
	h, err := a.open(ctx)
	if err != nil {
		return nil, err
	}
	job, err := h.Job(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("job %s: %w", id, err)
	}
	if job.State != sandbox.Released {
		return nil, cli.With(cli.NotFound, fmt.Errorf("job %s is %s and has no release%s", id, job.State, because(job.Reason)))
	}
	if a.as != "" && a.as != job.Analyst {
		return nil, cli.With(cli.Refused, fmt.Errorf("the result of job %s is sealed to %s, who submitted it; %s cannot open it", id, job.Analyst, a.as))
	}
	sealed, err := h.SealedTable(ctx, id)
	if err != nil {
		return nil, err
	}
	who, err := h.Identity(job.Analyst)
	if err != nil {
		return nil, err
	}
	rel, err := h.SignedRelease(ctx, job)
	if err != nil {
		return nil, err
	}
	r := &result{Job: id, Digest: sealed.Release, Isolation: job.Isolation}
	if err := rel.Open(enclave.KindRelease, &r.Release); err != nil {
		return nil, err
	}
	plain, err := who.Open(keys.TableInfo(sealed.Release), sealed.Table)
	if err != nil {
		return nil, err
	}
	if canon.Sum(plain) != r.Release.Table || rel.Digest() != sealed.Release {
		return nil, cli.With(cli.Unverified, fmt.Errorf("job %s: the table is not the one that release %s announces", id, sealed.Release))
	}
	r.Charged = enclave.FormatScaled(r.Release.ChargedMicro, 6)
	return r, canon.Unmarshal(plain, &r.Table)
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return ": " + reason
}

func (a *app) releaseCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "release", Short: "Releases: fetch results"}
	var format, out string
	get := &cobra.Command{Use: "get JOB", Short: "Open a released result", Args: cobra.ExactArgs(1),
		Long: `get opens a result that was sealed to the analyst who submitted the job, and checks it against the release that the
custodians signed. Numbers carry the standard error of the noise; cells that were held back are listed with the rule.`,
		Example: `  lab release get job-1ng8fwe65awk9mgm --format csv -o towns.csv
  lab release get job-1ng8fwe65awk9mgm --format xlsx -o towns.xlsx`,
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := jobArg(args)
			if err != nil {
				return err
			}
			write, ok := map[string]func(*result, io.Writer) error{"table": (*result).writeText, "csv": (*result).writeCSV, "json": (*result).writeJSON, "xlsx": (*result).writeXLSX}[format]
			if !ok {
				return cli.Usage("--format %q is not one of table, csv, json, xlsx", format)
			}
			if a.json && !cmd.Flags().Changed("format") {
				write = (*result).writeJSON
			}
			r, err := a.result(cmd.Context(), id)
			if err != nil {
				return err
			}
			return a.write(out, func(w io.Writer) error { return write(r, w) })
		}}
	get.Flags().StringVar(&format, "format", "table", "table, csv, json or xlsx")
	get.Flags().StringVarP(&out, "output", "o", "", "file to write; default: standard output")
	get.RegisterFlagCompletionFunc("format", cobra.FixedCompletions([]string{"table", "csv", "json", "xlsx"}, cobra.ShellCompDirectiveNoFileComp))
	list := &cobra.Command{Use: "list", Short: "List releases, the newest first", Args: cobra.NoArgs, Example: "  lab release list",
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := a.open(cmd.Context())
			if err != nil {
				return err
			}
			jobs, err := h.Jobs(cmd.Context(), sandbox.JobFilter{States: []sandbox.State{sandbox.Released}})
			if err != nil {
				return err
			}
			return a.print(views(jobs), func(w io.Writer) {
				var rows [][]string
				for _, j := range jobs {
					rows = append(rows, []string{string(j.ID), j.Operator, j.Updated.Format("2006-01-02 15:04:05"), j.Release.String()})
				}
				cli.Grid(w, []string{"job", "operator", "released (UTC)", "release"}, rows)
			})
		}}
	cmd.AddCommand(get, list)
	return cmd
}

// lines lays the table out as text: a number with its standard error, or why there is none.
func (r *result) lines() (header []string, rows [][]string) {
	for _, c := range r.Table.Columns {
		header = append(header, c.Name)
		if c.Type == "number" {
			header = append(header, "± "+c.Name)
		}
	}
	for _, row := range r.Table.Rows {
		var line []string
		for i, v := range row.Values {
			text := v.Text
			if v.Null != "" {
				text = "NULL"
			}
			line = append(line, text)
			if r.Table.Columns[i].Type == "number" {
				line = append(line, v.StdErr)
			}
		}
		rows = append(rows, line)
	}
	return header, rows
}

func (r *result) writeText(w io.Writer) error { r.text(w); return nil }

func (r *result) text(w io.Writer) {
	header, rows := r.lines()
	for i, h := range header {
		if strings.HasPrefix(h, "± ") {
			header[i] = "±"
		}
	}
	cli.Grid(w, header, rows)
	for _, row := range r.Table.Rows {
		for i, v := range row.Values {
			if v.Null != "" {
				fmt.Fprintf(w, "NULL in %s, %s: %s\n", row.Values[0].Text, r.Table.Columns[i].Name, v.Null)
			}
		}
	}
	rules := map[string]int{}
	for _, s := range r.Table.Suppressed {
		rules[s.Rule]++
	}
	for _, rule := range slices.Sorted(maps.Keys(rules)) {
		fmt.Fprintf(w, "%d of %d cells held back: %s\n", rules[rule], r.Release.Cells, rule)
	}
	fmt.Fprintf(w, "± is the standard error of the noise. Charged to the dataset: ε %s. Release %s.\n", r.Charged, r.Digest.Short())
	if r.Isolation == mpc.Contained || r.Isolation == mpc.Uncontained {
		fmt.Fprintf(w, "The nodes were %s.\n", r.Isolation)
	}
}

func (r *result) writeCSV(w io.Writer) error {
	c := csv.NewWriter(w)
	header, rows := r.lines()
	for i, h := range header {
		if i > 0 && h == "± "+header[i-1] {
			header[i] = header[i-1] + " stderr"
		}
	}
	header = append(header, "held back by")
	if err := c.Write(header); err != nil {
		return err
	}
	for _, row := range rows {
		if err := c.Write(append(row, "")); err != nil {
			return err
		}
	}
	for _, s := range r.Table.Suppressed {
		if err := c.Write(r.heldBack(s, len(header))); err != nil {
			return err
		}
	}
	c.Flush()
	return c.Error()
}

// heldBack lays a suppressed cell out like a row: its labels where the labels stand, no numbers, the rule last.
func (r *result) heldBack(s enclave.Suppressed, width int) []string {
	line := make([]string, width)
	labels, at := slices.Clone(s.Labels), 0
	for _, c := range r.Table.Columns {
		if c.Type != "number" && len(labels) > 0 {
			line[at], labels = labels[0], labels[1:]
		}
		if at++; c.Type == "number" {
			at++
		}
	}
	line[width-1] = s.Rule
	return line
}

func (r *result) writeJSON(w io.Writer) error { return cli.WriteJSON(w, r) }

func (r *result) writeXLSX(w io.Writer) error {
	f := excelize.NewFile()
	defer f.Close()
	const sheet = "Sheet1"
	header, rows := r.lines()
	var numbers []bool // by column of the sheet; a label that looks like a number stays text
	for _, c := range r.Table.Columns {
		numbers = append(numbers, c.Type == "number")
		if c.Type == "number" {
			numbers = append(numbers, true)
		}
	}
	numbers = append(numbers, false)
	header = append(header, "held back by")
	for _, s := range r.Table.Suppressed {
		rows = append(rows, r.heldBack(s, len(header)))
	}
	for y, row := range append([][]string{header}, rows...) {
		for x, text := range row {
			cell, err := excelize.CoordinatesToCellName(x+1, y+1)
			if err != nil {
				return err
			}
			var v any = text
			if y > 0 && numbers[x] {
				if n, err := strconv.ParseFloat(text, 64); err == nil {
					v = n
				}
			}
			if err := f.SetCellValue(sheet, cell, v); err != nil {
				return err
			}
		}
	}
	return f.Write(w)
}
