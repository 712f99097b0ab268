package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"yingzhou.dev/lab/cmd/internal/cli"
	"yingzhou.dev/lab/enclave"
)

func (a *app) showCmd() *cobra.Command {
	return &cobra.Command{Use: "show NAME", Short: "Show a scenario: what it asks, where it stands, what is missing", Args: cobra.ExactArgs(1),
		Example: "  lab scenario show water-use",
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := a.open(cmd.Context())
			if err != nil {
				return err
			}
			d, _, err := h.Scenario(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			st, err := h.Book().Status(cmd.Context(), d, a.home.Now())
			if err != nil {
				return err
			}
			return a.print(st, func(w io.Writer) {
				s := st.Body
				fmt.Fprintf(w, "%s  %s\n  operator    %s (%s)\n  purpose     %s\n", s.Name, st.State, s.Operator, s.By, s.Purpose)
				for _, u := range s.Datasets {
					fmt.Fprintf(w, "  asks for    %s\n", formatUses(u))
				}
				fmt.Fprintf(w, "  budget      ε %s, at most %s a job\n", enclave.FormatScaled(s.EpsilonMicro, 6), enclave.FormatScaled(s.JobEpsilonMicro, 6))
				fmt.Fprintf(w, "  cohort      at least %d people a cell, margin %s σ of the noise\n", s.MinCohort, enclave.FormatScaled(s.MarginMilli, 3))
				fmt.Fprintf(w, "  until       %s\n", s.NotAfter.Format("2006-01-02"))
				for _, x := range s.Workers {
					fmt.Fprintf(w, "  worker      %s\n", x)
				}
				fmt.Fprintf(w, "  digest      %s\n", st.Scenario)
				for _, r := range st.Reasons {
					fmt.Fprintf(w, "  missing     %s\n", r.Error())
				}
				for _, n := range st.Next {
					fmt.Fprintf(w, "  next        %s", n.Do)
					if len(n.Who) > 0 {
						fmt.Fprintf(w, " (%s)", strings.Join(n.Who, ", "))
					}
					fmt.Fprintln(w)
				}
				for _, e := range st.Timeline {
					fmt.Fprintf(w, "  %s  %s", e.At.Format(time.DateTime), e.What)
					if e.By != "" {
						fmt.Fprintf(w, ", by %s of %s", e.By, e.Body)
					}
					if e.Reason != "" {
						fmt.Fprintf(w, ": %s", e.Reason)
					}
					if !e.Counts {
						fmt.Fprintf(w, " [does not count: %s]", e.Note)
					}
					fmt.Fprintln(w)
				}
			})
		}}
}

func (a *app) scenarioListCmd() *cobra.Command {
	return &cobra.Command{Use: "list", Short: "List scenarios", Args: cobra.NoArgs, Example: "  lab scenario list",
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := a.open(cmd.Context())
			if err != nil {
				return err
			}
			all, err := h.Book().List(cmd.Context(), h.Now())
			if err != nil {
				return err
			}
			return a.print(all, func(w io.Writer) {
				var rows [][]string
				for _, st := range all {
					rows = append(rows, []string{st.Body.Name, string(st.State), st.Body.Operator, enclave.FormatScaled(st.Body.EpsilonMicro, 6), st.Body.NotAfter.Format("2006-01-02"), st.Scenario.Short()})
				}
				cli.Grid(w, []string{"scenario", "state", "operator", "ε", "until", "digest"}, rows)
			})
		}}
}
