package enclave

// TaskName is the name of a Task in a worker's input folder. The inputs lie beside it, named by the hexadecimal digest
// of the sealed blob with the suffix ".blob" (cubes) or ".panel" (rows, expanded).
const TaskName = "task.json"

// Task is what a worker is told.
type Task struct {
	Plan     Plan       `json:"plan"`
	Manifest Manifest   `json:"manifest"`
	Files    []TaskFile `json:"files"` // all inputs, by name
}

// TaskFile is one input as it was when it was staged. A worker reads no file that is not as its task says.
type TaskFile struct {
	Name   string `json:"name"`
	Digest Digest `json:"digest"` // of its bytes
}

// TaskResult is what a worker answers. The ciphertexts themselves stay inside: every custodian computes them again, and
// only their digest is compared.
type TaskResult struct {
	Plan   Digest `json:"plan"`
	Terms  int64  `json:"terms"`
	Output Digest `json:"output"`
}
