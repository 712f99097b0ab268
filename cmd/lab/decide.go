package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/operators"
)

// verdicts are what officials may say, and how it is told afterwards.
var verdicts = map[operators.Verdict]struct{ short, past string }{
	operators.Approve: {"Approve", "Approved"},
	operators.Refuse:  {"Refuse for good", "Refused"},
	operators.Suspend: {"Suspend", "Suspended"},
	operators.Resume:  {"Resume", "Resumed"},
	operators.Revoke:  {"Revoke for good", "Revoked"},
}

// decision is a command that signs a verdict as an official on what its argument names. after, which may be nil, tells
// what comes next.
type decision struct {
	noun, what, arg string // as in "lab NOUN approve ARG": "Approve WHAT"
	find            func(ctx context.Context, name string) (operators.Digest, error)
	after           func(ctx context.Context, w io.Writer, d operators.Digest)
}

func (a *app) decisionCmd(v operators.Verdict, d decision) *cobra.Command {
	var reason string
	cmd := &cobra.Command{Use: fmt.Sprintf("%s %s", v, d.arg), Short: fmt.Sprintf("%s %s, as an official", verdicts[v].short, d.what), Args: cobra.ExactArgs(1),
		Example: fmt.Sprintf("  lab %s %s %s --reason \"安审[2026]17\" --as wang.fang", d.noun, v, d.arg),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			if _, err := a.open(ctx); err != nil {
				return err
			}
			subject, err := d.find(ctx, args[0])
			if err != nil {
				return err
			}
			who, err := a.person(ctx, operators.RoleOfficial)
			if err != nil {
				return err
			}
			id, err := a.home.Identity(who)
			if err != nil {
				return err
			}
			digest, err := a.decide(ctx, id, v, subject, reason)
			if err != nil {
				return err
			}
			return a.print(struct {
				Decision operators.Digest `json:"decision"`
			}{digest}, func(w io.Writer) {
				fmt.Fprintf(w, "%s by %s (%s).\n", verdicts[v].past, who, digest.Short())
				if d.after != nil {
					d.after(ctx, w, subject)
				}
			})
		}}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the record")
	cmd.MarkFlagRequired("reason")
	return cmd
}

func (a *app) decide(ctx context.Context, id *keys.Identity, v operators.Verdict, subject operators.Digest, reason string) (operators.Digest, error) {
	r := a.home.Book()
	switch v {
	case operators.Approve:
		return r.Approve(ctx, id, subject, reason)
	case operators.Refuse:
		return r.Refuse(ctx, id, subject, reason)
	case operators.Suspend:
		return r.Suspend(ctx, id, subject, reason)
	case operators.Resume:
		return r.Resume(ctx, id, subject, reason)
	case operators.Revoke:
		return r.Revoke(ctx, id, subject, reason)
	}
	return operators.Digest{}, fmt.Errorf("verdict %q: %w", v, operators.ErrInvalid)
}

// next says what is still missing.
func (a *app) next(ctx context.Context, w io.Writer, d operators.Digest) {
	st, err := a.home.Book().Status(ctx, d, a.home.Now())
	if err != nil {
		return
	}
	fmt.Fprintf(w, "The scenario is %s.\n", st.State)
	for _, n := range st.Next {
		fmt.Fprintf(w, "  next: %s", n.Do)
		if len(n.Who) > 0 {
			fmt.Fprintf(w, " (%s)", strings.Join(n.Who, ", "))
		}
		fmt.Fprintln(w)
	}
}
