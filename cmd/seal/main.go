// Seal turns an agency's table into sealed blobs and a signed manifest. It runs at the agency: it is the only program
// that reads source rows. A table that does not fit its schema is refused whole, with row numbers and never a value.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"yingzhou.dev/lab/cmd/internal/agency"
	"yingzhou.dev/lab/cmd/internal/cli"
	"yingzhou.dev/lab/cmd/internal/desk"
	"yingzhou.dev/lab/cmd/internal/home"
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/seal"
	"yingzhou.dev/lab/enclave/seal/schema"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox"
	"yingzhou.dev/lab/sandbox/audit"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	s := &sealer{out: os.Stdout, errs: os.Stderr}
	cmd := s.command()
	code := cli.Report(os.Stderr, "seal", cmd.ExecuteContext(ctx), s.json)
	stop()
	os.Exit(code)
}

// sealer is one command line.
type sealer struct {
	out, errs io.Writer

	dir, as, dataset, schema string
	client, server           string
	form, scenario           string
	json                     bool
	wait                     time.Duration
	opts                     agency.SealOptions
}

func (s *sealer) command() *cobra.Command {
	cmd := &cobra.Command{
		Use: "seal FILE --dataset D", Short: "Seal a table as the next version of a dataset", Args: cobra.ExactArgs(1),
		Long: `seal reads a CSV (UTF-8 or GB18030), Parquet or xlsx file once, checks every row against the dataset's schema, encrypts
it under the dataset's key and publishes a signed manifest. Memory does not grow with the table. If any row is bad,
nothing is published and the report lists the first bad rows by number.

With --form shares the columns are split among three nodes instead, for joins with other agencies' datasets within one
scenario; both seals the table in both forms. Pseudonyms of people are made with the project key that the agencies of a
project share (lab project), which no node ever has.

` + cli.ExitCodes,
		Example: `  seal water-2025.csv --dataset water --as lin.hua
  seal water-2025.xlsx --dataset water --schema water.schema.json --as lin.hua
  seal residents.csv --dataset residents --form shares --project elderly --scenario elderly-care --as he.ping`,
		SilenceUsage: true, SilenceErrors: true,
		RunE: func(cmd *cobra.Command, args []string) error { return s.run(cmd.Context(), args[0]) },
	}
	f := cmd.Flags()
	f.StringVar(&s.dir, "lab", cli.Env("LAB_DIR", "lab"), "folder of the lab (LAB_DIR)")
	f.StringVar(&s.client, "client", os.Getenv("LAB_CLIENT"), "your folder with client.yaml, for a lab that is a service (LAB_CLIENT)")
	f.StringVar(&s.server, "server", os.Getenv("LAB_SERVER"), "address of that service, instead of the one in client.yaml (LAB_SERVER)")
	f.StringVar(&s.as, "as", os.Getenv("LAB_AS"), "steward you act for (LAB_AS)")
	f.StringVar(&s.dataset, "dataset", "", "registered dataset")
	f.StringVar(&s.schema, "schema", "", "changed schema; default: that of the version before")
	f.StringVar(&s.form, "form", "he", "he, shares or both")
	f.StringVar(&s.opts.Project, "project", "", "project whose key makes pseudonyms, for shares")
	f.StringVar(&s.scenario, "scenario", "", "scenario that the shares are for")
	f.StringVar(&s.opts.Table.Encoding, "encoding", "", "utf-8 or gb18030; default: detected")
	f.StringVar(&s.opts.Table.Sheet, "sheet", "", "worksheet of an xlsx file with several")
	f.BoolVar(&s.json, "json", false, "print JSON")
	f.DurationVar(&s.wait, "lock-wait", 30*time.Second, "how long to wait while another process uses the lab")
	cmd.MarkFlagRequired("dataset")
	cmd.SetOut(s.out)
	cmd.SetErr(s.errs)
	cli.Strict(cmd)
	return cmd
}

