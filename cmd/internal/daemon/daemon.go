// Package daemon is what the lab's daemons have in common: one strict YAML file, -check, structured logs, a metrics
// endpoint, traces by option, certificates that SIGHUP reloads, and an orderly end on SIGTERM.
package daemon

import (
	"context"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"yingzhou.dev/lab/internal/failpoint"
	"yingzhou.dev/lab/internal/pki"
	"yingzhou.dev/lab/internal/rpc"
	"yingzhou.dev/lab/internal/strict"
)

// Common is the part of a daemon's configuration that all have; embed it with `yaml:",inline"`. Paths are relative to the
// configuration file's folder.
type Common struct {
	Lab     string    `yaml:"lab"`     // the lab's name
	Listen  string    `yaml:"listen"`  // host:port for callers, who need a certificate of the lab
	Metrics string    `yaml:"metrics"` // host:port for Prometheus, in the clear and without a password: keep it local; "" = none
	TLS     pki.Files `yaml:"tls"`     // own certificate, its key, the authorities to believe; read again on SIGHUP
	Log     Log       `yaml:"log"`
	Trace   Trace     `yaml:"trace"`
}

// Log says how to log to standard error.
type Log struct {
	Level  slog.Level `yaml:"level"`  // debug, info, warn or error; default: info
	Format string     `yaml:"format"` // json or text; default: json
}

// Trace says where OpenTelemetry traces go. Spans name methods, callers and outcomes, never what was asked.
type Trace struct {
	Endpoint string  `yaml:"endpoint"` // OTLP over HTTP, such as http://127.0.0.1:4318, to which /v1/traces is added; "" = no traces
	Ratio    float64 `yaml:"ratio"`    // of calls that begin here; 0 = all
}

// Daemon is a program that Main runs. A pointer to its configuration implements it.
type Daemon interface {
	// Shared is the configuration's common part.
	Shared() *Common
	// Check completes the configuration and refuses a wrong one, naming the key. dir is the file's folder.
	Check(dir string) error
	// Run serves until ctx ends.
	Run(ctx context.Context, env Env) error
}

// Env is what a daemon is given to run with.
type Env struct {
	Logger  *slog.Logger
	Metrics *prometheus.Registry
	TLS     *pki.Source         // reloaded on SIGHUP
	Stats   []grpc.ServerOption // traces of a server
	Dials   []grpc.DialOption   // traces of a client
	Clock   func() time.Time
}

// In makes paths absolute, as from a folder. Empty ones stay empty.
func In(dir string, paths ...*string) {
	for _, p := range paths {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
}

// Load reads and checks a daemon's configuration.
func Load(path string, d Daemon) error {
	if err := strict.ReadYAML(path, d); err != nil {
		return err
	}
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return err
	}
	c := d.Shared()
	In(dir, &c.TLS.Cert, &c.TLS.Key, &c.TLS.CA)
	if err := errors.Join(c.check(), d.Check(dir)); err != nil {
		return fmt.Errorf("%s:\n%w", path, err)
	}
	return nil
}

func (c *Common) check() error {
	var errs []error
	if c.Lab == "" {
		errs = append(errs, errors.New("lab: name the lab"))
	}
	errs = append(errs, HostPort("listen", c.Listen))
	if c.Metrics != "" {
		errs = append(errs, HostPort("metrics", c.Metrics))
	}
	for key, path := range map[string]string{"tls.cert": c.TLS.Cert, "tls.key": c.TLS.Key, "tls.ca": c.TLS.CA} {
		errs = append(errs, File(key, path))
	}
	if c.Log.Format != "" && c.Log.Format != "json" && c.Log.Format != "text" {
		errs = append(errs, fmt.Errorf("log.format: %q is not json or text", c.Log.Format))
	}
	if c.Trace.Ratio < 0 || c.Trace.Ratio > 1 {
		errs = append(errs, fmt.Errorf("trace.ratio: %v is not between 0 and 1", c.Trace.Ratio))
	}
	return errors.Join(errs...)
}

// HostPort refuses what is no address.
func HostPort(key, s string) error {
	if _, _, err := net.SplitHostPort(s); err != nil {
		return fmt.Errorf("%s: %q is not host:port", key, s)
	}
	return nil
}

// HostPorts refuses what is not one address, or several separated by commas.
func HostPorts(key, s string) error {
	if _, err := rpc.Addresses(s); err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	return nil
}

// File refuses a path where no file can be read. What is in it is not looked at.
func File(key, path string) error {
	if path == "" {
		return fmt.Errorf("%s: name a file", key)
	}
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	return f.Close()
}

// Main runs a daemon by its command line and returns the exit code: 0 done, 1 failed, 2 misused.
func Main(name string, d Daemon) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return run(ctx, name, os.Args[1:], os.Stdout, os.Stderr, d)
}

