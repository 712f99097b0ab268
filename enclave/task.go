package enclave

// TaskFile is the name of a Task in a worker's input folder. The inputs lie beside it, named by the hexadecimal digest
// of the sealed blob with the suffix ".blob" (cubes) or ".panel" (rows, expanded).
const TaskFile = "task.json"

// Task is what a worker is told.
type Task struct {
	Plan     Plan     `json:"plan"`
	Manifest Manifest `json:"manifest"`
}

// TaskResult is what a worker answers. The ciphertexts themselves stay inside: every custodian computes them again, and
// only their digest is compared.
type TaskResult struct {
	Plan   Digest `json:"plan"`
	Terms  int64  `json:"terms"`
	Output Digest `json:"output"`
}
