// Command devvault is a real HashiCorp Vault core with the few plug-ins that a lab uses, built from Go modules: for
// development and tests, where no vault program is installed. It takes the command line and the configuration file of
// the stock program as far as tests need them,
//
//	devvault server -config=FILE
//
// with one TCP listener without TLS and storage "file" or "inmem", and is initialised and unsealed through the API.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	log "github.com/hashicorp/go-hclog"
	kv "github.com/hashicorp/vault-plugin-secrets-kv"
	"github.com/hashicorp/vault/audit"
	"github.com/hashicorp/vault/builtin/credential/approle"
	"github.com/hashicorp/vault/builtin/logical/pki"
	"github.com/hashicorp/vault/builtin/logical/transit"
	"github.com/hashicorp/vault/command/server"
	"github.com/hashicorp/vault/helper/metricsutil"
	vaulthttp "github.com/hashicorp/vault/http"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/physical"
	"github.com/hashicorp/vault/sdk/physical/file"
	"github.com/hashicorp/vault/sdk/physical/inmem"
	"github.com/hashicorp/vault/vault"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "devvault:", err)
		os.Exit(1)
	}
}

var (
	secrets = map[string]logical.Factory{"kv": kv.Factory, "pki": pki.Factory, "transit": transit.Factory}
	logins  = map[string]logical.Factory{"approle": approle.Factory}
)

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("server", flag.ContinueOnError)
	path := flags.String("config", "", "configuration file")
	if len(args) == 0 || args[0] != "server" {
		return errors.New("usage: devvault server -config=FILE")
	}
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	cfg, err := server.LoadConfigFile(*path)
	if err != nil {
		return err
	}
	if cfg.Storage == nil || len(cfg.Listeners) != 1 || cfg.Listeners[0].Type != "tcp" || !cfg.Listeners[0].TLSDisable {
		return errors.New("this server takes a storage and one tcp listener with tls_disable: it is for tests on one machine")
	}
	logger := log.New(&log.LoggerOptions{Output: os.Stderr, Level: log.LevelFromString(cfg.LogLevel)})
	store, err := storage(cfg.Storage, logger)
	if err != nil {
		return err
	}
	listen, err := net.Listen("tcp", cfg.Listeners[0].Address)
	if err != nil {
		return err
	}
	core, err := vault.NewCore(&vault.CoreConfig{
		Physical: store, StorageType: cfg.Storage.Type, RawConfig: cfg, Logger: logger, DisableMlock: true,
		RedirectAddr: "http://" + listen.Addr().String(), BuiltinRegistry: registry{}, LogicalBackends: secrets, CredentialBackends: logins,
		AuditBackends: map[string]audit.Factory{audit.TypeFile: audit.NewFileBackend},
		MetricSink:    metricsutil.BlackholeSink(), MetricsHelper: metricsutil.NewMetricsHelper(nil, false),
		DefaultLeaseTTL: 768 * time.Hour, MaxLeaseTTL: 768 * time.Hour,
	})
	if err != nil {
		return err
	}
	return serve(ctx, listen, core, &http.Server{
		Handler:           vaulthttp.Handler.Handler(&vault.HandlerProperties{Core: core, ListenerConfig: cfg.Listeners[0]}),
		ReadHeaderTimeout: 10 * time.Second, ErrorLog: logger.StandardLogger(nil)})
}

func storage(s *server.Storage, logger log.Logger) (physical.Backend, error) {
	switch s.Type {
	case "file":
		return file.NewFileBackend(s.Config, logger)
	case "inmem":
		return inmem.NewInmem(s.Config, logger)
	}
	return nil, fmt.Errorf("storage %q is not built into this server", s.Type)
}

func serve(ctx context.Context, listen net.Listener, core *vault.Core, srv *http.Server) error {
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(listen) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	err := srv.Shutdown(ctx)
	<-ended
	return errors.Join(err, core.Shutdown())
}

// registry tells the plug-in catalogue which plug-ins are built in.
type registry struct{}

func (registry) table(t consts.PluginType) map[string]logical.Factory {
	switch t {
	case consts.PluginTypeSecrets:
		return secrets
	case consts.PluginTypeCredential:
		return logins
	}
	return nil
}

func (r registry) Contains(name string, t consts.PluginType) bool { return r.table(t)[name] != nil }

func (r registry) Get(name string, t consts.PluginType) (func() (any, error), bool) {
	f := r.table(t)[name]
	return func() (any, error) { return f, nil }, f != nil
}

func (r registry) Keys(t consts.PluginType) (out []string) {
	for k := range r.table(t) {
		out = append(out, k)
	}
	return out
}

func (r registry) DeprecationStatus(name string, t consts.PluginType) (consts.DeprecationStatus, bool) {
	return consts.Supported, r.Contains(name, t)
}

func (registry) IsBuiltinEntPlugin(string, consts.PluginType) bool { return false }
