package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"yingzhou.dev/lab/cmd/internal/cli"
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox"
	"yingzhou.dev/lab/sandbox/lab"
	"yingzhou.dev/lab/sandbox/plan"
)

func (a *app) jobCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "job", Short: "Jobs: explain, submit, watch, list, cancel"}
	cmd.AddCommand(a.submitCmd(), a.explainCmd(), a.watchCmd(), a.jobListCmd(), a.cancelCmd())
	return cmd
}

// request reads what submit and explain have in common.
func (a *app) request(ctx context.Context, scenario, query, epsilon string) (lab.Request, error) {
	who, err := a.person(ctx, operators.RoleAnalyst)
	if err != nil {
		return lab.Request{}, err
	}
	r := lab.Request{Analyst: who, Query: query}
	if r.Scenario, _, err = a.home.Scenario(ctx, scenario); err != nil {
		return r, err
	}
	if epsilon != "" {
		if r.EpsilonMicro, err = parseScaled(epsilon, 6); err != nil {
			return r, cli.Usage("--epsilon: %w", err)
		}
	}
	return r, nil
}

func requestFlags(cmd *cobra.Command, scenario, epsilon *string) {
	cmd.Flags().StringVar(scenario, "scenario", "", "approved scenario that the job runs under")
	cmd.Flags().StringVar(epsilon, "epsilon", "", "privacy budget to spend; default: the scenario's per job")
	cmd.MarkFlagRequired("scenario")
}

func (a *app) submitCmd() *cobra.Command {
	var scenario, epsilon string
	var noWait bool
	cmd := &cobra.Command{Use: "submit --scenario S QUERY", Short: "Submit a query, watch it, print the result", Args: cobra.ExactArgs(1),
		Long: `submit authorises and plans a query in one step: it is refused with every reason at once, or becomes a job. The
analyst signs the plan. Then the job runs: a worker computes on ciphertexts, the custodians check everything and open
noised aggregates, and the result is printed.`,
		Example: `  lab job submit --scenario water-use "SELECT town, COUNT(*), AVG(m3) FROM water GROUP BY town"
  lab job submit --scenario water-use --epsilon 0.5 --no-wait "SELECT COUNT(*) FROM water WHERE building = '别墅'"`,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			r, err := a.request(ctx, scenario, args[0], epsilon)
			if err != nil {
				return err
			}
			id, err := a.home.Identity(r.Analyst)
			if err != nil {
				return err
			}
			job, err := a.home.Submit(ctx, r, signWith(id))
			if err != nil {
				if job.ID != "" && !a.json {
					fmt.Fprintf(a.errs, "Job %s is %s.\n", job.ID, job.State)
				}
				return err
			}
			if noWait {
				return a.print(view(job), func(w io.Writer) {
					fmt.Fprintf(w, "Job %s is planned. Run it with `lab job watch %s`.\n", job.ID, job.ID)
				})
			}
			return a.runAndShow(ctx, job.ID)
		}}
	requestFlags(cmd, &scenario, &epsilon)
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "submit only; run it later with `lab job watch`")
	return cmd
}

// signWith has the analyst sign the plan that the control plane prepared.
func signWith(id *keys.Identity) func(*lab.Prepared) (enclave.Signed, error) {
	return func(p *lab.Prepared) (enclave.Signed, error) { return keys.SealWith(id, enclave.KindPlan, p.Plan) }
}

func (a *app) runAndShow(ctx context.Context, id sandbox.JobID) error {
	watch, done := a.progress()
	job, err := a.home.Run(ctx, id, watch)
	done()
	if err != nil {
		switch {
		case job.State == sandbox.Refused && cli.Code(err) == cli.Failed: // refused earlier: its rule is words by now
			return cli.With(cli.Refused, err)
		case a.json || job.State == "":
		case job.State.Ended():
			fmt.Fprintf(a.errs, "Job %s is %s.\n", id, job.State)
		default:
			fmt.Fprintf(a.errs, "Job %s is still %s; `lab job watch %s` takes it up again.\n", id, job.State, id)
		}
		return err
	}
	rel, err := a.result(ctx, id)
	if err != nil {
		return err
	}
	return a.print(rel, func(w io.Writer) {
		rel.text(w)
		fmt.Fprintf(w, "\n  lab release get %s --format csv     the same as a file\n  lab audit verify %s                 check it offline\n", id, id)
	})
}

