package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"yingzhou.dev/lab/cmd/internal/cli"
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/operators"
)

func (a *app) scenarioCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "scenario", Short: "Scenarios: applications, consents and approvals"}
	cmd.AddCommand(a.applyCmd(), a.consentCmd(), a.showCmd(), a.scenarioListCmd())
	find := func(ctx context.Context, name string) (operators.Digest, error) {
		d, _, err := a.home.Scenario(ctx, name)
		return d, err
	}
	for _, v := range []operators.Verdict{operators.Approve, operators.Refuse, operators.Suspend, operators.Resume, operators.Revoke} {
		cmd.AddCommand(a.decisionCmd(v, decision{noun: "scenario", what: "a scenario", arg: "NAME", find: find, after: a.next}))
	}
	return cmd
}

func (a *app) applyCmd() *cobra.Command {
	var purpose, until, epsilon, jobEpsilon, margin string
	var uses, workers []string
	var cohort int64
	cmd := &cobra.Command{Use: "apply NAME", Short: "Apply for a scenario, as an analyst", Args: cobra.ExactArgs(1),
		Long: `apply asks to use columns of datasets for one purpose. --use names a dataset and its columns with the uses asked
for: group, filter, aggregate. Every owner must consent and two officials approve. The worker program of this lab is
approved along with it unless --worker-digest names others.`,
		Example: `  lab scenario apply water-use --purpose "用水规划" --epsilon 6 --job-epsilon 1 --until 2027-06-30 \
      --use "water: town=group+filter, building=group+filter, m3=aggregate" --as chen.yu`,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			who, err := a.person(ctx, operators.RoleAnalyst)
			if err != nil {
				return err
			}
			id, err := a.home.Identity(who)
			if err != nil {
				return err
			}
			_, roster, err := a.home.Roster(ctx)
			if err != nil {
				return err
			}
			p, _ := roster.Find(who) // person found it
			s := operators.Scenario{Name: args[0], Operator: p.Body, Purpose: purpose, MinCohort: cohort}
			if s.Datasets, err = parseUses(uses); err != nil {
				return err
			}
			if s.EpsilonMicro, err = parseScaled(epsilon, 6); err != nil {
				return cli.Usage("--epsilon: %w", err)
			}
			s.JobEpsilonMicro = s.EpsilonMicro
			if jobEpsilon != "" {
				if s.JobEpsilonMicro, err = parseScaled(jobEpsilon, 6); err != nil {
					return cli.Usage("--job-epsilon: %w", err)
				}
			}
			if s.MarginMilli, err = parseScaled(margin, 3); err != nil {
				return cli.Usage("--margin: %w", err)
			}
			if s.NotAfter, err = day("--until", until, true); err != nil {
				return err
			}
			for _, w := range workers {
				d, err := parseDigest(w)
				if err != nil {
					return err
				}
				s.Workers = append(s.Workers, d)
			}
			if len(s.Workers) == 0 {
				if s.Workers, err = a.home.WorkerDigests(ctx); err != nil {
					return err
				}
			}
			slices.SortFunc(s.Workers, func(a, b operators.Digest) int { return slices.Compare(a[:], b[:]) })
			d, err := a.home.Book().Apply(ctx, id, s)
			if err != nil {
				return err
			}
			return a.print(struct {
				Scenario operators.Digest `json:"scenario"`
			}{d}, func(w io.Writer) {
				fmt.Fprintf(w, "Applied for scenario %q (%s).\n", args[0], d.Short())
				a.next(ctx, w, d)
			})
		}}
	f := cmd.Flags()
	f.StringVar(&purpose, "purpose", "", "what the data is for, in plain words")
	f.StringArrayVar(&uses, "use", nil, "dataset and columns, like \"water: town=group+filter, m3=aggregate\"; repeat for more datasets")
	f.StringVar(&epsilon, "epsilon", "", "privacy budget of the whole scenario")
	f.StringVar(&jobEpsilon, "job-epsilon", "", "most that one job may spend, and its default; default: all of it")
	f.Int64Var(&cohort, "min-cohort", 10, "people per released cell, at least 10")
	f.StringVar(&margin, "margin", "2", "margin of the cohort rule in standard deviations of the noise")
	f.StringVar(&until, "until", "", "last day, like 2027-06-30")
	f.StringArrayVar(&workers, "worker-digest", nil, "worker program to approve; default: this lab's")
	for _, n := range []string{"purpose", "use", "epsilon", "until"} {
		cmd.MarkFlagRequired(n)
	}
	return cmd
}

func (a *app) consentCmd() *cobra.Command {
	var dataset, epsilon string
	var uses []string
	cmd := &cobra.Command{Use: "consent NAME", Short: "Consent to a scenario's use of your dataset, as its steward", Args: cobra.ExactArgs(1),
		Example: `  lab scenario consent water-use --dataset water --epsilon 4 --as lin.hua
  lab scenario consent water-use --dataset water --use "water: town=group, m3=aggregate" --as lin.hua`,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			who, err := a.person(ctx, operators.RoleSteward)
			if err != nil {
				return err
			}
			id, err := a.home.Identity(who)
			if err != nil {
				return err
			}
			d, s, err := a.home.Scenario(ctx, args[0])
			if err != nil {
				return err
			}
			c := operators.Consent{Scenario: d, EpsilonMicro: s.EpsilonMicro}
			var names []string
			for _, use := range s.Datasets {
				names = append(names, use.Dataset)
				if use.Dataset == dataset || dataset == "" && len(s.Datasets) == 1 {
					c.Use = use
				}
			}
			switch {
			case c.Use.Dataset == "" && dataset == "":
				return cli.Usage("say with --dataset which one of %s you consent for", strings.Join(names, ", "))
			case c.Use.Dataset == "":
				return cli.Usage("--dataset %s: scenario %q asks for %s", dataset, args[0], strings.Join(names, ", "))
			}
			if len(uses) > 0 {
				given, err := parseUses(uses)
				if err != nil {
					return err
				}
				if len(given) != 1 || given[0].Dataset != c.Use.Dataset {
					return cli.Usage("--use: a consent is to one dataset; this one is to %q", c.Use.Dataset)
				}
				c.Use = given[0]
			}
			if epsilon != "" {
				if c.EpsilonMicro, err = parseScaled(epsilon, 6); err != nil {
					return cli.Usage("--epsilon: %w", err)
				}
			}
			sum, err := a.home.Book().Consent(ctx, id, c)
			if err != nil {
				return err
			}
			return a.print(struct {
				Consent operators.Digest `json:"consent"`
			}{sum}, func(w io.Writer) {
				fmt.Fprintf(w, "Consented to %s, ε at most %s.\n", formatUses(c.Use), enclave.FormatScaled(c.EpsilonMicro, 6))
				a.next(ctx, w, d)
			})
		}}
	cmd.Flags().StringVar(&dataset, "dataset", "", "dataset; needed if the scenario asks for several")
	cmd.Flags().StringVar(&epsilon, "epsilon", "", "most that the scenario may spend on this dataset; default: all of its budget")
	cmd.Flags().StringArrayVar(&uses, "use", nil, "narrower uses than were asked for")
	return cmd
}
