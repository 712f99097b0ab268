package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"yingzhou.dev/lab/cmd/internal/cli"
	"yingzhou.dev/lab/cmd/internal/home"
	"yingzhou.dev/lab/operators"
)

func (a *app) initCmd() *cobra.Command {
	var name string
	var production bool
	var vaults string
	cmd := &cobra.Command{Use: "init DIR", Short: "Make a lab in a new folder", Args: cobra.ExactArgs(1),
		Long: `init makes a lab: root key, log and witness, control plane, three custodians, two officials of the bureau and an
auditor, with generated keys, all in one folder. It is for development and evaluation: whoever reads the folder has
every key.`,
		Example: `  lab init ./mylab
  lab init ./mylab --name pudong
  lab init ./mylab --vault-config vaults.yaml`,
		RunE: func(cmd *cobra.Command, args []string) error {
			dir := args[0]
			if name == "" {
				abs, err := filepath.Abs(dir)
				if err != nil {
					return err
				}
				name = filepath.Base(abs)
			}
			if err := os.MkdirAll(dir, 0o700); err != nil {
				return err
			}
			if vaults != "" {
				if err := home.UseVaults(dir, vaults); err != nil {
					return err
				}
			}
			if err := home.Create(cmd.Context(), dir, name, production, a.clock()); err != nil {
				return err
			}
			a.dir, a.client = dir, ""
			h, err := a.embedded(cmd.Context())
			if err != nil {
				return err
			}
			_, roster, err := h.Roster(cmd.Context())
			if err != nil {
				return err
			}
			return a.print(struct {
				Lab  string `json:"lab"`
				Dir  string `json:"dir"`
				Root []byte `json:"root"`
			}{h.Name, dir, h.Root}, func(w io.Writer) {
				fmt.Fprintf(w, "Made lab %q in %s: %d custodians, %d needed to open anything.\n", h.Name, dir, len(roster.WithRole(operators.RoleCustodian)), roster.Quorum)
				fmt.Fprintf(w, "Root public key: %x\n\n", h.Root)
				fmt.Fprintf(w, "Next, with LAB_DIR=%s:\n", dir)
				fmt.Fprintln(w, "  lab person add lin.hua --role steward --body 区水务局       a data steward")
				fmt.Fprintln(w, "  lab person add chen.yu --role analyst --body 崇明数科       an analyst of an operator")
				fmt.Fprintln(w, "  lab dataset describe FILE -o schema.json                   describe a table, then edit the schema")
			})
		}}
	cmd.Flags().StringVar(&name, "name", "", "name of the lab; default: the folder's")
	cmd.Flags().StringVar(&vaults, "vault-config", "", "YAML file that says which custodians have their keys in which Vault (docs/OPERATIONS.md)")
	cmd.Flags().BoolVar(&production, "production", false, "refuse development-only isolation")
	return cmd
}

// roles are those of people; machines get theirs when the lab is made.
var roles = []string{string(operators.RoleSteward), string(operators.RoleAnalyst), string(operators.RoleOfficial), string(operators.RoleAuditor)}

func (a *app) personCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "person", Short: "People and machines of the lab"}
	var role, body, title string
	add := &cobra.Command{Use: "add NAME", Short: "Add a person with fresh keys to the roster", Args: cobra.ExactArgs(1),
		Example: `  lab person add lin.hua --role steward --body 区水务局 --title 林华`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if !slices.Contains(roles, role) {
				return cli.Usage("--role %q is not one of %s", role, strings.Join(roles, ", "))
			}
			h, err := a.open(cmd.Context())
			if err != nil {
				return err
			}
			p := operators.Party{Name: args[0], Role: operators.Role(role), Body: body, Title: title}
			if err := h.AddPerson(cmd.Context(), p); err != nil {
				return err
			}
			return a.print(p, func(w io.Writer) { fmt.Fprintf(w, "%s is now a person of the lab: %s of %s.\n", args[0], role, body) })
		}}
	add.Flags().StringVar(&role, "role", "", "steward, analyst, official or auditor")
	add.Flags().StringVar(&body, "body", "", "agency, operator or bureau that the person acts for")
	add.Flags().StringVar(&title, "title", "", "name and post as shown to people")
	add.RegisterFlagCompletionFunc("role", cobra.FixedCompletions(roles, cobra.ShellCompDirectiveNoFileComp))
	add.MarkFlagRequired("role")
	add.MarkFlagRequired("body")
	list := &cobra.Command{Use: "list", Short: "List the roster", Args: cobra.NoArgs, Example: "  lab person list",
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := a.open(cmd.Context())
			if err != nil {
				return err
			}
			_, roster, err := h.Roster(cmd.Context())
			if err != nil {
				return err
			}
			return a.print(roster, func(w io.Writer) {
				var rows [][]string
				for _, p := range roster.Parties {
					rows = append(rows, []string{p.Name, string(p.Role), p.Body, p.Title})
				}
				cli.Grid(w, []string{"name", "role", "body", "title"}, rows)
			})
		}}
	cmd.AddCommand(add, list)
	return cmd
}
