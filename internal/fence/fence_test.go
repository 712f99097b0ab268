package fence

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// may says which packages of this module a package may import itself, and why no others. Tests are free.
var may = []struct{ pkg, imports, why string }{
	{"./internal/canon", "", "what is signed has one encoding, which knows nothing of what it encodes"},
	{"./internal/durable", "", "it knows files, not what is in them"},
	{"./internal/failpoint", "", "it names moments of others and knows none of them"},
	{"./internal/rpc", "", "who may call and how long is a matter of certificates and a table, not of what is called"},

	{"./internal/strict", "", "configuration is strict whatever it configures"},
	{"./internal/pki", "./internal/durable", "who is at the other end of a connection, and nothing of what is said over it"},
	{"./internal/pki/pkitest", "./internal/pki", "certificates for tests"},

	{"./operators", "./internal/canon", "the rules are pure functions of statements and a time"},
	{"./operators/registry", "./operators ./internal/canon", "it makes the bureau's statements and applies the rules to them"},

	{"./enclave", "./operators ./internal/canon", "a root package holds nouns and imports none of its children"},
	{"./enclave/api/v1", "", "generated: messages of artefacts' bytes, which it does not read"},
	{"./enclave/dp", "./enclave", "noise is a function of a key and a question, not of where data lies"},
	{"./enclave/keys", "./enclave ./internal/canon ./internal/durable", "keys are used where they lie; it sees no data"},
	{"./enclave/vault", "", "it speaks to a server and does not know what for"},
	{"./enclave/vault/vaulttest", "./enclave/vault", "it runs servers for tests"},
	{"./enclave/vault/signer", "./enclave/vault ./internal/canon", "it asks for signatures and could open nothing"},
	{"./enclave/keys/transit", "./enclave ./enclave/keys ./enclave/vault ./enclave/vault/signer ./internal/canon", "custody of the same things, in a Vault"},
	{"./enclave/keys/keystest", "./enclave ./enclave/keys", "a conformance suite needs what it tests"},
	{"./enclave/store", "./enclave ./internal/durable", "it keeps sealed blobs and cannot decrypt"},
	{"./enclave/store/datakey", "./enclave ./enclave/store ./enclave/vault", "the control plane's own lock on blobs; it opens no ciphertext"},
	{"./enclave/he/internal/modq", "", "arithmetic"},
	{"./enclave/he/evaluator", "./enclave ./enclave/he/internal/modq ./enclave/store ./internal/canon",
		"it computes on ciphertexts inside a worker, which has no keys"},
	{"./enclave/mirror", "./enclave ./enclave/he/evaluator ./enclave/store", "a node without keys keeps copies as well as a custodian"},
	{"./enclave/he", "./enclave ./enclave/he/evaluator ./enclave/he/internal/modq", "encryption does not know who may decrypt"},
	{"./enclave/mpc", "./enclave ./enclave/dp ./internal/canon", "a root package holds nouns: a planner writes programs without linking what runs them"},
	{"./enclave/mpc/internal/bitslice", "", "arithmetic"},
	{"./enclave/mpc/internal/ring", "", "arithmetic"},
	{"./enclave/mpc/link", "./enclave/mpc", "it moves words between nodes and does not know what they are shares of"},
	{"./enclave/mpc/relay", "./enclave ./enclave/keys ./enclave/mpc ./enclave/mpc/link ./internal/canon",
		"it carries what nodes encrypt for each other, and makes sure whose nodes they are"},
	{"./enclave/mpc/engine", "./enclave/dp ./enclave/mpc ./enclave/mpc/internal/bitslice ./enclave/mpc/internal/ring", "protocols run over whatever connects the nodes, and see shares only"},
	{"./enclave/mpc/mpctest", "./enclave/mpc ./enclave/mpc/link", "three nodes on one machine, for tests of what uses them"},
	{"./enclave/mpc/prio3", "./enclave ./enclave/dp ./enclave/keys ./enclave/refusal ./internal/canon ./internal/durable ./operators",
		"an aggregator has its shares and its key, and asks whether a release is authorised"},
	{"./enclave/program", "./enclave ./enclave/dp ./enclave/mpc ./internal/canon", "estimates are computed from noised numbers only"},
	{"./enclave/program/reference", "./enclave ./enclave/program", "it computes answers in the clear, for owners and tests, with no noise to imitate"},
	{"./enclave/mpc/shares", "./enclave ./enclave/mpc ./internal/canon", "it splits columns and opens shares under keys that it is given"},
	{"./enclave/seal/identifier", "", "it brings identifiers into one form and knows no table"},
	{"./enclave/seal/table", "", "it parses what agencies have, which may be hostile, and nothing else"},
	{"./enclave/seal/schema", "./enclave ./enclave/seal/identifier ./enclave/seal/table ./operators ./internal/canon", "it describes a table and encodes its cells; it seals nothing"},
	{"./enclave/seal", "./enclave ./enclave/he ./enclave/he/evaluator ./enclave/keys ./enclave/mpc ./enclave/mpc/shares ./enclave/seal/identifier ./enclave/seal/schema ./enclave/seal/table ./enclave/store ./internal/canon ./operators",
		"it runs at the agency, before there is a job or a release"},
	{"./enclave/seal/sealtest", "./enclave/keys ./enclave/mpc/shares ./enclave/seal", "it plays the custodians that something is sealed for"},
	{"./enclave/refusal", "./enclave/api/v1", "whoever asks a custodian must know its no, and need not link what opens data"},
	{"./enclave/feed", "./enclave ./enclave/api/v1 ./enclave/refusal ./internal/canon", "it carries what the control plane offers, and believes nothing"},
	{"./enclave/custodian", "./enclave ./enclave/api/v1 ./enclave/refusal ./internal/canon ./internal/rpc", "who asks a custodian needs nothing that opens data"},
	{"./enclave/release/service", "./enclave ./enclave/api/v1 ./enclave/custodian ./enclave/keys ./enclave/mpc/prio3 ./enclave/refusal ./enclave/release ./internal/canon ./internal/rpc ./operators",
		"it puts a custodian on the network and decides nothing"},
	{"./enclave/release", "./enclave ./enclave/refusal ./enclave/dp ./enclave/he ./enclave/he/evaluator ./enclave/keys ./enclave/mpc ./enclave/mpc/shares ./enclave/program ./enclave/store ./internal/canon ./internal/durable ./operators",
		"a custodian checks everything by itself and believes nothing that runs jobs"},

	{"./sandbox", "./enclave ./operators ./internal/canon", "a root package holds nouns and imports none of its children"},
	{"./sandbox/api/v1", "", "generated, and nothing else"},
	{"./sandbox/audit", "./enclave ./internal/canon ./internal/durable", "the log orders entries and does not judge them"},
	{"./sandbox/feed", "./enclave ./enclave/api/v1 ./enclave/store ./sandbox/audit ./internal/canon ./internal/rpc", "it shows custodians the log and the blobs, and decides nothing"},
	{"./sandbox/gate", "./enclave ./enclave/custodian ./enclave/refusal ./sandbox/lab", "it asks custodians and could not do their work"},
	{"./sandbox/witness", "./enclave ./enclave/api/v1 ./internal/rpc ./sandbox/audit", "a witness sees checkpoints and nothing else"},
	{"./sandbox/db", "./enclave ./operators ./sandbox ./internal/canon", "it stores records and decides nothing"},
	{"./sandbox/db/dbtest", "./enclave ./operators ./sandbox ./internal/canon", "a conformance suite knows the interface, not a back end"},
	{"./sandbox/plan", "./enclave ./enclave/dp ./enclave/mpc ./operators ./sandbox ./internal/canon", "every custodian plans again: no I/O and no state"},
	{"./sandbox/db/pgtest", "", "it starts a server; what is kept there is not its business"},
	{"./sandbox/runner", "./enclave ./internal/canon", "it runs a program and does not know what for"},
	{"./sandbox/runner/...", "./enclave ./internal/canon ./sandbox/runner/...", "a back end knows tasks and digests, not jobs"},
	{"./sandbox/lab", "./enclave ./operators ./sandbox ./sandbox/audit ./sandbox/plan ./internal/canon ./internal/durable",
		"it reaches custodians, workers and the database through interfaces that it declares"},

	{"./sandbox/server", "./enclave ./enclave/refusal ./enclave/store ./internal/canon ./internal/pki ./internal/rpc ./operators ./operators/registry ./sandbox ./sandbox/api/v1 ./sandbox/audit ./sandbox/lab ./sandbox/plan",
		"it authenticates and translates; decisions are made by what it calls"},
	{"./sandbox/client", "./enclave ./enclave/api/v1 ./enclave/refusal ./enclave/store ./internal/canon ./internal/rpc ./operators ./operators/registry ./sandbox ./sandbox/api/v1 ./sandbox/audit ./sandbox/lab ./sandbox/plan",
		"it verifies and signs nothing that needs a key of the lab's; what opens results is its caller's"},
	{"./sandbox/node", "./enclave ./sandbox ./sandbox/lab ./sandbox/runner/... ./internal/canon ./internal/durable",
		"it runs workers on one machine for whoever drives the jobs, and knows no job's content"},

	{"./cmd/worker", "./enclave ./enclave/he/evaluator ./enclave/store ./internal/canon", "what runs in a job's container is only what it needs"},
	{"./cmd/node", "./cmd/internal/nodejob ./enclave ./enclave/mpc ./enclave/mpc/engine ./enclave/mpc/link ./enclave/mpc/shares", "a compute node has its shares and its peers, and no custodian's key"},
	{"./cmd/nodehost", "./cmd/internal/nodehost ./cmd/internal/nodejob ./enclave ./sandbox/runner/process", "it runs a node for a custodian and reads nothing that one tells the other"},
	{"./cmd/lab", anything, "wiring"},
	{"./cmd/seal", anything, "wiring"},
	{"./cmd/custodian", anything, "wiring"},
	{"./cmd/witness", anything, "wiring"},
	{"./cmd/labd", anything, "wiring; what it must not link stands below"},
	{"./cmd/internal/...", anything, "wiring"},
	{"./examples/...", anything, "examples show the rest"},
	{"./internal/fence", "", "tests only"},
	{"./internal/gotest", "", "a tool for the Makefile"},
	{"./internal/bench", anything, "measures the rest"},
	{"./internal/e2e", anything, "tests the whole against plain SQL"},
}

