package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"yingzhou.dev/lab/cmd/internal/cli"
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/operators"
)

func (a *app) keyCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "key", Short: "Keys of datasets: show, rotate, refresh, replace a custodian"}
	cmd.AddCommand(a.keyShowCmd(), a.keyRotateCmd(), a.keyRefreshCmd(), a.keyReplaceCmd())
	return cmd
}

func (a *app) keyShowCmd() *cobra.Command {
	return &cobra.Command{Use: "show DATASET", Short: "Show the keysets of a dataset and who holds their pieces", Args: cobra.ExactArgs(1), Example: "  lab key show water",
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := a.embedded(cmd.Context())
			if err != nil {
				return err
			}
			d, err := h.Lab.Dataset(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			all, err := h.Lab.Lineage(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			type keyset struct {
				Keyset     enclave.Digest `json:"keyset"`
				Epoch      int64          `json:"epoch"`
				Custodians []string       `json:"custodians"`
				Quorum     int            `json:"quorum"`
				Budget     int64          `json:"budget_micro"`
				Made       enclave.Time   `json:"made"`
				State      string         `json:"state"` // in force | replaced | disposed
			}
			rows := []keyset{}
			for _, s := range all {
				var ks enclave.Keyset
				if err := s.Open(enclave.KindKeyset, &ks); err != nil {
					return err
				}
				state := "replaced"
				switch {
				case d.Disposal != nil:
					state = "disposed"
				case s.Digest() == d.Dealing:
					state = "in force"
				}
				rows = append(rows, keyset{s.Digest(), ks.Epoch, ks.Custodians, ks.Quorum, ks.BudgetMicro, ks.Made, state})
			}
			return a.print(rows, func(w io.Writer) {
				var lines [][]string
				for _, r := range rows {
					lines = append(lines, []string{fmt.Sprint(r.Epoch), r.Keyset.Short(), r.Made.Format("2006-01-02 15:04"), enclave.FormatScaled(r.Budget, 6),
						fmt.Sprintf("%d of %s", r.Quorum, strings.Join(r.Custodians, ", ")), r.State})
				}
				cli.Grid(w, []string{"epoch", "keyset", "dealt", "budget ε", "custodians", "state"}, lines)
			})
		}}
}

func (a *app) keyRotateCmd() *cobra.Command {
	return &cobra.Command{Use: "rotate DATASET", Short: "Have every custodian wrap its pieces under new wrapping keys", Args: cobra.ExactArgs(1),
		Long: `rotate replaces the keys that wrap the pieces where they are stored, at every custodian, and destroys the old ones:
an older copy of what was stored is then of no use. Pieces, noise and results stay the same.`,
		Example: `  lab key rotate water`,
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := a.embedded(cmd.Context())
			if err != nil {
				return err
			}
			if err := h.Rotate(cmd.Context(), args[0]); err != nil {
				return err
			}
			return a.print(struct {
				Dataset    string `json:"dataset"`
				Custodians int    `json:"custodians"`
			}{args[0], len(h.Custodians)}, func(w io.Writer) {
				fmt.Fprintf(w, "%d custodians wrap their pieces of %q under new keys.\n", len(h.Custodians), args[0])
			})
		}}
}

func (a *app) keyRefreshCmd() *cobra.Command {
	var budget string
	cmd := &cobra.Command{Use: "refresh DATASET", Short: "Deal a dataset's key again, in fresh pieces and with fresh noise keys, as its steward", Args: cobra.ExactArgs(1),
		Long: `refresh deals the dataset's key again to the custodians that the roster has now, and has them erase the pieces from
before. What was sealed stays valid; old pieces are of no use together with new ones. Do it from time to time, after a
custodian was replaced, and at once when a piece may have been seen.

Noise keys are new with the pieces, so a new epoch begins: questions that were paid for are asked anew, and --budget says
what the owner lets the new epoch cost. What the epochs before have cost adds to it.`,
		Example: `  lab key refresh water --as lin.hua
  lab key refresh water --budget 5 --as lin.hua`,
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := a.embedded(cmd.Context())
			if err != nil {
				return err
			}
			who, err := a.person(cmd.Context(), operators.RoleSteward)
			if err != nil {
				return err
			}
			micro := int64(0)
			if budget != "" {
				if micro, err = parseScaled(budget, 6); err != nil || micro < 1 {
					return cli.Usage("--budget %q is not a positive ε with at most six decimals", budget)
				}
			}
			ks, err := h.Refresh(cmd.Context(), args[0], who, micro)
			if err != nil {
				return err
			}
			return a.print(ks, func(w io.Writer) {
				fmt.Fprintf(w, "The key of %q is dealt again to %s: epoch %d, budget ε %s.\n", ks.Dataset, strings.Join(ks.Custodians, ", "), ks.Epoch, enclave.FormatScaled(ks.BudgetMicro, 6))
				fmt.Fprintln(w, "The pieces from before are erased. Jobs that were planned before must be submitted again.")
			})
		}}
	cmd.Flags().StringVar(&budget, "budget", "", "ε of the new epoch, across all operators; default: as before")
	return cmd
}

func (a *app) keyReplaceCmd() *cobra.Command {
	var body string
	cmd := &cobra.Command{Use: "replace OLD NEW", Short: "Put a new custodian in the place of one that leaves", Args: cobra.ExactArgs(2),
		Long: `replace makes a new custodian and a new roster in which the old one is absent. The new one has no pieces yet: the
steward of each dataset deals the key again with ` + "`lab key refresh`" + `, and only then are the old one's pieces of no use.`,
		Example: `  lab key replace custodian-notary custodian-archive --body 区档案馆`,
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := a.embedded(cmd.Context())
			if err != nil {
				return err
			}
			if err := h.ReplaceCustodian(cmd.Context(), args[0], operators.Party{Name: args[1], Body: body}); err != nil {
				return err
			}
			return a.print(struct {
				Old string `json:"old"`
				New string `json:"new"`
			}{args[0], args[1]}, func(w io.Writer) {
				fmt.Fprintf(w, "%s of %s takes the place of %s.\n  next, for every dataset: lab key refresh DATASET --as STEWARD\n", args[1], body, args[0])
			})
		}}
	cmd.Flags().StringVar(&body, "body", "", "organisation of the new custodian")
	cmd.MarkFlagRequired("body")
	return cmd
}