func run(ctx context.Context, name string, args []string, out, errs io.Writer, d Daemon) int {
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	flags.SetOutput(errs)
	path := flags.String("config", name+".yaml", "configuration file")
	check := flags.Bool("check", false, "check the configuration and the files that it names, and exit")
	var save, restore string
	keeper, keeps := d.(Keeper)
	if keeps {
		flags.StringVar(&save, "backup", "", "write a backup of what this daemon keeps to a new folder, and exit; the daemon must not run")
		flags.StringVar(&restore, "restore", "", "put such a backup back to where the configuration says, and exit")
	}
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil || flags.NArg() > 0 {
		if err == nil {
			fmt.Fprintf(errs, "%s: %q is one argument too many\n", name, flags.Arg(0))
		}
		return 2
	}
	if save != "" && restore != "" {
		fmt.Fprintf(errs, "%s: -backup and -restore are two things\n", name)
		return 2
	}
	fail := func(err error) int {
		fmt.Fprintf(errs, "%s: %v\n", name, err)
		return 1
	}
	err := Load(*path, d)
	if err != nil && (restore == "" || !errors.Is(err, fs.ErrNotExist)) { // what is to be restored may well be missing
		return fail(err)
	}
	c := d.Shared()
	source, err := pki.Open(c.Lab, c.TLS, nil)
	if err != nil {
		return fail(err)
	}
	if save != "" || restore != "" {
		env := Env{Logger: c.Log.logger(errs), TLS: source, Clock: time.Now}
		var b *Backup
		what := "saved to " + save
		if restore != "" {
			what = "restored from " + restore
			b, err = Restore(ctx, *path, keeper, env, restore)
		} else {
			b, err = Save(ctx, *path, keeper, env, save)
		}
		if err != nil {
			return fail(err)
		}
		fmt.Fprintf(out, "%s: %s: %s as of %s, %d bytes, digest %s\n", name, what, b.Daemon, b.Made.Format(time.RFC3339), b.Bytes, b.Digest.Short())
		return 0
	}
	if *check {
		fmt.Fprintf(out, "%s: %s is right, for %s until %s\n", name, *path, source.Name(), source.Expires().UTC().Format(time.RFC3339))
		return 0
	}
	logger := c.Log.logger(errs).With("daemon", name)
	if err := serve(ctx, *path, d, logger, source); err != nil {
		logger.Error("ended", "error", err)
		return 1
	}
	return 0
}

// Run runs a daemon by its configuration until ctx ends, logging to w: what Main does, inside another program.
func Run(ctx context.Context, path string, d Daemon, w io.Writer) error {
	if err := Load(path, d); err != nil {
		return err
	}
	c := d.Shared()
	source, err := pki.Open(c.Lab, c.TLS, nil)
	if err != nil {
		return err
	}
	return serve(ctx, path, d, c.Log.logger(w), source)
}

func (l Log) logger(w io.Writer) *slog.Logger {
	opts := &slog.HandlerOptions{Level: l.Level}
	if l.Format == "text" {
		return slog.New(slog.NewTextHandler(w, opts))
	}
	return slog.New(slog.NewJSONHandler(w, opts))
}

func serve(ctx context.Context, path string, d Daemon, logger *slog.Logger, source *pki.Source) (err error) {
	c := d.Shared()
	lock, err := hold(path, false)
	if err != nil {
		return err
	}
	defer lock.Close()
	env := Env{Logger: logger, Metrics: prometheus.NewRegistry(), TLS: source, Clock: failpoint.Clock}
	//lint:ignore SA1019 package collectors would link database/sql into custodians
	runtime, process := prometheus.NewGoCollector(), prometheus.NewProcessCollector(prometheus.ProcessCollectorOpts{})
	env.Metrics.MustRegister(runtime, process,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "yingzhou_certificate_expires_seconds", Help: "When the daemon's certificate ends, in Unix time."},
			func() float64 { return float64(source.Expires().Unix()) }))
	end, err := c.Trace.start(ctx, &env)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, end(context.WithoutCancel(ctx))) }()
	g, gctx := errgroup.WithContext(ctx)
	life, over := context.WithCancel(gctx) // ends with Run, also where Run ends by itself
	defer over()
	if c.Metrics != "" {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", c.Metrics)
		if err != nil {
			return fmt.Errorf("metrics: %w", err)
		}
		g.Go(func() error { return metrics(life, l, env.Metrics) })
	}
	g.Go(func() error { reload(life, logger, source); return nil })
	g.Go(func() error {
		defer over()
		return d.Run(gctx, env)
	})
	return g.Wait()
}

// reload reads the certificate again at each SIGHUP.
func reload(ctx context.Context, logger *slog.Logger, source *pki.Source) {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	for {
		select {
		case <-hup:
			if err := source.Reload(); err != nil {
				logger.Error("certificate not reloaded, the one before stays", "error", err)
				continue
			}
			logger.Info("certificate reloaded", "name", source.Name().String(), "until", source.Expires())
		case <-ctx.Done():
			return
		}
	}
}

func metrics(ctx context.Context, l net.Listener, registry *prometheus.Registry) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("metrics: %w", err)
	}
	return nil
}

// Identify reads callers of a lab from their certificates.
func Identify(lab string) func(*x509.Certificate) (rpc.Peer, error) {
	return func(cert *x509.Certificate) (rpc.Peer, error) {
		n, err := pki.FromCert(cert)
		if err == nil && n.Lab != lab {
			err = fmt.Errorf("%w: it is of lab %q", pki.ErrName, n.Lab)
		}
		return rpc.Peer{Name: n.Party, Role: n.Role}, err
	}
}