const anything = "./..."

// points may be hit by anybody: in what is shipped the package is empty.
const points = "./internal/failpoint"

// temporary packages that hold modules in go.mod until their users are written.
const temporary = "./internal/deps"

// never says what packages must not link, by whatever way.
var never = []struct {
	from, to []string
	why      string
}{
	{[]string{"./sandbox/..."},
		[]string{"github.com/tuneinsight/lattigo/...", "github.com/cloudflare/circl/...", "./enclave/he/...", "./enclave/keys/...", "./enclave/release/...", "./enclave/seal/...",
			"./enclave/mpc/engine", "./enclave/mpc/link"},
		"the control plane holds no keys and cannot open anything, even when it is taken over: what it does not link it cannot do"},
	{[]string{"./cmd/labd"},
		[]string{"github.com/tuneinsight/lattigo/...", "github.com/cloudflare/circl/...", "./enclave/he", "./enclave/keys/...", "./enclave/release/...", "./enclave/seal/..."},
		"the control plane as a service may compute on ciphertexts (./enclave/he/evaluator has no keys), and open nothing"},
	{[]string{"./cmd/worker"},
		[]string{"net", "net/http/...", "google.golang.org/grpc/...", "github.com/hashicorp/vault/...", "github.com/jackc/pgx/...",
			"./enclave/keys/...", "github.com/tuneinsight/lattigo/...", "crypto/hpke"},
		"a worker has nobody to talk to and nothing to decrypt with"},
	{[]string{"./cmd/node"}, []string{"./enclave/keys/...", "./enclave/release/...", "./enclave/seal/...", "github.com/tuneinsight/lattigo/...", "database/sql"},
		"a node computes on shares: it cannot sign, seal or open anything else"},
	{[]string{"./cmd/nodehost"}, []string{"./enclave/keys/...", "./enclave/release/...", "./enclave/he/...", "./enclave/mpc/engine", "database/sql"},
		"what speaks to a container engine holds no key and opens nothing"},
	{[]string{"./enclave/mpc"},
		[]string{"net"},
		"programs are written and priced where nothing is connected"},
	{[]string{"./cmd/custodian", "./cmd/internal/custody"},
		[]string{"database/sql", "modernc.org/sqlite/...", "./sandbox/db/...", "./sandbox/lab/...", "./sandbox/server/...", "./sandbox/runner/...", "github.com/docker/...", "github.com/jackc/pgx/...",
			"./enclave/seal/...", "github.com/parquet-go/...", "github.com/xuri/excelize/..."},
		"what holds keys has little code beside it: no database, no container, no reader of rows"},
	{[]string{"./cmd/witness", "./cmd/internal/witnessd"},
		[]string{"./enclave/keys/...", "./enclave/release/...", "./enclave/he/...", "github.com/tuneinsight/lattigo/...", "database/sql", "github.com/docker/..."},
		"a witness sees checkpoints and nothing else"},
	{[]string{"./operators/..."},
		[]string{"net", "os/exec", "database/sql"},
		"anyone must be able to apply the rules again, anywhere, with the same answer"},
}

