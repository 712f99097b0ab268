package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"yingzhou.dev/lab/cmd/internal/cli"
	machine "yingzhou.dev/lab/cmd/internal/node"
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/sandbox/node"
	"yingzhou.dev/lab/sandbox/runner/battery"
)

func (a *app) nodeCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "node", Short: "The node that runs workers"}
	cmd.AddCommand(&cobra.Command{Use: "show", Short: "Show the worker program's digest and the isolation in force", Args: cobra.NoArgs, Example: "  lab node show",
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := a.open(cmd.Context())
			if err != nil {
				return err
			}
			digests, err := h.WorkerDigests(cmd.Context())
			if err != nil {
				return err
			}
			iso, why, err := h.Isolation(cmd.Context())
			if err != nil {
				return err
			}
			return a.print(struct {
				Workers   []enclave.Digest `json:"workers"` // as each kind of isolation knows it
				Isolation string           `json:"isolation"`
				Why       string           `json:"why"`
			}{digests, iso, why}, func(w io.Writer) {
				for _, d := range digests {
					fmt.Fprintf(w, "worker     %s\n", d)
				}
				fmt.Fprintf(w, "isolation  %s\nbecause    %s\n", iso, why)
			})
		}}, a.nodeCheckCmd())
	return cmd
}

// checkView is the battery's result as programs read it.
type checkView struct {
	node.Checked
	Production bool        `json:"production"`
	Results    []checkLine `json:"results"`
}

type checkLine struct {
	Probe  string `json:"probe"`
	Class  string `json:"class"`
	Tries  string `json:"tries"`
	Result string `json:"result"`
}

func (a *app) nodeCheckCmd() *cobra.Command {
	var hostile string
	var all bool
	cmd := &cobra.Command{Use: "check", Short: "Attack this node's isolation as a hostile worker would, and say what held", Args: cobra.NoArgs,
		Long: `check runs a program in the worker's place that tries to get out: through the network, files, devices, privileges,
namespaces, the kernel, resources and side doors. It prints which protections are in force and what each attack came to.
A lab in production mode uses a node only if its last check was passed, with the isolation and kernel that it has now.

The attacks are harmless to the machine and aim at nothing beyond it.`,
		Example: "  lab node check\n  lab node check --isolation gvisor --all",
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := a.embedded(cmd.Context())
			if err != nil {
				return err
			}
			path, err := machine.HostilePath(hostile)
			if err != nil {
				return err
			}
			if _, err := os.Stat(path); err != nil {
				return fmt.Errorf("attacker's program: %w (build it beside this program with `make build`, or name it with --hostile)", err)
			}
			report, checked, err := h.Node().Check(cmd.Context(), path, h.Now())
			if err != nil {
				return err
			}
			v := checkView{Checked: checked, Production: h.Production, Results: []checkLine{}}
			for _, r := range report.Results {
				v.Results = append(v.Results, checkLine{r.Probe.Name, string(r.Probe.Class), r.Probe.Tries, r.String()})
			}
			if err := a.print(v, func(w io.Writer) { v.text(w, report, all) }); err != nil {
				return err
			}
			if !checked.Passed {
				return fmt.Errorf("this node did not pass: %d of %d attacks got out, and isolation is %s", len(checked.Escaped), checked.Probes, checked.Isolation)
			}
			return nil
		}}
	cmd.Flags().StringVar(&hostile, "hostile", os.Getenv("LAB_HOSTILE"), "attacker's program; default: beside this program (LAB_HOSTILE)")
	cmd.Flags().BoolVar(&all, "all", false, "print every attack, not only a count for each class")
	return cmd
}

func (v checkView) text(w io.Writer, report *battery.Report, all bool) {
	if all {
		var rows [][]string
		for _, l := range v.Results {
			rows = append(rows, []string{l.Class, l.Probe, l.Tries, l.Result})
		}
		cli.Grid(w, []string{"class", "attack", "tries to", "result"}, rows)
	} else {
		var order []battery.Class
		tried, held := map[battery.Class]int{}, map[battery.Class]int{}
		for _, r := range report.Results {
			c := r.Probe.Class
			if tried[c] == 0 {
				order = append(order, c)
			}
			tried[c]++
			if !r.Escaped {
				held[c]++
			}
		}
		for _, c := range order {
			fmt.Fprintf(w, "%-22s %3d of %3d contained\n", c, held[c], tried[c])
		}
	}
	fmt.Fprintf(w, "isolation  %s\nkernel     %s\n", v.Isolation, v.Kernel)
	for _, name := range v.Escaped {
		fmt.Fprintf(w, "GOT OUT    %s\n", name)
	}
	if v.Passed {
		fmt.Fprintf(w, "passed     %d attacks, none got out\n", v.Probes)
	}
}
