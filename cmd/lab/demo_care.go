package main

import (
	"bufio"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"yingzhou.dev/lab/cmd/internal/agency"
	"yingzhou.dev/lab/cmd/internal/cli"
	"yingzhou.dev/lab/cmd/internal/home"
	"yingzhou.dev/lab/enclave/seal"
	"yingzhou.dev/lab/enclave/seal/identifier"
	"yingzhou.dev/lab/enclave/seal/schema"
	"yingzhou.dev/lab/examples"
	"yingzhou.dev/lab/examples/care/generator"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox"
	"yingzhou.dev/lab/sandbox/lab"
)

// careQuery is a join, a range and two quantiles in one job.
const careQuery = `SELECT town, COUNT(*) AS people, MEDIAN(cost) AS median, PERCENTILE_CONT(cost, 0.9) AS p90
  FROM residents JOIN health ON entity
 WHERE age > 60 AND alone = '是'
 GROUP BY town`

func (a *app) careCmd() *cobra.Command {
	var people int
	cmd := &cobra.Command{Use: "care", Short: "Match the tables of three agencies and ask one question of them, on three nodes", Args: cobra.NoArgs,
		Long: `care makes up the residents of a district as three agencies have them on file, seals the tables in share form for one
scenario, and asks what the medical care of old people who live alone costs: a join on a pseudonym, a range and two
quantiles in one job on three compute nodes. Everything is invented, so the true values are printed beside the released.`,
		Example: `  lab demo care
  lab demo care --people 50000`,
		RunE: func(cmd *cobra.Command, args []string) error {
			c := &care{demo: &demo{app: a, seconds: map[string]float64{}}, people: people}
			return c.run(cmd.Context())
		}}
	cmd.Flags().IntVar(&people, "people", 600_000, "residents")
	return cmd
}

// care is the story of three agencies.
type care struct {
	*demo
	people int
	mu     sync.Mutex        // guards nodes
	nodes  map[string]string // what each node wrote
	job    sandbox.JobID
}

var careAgencies = []struct{ dataset, steward, body string }{
	{"residents", "he.ping", "区公安分局"}, {"health", "gu.ling", "区卫生健康委"}, {"welfare", "sun.lan", "区民政局"},
}

func (c *care) run(ctx context.Context) (err error) {
	start := time.Now()
	if c.dir, err = os.MkdirTemp("", "yingzhou-care-"); err != nil {
		return err
	}
	defer os.RemoveAll(c.dir)
	defer func() { // the lab must be closed before its folder goes
		if c.home != nil {
			err = errors.Join(err, c.home.Close(context.WithoutCancel(ctx)))
			c.home, c.app.home = nil, nil
		}
	}()
	for _, part := range []struct {
		name string
		do   func(context.Context) error
	}{{"generate", c.generate}, {"lab", c.makeLab}, {"approve", c.approve}, {"seal", c.sealAll}, {"explain", c.explain}, {"job", c.ask}} {
		if err := c.stage(part.name, func() error { return part.do(ctx) }); err != nil {
			return err
		}
	}
	c.seconds["total"] = time.Since(start).Seconds()
	if c.json {
		return c.print(map[string]any{"people": c.people, "job": c.job, "released_cells": c.released, "suppressed_cells": c.suppressed, "seconds": c.seconds}, nil)
	}
	c.heading("Stage times")
	for _, s := range []string{"generate", "lab", "approve", "seal", "explain", "job", "total"} {
		c.say("  %-9s %7.2f s", s, c.seconds[s])
	}
	return nil
}

func (c *care) table(dataset string) string { return filepath.Join(c.dir, dataset+".csv") }

func (c *care) generate(context.Context) (err error) {
	c.heading("1. Three agencies' files of invented people")
	var files [3]*os.File
	var w [3]*bufio.Writer
	for i, g := range careAgencies {
		if files[i], err = os.OpenFile(c.table(g.dataset), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600); err != nil {
			return err
		}
		defer files[i].Close()
		w[i] = bufio.NewWriterSize(files[i], 1<<20)
	}
	if err := generator.Write(w[0], w[1], w[2], c.people, 1); err != nil {
		return err
	}
	for i := range files {
		if err := errors.Join(w[i].Flush(), files[i].Close()); err != nil {
			return err
		}
	}
	c.say("%d residents. Their identity numbers begin with 990151, which no real one does.", c.people)
	return nil
}

