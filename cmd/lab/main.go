// Lab is the command line of a data innovation lab sandbox: registering datasets, licensing operators, approving
// scenarios, submitting jobs, fetching releases and auditing all of it. `lab help` lists the commands, `lab demo` runs
// the whole way once.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"yingzhou.dev/lab/cmd/internal/cli"
	"yingzhou.dev/lab/cmd/internal/desk"
	"yingzhou.dev/lab/cmd/internal/home"
	"yingzhou.dev/lab/internal/failpoint"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox"
	"yingzhou.dev/lab/sandbox/audit"
	"yingzhou.dev/lab/sandbox/runner/process"
)

func main() {
	process.Init() // becomes a worker's sandbox when it is executed as one
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	a := &app{out: os.Stdout, errs: os.Stderr, clock: failpoint.Clock}
	code := a.main(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

// app is one command line.
type app struct {
	out, errs io.Writer
	clock     func() time.Time

	dir      string
	client   string
	server   string
	as       string
	json     bool
	verbose  bool
	worker   string
	backend  string
	database string
	wait     time.Duration

	home desk.Lab
}

// main runs the command line and returns its exit code.
func (a *app) main(ctx context.Context, args []string) int {
	root := a.root()
	root.SetArgs(args)
	root.SetOut(a.out)
	root.SetErr(a.errs)
	err := root.ExecuteContext(ctx)
	if a.home != nil {
		// The context may have ended the command; closing the log takes one more moment.
		err = errors.Join(err, a.home.Close(context.WithoutCancel(ctx)))
	}
	return cli.Report(a.errs, "lab", err, a.json)
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "lab",
		Short: "A data innovation lab sandbox: compute on sealed tables, release only noised aggregates",
		Long: `lab runs a data innovation lab sandbox (数据创新实验室). Agencies seal tables at home, licensed operators submit
SQL over the sealed data, custodians open noised aggregates, and everything can be verified afterwards.

The lab lies in one folder, named by --lab or LAB_DIR. --as or LAB_AS says whom you act for; the keys of the lab's
people are in the folder. Or it is a service: then --client or LAB_CLIENT names your own folder, which says where the lab
is and has your keys, and the same commands work from there.`,
		Example: `  lab demo                                   run the whole way once, in a temporary folder
  lab init ./mylab                           make a lab of your own
  lab job submit --scenario water-use "SELECT town, AVG(m3) FROM water GROUP BY town"`,
		SilenceUsage: true, SilenceErrors: true,
	}
	f := root.PersistentFlags()
	f.StringVar(&a.dir, "lab", cli.Env("LAB_DIR", "lab"), "folder of the lab (LAB_DIR)")
	f.StringVar(&a.client, "client", os.Getenv("LAB_CLIENT"), "your folder with client.yaml, for a lab that is a service (LAB_CLIENT)")
	f.StringVar(&a.server, "server", os.Getenv("LAB_SERVER"), "address of that service, instead of the one in client.yaml (LAB_SERVER)")
	f.StringVar(&a.as, "as", os.Getenv("LAB_AS"), "person you act for (LAB_AS)")
	f.BoolVar(&a.json, "json", false, "print JSON")
	f.BoolVarP(&a.verbose, "verbose", "v", false, "log what happens inside to standard error")
	f.StringVar(&a.worker, "worker", os.Getenv("LAB_WORKER"), "worker program; default: beside this program (LAB_WORKER)")
	f.StringVar(&a.backend, "isolation", os.Getenv("LAB_ISOLATION"), "docker, gvisor or process; default: the best there is (LAB_ISOLATION)")
	f.StringVar(&a.database, "database", os.Getenv("LAB_DATABASE"), "PostgreSQL database with the lab's metadata; default: a file in its folder (LAB_DATABASE)")
	f.DurationVar(&a.wait, "lock-wait", 30*time.Second, "how long to wait while another process uses the lab")
	root.AddCommand(a.initCmd(), a.personCmd(), a.datasetCmd(), a.operatorCmd(), a.scenarioCmd(), a.jobCmd(), a.releaseCmd(), a.auditCmd(), a.keyCmd(), a.nodeCmd(),
		a.imageCmd(), a.deployCmd(), a.certCmd(), a.projectCmd(), a.collectCmd(), a.backupCmd(), a.restoreCmd(), a.demoCmd(), exitCodesCmd())
	cli.Strict(root)
	return root
}

// exitCodesCmd is a help topic: `lab help exit-codes`.
func exitCodesCmd() *cobra.Command {
	return &cobra.Command{Use: "exit-codes", Short: "What the exit codes mean", Long: cli.ExitCodes}
}

// open opens the lab once for the command.
func (a *app) open(ctx context.Context) (desk.Lab, error) {
	if a.home != nil {
		return a.home, nil
	}
	if a.server != "" && a.client == "" {
		return nil, cli.Usage("--server needs --client: your folder has the keys that the service asks for")
	}
	l, err := desk.Open(ctx, desk.Options{Dir: a.dir, Client: a.client, Server: a.server, Home: a.options()})
	if err != nil {
		return nil, err
	}
	a.home = l
	return l, nil
}

// embedded opens a lab for what can only be done where its folder is.
func (a *app) embedded(ctx context.Context) (*home.Home, error) {
	l, err := a.open(ctx)
	if err != nil {
		return nil, err
	}
	return desk.Embedded(l)
}

func (a *app) options() home.Options {
	level := slog.LevelError
	if a.verbose {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(a.errs, &slog.HandlerOptions{Level: level}))
	audit.RedirectTessera(log)
	return home.Options{Worker: a.worker, Backend: a.backend, Database: a.database, Clock: a.clock, Logger: log, Wait: a.wait}
}

// person resolves --as: given, and with one of the roles, or the only person in the lab with the first one.
func (a *app) person(ctx context.Context, roles ...operators.Role) (string, error) {
	h, err := a.open(ctx)
	if err != nil {
		return "", err
	}
	_, roster, err := h.Roster(ctx)
	if err != nil {
		return "", err
	}
	if who := h.Acting(); who != "" {
		if a.as != "" && a.as != who {
			return "", cli.Usage("--as %s: this folder is of %s", a.as, who)
		}
		a.as = who
	}
	if a.as != "" {
		p, ok := roster.Find(a.as)
		if !ok {
			return "", fmt.Errorf("--as %s: %w: `lab person list` names the people", a.as, sandbox.ErrNotFound)
		}
		if !slices.Contains(roles, p.Role) {
			return "", cli.Usage("--as %s: this is for a person with role %s, and %s is %s of %s", a.as, words(roles), a.as, p.Role, p.Body)
		}
		return a.as, nil
	}
	var names []string
	for _, p := range roster.WithRole(roles[0]) {
		names = append(names, p.Name)
	}
	switch len(names) {
	case 0:
		return "", fmt.Errorf("person with role %s: %w: add one with `lab person add NAME --role %s --body BODY`", roles[0], sandbox.ErrNotFound, roles[0])
	case 1:
		return names[0], nil
	}
	return "", cli.Usage("say with --as who you are: %s", strings.Join(names, ", "))
}

func words(roles []operators.Role) string {
	out := make([]string, len(roles))
	for i, r := range roles {
		out[i] = string(r)
	}
	return strings.Join(out, " or ")
}

// print writes v as JSON, or lets text write it.
func (a *app) print(v any, text func(io.Writer)) error {
	if a.json {
		return cli.WriteJSON(a.out, v)
	}
	text(a.out)
	return nil
}

// write has f write to a new file, or to standard output if there is no name. An existing file is not overwritten, and
// half a file is not left behind.
func (a *app) write(name string, f func(io.Writer) error) error {
	if name == "" || name == "-" {
		return f(a.out)
	}
	out, err := os.OpenFile(filepath.Clean(name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if errors.Is(err, os.ErrExist) {
		return cli.With(cli.Refused, fmt.Errorf("%s is there already: name another file, or move it away", name))
	}
	if err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	if err := errors.Join(f(out), out.Close()); err != nil {
		return fmt.Errorf("writing %s: %w", name, errors.Join(err, os.Remove(name)))
	}
	return nil
}
