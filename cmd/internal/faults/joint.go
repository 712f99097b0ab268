package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"yingzhou.dev/lab/examples"
	"yingzhou.dev/lab/examples/care/generator"
	"yingzhou.dev/lab/internal/failpoint"
)

// A joint job: two agencies' tables in share form, and a question that the custodians' three compute nodes answer together.
// What labd does of it is what it does of any job, but that it runs no worker; its receipt comes before the nodes.
//
// Where steps of a joint job are made durable, and at which point each is killed: the plan, the receipt and the release at
// labd, and charges, evidence and the release at custodians, as of any job; blobs of shares, copied and hashed (BlobCopied,
// BlobChecked); the node's input folder and its sockets (NodeStaged, NodeLinked), until they are removed (NodeCleared); the
// node itself, while it is there (TaskStarted, TaskWaited, TaskRemoved); the output that a custodian signs, in the log and in
// its folder (SharesLogged, SharesStored). A node keeps nothing, and neither do the custodians' meeting and their relays.

// jointPeople is how many rows each table has: enough for cells to be released.
const jointPeople = 500

var jointQuestion = []string{"lab", "job", "submit", "--scenario", "joined", "--epsilon", "1", "--as", "chen.yu",
	"SELECT alone, COUNT(*) AS people, MEDIAN(cost) AS median FROM residents JOIN costs ON entity WHERE age > 30 GROUP BY alone"}

// writeCare writes two agencies' tables of the care example and their schemas.
func writeCare(dir string) error {
	var tables [3]bytes.Buffer
	if err := generator.Write(&tables[0], &tables[1], &tables[2], jointPeople, 1); err != nil {
		return err
	}
	for i, t := range []struct{ dataset, of string }{{"residents", "residents"}, {"costs", "health"}} {
		schema, err := examples.Files.ReadFile("care/" + t.of + ".schema.json")
		if err != nil {
			return err
		}
		schema = bytes.Replace(schema, []byte(`"dataset": "health"`), []byte(`"dataset": "costs"`), 1)
		err = errors.Join(os.WriteFile(filepath.Join(dir, t.dataset+".csv"), tables[i].Bytes(), 0o600), os.WriteFile(filepath.Join(dir, t.dataset+".schema.json"), schema, 0o600))
		if err != nil {
			return err
		}
	}
	return nil
}

func jointly() *flow {
	prepare := [][]string{
		{"lab", "person", "add", "he.ping", "--role", "steward", "--body", "区公安分局"},
		{"lab", "person", "add", "sun.lan", "--role", "steward", "--body", "区医保局"},
		{"lab", "project", "new", "elderly", "--as", "he.ping"},
		{"lab", "project", "give", "elderly", "--to", "sun.lan", "--as", "he.ping"},
		{"lab", "dataset", "register", "residents.schema.json", "--as", "he.ping"},
		{"lab", "dataset", "register", "costs.schema.json", "--as", "sun.lan"},
		{"lab", "scenario", "apply", "joined", "--purpose", "p", "--epsilon", "4", "--job-epsilon", "2", "--until", "2030-01-01",
			"--use", "residents: person=join, age=filter+group, alone=group+filter", "--use", "costs: person=join, cost=aggregate+filter", "--as", "chen.yu"},
		{"lab", "scenario", "consent", "joined", "--dataset", "residents", "--epsilon", "4", "--as", "he.ping"},
		{"lab", "scenario", "consent", "joined", "--dataset", "costs", "--epsilon", "4", "--as", "sun.lan"},
		{"lab", "scenario", "approve", "joined", "--reason", "ok", "--as", "wang.fang"},
		{"lab", "scenario", "approve", "joined", "--reason", "ok", "--as", "li.jun"},
		{"seal", "residents.csv", "--dataset", "residents", "--form", "shares", "--project", "elderly", "--scenario", "joined", "--as", "he.ping"},
		{"seal", "costs.csv", "--dataset", "costs", "--form", "shares", "--project", "elderly", "--scenario", "joined", "--as", "sun.lan"},
	}
	return &flow{name: "joint job", joint: true, prepare: prepare, command: always(jointQuestion...), after: jobEnds, leaves: ofTheLog,
		points: []failpoint.Point{failpoint.JobCreated, failpoint.PlanLogged, failpoint.PlanStored, failpoint.JobStarted, failpoint.ReceiptLogged, failpoint.ReceiptStored,
			failpoint.OpeningStored, failpoint.BlobCopied, failpoint.BlobChecked, failpoint.LeavesKept, failpoint.LogFollowed, failpoint.ChargeLogged, failpoint.LedgerWritten,
			failpoint.ChargeStored, failpoint.NodeStaged, failpoint.NodeLinked, failpoint.TaskStarted, failpoint.TaskWaited, failpoint.TaskRemoved, failpoint.NodeCleared,
			failpoint.SharesLogged, failpoint.SharesStored, failpoint.ReleaseLogged, failpoint.EvidenceStored, failpoint.ReleaseKept, failpoint.ReleaseGathers,
			failpoint.GateAnswered, failpoint.ReleaseIndexed, failpoint.ReleaseStored}}
}