func (c *care) makeLab(ctx context.Context) error {
	c.heading("2. A lab, with three custodians at three bodies and a compute node at each")
	c.nodes = map[string]string{}
	where := filepath.Join(c.dir, "lab")
	if err := os.MkdirAll(where, 0o700); err != nil {
		return err
	}
	if err := home.Create(ctx, where, "care", false, c.clock()); err != nil {
		return err
	}
	c.app.dir, c.app.client = where, ""
	o := c.options()
	o.NodeLog = func(custodian, lines string) { c.heard(custodian, lines) }
	h, err := home.Open(ctx, where, o)
	if err != nil {
		return err
	}
	c.home, c.app.home = h, h
	for _, g := range careAgencies {
		if err := h.AddPerson(ctx, operators.Party{Name: g.steward, Role: operators.RoleSteward, Body: g.body}); err != nil {
			return err
		}
	}
	if err := h.AddPerson(ctx, operators.Party{Name: "chen.yu", Role: operators.RoleAnalyst, Body: "崇明数科"}); err != nil {
		return err
	}
	if err := h.NewProject(ctx, "elderly", "he.ping"); err != nil {
		return err
	}
	for _, g := range careAgencies[1:] {
		if err := h.GiveProject(ctx, "elderly", "he.ping", g.steward); err != nil {
			return err
		}
	}
	c.say("The three agencies share a project key for pseudonyms; nobody else has it.")
	for _, g := range careAgencies {
		s, err := careSchema(g.dataset)
		if err != nil {
			return err
		}
		if _, err := h.RegisterDataset(ctx, s, g.steward); err != nil {
			return err
		}
	}
	return nil
}

func careSchema(dataset string) (*schema.Schema, error) {
	data, err := examples.Files.ReadFile("care/" + dataset + ".schema.json")
	if err != nil {
		return nil, err
	}
	return schema.Parse(data)
}

func (c *care) approve(ctx context.Context) error {
	c.heading("3. An operator is licensed and a scenario approved")
	h := c.home
	act := func(who string, do func(lab.Signer) (operators.Digest, error)) error {
		id, err := h.Identity(who)
		if err != nil {
			return err
		}
		_, err = do(id)
		return err
	}
	now := h.Now().UTC().Truncate(time.Second)
	workers, err := h.WorkerDigests(ctx)
	if err != nil {
		return err
	}
	uses, err := parseUses([]string{"residents: person=join, town=group+filter, age=filter+group+aggregate, alone=filter+group",
		"health: person=join, cost=aggregate+filter, chronic=group+filter", "welfare: person=join, benefit=group+filter, care_level=group+filter, monthly=aggregate+filter"})
	if err != nil {
		return err
	}
	var scenario operators.Digest
	steps := []error{
		act("wang.fang", func(id lab.Signer) (operators.Digest, error) {
			return h.Registry.Issue(ctx, id, operators.License{Operator: "崇明数科", SecurityReview: "安审[2026]17", Agreement: "保密[2026]9",
				NotBefore: operators.Time{Time: now}, NotAfter: operators.Time{Time: now.AddDate(2, 0, 0)}})
		}),
		act("chen.yu", func(id lab.Signer) (_ operators.Digest, err error) {
			scenario, err = h.Registry.Apply(ctx, id, operators.Scenario{Name: "elderly-care", Operator: "崇明数科", Purpose: "独居老人医疗负担", Datasets: uses,
				EpsilonMicro: 16_000_000, JobEpsilonMicro: 4_000_000, MinCohort: 20, MarginMilli: 2000, Workers: workers, NotAfter: operators.Time{Time: now.AddDate(0, 6, 0)}})
			return scenario, err
		}),
	}
	for _, g := range careAgencies {
		i := slices.IndexFunc(uses, func(u operators.DatasetUse) bool { return u.Dataset == g.dataset })
		steps = append(steps, act(g.steward, func(id lab.Signer) (operators.Digest, error) {
			return h.Registry.Consent(ctx, id, operators.Consent{Scenario: scenario, Use: uses[i], EpsilonMicro: 12_000_000})
		}))
	}
	for _, who := range []string{"wang.fang", "li.jun"} {
		steps = append(steps, act(who, func(id lab.Signer) (operators.Digest, error) {
			return h.Registry.Approve(ctx, id, scenario, "符合目录与用途")
		}))
	}
	if err := errors.Join(steps...); err != nil {
		return err
	}
	c.say("Three agencies consented, two officials approved, and with it the node program %s.", workers[0].Short())
	return nil
}

func (c *care) sealAll(ctx context.Context) error {
	c.heading("4. The agencies split their tables among the nodes")
	scenario, _, err := c.home.Lab.Scenario(ctx, "elderly-care")
	if err != nil {
		return err
	}
	for _, g := range careAgencies {
		start := time.Now()
		sealed, err := c.home.SealTable(ctx, c.table(g.dataset), g.dataset, g.steward, agency.SealOptions{Forms: seal.Split, Project: "elderly", Scenario: scenario})
		if err != nil {
			if sealed != nil && sealed.Quality != nil {
				return fmt.Errorf("%w\n%s", err, sealed.Quality)
			}
			return err
		}
		c.say("%s: %d rows → %d shared columns, %.1f MB, in %.2f s (%s)", sealed.Manifest.Catalog.Title, sealed.Rows, len(sealed.Manifest.Layouts[0].Vectors),
			float64(sealed.Bytes)/1e6, time.Since(start).Seconds(), g.steward)
	}
	return nil
}

