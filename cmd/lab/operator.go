package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"yingzhou.dev/lab/cmd/internal/cli"
	"yingzhou.dev/lab/operators"
)

func (a *app) operatorCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "operator", Short: "Licensed operators (授权运营)"}
	var until, from, review, agreement, title string
	license := &cobra.Command{Use: "license BODY", Short: "License an operator, as an official", Args: cobra.ExactArgs(1),
		Long:    "license lets an operator work in the lab for at most five years. The security review and the confidentiality\nagreement must be on file (regulation art. 31).",
		Example: `  lab operator license 崇明数科 --until 2028-12-31 --review 安审[2026]17 --agreement 保密[2026]9 --as wang.fang`,
		RunE: func(cmd *cobra.Command, args []string) error {
			who, err := a.person(cmd.Context(), operators.RoleOfficial)
			if err != nil {
				return err
			}
			id, err := a.home.Identity(who)
			if err != nil {
				return err
			}
			l := operators.License{Operator: args[0], Title: title, SecurityReview: review, Agreement: agreement, NotBefore: operators.Time{Time: a.home.Now().UTC().Truncate(time.Second)}}
			if l.NotAfter, err = day("--until", until, true); err != nil {
				return err
			}
			if from != "" {
				if l.NotBefore, err = day("--from", from, false); err != nil {
					return err
				}
			}
			d, err := a.home.Book().Issue(cmd.Context(), id, l)
			if err != nil {
				return err
			}
			return a.print(struct {
				License operators.Digest `json:"license"`
			}{d}, func(w io.Writer) {
				fmt.Fprintf(w, "Licensed %s until %s (%s).\n", args[0], l.NotAfter.Format("2006-01-02"), d.Short())
			})
		}}
	license.Flags().StringVar(&until, "until", "", "last day, like 2028-12-31")
	license.Flags().StringVar(&from, "from", "", "first day; default: now")
	license.Flags().StringVar(&review, "review", "", "file reference of the security review")
	license.Flags().StringVar(&agreement, "agreement", "", "file reference of the confidentiality agreement")
	license.Flags().StringVar(&title, "title", "", "name as shown to people")
	for _, f := range []string{"until", "review", "agreement"} {
		license.MarkFlagRequired(f)
	}
	list := &cobra.Command{Use: "list", Short: "List licences", Args: cobra.NoArgs, Example: "  lab operator list",
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := a.open(cmd.Context())
			if err != nil {
				return err
			}
			st, err := h.Statements(cmd.Context())
			if err != nil {
				return err
			}
			type row struct {
				Digest operators.Digest `json:"digest"`
				operators.License
			}
			all := []row{}
			for _, s := range st.All {
				var l operators.License
				if s.Kind == operators.KindLicense && s.Open(operators.KindLicense, &l) == nil {
					all = append(all, row{s.Digest(), l})
				}
			}
			return a.print(all, func(w io.Writer) {
				var rows [][]string
				for _, l := range all {
					rows = append(rows, []string{l.Operator, l.NotBefore.Format("2006-01-02"), l.NotAfter.Format("2006-01-02"), l.By, l.Digest.String()})
				}
				cli.Grid(w, []string{"operator", "from", "until", "by", "licence"}, rows)
			})
		}}
	cmd.AddCommand(license, list)
	find := func(_ context.Context, digest string) (operators.Digest, error) { return parseDigest(digest) }
	for _, v := range []operators.Verdict{operators.Suspend, operators.Resume, operators.Revoke} {
		cmd.AddCommand(a.decisionCmd(v, decision{noun: "operator", what: "a licence, named by the digest that `lab operator list` shows", arg: "DIGEST", find: find}))
	}
	return cmd
}