// only says who may import a package itself, what else it may do; tests says whether its tests count too.
var only = []struct {
	what, by []string
	tests    bool
	why      string
}{
	{[]string{"github.com/tuneinsight/lattigo/..."}, []string{"./enclave/he"}, false,
		"the parameter sets that are safe to use are the ones of enclave/he"},
	{[]string{"github.com/tuneinsight/lattigo/..."}, []string{"./enclave/he/..."}, true,
		"what is not cryptography is tested through enclave/he"},
	{[]string{"github.com/cloudflare/circl/..."}, []string{"./enclave/mpc/prio3"}, true,
		"circl is used for one protocol; HPKE and signatures are the standard library's"},
	{[]string{"database/sql/...", "github.com/jackc/pgx/...", "github.com/riverqueue/..."}, []string{"./sandbox/db/...", "./internal/e2e"}, true,
		"one package has SQL, and the tests that hold results against it; the others have its interface"},
}

// behind says which packages no other package may reach, by whatever way.
var behind = []struct {
	what, by []string
	why      string
}{
	{[]string{"./enclave/seal/table", "./enclave/seal/schema"},
		[]string{"./enclave/seal/...", "./cmd/seal", "./cmd/lab", "./cmd/internal/...", "./examples/...", "./internal/e2e"},
		"rows in the clear are read at their owner's and nowhere else"},
	{[]string{"./enclave/seal/identifier"}, []string{"./enclave/seal/...", "./cmd/seal", "./cmd/lab", "./cmd/internal/...", "./examples/...", "./internal/e2e"},
		"whoever can make pseudonyms can try out every identity number"},
}

