// Package failpoint names the moments after which a crash must lose nothing: one after each durable step of the control
// plane, the log and its witness, the custodians and sealing.
//
// In what is shipped Hit is empty and costs nothing. Built with the tag failpoint, it counts, and kills its own process
// with SIGKILL where LAB_FAILPOINT says so ("custodian.charge-stored", or "custodian.charge-stored:3" for the third
// time, and only if it can make the file that LAB_FAILPOINT_ONCE names, where it names one); LAB_FAILPOINT_TRACE names a file to which every point that is passed is appended; LAB_FAILPOINT_HOLD ("POINT:N@FIFO", and
// more after commas) has who comes to a point for the nth time wait there until somebody has opened the named pipe for
// writing and closed it. The fault matrix (cmd/internal/faults) kills at every one of them.
package failpoint

import "slices"

// Point is a moment, named PART.WHAT-HAS-JUST-BEEN-DONE.
type Point string

// Points of the control plane (sandbox/lab), in the order of a job.
const (
	JobCreated     Point = "lab.job-created"
	PlanLogged     Point = "lab.plan-logged"
	PlanStored     Point = "lab.plan-stored" // and in the queue
	JobStarted     Point = "lab.job-started"
	JobRestarted   Point = "lab.job-restarted" // one whose lab had stopped while it ran
	InputsStaged   Point = "lab.inputs-staged"
	TaskWritten    Point = "lab.task-written"
	WorkerEnded    Point = "lab.worker-ended"
	ReceiptLogged  Point = "lab.receipt-logged"
	ReceiptStored  Point = "lab.receipt-stored"
	OpeningStored  Point = "lab.opening-stored"
	GateAnswered   Point = "lab.gate-answered"
	ReleaseIndexed Point = "lab.release-indexed"
	ReleaseStored  Point = "lab.release-stored"
	EndLogged      Point = "lab.end-logged"
	EndStored      Point = "lab.end-stored"
	CancelLogged   Point = "lab.cancel-logged"
	CancelStored   Point = "lab.cancel-stored"
	EntryNoted     Point = "lab.entry-noted"
	RosterLogged   Point = "lab.roster-logged"
	RosterStored   Point = "lab.roster-stored"
	KeysetLogged   Point = "lab.keyset-logged"
	KeysetStored   Point = "lab.keyset-stored"
	ManifestLogged Point = "lab.manifest-logged"
	ManifestStored Point = "lab.manifest-stored"
	RequestLogged  Point = "lab.request-logged" // of a disposal, by one official
	RequestStored  Point = "lab.request-stored"
	OrderStored    Point = "lab.order-stored" // of a disposal
	OrderLogged    Point = "lab.order-logged"
	WordKept       Point = "lab.word-stored" // a custodian's
	CertKept       Point = "lab.certificate-kept"
	CertLogged     Point = "lab.certificate-logged"
	CertStored     Point = "lab.certificate-stored"
)

// Points of recording a statement.
const (
	StatementPending Point = "statement.pending"
	StatementLogged  Point = "statement.logged"
	StatementStored  Point = "statement.stored"
)

// Points of the log (sandbox/audit) and its witness.
const (
	LogIntegrated    Point = "log.integrated"
	LogSigned        Point = "log.signed"
	WitnessRemembers Point = "witness.remembers"
	LogWitnessed     Point = "log.witnessed"
	LogStored        Point = "log.stored"
)

// Points of a worker's task.
const (
	TaskStarted Point = "worker.started"
	TaskWaited  Point = "worker.waited"
	TaskRemoved Point = "worker.removed"
)

// Points of a custodian that has its compute node run (cmd/internal/nodes). The node itself keeps nothing.
const (
	NodeStaged  Point = "node.inputs-staged"
	NodeLinked  Point = "node.sockets-made"
	NodeCleared Point = "node.folder-removed"
)