func (s *sealer) run(ctx context.Context, path string) (err error) {
	if err := cli.CheckFile(path); err != nil {
		return err
	}
	if s.schema != "" {
		data, err := cli.ReadFile(s.schema)
		if err != nil {
			return err
		}
		if s.opts.Schema, err = schema.Parse(data); err != nil {
			return fmt.Errorf("%s: %w", s.schema, err)
		}
	}
	forms, ok := map[string]seal.Forms{"he": seal.HE, "shares": seal.Split, "both": seal.HE | seal.Split}[s.form]
	if !ok {
		return cli.Usage("--form %q is not one of he, shares, both", s.form)
	}
	if split := forms&seal.Split != 0; split != (s.scenario != "") || split != (s.opts.Project != "") {
		return cli.Usage("--project and --scenario belong to shares: give both with --form shares or both, and neither otherwise")
	}
	s.opts.Forms = forms
	log := slog.New(slog.NewTextHandler(s.errs, &slog.HandlerOptions{Level: slog.LevelError}))
	audit.RedirectTessera(log)
	h, err := desk.Open(ctx, desk.Options{Dir: s.dir, Client: s.client, Server: s.server, Home: home.Options{Database: os.Getenv("LAB_DATABASE"), Logger: log, Wait: s.wait}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.Close(context.WithoutCancel(ctx))) }()
	if s.scenario != "" {
		if s.opts.Scenario, _, err = h.Scenario(ctx, s.scenario); err != nil {
			return err
		}
	}
	steward, err := s.steward(ctx, h)
	if err != nil {
		return err
	}
	if here, err := desk.Embedded(h); err == nil {
		if _, err := here.SweepBlobs(ctx); err != nil { // left by a sealing that was cut off; a service sweeps its own
			return err
		}
	}
	start := time.Now()
	sealed, err := h.SealTable(ctx, path, s.dataset, steward, s.opts)
	if err != nil {
		return s.refused(sealed, err)
	}
	return s.report(sealed, time.Since(start))
}

// refused shows the steward what is wrong with the table. Rows have numbers in it, never values.
func (s *sealer) refused(sealed *agency.Sealed, err error) error {
	if sealed == nil || sealed.Quality == nil || sealed.Quality.Rows == 0 {
		return err
	}
	if s.json {
		return errors.Join(err, cli.WriteJSON(s.out, map[string]*schema.Quality{"quality": sealed.Quality}))
	}
	fmt.Fprint(s.errs, sealed.Quality)
	return err
}

func (s *sealer) report(sealed *agency.Sealed, took time.Duration) error {
	m := sealed.Manifest
	if s.json {
		return cli.WriteJSON(s.out, struct {
			Dataset  string          `json:"dataset"`
			Version  int64           `json:"version"`
			Manifest enclave.Digest  `json:"manifest"`
			Rows     int64           `json:"rows"`
			Bytes    int64           `json:"sealed_bytes"`
			Seconds  float64         `json:"seconds"`
			Quality  *schema.Quality `json:"quality"`
		}{s.dataset, m.Version, sealed.Digest, sealed.Rows, sealed.Bytes, took.Seconds(), sealed.Quality})
	}
	fmt.Fprint(s.out, sealed.Quality)
	fmt.Fprintf(s.out, "Sealed %d rows as version %d of %q in %.1f s: %.1f MB in %d layouts, manifest %s.\n", sealed.Rows, m.Version, s.dataset,
		took.Seconds(), float64(sealed.Bytes)/1e6, len(m.Layouts), sealed.Digest.Short())
	return nil
}

// steward resolves --as: given, or the only steward of the dataset's owner.
func (s *sealer) steward(ctx context.Context, h desk.Lab) (string, error) {
	if s.as == "" {
		s.as = h.Acting()
	}
	if s.as != "" {
		return s.as, nil
	}
	d, err := h.Dataset(ctx, s.dataset)
	if err != nil {
		return "", err
	}
	_, roster, err := h.Roster(ctx)
	if err != nil {
		return "", err
	}
	var names []string
	for _, p := range roster.WithRole(operators.RoleSteward) {
		if p.Body == d.Keyset.Owner {
			names = append(names, p.Name)
		}
	}
	switch len(names) {
	case 0:
		return "", fmt.Errorf("steward of %s: %w: the agency has none in the roster", d.Keyset.Owner, sandbox.ErrNotFound)
	case 1:
		return names[0], nil
	}
	return "", cli.Usage("say with --as which steward of %s you are: %s", d.Keyset.Owner, strings.Join(names, ", "))
}
