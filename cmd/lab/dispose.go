package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"yingzhou.dev/lab/cmd/internal/cli"
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/operators"
)

// causes are what art. 19 lists.
var causes = []string{enclave.CauseAchieved, enclave.CauseExpired, enclave.CauseWithdrawn}

func (a *app) disposeCmd() *cobra.Command {
	var cause, reason, confirm string
	cmd := &cobra.Command{Use: "dispose NAME", Short: "Destroy a dataset for good, as its steward (art. 19)", Args: cobra.ExactArgs(1),
		Long: `dispose ends a dataset for good. Every custodian destroys its pieces of the dataset's key and their wrapping keys and
tries to use them afterwards; the sealed blobs and the agency's own copy of the key are deleted; a signed certificate of
all that goes into the log. What was released stays released. If a custodian is away the order stands, nothing can be
opened any more, and the same command ends the rest later.

--confirm repeats the dataset's name: there is no way back.`,
		Example: `  lab dataset dispose water --cause achieved --reason "项目验收[2026]8" --confirm water --as lin.hua`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if confirm != args[0] {
				return cli.Usage("--confirm must repeat the dataset's name, %q: disposal is for good", args[0])
			}
			h, err := a.embedded(cmd.Context())
			if err != nil {
				return err
			}
			who, err := a.person(cmd.Context(), operators.RoleSteward)
			if err != nil {
				return err
			}
			signed, cert, err := h.Dispose(cmd.Context(), args[0], who, cause, reason)
			if err != nil {
				return err
			}
			return a.print(struct {
				Dataset     string         `json:"dataset"`
				Certificate enclave.Digest `json:"certificate"`
				Custodians  int            `json:"custodians"`
				Blobs       int            `json:"blobs"`
			}{args[0], signed.Digest(), len(cert.Destructions), len(cert.Blobs)}, func(w io.Writer) {
				fmt.Fprintf(w, "Dataset %q is destroyed: %d custodians destroyed their pieces and could not use them afterwards, %d sealed blobs are deleted.\n", args[0], len(cert.Destructions), len(cert.Blobs))
				fmt.Fprintf(w, "Certificate %s is in the log.\n  next: lab dataset certificate %s -o %s.disposal\n", signed.Digest().Short(), args[0], args[0])
			})
		}}
	cmd.Flags().StringVar(&cause, "cause", "", "achieved, expired or withdrawn")
	cmd.Flags().StringVar(&reason, "reason", "", "why, with the file reference")
	cmd.Flags().StringVar(&confirm, "confirm", "", "the dataset's name again")
	cmd.RegisterFlagCompletionFunc("cause", cobra.FixedCompletions(causes, cobra.ShellCompDirectiveNoFileComp))
	for _, f := range []string{"cause", "reason", "confirm"} {
		cmd.MarkFlagRequired(f)
	}
	return cmd
}

func (a *app) certificateCmd() *cobra.Command {
	var out string
	cmd := &cobra.Command{Use: "certificate NAME", Short: "Write the signed certificate of a dataset's disposal", Args: cobra.ExactArgs(1),
		Example: `  lab dataset certificate water -o water.disposal`,
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := a.embedded(cmd.Context())
			if err != nil {
				return err
			}
			d, err := h.Lab.Dataset(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			signed, err := h.Lab.Certificate(cmd.Context(), d.DisposalDigest)
			if err != nil {
				return err
			}
			return a.write(out, func(w io.Writer) error {
				_, err := w.Write(canon.MustMarshal(signed))
				return err
			})
		}}
	cmd.Flags().StringVarP(&out, "output", "o", "", "file to write; default: standard output")
	return cmd
}