// ofAHost are points that a custodian's nodehost passes, which is a process of its own.
func ofAHost(part string, p failpoint.Point) bool {
	return strings.HasPrefix(string(p), "worker.") && (part == everyone || slices.Contains(custodians, part))
}

// whileHostArmed runs a flow's command while the nodehost of a custodian is armed, or of each, which dies once. The daemon
// itself lives: the job waits, is tried again, and ends without anybody's doing anything.
func (l *lab) whileHostArmed(ctx context.Context, f *flow, part, arm string) (args []string, err error) {
	armed, env := []string{part}, map[string][]string{}
	if part == everyone {
		armed = custodians
	}
	dead := func(p string) string { return l.dir + "." + p + ".dead" }
	for _, p := range armed {
		env[p] = []string{arm, failpoint.Once + "=" + dead(p)}
	}
	free, err := l.begin(ctx, f, env)
	if err != nil {
		return nil, err
	}
	if args, err = f.command(ctx, l); err != nil {
		return args, err
	}
	ended := make(chan result, 1)
	go func() { ended <- l.run(ctx, nil, args...) }()
	before, err := l.hostDied(ctx, armed, dead, ended)
	if err != nil {
		return args, err
	}
	r := <-ended
	if r.code != 0 {
		return args, fmt.Errorf("it did not recover by itself: %w", r.err())
	}
	return args, l.goesOnFrom(ctx, f, free, before)
}

// hostDied waits until one of the custodians' hosts has died, and returns what was seen of the lab then.
func (l *lab) hostDied(ctx context.Context, armed []string, dead func(string) string, ended chan result) (seen, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		for _, p := range armed {
			switch _, err := os.Stat(dead(p)); {
			case err == nil:
				return l.seen()
			case !errors.Is(err, fs.ErrNotExist):
				return seen{}, err
			}
		}
		select {
		case r := <-ended:
			ended <- r
			return seen{}, fmt.Errorf("the command has ended and no node's host of %q was killed: %w", armed, r.err())
		case <-tick.C:
		case <-ctx.Done():
			return seen{}, fmt.Errorf("no node's host of %q was killed: %w", armed, ctx.Err())
		}
	}
}

// nodeKilled kills a compute node, of services the leader's, once it runs, as the kernel does that lacks memory. Nothing
// opens; the nodes compute again.
func nodeKilled(ctx context.Context, l *lab) error {
	g, err := l.hold(failpoint.TaskStarted, 1)
	if err != nil {
		return err
	}
	env := []string{held(g)}
	if l.services != nil {
		if err := l.startAll(ctx, map[string][]string{leader: env}); err != nil {
			return err
		}
		env = nil
	}
	ended := make(chan result, 1)
	go func() { ended <- l.run(ctx, env, l.question()...) }()
	open, err := g.reached(ctx)
	if err != nil {
		return err
	}
	node, err := l.node()
	if err != nil {
		return err
	}
	if err := syscall.Kill(node, syscall.SIGKILL); err != nil {
		return err
	}
	before, err := l.seen()
	if err != nil {
		return err
	}
	// Whoever runs a node again comes to the gate too.
	attended, leave := context.WithCancel(ctx)
	var attendant sync.WaitGroup
	defer func() { leave(); attendant.Wait() }()
	if err := open(); err != nil {
		return err
	}
	attendant.Go(func() {
		for attended.Err() == nil {
			if open, err := g.reached(attended); err == nil {
				_ = open() // who waits there goes on
			}
		}
	})
	r := <-ended
	if failed := r.code != 0; failed && (l.services != nil || !strings.Contains(r.errs, "still opening")) {
		return r.err()
	}
	return whole(ctx, l, before)
}

// node finds a compute node's process: the child of a nodehost of the leader's, or of the lab's own process.
func (l *lab) node() (int, error) {
	file, mark := "cmdline", filepath.Join(l.dir, leader)+"/"
	if l.services == nil {
		file, mark = "environ", "LAB_DIR="+l.dir+"\x00"
	}
	found, err := filepath.Glob("/proc/[0-9]*/" + file)
	if err != nil {
		return 0, err
	}
	hosts := map[string]bool{}
	for _, path := range found {
		if data, err := os.ReadFile(path); err == nil && strings.Contains(string(data), mark) {
			hosts[filepath.Base(filepath.Dir(path))] = true
		}
	}
	if found, err = filepath.Glob("/proc/[0-9]*/stat"); err != nil {
		return 0, err
	}
	for _, path := range found {
		data, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		_, rest, _ := strings.Cut(string(data), ") ") // "PID (NAME) STATE PPID …", proc_pid_stat(5)
		fields := strings.Fields(rest)
		pid := filepath.Base(filepath.Dir(path))
		if len(fields) > 1 && hosts[fields[1]] && !hosts[pid] {
			return strconv.Atoi(pid)
		}
	}
	return 0, fmt.Errorf("of %d processes none has a node", len(hosts))
}
