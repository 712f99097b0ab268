package main

import (
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"yingzhou.dev/lab/cmd/internal/cli"
	"yingzhou.dev/lab/cmd/internal/deploy"
	"yingzhou.dev/lab/internal/pki"
)

func (a *app) deployCmd() *cobra.Command {
	var o deploy.Options
	var out string
	cmd := &cobra.Command{Use: "deploy --to DIR", Short: "Lay the lab out as services: a folder for each daemon and person", Args: cobra.NoArgs,
		Long: `deploy moves a lab from its one folder to a new folder of folders, each to be carried to the machine where it belongs:
labd, witness, one per custodian, one per person, and the authority of certificates. Each has its configuration, keys
and a certificate. The log, the records and the ledgers go along; the old folder cannot be opened any more, but keeps the
root key.`,
		Example: `  lab deploy --to ./services --lab ./mylab
  lab deploy --to ./services --host lab.example.org --port 7443 --valid 24h`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if a.client != "" {
				return cli.Usage("deploy works on a lab's folder: leave --client out")
			}
			o.Worker, o.Isolation, o.Now, o.Database = a.worker, a.backend, a.clock(), a.options().Database
			if o.Worker == "" {
				self, err := os.Executable()
				if err != nil {
					return err
				}
				o.Worker = filepath.Join(filepath.Dir(self), "worker")
			}
			laid, err := deploy.Lay(cmd.Context(), a.dir, out, o)
			if err != nil {
				return err
			}
			return a.print(laid, func(w io.Writer) {
				fmt.Fprintf(w, "Lab %q is laid out in %s. %s can no longer be opened.\n", laid.Lab, out, a.dir)
				var rows [][]string
				rows = append(rows, []string{"witness", laid.Witness, "witness -config " + filepath.Join(out, "witness", "witness.yaml")})
				for _, name := range slices.Sorted(maps.Keys(laid.Custodians)) {
					rows = append(rows, []string{name, laid.Custodians[name], "custodian -config " + filepath.Join(out, name, "custodian.yaml")})
				}
				for _, name := range slices.Sorted(maps.Keys(laid.Labds)) {
					rows = append(rows, []string{name, laid.Labds[name], "labd -config " + filepath.Join(out, name, "labd.yaml")})
				}
				cli.Grid(w, []string{"daemon", "address", "start"}, rows)
				fmt.Fprintf(w, "People: %s.\n  next: LAB_CLIENT=%s lab dataset list\n", strings.Join(laid.People, ", "), filepath.Join(out, "people", "NAME"))
			})
		}}
	f := cmd.Flags()
	f.StringVar(&out, "to", "", "new folder")
	f.StringVar(&o.Host, "host", "127.0.0.1", "host that daemons listen on and are reached at")
	f.IntVar(&o.Port, "port", 7443, "labd's port; the witness and the custodians follow")
	f.IntVar(&o.Metrics, "metrics-port", 0, "first port for Prometheus, on loopback; 0 = none")
	f.DurationVar(&o.Valid, "valid", pki.DefaultValid, "how long certificates live")
	f.StringVar(&o.Postgres, "postgres", "", "file with a PostgreSQL connection string, or vault:KV/PATH#FIELD in labd's Vault; its records move there; default: SQLite")
	f.IntVar(&o.Labds, "labds", 1, "control planes that share the PostgreSQL, the log and the blobs")
	cmd.MarkFlagRequired("to")
	return cmd
}

func (a *app) certCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "cert", Short: "Certificates for daemons and people, from the lab's own authority"}
	var ca, lab, role, party, to string
	var hosts []string
	var valid time.Duration
	issue := &cobra.Command{Use: "issue --ca DIR --name LAB --role R --party P --to DIR", Short: "Issue a certificate, or renew one", Args: cobra.NoArgs,
		Long: `issue writes ca.crt, tls.key and tls.crt for a party, as in the roster, to a folder. Daemons take over a renewed one
when they get SIGHUP. Where Vault's pki issues certificates, let it write the URI lab:///LAB/ROLE/PARTY instead.`,
		Example: "  lab cert issue --ca services/ca --name pudong --role custodian --party custodian-cyber --to services/custodian-cyber",
		RunE: func(cmd *cobra.Command, args []string) error {
			authority, err := pki.LoadAuthority(lab, ca)
			if err != nil {
				return err
			}
			n := pki.Name{Lab: lab, Role: role, Party: party}
			if err := authority.IssueTo(to, n, pki.IssueOptions{Now: a.clock(), Valid: valid, Hosts: hosts}); err != nil {
				return err
			}
			until := a.clock().Add(valid).UTC()
			return a.print(struct {
				Name  string    `json:"name"`
				Until time.Time `json:"until"`
			}{n.String(), until.Truncate(time.Second)}, func(w io.Writer) {
				fmt.Fprintf(w, "Issued a certificate for %s until %s to %s.\n", n, until.Format(time.DateTime), to)
			})
		}}
	f := issue.Flags()
	f.StringVar(&ca, "ca", "", "folder of the authority")
	f.StringVar(&lab, "name", "", "name of the lab")
	f.StringVar(&role, "role", "", "role in the roster, or witness")
	f.StringVar(&party, "party", "", "name in the roster")
	f.StringVar(&to, "to", "", "folder to write to")
	f.StringArrayVar(&hosts, "host", []string{"localhost", "127.0.0.1"}, "host name or address, for clients that check those")
	f.DurationVar(&valid, "valid", pki.DefaultValid, "how long it lives")
	for _, n := range []string{"ca", "name", "role", "party", "to"} {
		issue.MarkFlagRequired(n)
	}
	cmd.AddCommand(issue)
	return cmd
}
