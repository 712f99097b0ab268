package cli

import (
	"fmt"
	"io"
	"strings"
)

// Grid prints aligned columns under a header: numbers to the right, text to the left. Wide characters count double, as
// terminals draw them.
func Grid(w io.Writer, header []string, rows [][]string) {
	widths := make([]int, len(header))
	for _, row := range append([][]string{header}, rows...) {
		for i, c := range row {
			widths[i] = max(widths[i], width(c))
		}
	}
	line := func(row []string) {
		var b strings.Builder
		for i, c := range row {
			if i > 0 {
				b.WriteString("  ")
			}
			pad := strings.Repeat(" ", widths[i]-width(c))
			if numeric(c) {
				b.WriteString(pad + c)
			} else {
				b.WriteString(c + pad)
			}
		}
		fmt.Fprintln(w, strings.TrimRight(b.String(), " "))
	}
	line(header)
	rule := make([]string, len(header))
	for i := range rule {
		rule[i] = strings.Repeat("-", widths[i])
	}
	line(rule)
	for _, r := range rows {
		line(r)
	}
}

func numeric(s string) bool {
	return strings.Trim(s, "0123456789.,-+±%∞ ") == "" && strings.ContainsAny(s, "0123456789")
}

// wide are the ranges of characters that take two columns: East Asian Wide and Fullwidth of Unicode's UAX #11, without
// what lies beyond the basic plane.
var wide = [][2]rune{{0x1100, 0x115f}, {0x2e80, 0xa4cf}, {0xac00, 0xd7a3}, {0xf900, 0xfaff}, {0xfe30, 0xfe4f}, {0xff00, 0xff60}, {0xffe0, 0xffe6}}

func width(s string) int {
	n := 0
	for _, r := range s {
		n++
		for _, w := range wide {
			if w[0] <= r && r <= w[1] {
				n++
			}
		}
	}
	return n
}
