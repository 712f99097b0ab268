package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"yingzhou.dev/lab/cmd/internal/cli"
)

func (a *app) recheckCmd() *cobra.Command {
	return &cobra.Command{Use: "recheck JOB", Short: "Have every custodian derive its shares of a release again and compare", Args: cobra.ExactArgs(1),
		Long: `recheck finds a custodian that altered a share while the other holder of that piece of the key was away. Custodians that
endorsed the release have kept everybody's signed shares; each custodian that is here now, whether it took part or not,
executes the plan, derives the shares of its own pieces, compares, and combines all of them to the table that was signed.
Nothing is opened to anyone and nothing is charged.`,
		Example: "  lab audit recheck job-1ng8fwe65awk9mgm",
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := jobArg(args)
			if err != nil {
				return err
			}
			h, err := a.open(cmd.Context())
			if err != nil {
				return err
			}
			all, err := h.Recheck(cmd.Context(), id)
			if err != nil {
				return err
			}
			type finding struct {
				By       string `json:"by"`
				TookPart bool   `json:"took_part"`
				Of       string `json:"of"`
				Fault    string `json:"fault,omitempty"`
				Missing  string `json:"missing,omitempty"` // why it could not be asked
			}
			var found []finding
			faults := 0
			for _, r := range all {
				f := finding{By: r.By, TookPart: r.TookPart, Of: r.Of}
				if r.Unanswered {
					f.Missing = r.Err.Error()
				} else if r.Err != nil {
					f.Fault = r.Err.Error()
					faults++
				}
				found = append(found, f)
			}
			err = a.print(found, func(w io.Writer) {
				for _, f := range found {
					role := "took part"
					if !f.TookPart {
						role = "was away"
					}
					verdict := "the shares give the release that was signed"
					switch {
					case f.Fault != "":
						verdict = f.Fault
					case f.Missing != "":
						verdict = "not compared: " + f.Missing
					}
					fmt.Fprintf(w, "%s (%s) on the record of %s: %s\n", f.By, role, f.Of, verdict)
				}
			})
			if err == nil && faults > 0 {
				err = cli.With(cli.Unverified, fmt.Errorf("%d of %d comparisons of job %s do not agree", faults, len(found), id))
			}
			return err
		}}
}