func (c *care) explain(ctx context.Context) error {
	c.heading("5. What the query would do, before it is submitted")
	scenario, _, err := c.home.Lab.Scenario(ctx, "elderly-care")
	if err != nil {
		return err
	}
	p, err := c.home.Prepare(ctx, lab.Request{Analyst: "chen.yu", Scenario: scenario, Query: careQuery})
	if err != nil {
		return err
	}
	e, err := p.Explain()
	if err != nil {
		return err
	}
	around, err := c.home.NodeIsolation(ctx)
	if err != nil {
		return err
	}
	c.say("%s\nThe nodes are %s.", strings.TrimRight(e.Text("en"), "\n"), around)
	return nil
}

func (c *care) ask(ctx context.Context) error {
	c.heading("6. The job: three nodes, each driven by its custodian")
	scenario, _, err := c.home.Lab.Scenario(ctx, "elderly-care")
	if err != nil {
		return err
	}
	id, err := c.home.Identity("chen.yu")
	if err != nil {
		return err
	}
	job, err := c.home.Lab.Submit(ctx, lab.Request{Analyst: "chen.yu", Scenario: scenario, Query: careQuery}, signWith(id))
	if err != nil {
		return err
	}
	c.job = job.ID
	if job, err = c.home.Lab.Run(ctx, job.ID, nil); err != nil {
		return err
	}
	res, err := c.result(ctx, job.ID)
	if err != nil {
		return err
	}
	c.released, c.suppressed = res.Release.Cells-res.Release.Suppressed, res.Release.Suppressed
	c.times()
	truth, err := c.truth()
	if err != nil {
		return err
	}
	var rows [][]string
	for _, r := range res.Table.Rows {
		costs := truth[r.Values[0].Text]
		rows = append(rows, []string{r.Values[0].Text, r.Values[1].Text, strconv.Itoa(len(costs)), r.Values[2].Text, yuan(costs, .5), r.Values[3].Text, yuan(costs, .9)})
	}
	if !c.json {
		cli.Grid(c.out, []string{"town", "people", "(true)", "median", "(true)", "p90", "(true)"}, rows)
	}
	for _, s := range res.Table.Suppressed {
		c.say("  %s held back: %s", strings.Join(s.Labels, ", "), s.Rule)
	}
	c.say("  ε %s charged to residents and to health", res.Charged)
	c.say("  the nodes were %s", res.Isolation)
	return nil
}

// heard keeps what a node wrote; nodes of three custodians end at about the same time.
func (c *care) heard(custodian, lines string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nodes[custodian] = lines
}

// times says how long the first node took for its kinds of steps.
func (c *care) times() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(c.nodes))[:min(1, len(c.nodes))] {
		took, order := map[string]float64{}, []string{}
		last, kind := 0.0, ""
		for line := range strings.Lines(c.nodes[name]) {
			at, step, ok := strings.Cut(strings.TrimSpace(line), " ")
			t, err := strconv.ParseFloat(at, 64)
			if !ok || err != nil {
				continue
			}
			if kind != "" {
				took[kind] += t - last
			}
			if kind = stepKind(step); took[kind] == 0 && !slices.Contains(order, kind) {
				order = append(order, kind)
			}
			last = t
		}
		for _, k := range order {
			if took[k] >= 0.01 {
				c.say("  node of %s: %-18s %6.2f s", name, k, took[k])
				c.seconds["node "+k] = took[k]
			}
		}
	}
}

// stepKind is a step's operation, without its number.
func stepKind(step string) string {
	if _, op, ok := strings.Cut(step, " ("); ok {
		return strings.TrimSuffix(op, ")")
	}
	words := strings.Fields(step)
	return strings.Join(slices.DeleteFunc(words, func(w string) bool { return strings.ContainsAny(w, "0123456789") }), " ")
}

// truth joins the files in the clear: the yearly costs of those the query is about, by town.
func (c *care) truth() (map[string][]int64, error) {
	costs := map[string]int64{}
	err := c.each("health", func(r []string) error {
		key, err := identifier.Normalize(identifier.ResidentID, r[0])
		if err != nil {
			return err
		}
		fen, err := strconv.ParseInt(strings.Replace(r[3], ".", "", 1), 10, 64)
		costs[key] = fen
		return err
	})
	if err != nil {
		return nil, err
	}
	out := map[string][]int64{}
	err = c.each("residents", func(r []string) error {
		age, err := strconv.Atoi(r[3])
		if err != nil {
			return err
		}
		if cost, ok := costs[r[0]]; ok && age > 60 && r[5] == "是" {
			out[r[1]] = append(out[r[1]], cost)
		}
		return nil
	})
	for _, x := range out {
		slices.Sort(x)
	}
	return out, err
}

func (c *care) each(dataset string, row func([]string) error) error {
	f, err := os.Open(c.table(dataset))
	if err != nil {
		return err
	}
	defer f.Close()
	r := csv.NewReader(bufio.NewReader(f))
	r.ReuseRecord = true
	if _, err := r.Read(); err != nil {
		return err
	}
	for {
		rec, err := r.Read()
		if err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if err := row(rec); err != nil {
			return err
		}
	}
}

// yuan is the p-quantile of sorted amounts in fen.
func yuan(fen []int64, p float64) string {
	if len(fen) == 0 {
		return "-"
	}
	at := min(int(p*float64(len(fen))), len(fen)-1)
	return fmt.Sprintf("%.2f", float64(fen[at])/100)
}
