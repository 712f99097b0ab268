package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"yingzhou.dev/lab/cmd/internal/agency"
	"yingzhou.dev/lab/cmd/internal/cli"
	"yingzhou.dev/lab/cmd/internal/home"
	"yingzhou.dev/lab/enclave/seal/schema"
	"yingzhou.dev/lab/examples"
	"yingzhou.dev/lab/examples/water/generator"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox"
	"yingzhou.dev/lab/sandbox/lab"
)

func (a *app) demoCmd() *cobra.Command {
	var rows int
	var keep string
	cmd := &cobra.Command{Use: "demo", Short: "Run the whole way once on real and generated data, in a temporary folder", Args: cobra.NoArgs,
		Long: `demo makes a lab in a temporary folder and runs the whole way: two agencies seal their tables, an operator is
licensed, a scenario is applied for, consented to and approved by two officials, jobs run on ciphertexts, custodians open
noised aggregates, every release is verified offline, and tampering is shown to be caught. It is the only command that
prints true values: it made or shipped the data itself.`,
		Example: `  lab demo
  lab demo --rows 1000000 --keep ./mylab`,
		RunE: func(cmd *cobra.Command, args []string) error {
			d := &demo{app: a, rows: rows, seconds: map[string]float64{}}
			return d.run(cmd.Context(), keep)
		}}
	cmd.AddCommand(a.careCmd())
	cmd.Flags().IntVar(&rows, "rows", 200_000, "households in the generated water table")
	cmd.Flags().StringVar(&keep, "keep", "", "make the lab in this new folder and keep it")
	return cmd
}

// demo tells one story and counts what happens in it.
type demo struct {
	*app
	home    *home.Home // the demo looks behind the desk
	rows    int
	dir     string
	seconds map[string]float64

	dataRows   int64
	jobs       []sandbox.JobID
	released   int64
	suppressed int64
	worst      float64 // largest error in standard errors
	verified   int
	caught     []string
	missed     []string
	tables     map[string]*source
}

// source is a table of the demo with its schema, for the true values.
type source struct {
	path   string
	schema *schema.Schema
}

func (d *demo) say(format string, args ...any) {
	if !d.json {
		fmt.Fprintf(d.out, format+"\n", args...)
	}
}

func (d *demo) heading(title string) {
	if terminal(d.out) {
		title = "\033[1m" + title + "\033[0m" // bold
	}
	d.say("\n%s", title)
}

// stage times a part of the story.
func (d *demo) stage(name string, f func() error) error {
	start := time.Now()
	err := f()
	d.seconds[name] += time.Since(start).Seconds()
	if err != nil {
		return fmt.Errorf("demo, %s: %w", name, err)
	}
	return nil
}