// Points of a custodian (enclave/release).
const (
	PieceStored    Point = "custodian.piece-stored"
	LeavesKept     Point = "custodian.leaves-kept"
	LogFollowed    Point = "custodian.log-followed"
	BlobCopied     Point = "custodian.blob-copied"
	BlobChecked    Point = "custodian.blob-checked"
	ChargeLogged   Point = "custodian.charge-logged"
	LedgerWritten  Point = "custodian.ledger-written" // not synced
	ChargeStored   Point = "custodian.charge-stored"
	SharesLogged   Point = "custodian.shares-logged"
	SharesStored   Point = "custodian.shares-stored"
	ReleaseLogged  Point = "custodian.release-logged"
	EvidenceStored Point = "custodian.evidence-stored"
	ReleaseKept    Point = "custodian.release-stored"
	RefusalNoted   Point = "custodian.refusal-noted"
	RefusalStored  Point = "custodian.refusal-stored"
	RefusalLogged  Point = "custodian.refusal-logged"
	ReleaseGathers Point = "custodian.endorsements-gathered"
	RosterKept     Point = "custodian.roster-kept"
)

// Points of the end of key material at a custodian, and of its keyring in a folder.
const (
	KeysetKept      Point = "custodian.keyset-kept"
	KeyAnnounced    Point = "custodian.key-announced" // retirement, rotation or destruction
	PiecesDestroyed Point = "custodian.pieces-destroyed"
	KeysetForgotten Point = "custodian.keyset-forgotten"
	CopiesDropped   Point = "custodian.copies-dropped"
	PiecesRotated   Point = "custodian.pieces-rotated"
	WordStored      Point = "custodian.word-stored"
	WrapAdded       Point = "keyring.key-added"
	WrapUsed        Point = "keyring.secret-wrapped"
	WrapDropped     Point = "keyring.key-dropped"
)

// Points of an agency and of a lab that is being made.
const (
	DatasetKeyStored Point = "agency.key-stored"
	SchemaStored     Point = "agency.schema-stored"
	BlobStored       Point = "agency.blob-stored"
	BlobsStored      Point = "agency.blobs-stored"
	KeyForgotten     Point = "agency.key-forgotten"
	BlobsDiscarded   Point = "lab.blobs-discarded"
	IdentityStored   Point = "lab.identity-stored"
	LabNamed         Point = "lab.settings-stored"
	MoveBegun        Point = "deploy.begun" // of laying a lab out
	MoveMade         Point = "deploy.made"
	MoveEnded        Point = "deploy.ended"
)

// All lists the points.
func All() []Point {
	all := []Point{JobCreated, PlanLogged, PlanStored, JobStarted, JobRestarted, InputsStaged, TaskWritten, WorkerEnded, ReceiptLogged, ReceiptStored, OpeningStored,
		GateAnswered, ReleaseIndexed, ReleaseStored, EndLogged, EndStored, CancelLogged, CancelStored, EntryNoted, RosterLogged, RosterStored,
		KeysetLogged, KeysetStored, ManifestLogged, ManifestStored, RequestLogged, RequestStored, OrderStored, OrderLogged, WordKept, CertKept, CertLogged, CertStored,
		StatementPending, StatementLogged, StatementStored,
		LogIntegrated, LogSigned, WitnessRemembers, LogWitnessed, LogStored,
		TaskStarted, TaskWaited, TaskRemoved, NodeStaged, NodeLinked, NodeCleared,
		PieceStored, LeavesKept, LogFollowed, BlobCopied, BlobChecked, ChargeLogged, LedgerWritten, ChargeStored, SharesLogged, SharesStored,
		ReleaseLogged, EvidenceStored, ReleaseKept, RefusalNoted, RefusalStored, RefusalLogged, ReleaseGathers, RosterKept,
		KeysetKept, KeyAnnounced, PiecesDestroyed, KeysetForgotten, CopiesDropped, PiecesRotated, WordStored, WrapAdded, WrapUsed, WrapDropped,
		DatasetKeyStored, SchemaStored, BlobStored, BlobsStored, KeyForgotten, BlobsDiscarded, IdentityStored, LabNamed, MoveBegun, MoveMade, MoveEnded}
	slices.Sort(all)
	return all
}

// Names of the variables of the environment that programs built with the tag failpoint read.
const (
	Armed = "LAB_FAILPOINT"
	Trace = "LAB_FAILPOINT_TRACE"
	Held  = "LAB_FAILPOINT_HOLD"
	Once  = "LAB_FAILPOINT_ONCE"  // a file: of processes with the same environment only that dies which makes it
	Shift = "LAB_FAILPOINT_CLOCK" // by how much their clock is wrong, as in "-2h"
)
