package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"yingzhou.dev/lab/cmd/internal/cli"
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/operators"
)

// What flags and arguments say, read strictly.

func parseDigest(s string) (operators.Digest, error) {
	d, err := enclave.ParseDigest(s)
	if err != nil {
		return d, cli.With(cli.Misused, err)
	}
	return d, nil
}

// day reads a date; the last moment of it if end.
func day(flag, s string, end bool) (operators.Time, error) {
	t, err := time.Parse("2006-01-02", s)
	if err != nil {
		return operators.Time{}, cli.Usage("%s: %q is not a day like 2028-12-31", flag, s)
	}
	if end {
		t = t.Add(24*time.Hour - time.Second)
	}
	return operators.Time{Time: t.UTC()}, nil
}

// parseScaled reads a plain decimal as an integer of 10^-scale.
func parseScaled(s string, scale int) (int64, error) {
	whole, frac, point := strings.Cut(s, ".")
	if whole == "" || point && frac == "" || strings.Trim(whole+frac, "0123456789") != "" {
		return 0, fmt.Errorf("%q is not a decimal like 0.5", s)
	}
	if len(frac) > scale {
		return 0, fmt.Errorf("%q has more than %d decimals", s, scale)
	}
	v, err := strconv.ParseInt(whole+frac+strings.Repeat("0", scale-len(frac)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%q is too large", s)
	}
	return v, nil
}

// parseUses reads "water: town=group+filter, m3=aggregate".
func parseUses(args []string) ([]operators.DatasetUse, error) {
	var out []operators.DatasetUse
	for _, arg := range args {
		name, rest, ok := strings.Cut(arg, ":")
		if !ok {
			return nil, cli.Usage("--use %q: want a dataset, a colon and columns, like \"water: town=group+filter, m3=aggregate\"", arg)
		}
		use := operators.DatasetUse{Dataset: strings.TrimSpace(name)}
		for part := range strings.SplitSeq(rest, ",") {
			col, list, ok := strings.Cut(part, "=")
			if !ok {
				return nil, cli.Usage("--use %q: %q needs its uses, like town=group+filter", arg, strings.TrimSpace(part))
			}
			c := operators.ColumnUse{Column: strings.TrimSpace(col)}
			for u := range strings.SplitSeq(list, "+") {
				c.Uses = append(c.Uses, operators.Use(strings.TrimSpace(u)))
			}
			slices.Sort(c.Uses)
			use.Columns = append(use.Columns, c)
		}
		slices.SortFunc(use.Columns, func(a, b operators.ColumnUse) int { return strings.Compare(a.Column, b.Column) })
		out = append(out, use)
	}
	slices.SortFunc(out, func(a, b operators.DatasetUse) int { return strings.Compare(a.Dataset, b.Dataset) })
	return out, nil
}

func formatUses(d operators.DatasetUse) string {
	var cols []string
	for _, c := range d.Columns {
		var us []string
		for _, u := range c.Uses {
			us = append(us, string(u))
		}
		cols = append(cols, c.Column+"="+strings.Join(us, "+"))
	}
	return d.Dataset + ": " + strings.Join(cols, ", ")
}
