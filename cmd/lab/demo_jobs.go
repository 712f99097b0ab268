package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"yingzhou.dev/lab/cmd/internal/cli"
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/program/reference"
	"yingzhou.dev/lab/sandbox"
	"yingzhou.dev/lab/sandbox/lab"
)

var demoQueries = []struct{ about, query string }{
	{"Doctor visits by health, with spread (cube)", `SELECT health, COUNT(*) AS people, AVG(mdvis) AS visits, STDDEV_POP(mdvis) AS spread FROM health GROUP BY health`},
	{"Do the chronically ill go more often, by what they pay themselves (cube)", `SELECT coinsurance, COUNT(*) AS people, CORR(mdvis, disea) AS corr, REGR_SLOPE(mdvis, disea) AS slope FROM health GROUP BY coinsurance`},
	{"Water by town, largest users first (cube)", `SELECT town, COUNT(*) AS households, AVG(m3) AS m3 FROM water WHERE building <> '别墅' GROUP BY town ORDER BY m3 DESC LIMIT 8`},
	{"Median and 90th percentile of use (cube of bins)", `SELECT town, MEDIAN(m3) AS median, PERCENTILE(m3, 0.9) AS p90 FROM water WHERE town IN ('城桥镇', '堡镇', '陈家镇') GROUP BY town`},
	{"By tariff tier: no cube covers it, so encrypted rows are multiplied", `SELECT tier, COUNT(*) AS households, AVG(m3) AS m3 FROM water GROUP BY tier`},
	{"Small cells are held back", `SELECT town, building, COUNT(*) AS households, AVG(people) AS people FROM water WHERE town IN ('新村乡', '绿华镇', '东平镇') GROUP BY town, building`},
	{"The first question again: same noise, nothing charged", `SELECT health, COUNT(*) AS people, AVG(mdvis) AS visits, STDDEV_POP(mdvis) AS spread FROM health GROUP BY health`},
}

func (d *demo) runJobs(ctx context.Context) error {
	d.heading("4. Jobs: computed on ciphertexts, opened by custodians")
	for _, q := range demoQueries {
		d.say("\n%s\n  %s", q.about, q.query)
		if err := d.runJob(ctx, q.query); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) runJob(ctx context.Context, query string) error {
	scenario, _, err := d.home.Lab.Scenario(ctx, "care-and-water")
	if err != nil {
		return err
	}
	id, err := d.home.Identity("chen.yu")
	if err != nil {
		return err
	}
	start := time.Now()
	job, err := d.home.Lab.Submit(ctx, lab.Request{Analyst: "chen.yu", Scenario: scenario, Query: query}, signWith(id))
	if err != nil {
		return err
	}
	watch, done := d.progress()
	if !d.watched() {
		watch = nil // a story in a file needs no steps
	}
	job, err = d.home.Lab.Run(ctx, job.ID, watch)
	done()
	if err != nil {
		return err
	}
	d.jobs = append(d.jobs, job.ID)
	res, err := d.result(ctx, job.ID)
	if err != nil {
		return err
	}
	b, err := d.home.Lab.Bundle(ctx, job.ID)
	if err != nil {
		return err
	}
	var plan enclave.Plan
	if err := b.Plan.Open(enclave.KindPlan, &plan); err != nil {
		return err
	}
	ds, err := d.home.Lab.Dataset(ctx, plan.Dataset)
	if err != nil {
		return err
	}
	truth, err := reference.Table(&plan, ds.Manifest, d.tables[plan.Dataset].rows)
	if err != nil {
		return err
	}
	d.released += res.Release.Cells - res.Release.Suppressed
	d.suppressed += res.Release.Suppressed
	d.compare(res, truth)
	d.say("  layout %s · ε %s charged · %.2f s", plan.Layout, res.Charged, time.Since(start).Seconds())
	return nil
}

// compare prints the released table beside the true values, and keeps the largest error.
func (d *demo) compare(res *result, truth *enclave.Table) {
	exact := map[string]enclave.TableRow{}
	labels := func(cols []enclave.TableCol, row enclave.TableRow) string {
		var key []string
		for i, v := range row.Values {
			if cols[i].Type == "label" {
				key = append(key, v.Text)
			}
		}
		return strings.Join(key, "\x00")
	}
	for _, row := range truth.Rows {
		exact[labels(truth.Columns, row)] = row
	}
	var header []string
	for _, c := range res.Table.Columns {
		header = append(header, c.Name)
		if c.Type == "number" {
			header = append(header, "±", "true", "error/±")
		}
	}
	var rows [][]string
	for _, row := range res.Table.Rows {
		want := exact[labels(res.Table.Columns, row)]
		var line []string
		for i, v := range row.Values {
			if res.Table.Columns[i].Type != "number" {
				line = append(line, v.Text)
				continue
			}
			if v.Null != "" {
				line = append(line, "NULL", "", want.Values[i].Text, "")
				continue
			}
			got, err1 := strconv.ParseFloat(v.Text, 64)
			sd, err2 := strconv.ParseFloat(v.StdErr, 64)
			is, err3 := strconv.ParseFloat(want.Values[i].Text, 64)
			z := "?"
			if errors.Join(err1, err2, err3) == nil && sd > 0 {
				sigmas := (got - is) / sd
				d.worst = max(d.worst, math.Abs(sigmas))
				z = fmt.Sprintf("%+.2f", sigmas)
			}
			line = append(line, v.Text, v.StdErr, want.Values[i].Text, z)
		}
		rows = append(rows, line)
	}
	if d.json {
		return
	}
	var b strings.Builder
	cli.Grid(&b, header, rows)
	for line := range strings.Lines(b.String()) {
		fmt.Fprint(d.out, "    ", line)
	}
	for _, s := range res.Table.Suppressed {
		fmt.Fprintf(d.out, "    %s: held back, %s\n", strings.Join(s.Labels, " "), s.Rule)
	}
}

func (d *demo) refusal(ctx context.Context) error {
	d.heading("5. A query that is refused, with every reason at once")
	query := `SELECT household, MAX(m3), AVG(bill) FROM water WHERE town = '崇明镇' AND people > 3`
	d.say("  %s", query)
	scenario, _, err := d.home.Lab.Scenario(ctx, "care-and-water")
	if err != nil {
		return err
	}
	job, err := d.home.Lab.Submit(ctx, lab.Request{Analyst: "chen.yu", Scenario: scenario, Query: query}, func(*lab.Prepared) (enclave.Signed, error) {
		return enclave.Signed{}, errors.New("the demo's refused query was planned")
	})
	if !lab.IsRefusal(err) || job.State != sandbox.Refused {
		return fmt.Errorf("the query should have been refused: %w", err)
	}
	d.jobs = append(d.jobs, job.ID)
	for _, r := range cli.Reasons(err) {
		d.say("  - %s", r)
	}
	return nil
}
