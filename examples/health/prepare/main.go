// Command prepare derives the table that examples/health seals from the published file of the RAND Health Insurance
// Experiment. It adds a row number as entity key and turns dummy variables and a logarithm back into the categories they
// were made from; nothing is estimated and no row is dropped.
//
//	go run ./examples/health/prepare < examples/health/randhie.csv > examples/health/health.csv
package main

import (
	"encoding/csv"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
)

// columns of the published file, in order.
var columns = []string{"mdvis", "lncoins", "idp", "lpi", "fmde", "physlm", "disea", "hlthg", "hlthf", "hlthp"}

var header = []string{"person", "health", "coinsurance", "idp", "mdvis", "disea", "physlm", "lpi", "fmde"}

// coinsurance undoes lncoins = ln(coinsurance + 1). The file has these five values and no other.
var coinsurance = map[string]string{"0": "0", "3.258096": "25", "3.931826": "50", "4.564348": "95", "4.61512": "100"}

// health undoes the dummies good, fair, poor, whose baseline is excellent.
var health = map[[3]string]string{
	{"0", "0", "0"}: "excellent", {"1", "0", "0"}: "good", {"0", "1", "0"}: "fair", {"0", "0", "1"}: "poor",
}

func main() {
	if err := prepare(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "prepare:", err)
		os.Exit(1)
	}
}

func prepare(in io.Reader, out io.Writer) error {
	r := csv.NewReader(in)
	r.FieldsPerRecord = len(columns)
	r.ReuseRecord = true
	got, err := r.Read()
	if err != nil {
		return fmt.Errorf("reading the header: %w", err)
	}
	if !slices.Equal(got, columns) {
		return fmt.Errorf("the columns are not those of the published file")
	}
	w := csv.NewWriter(out)
	if err := w.Write(header); err != nil {
		return err
	}
	for row := 1; ; row++ {
		f, err := r.Read()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("reading row %d: %w", row, err)
		}
		rated, ok := health[[3]string{f[7], f[8], f[9]}]
		rate, known := coinsurance[f[1]]
		if !ok || !known {
			return fmt.Errorf("row %d: health or coinsurance is not one of the published values", row)
		}
		err = w.Write([]string{strconv.Itoa(row), rated, rate, f[2], f[0], f[6], f[5], f[3], f[4]})
		if err != nil {
			return err
		}
	}
	w.Flush()
	return w.Error()
}
