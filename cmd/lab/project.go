package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"yingzhou.dev/lab/cmd/internal/cli"
	"yingzhou.dev/lab/cmd/internal/desk"
	"yingzhou.dev/lab/operators"
)

func (a *app) projectCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "project", Short: "Projects: the key by which several agencies' rows are matched"}
	fresh := &cobra.Command{Use: "new NAME", Short: "Draw a project key, as a steward", Args: cobra.ExactArgs(1),
		Long: `new draws the key that makes pseudonyms of people's identifiers and keeps it in the agency's own keyring. Whoever has it
can try out every identity number, so only agencies of the project may: never the lab, a custodian or a node.`,
		Example: `  lab project new elderly --as he.ping`,
		RunE: func(cmd *cobra.Command, args []string) error {
			who, err := a.person(cmd.Context(), operators.RoleSteward)
			if err != nil {
				return err
			}
			h, err := desk.Embedded(a.home)
			if err != nil {
				return err
			}
			if err := h.NewProject(cmd.Context(), args[0], who); err != nil {
				return err
			}
			fmt.Fprintf(a.out, "Drew the key of project %q.\n", args[0])
			return nil
		}}
	var to string
	give := &cobra.Command{Use: "give NAME --to STEWARD", Short: "Send a project key to another agency's steward, encrypted", Args: cobra.ExactArgs(1),
		Example: `  lab project give elderly --to gu.ling --as he.ping`,
		RunE: func(cmd *cobra.Command, args []string) error {
			who, err := a.person(cmd.Context(), operators.RoleSteward)
			if err != nil {
				return err
			}
			h, err := desk.Embedded(a.home)
			if err != nil {
				return err
			}
			if err := h.GiveProject(cmd.Context(), args[0], who, to); err != nil {
				return err
			}
			fmt.Fprintf(a.out, "Gave the key of project %q to %s.\n", args[0], to)
			return nil
		}}
	give.Flags().StringVar(&to, "to", "", "steward who receives it")
	give.MarkFlagRequired("to")
	cmd.AddCommand(fresh, give, a.projectDestroyCmd())
	return cmd
}

func (a *app) projectDestroyCmd() *cobra.Command {
	var confirm string
	cmd := &cobra.Command{Use: "destroy NAME --confirm NAME", Short: "Destroy your agency's copy of a project key, for good", Args: cobra.ExactArgs(1),
		Long: `destroy ends a project at your agency: its key is destroyed in the agency's keyring or Vault, and a key of that name is
never taken again. Pseudonyms that were made with it can then not be made again or tried out by whoever has only what
your agency has left. Every agency of the project destroys its own copy; messages by which the key came and backups of
a file keyring have to be destroyed too.`,
		Example: `  lab project destroy elderly --confirm elderly --as he.ping`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if confirm != args[0] {
				return cli.Usage("this cannot be undone: repeat the name with --confirm %s", args[0])
			}
			who, err := a.person(cmd.Context(), operators.RoleSteward)
			if err != nil {
				return err
			}
			if err := a.home.DestroyProject(cmd.Context(), args[0], who); err != nil {
				return err
			}
			fmt.Fprintf(a.out, "Destroyed the key of project %q at this agency.\n", args[0])
			return nil
		}}
	cmd.Flags().StringVar(&confirm, "confirm", "", "the name again")
	cmd.MarkFlagRequired("confirm")
	return cmd
}