func (d *demo) run(ctx context.Context, keep string) (err error) {
	start := time.Now()
	d.dir = keep
	if keep == "" {
		if d.dir, err = os.MkdirTemp("", "yingzhou-demo-"); err != nil {
			return err
		}
		defer os.RemoveAll(d.dir)
	} else if err := os.MkdirAll(keep, 0o700); err != nil {
		return err
	}
	// The lab must be closed before its folder goes.
	defer func() {
		if d.home != nil {
			err = errors.Join(err, d.home.Close(context.WithoutCancel(ctx)))
			d.home, d.app.home = nil, nil
		}
	}()
	for _, part := range []struct {
		name string
		do   func(context.Context) error
	}{{"lab", d.makeLab}, {"seal", d.sealTables}, {"approve", d.approve}, {"jobs", d.runJobs}, {"refusal", d.refusal}, {"verify", d.verifyAll}, {"tamper", d.tamper}} {
		if err := d.stage(part.name, func() error { return part.do(ctx) }); err != nil {
			return err
		}
	}
	d.seconds["total"] = time.Since(start).Seconds()
	if len(d.missed) > 0 {
		return cli.With(cli.Unverified, fmt.Errorf("demo: tampering was not noticed: %s", strings.Join(d.missed, "; ")))
	}
	iso, why, err := d.home.Isolation(ctx)
	if err != nil {
		return err
	}
	if d.json {
		return d.print(map[string]any{"rows": d.dataRows, "jobs": len(d.jobs), "released_cells": d.released, "suppressed_cells": d.suppressed,
			"max_error_in_sigmas": math.Round(d.worst*100) / 100, "verified": d.verified, "tampering_caught": len(d.caught), "isolation": iso, "isolation_reason": why,
			"seconds": d.seconds}, nil)
	}
	d.heading("Done")
	d.say("%d rows sealed, %d jobs, %d cells released, %d held back, largest error %.2f standard errors, %d releases verified, %d of %d tamperings caught, %.1f s.",
		d.dataRows, len(d.jobs), d.released, d.suppressed, d.worst, d.verified, len(d.caught), len(d.caught)+len(d.missed), d.seconds["total"])
	d.say("Isolation of the worker: %s (%s).", iso, why)
	d.say("\nWhere to go next:")
	if keep != "" {
		d.say("  export LAB_DIR=%s                    the lab is kept there", keep)
		d.say("  bin/lab job submit --scenario care-and-water --as chen.yu \"SELECT town, AVG(people) FROM water GROUP BY town\"")
	} else {
		d.say("  bin/lab demo --keep ./mylab               keep the lab and play with it")
	}
	d.say("  bin/lab init ./mylab                      start with a table of your own: README.md, \"Your own table\"")
	d.say("  docs/ARCHITECTURE.md, docs/THREAT_MODEL.md  how it works, and what it does not protect against")
	return nil
}

func (d *demo) makeLab(ctx context.Context) error {
	d.heading("1. A lab, with three custodians at three bodies")
	if err := home.Create(ctx, d.dir, "demo", false, d.clock()); err != nil {
		return err
	}
	d.app.dir, d.app.client = d.dir, ""
	h, err := d.embedded(ctx)
	if err != nil {
		return err
	}
	d.home = h
	for _, p := range []operators.Party{
		{Name: "gu.ling", Role: operators.RoleSteward, Body: "区卫生健康委", Title: "顾玲 · 数据管理"},
		{Name: "lin.hua", Role: operators.RoleSteward, Body: "区水务局", Title: "林华 · 数据管理"},
		{Name: "chen.yu", Role: operators.RoleAnalyst, Body: "崇明数科", Title: "陈宇 · 分析师"},
	} {
		if err := h.AddPerson(ctx, p); err != nil {
			return err
		}
	}
	iso, why, err := h.Isolation(ctx)
	if err != nil {
		return err
	}
	d.say("In %s. Any two of the three custodians open a result together; one alone cannot.", d.dir)
	d.say("Workers run in: %s (%s).", iso, why)
	return nil
}

func (d *demo) sealTables(ctx context.Context) error {
	d.heading("2. Two agencies seal their tables")
	d.tables = map[string]*source{}
	src := filepath.Join(d.dir, "source")
	if err := os.MkdirAll(src, 0o700); err != nil {
		return err
	}
	for _, t := range []struct{ dataset, steward string }{{"health", "gu.ling"}, {"water", "lin.hua"}} {
		s := &source{path: filepath.Join(src, t.dataset+".csv")}
		data, err := examples.Files.ReadFile(t.dataset + "/schema.json")
		if err != nil {
			return err
		}
		if s.schema, err = schema.Parse(data); err != nil {
			return err
		}
		if err := d.writeTable(t.dataset, s.path); err != nil {
			return err
		}
		if _, err := d.home.RegisterDataset(ctx, s.schema, t.steward); err != nil {
			return err
		}
		start := time.Now()
		sealed, err := d.home.SealTable(ctx, s.path, t.dataset, t.steward, agency.SealOptions{})
		if err != nil {
			return err
		}
		d.tables[t.dataset] = s
		d.dataRows += sealed.Rows
		vectors := 0
		for _, l := range sealed.Manifest.Layouts {
			vectors += len(l.Vectors)
		}
		d.say("%s: %d rows → %d encrypted vectors, %.1f MB, in %.2f s (%s)", sealed.Manifest.Catalog.Title, sealed.Rows, vectors, float64(sealed.Bytes)/1e6, time.Since(start).Seconds(), t.steward)
	}
	return nil
}

