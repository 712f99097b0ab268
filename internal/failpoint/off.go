//go:build !failpoint

package failpoint

import "time"

// Enabled says whether this program was built to be killed.
const Enabled = false

// Hit does nothing in what is shipped.
func Hit(Point) {}

// Clock is the machine's.
func Clock() time.Time { return time.Now() }
