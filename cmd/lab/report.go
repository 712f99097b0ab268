package main

import (
	"context"
	"crypto/ed25519"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"yingzhou.dev/lab/cmd/internal/cli"
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/mpc/prio3"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox"
)

// task reads a collection that may be reported to, with its list of reporters and the aggregators' receiving keys.
func (a *app) task(ctx context.Context, name, enrolment string) (t *prio3.Task, public [2][]byte, err error) {
	c, err := a.home.Collection(ctx, name)
	if err != nil {
		return nil, public, err
	}
	if !c.Confirmed {
		return nil, public, fmt.Errorf("collection %q: %w: a steward of dataset %q has not confirmed it: `lab collect confirm %s`", name, sandbox.ErrConflict, c.Dataset, name)
	}
	list, err := cli.ReadFile(enrolment)
	if err != nil {
		return nil, public, err
	}
	if t, err = prio3.NewTask(c.Signed, list); err != nil {
		return nil, public, err
	}
	_, roster, err := a.home.Roster(ctx)
	if err != nil {
		return nil, public, err
	}
	for i, name := range t.Aggregators {
		p, ok := roster.Find(name)
		if !ok || p.Role != operators.RoleCustodian {
			return nil, public, fmt.Errorf("collection %q: %w: %q is not a custodian of the roster", t.Name, sandbox.ErrConflict, name)
		}
		public[i] = p.HPKE
	}
	return t, public, nil
}

func (a *app) reportCmd() *cobra.Command {
	var private, enrolment, out string
	cmd := &cobra.Command{Use: "report NAME VALUES", Short: "Report as enrolled reporters, for trying out", Args: cobra.ExactArgs(2),
		Long: `report reads a CSV file without header, a reporter's name and its measurement in each line (for a histogram the label,
for a vector one column per label), and appends one report each to a file of reports: what their devices would send.`,
		Example: `  lab collect report winter values.csv --reporters meters.json --keys meters.keys -o winter.reports`,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			if _, err := a.open(ctx); err != nil {
				return err
			}
			t, public, err := a.task(ctx, args[0], enrolment)
			if err != nil {
				return err
			}
			signers, err := readKeys(private)
			if err != nil {
				return err
			}
			in, err := os.Open(args[1])
			if err != nil {
				return cli.With(cli.NotFound, err)
			}
			defer in.Close()
			spool, err := os.OpenFile(out, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
			if err != nil {
				return fmt.Errorf("writing reports: %w", err)
			}
			n, err := report(ctx, t, public, signers, in, spool)
			if err := errors.Join(err, spool.Close()); err != nil {
				return fmt.Errorf("%s: %w", args[1], err)
			}
			fmt.Fprintf(a.out, "Reported %d measurements to collection %q, %d bytes each.\n", n, t.Name, t.ReportBytes())
			return nil
		}}
	cmd.Flags().StringVar(&private, "keys", "", "private keys of the reporters")
	cmd.Flags().StringVarP(&out, "output", "o", "", "file of reports to append to")
	cmd.Flags().StringVar(&enrolment, "reporters", "", "enrolment file")
	cmd.MarkFlagRequired("reporters")
	cmd.MarkFlagRequired("keys")
	cmd.MarkFlagRequired("output")
	return cmd
}

func readKeys(path string) (map[string]ed25519.PrivateKey, error) {
	data, err := cli.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var f reporterKeys
	if err := canon.Unmarshal(data, &f); err != nil || f.Kind != reporterKeysKind {
		return nil, cli.Usage("%s is not a file of `lab collect enrol --keys`", path)
	}
	out := map[string]ed25519.PrivateKey{}
	for _, k := range f.Keys {
		if len(k.Sign) != ed25519.SeedSize {
			return nil, cli.Usage("%s holds a key that is none", path)
		}
		out[k.Name] = ed25519.NewKeyFromSeed(k.Sign)
	}
	return out, nil
}

// report makes a report of every line. Errors name the line, never the measurement.
func report(ctx context.Context, t *prio3.Task, public [2][]byte, signers map[string]ed25519.PrivateKey, in io.Reader, spool io.Writer) (n int, err error) {
	index := map[string]int{}
	for i, r := range t.Reporters {
		index[r.Name] = i
	}
	r := csv.NewReader(in)
	for {
		line, err := r.Read()
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return n, err
		}
		at, enrolled := index[line[0]]
		key, own := signers[line[0]]
		if !enrolled || !own {
			return n, cli.Usage("line %d: %q is not enrolled, or has no key here", n+1, line[0])
		}
		x, err := measurement(t.Measurement, line[1:])
		if err != nil {
			return n, cli.Usage("line %d: %w", n+1, err)
		}
		data, err := t.Report(at, key, public, x)
		if err == nil {
			err = prio3.WriteReport(spool, data)
		}
		if err != nil {
			return n, fmt.Errorf("line %d: %w", n+1, err)
		}
		n++
	}
}

func measurement(m enclave.Measurement, texts []string) ([]uint64, error) {
	if m.Kind == enclave.MeasureHistogram && len(texts) == 1 {
		i := slices.Index(m.Labels, texts[0])
		if i < 0 {
			return nil, errors.New("the label is not one of the collection's")
		}
		return []uint64{uint64(i)}, nil
	}
	out := make([]uint64, len(texts))
	for i, s := range texts {
		v, err := strconv.ParseUint(s, 10, 32)
		if err != nil {
			return nil, errors.New("a measurement is not a whole number")
		}
		out[i] = v
	}
	return out, nil
}