// outside says which modules beside the standard library a package may import itself.
var outside = []struct{ pkg, imports, why string }{
	{"./operators/...", "", "whoever checks the rules has little to read"},
	{"./enclave", "golang.org/x/mod/...", "nouns need no library but the one for signed notes"},
	{"./internal/canon", "", "everything that is signed depends on it"},
	{"./enclave/vault", "", "what comes near a key has little to read"},
	{"./internal/durable", "", "everything that must not be lost depends on it"},
}

// The folders in the order in which they may lean on one another, each on itself and those before.
var order = []string{"operators", "enclave", "sandbox", "examples", "cmd"}

func TestImports(t *testing.T) {
	g := load(t)
	delete(g, temporary)
	for _, fault := range faults(g) {
		t.Error(fault)
	}
}

// faults are the edges that break a rule, each with the rule's reason.
func faults(g graph) []string {
	var out []string
	fault := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	for _, pkg := range g.own("./...") {
		i := slices.IndexFunc(may, func(r struct{ pkg, imports, why string }) bool { return matches(pkg, r.pkg) })
		if i < 0 {
			fault("%s has no line in the import table: add one that says what it may import and why no more", pkg)
			continue
		}
		for _, imp := range g[pkg].imports {
			if !strings.HasPrefix(imp, "./") || imp == points {
				continue
			}
			if !matches(imp, strings.Fields(may[i].imports)...) {
				fault("%s imports %s, which is not in its line of the import table: %s", pkg, imp, may[i].why)
			}
			if from, to := rank(pkg), rank(imp); to > from {
				fault("%s imports %s: imports go one way, %s", pkg, imp, strings.Join(order, " <- "))
			}
		}
	}
	for _, r := range never {
		pkgs := g.own(r.from...)
		if len(pkgs) == 0 {
			fault("%v matches no package: a rule that watches nothing", r.from)
		}
		for _, pkg := range pkgs {
			if way := g.chain(pkg, r.to...); way != nil {
				fault("%s: %s", strings.Join(way, " -> "), r.why)
			}
		}
	}
	for _, r := range behind {
		if len(g.own(r.what...)) != len(r.what) {
			fault("not all of %v are there: a rule that watches nothing", r.what)
		}
		for _, pkg := range g.own("./...") {
			if matches(pkg, r.by...) {
				continue
			}
			if way := g.chain(pkg, r.what...); way != nil {
				fault("%s: %s", strings.Join(way, " -> "), r.why)
			}
		}
	}
	for _, r := range only {
		for _, pkg := range g.own("./...") {
			imports := g[pkg].imports
			if r.tests {
				imports = slices.Concat(imports, g[pkg].tests)
			}
			for _, imp := range imports {
				if matches(imp, r.what...) && !matches(pkg, r.by...) {
					fault("%s imports %s, which only %s may: %s", pkg, imp, strings.Join(r.by, ", "), r.why)
				}
			}
		}
	}
	for _, r := range outside {
		for _, pkg := range g.own(r.pkg) {
			for _, imp := range g[pkg].imports {
				n := g[imp]
				if !strings.HasPrefix(imp, "./") && n != nil && !n.std && !matches(imp, strings.Fields(r.imports)...) {
					fault("%s imports %s from outside the standard library: %s", pkg, imp, r.why)
				}
			}
		}
	}
	return out
}

