package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"yingzhou.dev/lab/cmd/internal/cli"
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/release"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox"
	"yingzhou.dev/lab/sandbox/lab"
)

// causes are what art. 19 lists.
var causes = []string{enclave.CauseAchieved, enclave.CauseExpired, enclave.CauseWithdrawn}

func (a *app) disposeCmd() *cobra.Command {
	var cause, reason, confirm string
	cmd := &cobra.Command{Use: "dispose NAME", Short: "Destroy a dataset for good, as its steward or as two officials (art. 19)", Args: cobra.ExactArgs(1),
		Long: `dispose ends a dataset for good. Every custodian destroys its pieces of the dataset's key and their wrapping keys and
tries to use them afterwards; the sealed blobs and the agency's own copy of the key are deleted; a signed certificate of
all that goes into the log. What was released stays released. If a custodian is away the order stands and nothing can be
opened any more. A lab that is a service goes on by itself when the custodian is back, or is marked absent; in a folder the
same command ends the rest later.

A steward of the owner ends it alone. An official asks for it, and a second official says the same with the same cause and
reason. --confirm repeats the dataset's name: there is no way back.`,
		Example: `  lab dataset dispose water --cause achieved --reason "项目验收[2026]8" --confirm water --as lin.hua`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if confirm != args[0] {
				return cli.Usage("--confirm must repeat the dataset's name, %q: disposal is for good", args[0])
			}
			h, err := a.open(cmd.Context())
			if err != nil {
				return err
			}
			who, err := a.person(cmd.Context(), operators.RoleSteward, operators.RoleOfficial)
			if err != nil {
				return err
			}
			d, err := h.DisposeDataset(cmd.Context(), args[0], who, cause, reason)
			if err != nil {
				return err
			}
			return a.printDisposal(args[0], d)
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

// printDisposal says how far a disposal is. One that is ordered and not complete is an error.
func (a *app) printDisposal(dataset string, d *lab.Disposal) error {
	switch {
	case !d.InForce:
		var o enclave.DisposalOrder
		if err := d.Order.Open(enclave.KindDisposalOrder, &o); err != nil {
			return err
		}
		return a.print(struct {
			Dataset string   `json:"dataset"`
			Waiting []string `json:"waiting"`
		}{dataset, d.Waiting}, func(w io.Writer) {
			fmt.Fprintf(w, "%s asks to end dataset %q. It is in use until a second official says the same:\n", o.By, dataset)
			fmt.Fprintf(w, "  lab dataset dispose %s --cause %s --reason %q --confirm %s --as OFFICIAL\n", dataset, o.Cause, o.Reason, dataset)
		})
	case d.Receipt == nil:
		return fmt.Errorf("the disposal of dataset %q is ordered and not complete, %s: %s", dataset, a.goesOn(), strings.Join(d.Waiting, "; "))
	}
	var cert enclave.Disposal
	if err := d.Receipt.Certificate.Open(enclave.KindDisposal, &cert); err != nil {
		return err
	}
	digest := d.Receipt.Certificate.Digest()
	return a.print(struct {
		Dataset     string         `json:"dataset"`
		Certificate enclave.Digest `json:"certificate"`
		Custodians  int            `json:"custodians"`
		Blobs       int            `json:"blobs"`
	}{dataset, digest, len(cert.Destructions), len(cert.Blobs)}, func(w io.Writer) {
		fmt.Fprintf(w, "Dataset %q is destroyed: %d custodians destroyed their pieces and could not use them afterwards, %d sealed blobs are deleted.\n", dataset, len(cert.Destructions), len(cert.Blobs))
		fmt.Fprintf(w, "Certificate %s is in the log.\n  next: lab dataset certificate %s -o %s.disposal\n", digest.Short(), dataset, dataset)
	})
}

// goesOn says what becomes of a disposal that waits.
func (a *app) goesOn() string {
	if a.client != "" {
		return "the lab goes on by itself"
	}
	return "repeat it"
}

func (a *app) certificateCmd() *cobra.Command {
	var out string
	cmd := &cobra.Command{Use: "certificate NAME", Short: "Write the signed certificate of a dataset's disposal, or say what it waits for", Args: cobra.ExactArgs(1),
		Long: `certificate writes the certificate of a disposal with the roster and the log proofs: all that is needed to verify it
offline, with "lab audit verify FILE --root KEY".`,
		Example: `  lab dataset certificate water -o water.disposal`,
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := a.open(cmd.Context())
			if err != nil {
				return err
			}
			d, err := h.Disposal(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			switch {
			case !d.InForce:
				return fmt.Errorf("certificate of dataset %q: %w: an official asked to end it, and %s has to", args[0], sandbox.ErrNotFound, strings.Join(d.Waiting, ", "))
			case d.Receipt == nil:
				return fmt.Errorf("certificate of dataset %q: %w: its disposal is ordered and not complete, %s: %s", args[0], sandbox.ErrNotFound, a.goesOn(), strings.Join(d.Waiting, "; "))
			}
			if _, err := d.Receipt.Check(h.RootKey(), release.LogKeys); err != nil {
				return cli.With(cli.Unverified, err)
			}
			return a.write(out, func(w io.Writer) error {
				_, err := w.Write(canon.MustMarshal(d.Receipt))
				return err
			})
		}}
	cmd.Flags().StringVarP(&out, "output", "o", "", "file to write; default: standard output")
	return cmd
}
