// Package fence holds the import rules of this repository as tests and nothing else. Which package may lean on which is
// part of what keeps data safe: the control plane cannot leak a key that it does not link, and a worker without package
// net has nothing to call out with. docs/ARCHITECTURE.md tells the same rules to people.
//
// A new package gets a line in the table of fence_test.go. A rule that stands in the way is a decision to argue about in
// review, with its reason beside it.
package fence
