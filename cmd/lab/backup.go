package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"yingzhou.dev/lab/cmd/internal/cli"
	"yingzhou.dev/lab/cmd/internal/desk"
	"yingzhou.dev/lab/cmd/internal/home"
)

var errServiceBackup = fmt.Errorf("%w; each daemon of a service is backed up by its own program: labd -backup, custodian -backup", desk.ErrEmbedded)

func (a *app) backupCmd() *cobra.Command {
	var parts []string
	cmd := &cobra.Command{Use: "backup FOLDER", Short: "Save the lab, each body's part as an archive of its own", Args: cobra.ExactArgs(1),
		Long: `backup writes the lab's metadata as it is at one moment, its log, its sealed blobs and what custodians, witness, agencies
and people keep into a new folder: one archive for each body's part, and a list. The archives hold private keys where the
parts do. Give each body its own and keep them apart: two custodians' parts and the control plane's together open everything.`,
		Example: "  lab backup /media/backup/2026-11-25\n  lab backup --part plane --part witness /media/backup/2026-11-25",
		RunE: func(cmd *cobra.Command, args []string) error {
			if a.client != "" {
				return errServiceBackup
			}
			b, err := home.Save(cmd.Context(), a.dir, a.options(), args[0], parts)
			if err != nil {
				return err
			}
			return a.printBackup(b, "Saved to "+args[0])
		}}
	cmd.Flags().StringArrayVar(&parts, "part", nil, "part to save, like plane or custodians/NAME; default: all")
	return cmd
}

func (a *app) restoreCmd() *cobra.Command {
	var parts, witnesses []string
	cmd := &cobra.Command{Use: "restore FOLDER", Short: "Put a backup, or parts of it, into the lab's folder", Args: cobra.ExactArgs(1),
		Long: `restore puts parts of a backup back. It replaces nothing: what is there must be moved away first. A log that is older than
what the witness or a custodian has seen is refused, because going on from it would fork the log, and everybody would
refuse the fork. Custodians that are restored take over from their peers what they have charged since.

With --database metadata goes into a PostgreSQL database, which must be empty, wherever it was kept before.`,
		Example: `  lab restore /media/backup/2026-11-25 --part plane --lab ./mylab
  lab restore /media/backup/2026-11-25 --witness /mnt/cyber/witness/state --lab ./newlab`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if a.client != "" {
				return errServiceBackup
			}
			b, err := home.Restore(cmd.Context(), args[0], a.dir, a.options(), parts, witnesses)
			if errors.Is(err, home.ErrStale) {
				return cli.With(cli.Refused, err)
			}
			if err != nil {
				return err
			}
			return a.printBackup(b, "Restored to "+a.dir)
		}}
	cmd.Flags().StringArrayVar(&parts, "part", nil, "part to restore; default: all of the backup's")
	cmd.Flags().StringArrayVar(&witnesses, "witness", nil, "folder of a witness's state that the log must not be older than, besides the lab's own")
	return cmd
}

func (a *app) printBackup(b *home.Backup, what string) error {
	return a.print(b, func(w io.Writer) {
		fmt.Fprintf(w, "%s: lab %q as of %s UTC.\n", what, b.Lab, b.Made.Format("2006-01-02 15:04:05"))
		var rows [][]string
		for _, p := range b.Parts {
			rows = append(rows, []string{p.Name, p.File, fmt.Sprint(p.Bytes), p.Digest.Short()})
		}
		cli.Grid(w, []string{"part", "archive", "bytes", "digest"}, rows)
		if size := strings.Split(b.Checkpoint, "\n"); len(size) > 1 {
			fmt.Fprintf(w, "The log had %s entries.\n", size[1])
		}
	})
}