func (d *demo) writeTable(dataset, path string) error {
	if dataset == "health" {
		data, err := examples.Files.ReadFile("health/health.csv")
		if err != nil {
			return err
		}
		return os.WriteFile(path, data, 0o600)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(generator.Write(f, d.rows, 1), f.Close())
}

func (d *demo) approve(ctx context.Context) error {
	d.heading("3. An operator is licensed and a scenario approved")
	h := d.home
	steps := []struct {
		who string
		do  func(operatorsSigner) (operators.Digest, error)
		say string
	}{
		{"wang.fang", func(id operatorsSigner) (operators.Digest, error) {
			now := h.Now()
			return h.Registry.Issue(ctx, id, operators.License{Operator: "崇明数科", SecurityReview: "安审[2026]17", Agreement: "保密[2026]9",
				NotBefore: operators.Time{Time: now.UTC().Truncate(time.Second)}, NotAfter: operators.Time{Time: now.UTC().Truncate(time.Second).AddDate(2, 0, 0)}})
		}, "licenses 崇明数科 for two years"},
		{"chen.yu", func(id operatorsSigner) (operators.Digest, error) {
			workers, err := h.WorkerDigests(ctx)
			if err != nil {
				return operators.Digest{}, err
			}
			uses, err := parseUses([]string{
				"health: health=group+filter, coinsurance=group+filter, idp=group+filter, mdvis=aggregate, disea=aggregate",
				"water: town=group+filter, building=group+filter, age=group+filter, tier=group+filter, m3=aggregate+filter, people=aggregate"})
			if err != nil {
				return operators.Digest{}, err
			}
			return h.Registry.Apply(ctx, id, operators.Scenario{Name: "care-and-water", Operator: "崇明数科", Purpose: "居民用水与就医需求规划", Datasets: uses,
				EpsilonMicro: 16_000_000, JobEpsilonMicro: 2_000_000, MinCohort: 10, MarginMilli: 2000, Workers: workers,
				NotAfter: operators.Time{Time: h.Now().UTC().Truncate(time.Second).AddDate(0, 6, 0)}})
		}, "applies for scenario care-and-water"},
		{"gu.ling", func(id operatorsSigner) (operators.Digest, error) { return d.consent(ctx, id, "health") }, "consents for the health agency"},
		{"lin.hua", func(id operatorsSigner) (operators.Digest, error) { return d.consent(ctx, id, "water") }, "consents for the water agency"},
		{"wang.fang", func(id operatorsSigner) (operators.Digest, error) { return d.approval(ctx, id) }, "approves"},
		{"li.jun", func(id operatorsSigner) (operators.Digest, error) { return d.approval(ctx, id) }, "approves: the second official"},
	}
	for _, s := range steps {
		id, err := h.Identity(s.who)
		if err != nil {
			return err
		}
		digest, err := s.do(id)
		if err != nil {
			return err
		}
		d.say("%-10s %s (%s)", s.who, s.say, digest.Short())
	}
	return nil
}

type operatorsSigner = lab.Signer

func (d *demo) consent(ctx context.Context, id operatorsSigner, dataset string) (operators.Digest, error) {
	digest, s, err := d.home.Lab.Scenario(ctx, "care-and-water")
	if err != nil {
		return digest, err
	}
	for _, use := range s.Datasets {
		if use.Dataset == dataset {
			return d.home.Registry.Consent(ctx, id, operators.Consent{Scenario: digest, Use: use, EpsilonMicro: 12_000_000})
		}
	}
	return digest, fmt.Errorf("scenario does not ask for %q", dataset)
}

func (d *demo) approval(ctx context.Context, id operatorsSigner) (operators.Digest, error) {
	digest, _, err := d.home.Lab.Scenario(ctx, "care-and-water")
	if err != nil {
		return digest, err
	}
	return d.home.Registry.Approve(ctx, id, digest, "目的明确,列最少够用")
}
