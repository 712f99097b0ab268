//go:build !failpoint

package failpoint

// Enabled says whether this program was built to be killed.
const Enabled = false

// Hit does nothing in what is shipped.
func Hit(Point) {}
