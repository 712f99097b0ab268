package mpc

// What stands around the nodes of a job, as its receipt says it. The control plane says it before they run; each custodian
// holds it against its own node, and one for whom it is not true takes no part.
const (
	Contained   = "three containers without a network, each with two sockets to its custodian, who carries bytes to the others'"
	Uncontained = "three processes (development only)"
)
