package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"yingzhou.dev/lab/enclave"
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
		}})
	return cmd
}
