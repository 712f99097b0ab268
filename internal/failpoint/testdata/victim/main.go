// Victim passes one point three times and another once, and counts.
package main

import (
	"fmt"

	"yingzhou.dev/lab/internal/failpoint"
)

func main() {
	for i := range 3 {
		failpoint.Hit(failpoint.JobCreated)
		fmt.Print(i)
	}
	failpoint.Hit(failpoint.PlanLogged)
}
