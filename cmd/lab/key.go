package main

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"yingzhou.dev/lab/cmd/internal/cli"
	"yingzhou.dev/lab/cmd/internal/home"
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/durable"
	"yingzhou.dev/lab/operators"
)

func (a *app) keyCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "key", Short: "Keys of datasets: show, rotate, refresh, replace a custodian"}
	cmd.AddCommand(a.keyShowCmd(), a.keyMakeCmd(), a.keyRotateCmd(), a.keyRefreshCmd(), a.keyReplaceCmd())
	return cmd
}

func (a *app) keyShowCmd() *cobra.Command {
	return &cobra.Command{Use: "show DATASET", Short: "Show the keysets of a dataset and who holds their pieces", Args: cobra.ExactArgs(1), Example: "  lab key show water",
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := a.open(cmd.Context())
			if err != nil {
				return err
			}
			d, err := h.Dataset(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			all, err := h.Lineage(cmd.Context(), args[0])
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
	return &cobra.Command{Use: "rotate DATASET", Short: "Have custodians wrap their pieces under new wrapping keys", Args: cobra.ExactArgs(1),
		Long: `rotate replaces the keys that wrap the pieces where they are stored, and destroys the old ones: an older copy of what
was stored is then of no use. Pieces, noise and results stay the same.

In a lab in a folder every custodian does so. With a lab that is a service each custodian's own people do it for their own,
with --client naming the custodian's folder: nobody else has business with its wrapping keys.`,
		Example: `  lab key rotate water`,
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := a.open(cmd.Context())
			if err != nil {
				return err
			}
			rotated, err := h.Rotate(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.print(struct {
				Dataset    string   `json:"dataset"`
				Custodians []string `json:"custodians"`
			}{args[0], rotated}, func(w io.Writer) {
				if len(rotated) == 1 {
					fmt.Fprintf(w, "%s wraps its pieces of %q under new keys.\n", rotated[0], args[0])
					return
				}
				fmt.Fprintf(w, "%d custodians wrap their pieces of %q under new keys.\n", len(rotated), args[0])
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
			h, err := a.open(cmd.Context())
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

func (a *app) keyMakeCmd() *cobra.Command {
	var dir, vault string
	cmd := &cobra.Command{Use: "make NAME", Short: "Make the keys of a new custodian, at the body that runs it", Args: cobra.ExactArgs(1),
		Long: `make makes a custodian's signing and receiving keys, in a new folder or in the body's own Vault, and writes NAME.json
with the public ones beside them. That file goes to an official for ` + "`lab key replace --keys`" + `; nothing else leaves the body.
No lab is opened. Repeating it finds the keys and writes the file again.

--vault names a YAML file with what "vault" has in a custodian's configuration; deploy/vault/custodian.sh prepares the Vault.`,
		Example: `  lab key make custodian-archive --to ./custodian-archive
  lab key make custodian-archive --to ./custodian-archive --vault vault.yaml`,
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := home.NewCustodian(cmd.Context(), dir, args[0], vault)
			if err != nil {
				return err
			}
			path := filepath.Join(dir, args[0]+".json")
			if err := durable.MkdirAll(dir, 0o700); err != nil {
				return err
			}
			if err := durable.WriteFile(path, canon.MustMarshal(publicKeys{Format: publicKeysFormat, Name: p.Name, Verify: p.Verify, HPKE: p.HPKE}), 0o644); err != nil {
				return err
			}
			return a.print(struct {
				Name string `json:"name"`
				File string `json:"file"`
			}{p.Name, path}, func(w io.Writer) {
				fmt.Fprintf(w, "%s has keys. The public ones are in %s:\n  signing key %x\n  next, an official: lab key replace OLD %s --body BODY --keys %s\n", p.Name, path, p.Verify, p.Name, path)
			})
		}}
	cmd.Flags().StringVar(&dir, "to", "", "the custodian's folder")
	cmd.Flags().StringVar(&vault, "vault", "", "file that says where its Vault is; default: keys in files, for development")
	cmd.MarkFlagRequired("to")
	return cmd
}

const publicKeysFormat = "yingzhou.custodian-keys.v1"

// publicKeys is what a body tells the bureau of its custodian.
type publicKeys struct {
	Format string `json:"format"`
	Name   string `json:"name"`
	Verify []byte `json:"verify"` // Ed25519
	HPKE   []byte `json:"hpke"`
}

func readPublicKeys(path, name string) (k publicKeys, err error) {
	data, err := cli.ReadFile(path)
	if err != nil {
		return k, err
	}
	if err := canon.Unmarshal(data, &k); err != nil || k.Format != publicKeysFormat {
		return k, cli.Usage("%s is not what `lab key make` writes", path)
	}
	if k.Name != name {
		return k, cli.Usage("%s has the keys of %q, not of %q", path, k.Name, name)
	}
	return k, nil
}

func (a *app) keyReplaceCmd() *cobra.Command {
	var body, keys string
	cmd := &cobra.Command{Use: "replace OLD NEW", Short: "Put a new custodian in the place of one that leaves", Args: cobra.ExactArgs(2),
		Long: `replace makes a new roster in which the old custodian is absent and the new one acts. The new one has no pieces yet: the
steward of each dataset deals the key again with ` + "`lab key refresh`" + `, and only then are the old one's pieces of no use.

In a lab in a folder the new one's keys are made here. With a lab that is a service its own body has made them with
` + "`lab key make`" + `, and --keys names the public ones; the official's folder must have the root key.`,
		Example: `  lab key replace custodian-notary custodian-archive --body 区档案馆
  lab key replace custodian-notary custodian-archive --body 区档案馆 --keys custodian-archive.json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := a.open(cmd.Context())
			if err != nil {
				return err
			}
			p := operators.Party{Name: args[1], Body: body}
			if keys != "" {
				k, err := readPublicKeys(keys, args[1])
				if err != nil {
					return err
				}
				p.Verify, p.HPKE = k.Verify, k.HPKE
			}
			if err := h.ReplaceCustodian(cmd.Context(), args[0], p); err != nil {
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
	cmd.Flags().StringVar(&keys, "keys", "", "file with the new custodian's public keys, from `lab key make`")
	cmd.MarkFlagRequired("body")
	return cmd
}