func (a *app) explainCmd() *cobra.Command {
	var scenario, epsilon, lang string
	cmd := &cobra.Command{Use: "explain --scenario S QUERY", Short: "Explain what a query would do, cost and show, without submitting it", Args: cobra.ExactArgs(1),
		Example: `  lab job explain --scenario water-use "SELECT town, AVG(m3) FROM water GROUP BY town"
  lab job explain --scenario water-use --lang zh "SELECT COUNT(*) FROM water"`,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			if lang != "en" && lang != "zh" {
				return cli.Usage("--lang %q is not one of en, zh", lang)
			}
			r, err := a.request(ctx, scenario, args[0], epsilon)
			if err != nil {
				return err
			}
			p, err := a.home.Prepare(ctx, r)
			if err != nil {
				return err
			}
			e, err := p.Explain()
			if err != nil {
				return err
			}
			v := struct {
				*plan.Explanation
				Nodes string `json:"nodes,omitempty"` // of a joint job: what will stand around them
			}{Explanation: e}
			if p.Plan.Joint != nil {
				if v.Nodes, err = a.home.NodeIsolation(ctx); err != nil {
					return err
				}
			}
			return a.print(v, func(w io.Writer) {
				fmt.Fprint(w, e.Text(lang))
				if v.Nodes != "" {
					fmt.Fprintf(w, map[string]string{"en": "The nodes are %s.\n", "zh": "计算节点:%s。\n"}[lang], v.Nodes)
				}
			})
		}}
	requestFlags(cmd, &scenario, &epsilon)
	cmd.Flags().StringVar(&lang, "lang", "en", "en or zh")
	cmd.RegisterFlagCompletionFunc("lang", cobra.FixedCompletions([]string{"en", "zh"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func jobArg(args []string) (sandbox.JobID, error) {
	id, err := sandbox.ParseJobID(args[0])
	if err != nil {
		return id, cli.With(cli.Misused, err)
	}
	return id, nil
}

func (a *app) watchCmd() *cobra.Command {
	return &cobra.Command{Use: "watch JOB", Short: "Watch a job to its end, taking it up where it stopped", Args: cobra.ExactArgs(1),
		Example: "  lab job watch job-1ng8fwe65awk9mgm",
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := jobArg(args)
			if err != nil {
				return err
			}
			if _, err := a.open(cmd.Context()); err != nil {
				return err
			}
			return a.runAndShow(cmd.Context(), id)
		}}
}

func (a *app) jobListCmd() *cobra.Command {
	var limit int
	cmd := &cobra.Command{Use: "list", Short: "List jobs, the newest first", Args: cobra.NoArgs, Example: "  lab job list",
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := a.open(cmd.Context())
			if err != nil {
				return err
			}
			jobs, err := h.Jobs(cmd.Context(), sandbox.JobFilter{Limit: limit})
			if err != nil {
				return err
			}
			return a.print(views(jobs), func(w io.Writer) {
				var rows [][]string
				for _, j := range jobs {
					q := []rune(j.Query)
					if len(q) > 60 {
						q = append(q[:57], '…')
					}
					rows = append(rows, []string{string(j.ID), string(j.State), j.Analyst, j.Created.Format(time.DateTime), string(q)})
				}
				cli.Grid(w, []string{"job", "state", "analyst", "created (UTC)", "query"}, rows)
			})
		}}
	cmd.Flags().IntVar(&limit, "limit", 50, "at most so many; 0 = all")
	return cmd
}

func (a *app) cancelCmd() *cobra.Command {
	var reason string
	cmd := &cobra.Command{Use: "cancel JOB", Short: "Cancel a job that has not been opened yet", Args: cobra.ExactArgs(1),
		Example: "  lab job cancel job-1ng8fwe65awk9mgm --reason \"wrong year\"",
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := jobArg(args)
			if err != nil {
				return err
			}
			who, err := a.person(cmd.Context(), operators.RoleAnalyst)
			if err != nil {
				return err
			}
			job, err := a.home.Cancel(cmd.Context(), id, who, reason)
			if err != nil {
				return err
			}
			return a.print(view(job), func(w io.Writer) { fmt.Fprintf(w, "Job %s is %s. No budget was spent.\n", id, job.State) })
		}}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the record")
	return cmd
}