// rank is a package's place in order. internal/ may be used by all and comes before them.
func rank(pkg string) int {
	top, _, _ := strings.Cut(strings.TrimPrefix(pkg, "./"), "/")
	return slices.Index(order, top)
}

// A fence that never refuses would pass as well: each rule is shown an edge that breaks it.
func TestFaults(t *testing.T) {
	shipped := load(t)
	delete(shipped, temporary)
	lattigo := "github.com/tuneinsight/lattigo/v6/ring"
	for _, c := range []struct {
		pkg, imports string
		want         string // of the messages
	}{
		{"./operators", "./enclave", "imports go one way"},
		{"./enclave/dp", "./sandbox", "not in its line"},
		{"./internal/canon", "./operators", "imports go one way"},
		{"./sandbox/lab", "./enclave/keys", "./sandbox/lab -> ./enclave/keys: the control plane"},
		{"./enclave/store", "./enclave/keys", "./cmd/worker -> ./enclave/he/evaluator -> ./enclave/store -> ./enclave/keys: a worker"},
		{"./internal/canon", "net", "./internal/canon -> net: a worker"},
		{"./sandbox/plan", lattigo, "which only ./enclave/he may"},
		{"./sandbox", "database/sql", "which only ./sandbox/db/..., ./internal/e2e may"},
		{"./enclave/release", "./enclave/seal/table", "rows in the clear"},
		{"./operators/registry", lattigo, "from outside the standard library"},
		{"./enclave", lattigo, "from outside the standard library"},
		{"./sandbox/newcomer", "fmt", "no line in the import table"},
	} {
		g := graph{}
		for name, n := range shipped {
			g[name] = n
		}
		var n node
		if g[c.pkg] != nil {
			n = *g[c.pkg]
		}
		n.imports = append(slices.Clip(n.imports), c.imports)
		g[c.pkg] = &n
		if all := strings.Join(faults(g), "\n"); !strings.Contains(all, c.want) {
			t.Errorf("an import of %s by %s gives\n%s\nand not %q", c.imports, c.pkg, all, c.want)
		}
	}
	delete(shipped, "./cmd/worker")
	if all := strings.Join(faults(shipped), "\n"); !strings.Contains(all, "watches nothing") {
		t.Errorf("a rule for a package that is gone gives %q", all)
	}
}

func TestChain(t *testing.T) {
	g := graph{
		"./a": {imports: []string{"./b", "./c"}},
		"./b": {imports: []string{"./c"}},
		"./c": {imports: []string{"d", "unsafe"}},
		"d":   {imports: []string{"dd"}, std: true},
		"dd":  {std: true},
	}
	for _, c := range []struct {
		from, to string
		want     []string
	}{
		{"./a", "./c", []string{"./a", "./c"}},
		{"./a", "d/...", []string{"./a", "./c", "d"}},
		{"./b", "dd", []string{"./b", "./c", "d", "dd"}},
		{"./c", "./...", nil},
		{"./a", "./a", nil},
	} {
		if diff := cmp.Diff(c.want, g.chain(c.from, c.to)); diff != "" {
			t.Errorf("from %s to %s (-want +got)\n%s", c.from, c.to, diff)
		}
	}
}
