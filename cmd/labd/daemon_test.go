package main

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"yingzhou.dev/lab/cmd/internal/deploy/clustertest"
	"yingzhou.dev/lab/cmd/internal/home/hometest"
	"yingzhou.dev/lab/enclave/vault/vaulttest"
	"yingzhou.dev/lab/internal/pki"
	"yingzhou.dev/lab/sandbox"
)

// What the operations manual says of daemons that run: certificates are taken over, traces arrive, SIGTERM ends in order.
func TestDaemons(t *testing.T) {
	spans := &receiver{}
	front := httptest.NewServer(spans)
	defer front.Close()
	c := clustertest.Start(t, hometest.Options{Rows: 200}, func(yaml string) string { return yaml + traceTo(front.URL) })
	for name := range c.Custodians {
		path := filepath.Join(c.Dir, name, "custodian.yaml")
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, append(data, traceTo(front.URL)...), 0o600); err != nil {
			t.Fatal(err)
		}
		c.Stop(name)
		c.Begin(name)
	}
	t.Run("sighup", func(t *testing.T) { sighup(t, c) })
	t.Run("vault's pki", func(t *testing.T) { vaultPKI(t, c) })
	t.Run("drain", func(t *testing.T) { drainCustodian(t, c) })
	t.Run("traces", func(t *testing.T) { traces(t, c, spans) }) // last: it stops the daemons, which send what is left
}

func traceTo(url string) string { return fmt.Sprintf("trace: {endpoint: %q}\n", url) }

// shown is the serial of the certificate that labd shows to a new connection.
func shown(t *testing.T, c *clustertest.Cluster) string {
	t.Helper()
	conn, err := (&tls.Dialer{Config: source(t, c, "auditor", "zhao.min").Client(pki.Name{Role: "lab"})}).DialContext(t.Context(), "tcp", c.Server)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return conn.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.String()
}

// reload signals this process, in which every daemon of the cluster hears it, and waits until labd has said n times what.
func reload(t *testing.T, c *clustertest.Cluster, what string) {
	t.Helper()
	before := strings.Count(c.Log(clustertest.Labd), what)
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	for strings.Count(c.Log(clustertest.Labd), what) == before {
		select {
		case <-t.Context().Done():
			t.Fatalf("labd does not say %q", what)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// SIGHUP: new connections see the new certificate, the one that is open goes on, and a renewal that is torn changes
// nothing.
func sighup(t *testing.T, c *clustertest.Cluster) {
	open := c.Person("zhao.min")
	if _, err := open.Info(t.Context()); err != nil {
		t.Fatal(err)
	}
	first := shown(t, c)
	dir := filepath.Join(c.Dir, clustertest.Labd)
	name := pki.Name{Lab: c.Lab, Role: "lab", Party: "lab"}
	if err := authority(t, c).IssueTo(dir, name, pki.IssueOptions{Now: time.Now(), Hosts: []string{"127.0.0.1"}}); err != nil {
		t.Fatal(err)
	}
	if got := shown(t, c); got != first {
		t.Error("labd shows a new certificate without being told")
	}
	reload(t, c, "certificate reloaded")
	second := shown(t, c)
	if second == first {
		t.Error("labd shows the old certificate after SIGHUP")
	}
	if _, err := open.Info(t.Context()); err != nil {
		t.Errorf("the open connection: %v", err)
	}
	whole, err := os.ReadFile(filepath.Join(dir, "tls.crt"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "tls.crt"), whole[:len(whole)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	reload(t, c, "certificate not reloaded")
	if got := shown(t, c); got != second {
		t.Error("a torn renewal changes the certificate")
	}
	if err := os.WriteFile(filepath.Join(dir, "tls.crt"), whole, 0o600); err != nil {
		t.Fatal(err)
	}
}

// vaultPKI has Vault's pki issue certificates as the operations manual says: the daemons take them, for a person and for
// labd itself, and only with the name that the role allows.
func vaultPKI(t *testing.T, c *clustertest.Cluster) {
	s := vaulttest.Start(t, vaulttest.Vault)
	type m = map[string]any
	s.Root(http.MethodPost, "sys/mounts/pki", m{"type": "pki", "config": m{"max_lease_ttl": "8760h"}}, nil)
	var root struct {
		Data struct {
			Certificate string `json:"certificate"`
		} `json:"data"`
	}
	s.Root(http.MethodPost, "pki/root/generate/internal", m{"common_name": "certificates of lab " + c.Lab, "key_type": "ec", "key_bits": 256, "ttl": "8760h"}, &root)
	issue := func(dir string, n pki.Name) {
		t.Helper()
		role := n.Role + "-" + strings.ReplaceAll(n.Party, ".", "-")
		s.Root(http.MethodPost, "pki/roles/"+role, m{"allowed_uri_sans": n.String(), "allow_any_name": true, "require_cn": false, "server_flag": true, "client_flag": true,
			"key_type": "ec", "key_bits": 256, "max_ttl": "24h"}, nil)
		var out struct {
			Data struct {
				Certificate string `json:"certificate"`
				Key         string `json:"private_key"`
			} `json:"data"`
		}
		if status, said := s.Call(s.RootToken(), http.MethodPost, "pki/issue/"+role, m{"uri_sans": "lab:///" + c.Lab + "/lab/other", "ttl": "1h"}); status < 400 {
			t.Errorf("the role issues another name: %d %s", status, said)
		}
		s.Root(http.MethodPost, "pki/issue/"+role, m{"uri_sans": n.String(), "ttl": "1h"}, &out)
		for file, text := range map[string]string{"tls.crt": out.Data.Certificate + "\n", "tls.key": out.Data.Key + "\n"} {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	both := func(path string) { // an authority that is changed is believed beside the old one for a while
		t.Helper()
		own, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, append(append(bytes.TrimSpace(own), '\n'), root.Data.Certificate+"\n"...), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	parts := []string{clustertest.Labd, clustertest.Witness}
	for name := range c.Custodians {
		parts = append(parts, name)
	}
	auditor := t.TempDir()
	if err := os.CopyFS(auditor, os.DirFS(c.Folder("zhao.min"))); err != nil {
		t.Fatal(err)
	}
	issue(auditor, pki.Name{Lab: c.Lab, Role: "auditor", Party: "zhao.min"})
	both(filepath.Join(auditor, "ca.crt"))
	by, err := pki.Open(c.Lab, pki.FilesIn(auditor), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, c, by.Client(pki.Name{Role: "lab"})).Info(t.Context()); code(err) != codes.Unavailable {
		t.Errorf("before labd believes the authority: %v", err)
	}
	for _, part := range parts {
		both(filepath.Join(c.Dir, part, "ca.crt"))
	}
	before := shown(t, c)
	issue(filepath.Join(c.Dir, clustertest.Labd), pki.Name{Lab: c.Lab, Role: "lab", Party: "lab"})
	reload(t, c, "certificate reloaded")
	conn, err := (&tls.Dialer{Config: by.Client(pki.Name{Role: "lab"})}).DialContext(t.Context(), "tcp", c.Server)
	if err != nil {
		t.Fatal(err)
	}
	if got := conn.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.String(); got == before {
		t.Error("labd does not show the certificate of Vault's pki")
	}
	conn.Close()
	if _, err := open(t, c, by.Client(pki.Name{Role: "lab"})).Info(t.Context()); err != nil {
		t.Errorf("with a certificate of Vault's pki: %v", err)
	}
	// Custodians believe labd by its new name: a job goes through. People's folders believe both authorities too.
	both(filepath.Join(c.Folder(hometest.Analyst), "ca.crt"))
	run(t, c, "SELECT COUNT(*) AS n FROM health WHERE health = 'good'")
}

// run takes a query to its release.
func run(t *testing.T, c *clustertest.Cluster, query string) {
	t.Helper()
	req, sign := request(t, c, query)
	r := c.Person(hometest.Analyst)
	job, err := r.Submit(t.Context(), req, sign)
	if err == nil {
		job, err = r.Run(t.Context(), job.ID, nil)
	}
	if err != nil || job.State != sandbox.Released {
		t.Fatalf("the job is %s: %s, %v", job.State, job.Reason, err)
	}
}

// drainCustodian ends the custodian's own program by SIGTERM in the middle of a release: it ends in order, the release
// comes to its end, and the program takes part again when it is back.
func drainCustodian(t *testing.T, c *clustertest.Cluster) {
	const name = "custodian-cyber"
	dir := t.TempDir()
	if err := hometest.Build(t.Context(), dir, "custodian"); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(c.Dir, name, "custodian.yaml")
	if said, err := exec.CommandContext(t.Context(), filepath.Join(dir, "custodian"), "-config", config, "-check").CombinedOutput(); err != nil || !strings.Contains(string(said), "is right, for lab:///test/custodian/"+name) {
		t.Fatalf("-check: %v: %s", err, said)
	}
	c.Stop(name)
	start := func() (*exec.Cmd, *bytes.Buffer) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "custodian"), "-config", config)
		serving, log := make(chan struct{}), &bytes.Buffer{}
		var once sync.Once
		cmd.Stderr = writer(func(p []byte) (int, error) { // exec copies by one goroutine, which ends before Wait does
			log.Write(p)
			if bytes.Contains(log.Bytes(), []byte(`"serving"`)) {
				once.Do(func() { close(serving) })
			}
			return len(p), nil
		})
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		<-serving
		return cmd, log
	}
	custodian, log := start()
	req, sign := request(t, c, "SELECT health, COUNT(*) AS n, AVG(mdvis) AS v FROM health GROUP BY health")
	r := c.Person(hometest.Analyst)
	job, err := r.Submit(t.Context(), req, sign)
	if err != nil {
		t.Fatal(err)
	}
	told := false
	job, err = r.Run(t.Context(), job.ID, func(j sandbox.Job) {
		if !told && j.State == sandbox.Opening {
			told = true
			if err := custodian.Process.Signal(syscall.SIGTERM); err != nil {
				t.Error(err)
			}
		}
	})
	if err != nil || job.State != sandbox.Released {
		t.Errorf("the job that met the end of a custodian is %s: %s, %v", job.State, job.Reason, err)
	}
	if !told {
		t.Error("the job was never seen opening")
	}
	if err := custodian.Wait(); err != nil || strings.Contains(log.String(), `"level":"ERROR"`) {
		t.Errorf("the custodian ended with %v:\n%s", err, log)
	}
	custodian, log = start()
	c.Stop("custodian-notary") // so that it is needed
	run(t, c, "SELECT coinsurance, COUNT(*) AS n FROM health GROUP BY coinsurance")
	c.Begin("custodian-notary")
	if err := custodian.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := custodian.Wait(); err != nil {
		t.Errorf("the idle custodian ended with %v:\n%s", err, log)
	}
	c.Begin(name)
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

// receiver takes traces as an OpenTelemetry collector does, over OTLP on HTTP.
type receiver struct {
	mu    sync.Mutex
	raw   bytes.Buffer
	spans []*tracepb.Span
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	var m coltracepb.ExportTraceServiceRequest
	if err == nil {
		err = proto.Unmarshal(body, &m)
	}
	if err != nil || req.URL.Path != "/v1/traces" {
		http.Error(w, fmt.Sprint(req.URL.Path, err), http.StatusBadRequest)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.raw.Write(body)
	for _, rs := range m.ResourceSpans {
		for _, ss := range rs.ScopeSpans {
			r.spans = append(r.spans, ss.Spans...)
		}
	}
}

// traces runs a job and follows it from labd to a custodian by its spans, which hold nothing of the query.
func traces(t *testing.T, c *clustertest.Cluster, got *receiver) {
	const secret = "excellent"
	run(t, c, "SELECT COUNT(*) AS n FROM health WHERE health = '"+secret+"'")
	c.Stop(clustertest.Labd)
	for name := range c.Custodians {
		c.Stop(name)
	}
	got.mu.Lock()
	defer got.mu.Unlock()
	byID, joined, submitted := map[string]*tracepb.Span{}, false, false
	for _, s := range got.spans {
		byID[string(s.SpanId)] = s
	}
	for _, s := range got.spans {
		submitted = submitted || s.Kind == tracepb.Span_SPAN_KIND_SERVER && strings.Contains(s.Name, "lab.v1.JobService/SubmitJob")
		from := byID[string(s.ParentSpanId)]
		joined = joined || s.Kind == tracepb.Span_SPAN_KIND_SERVER && strings.Contains(s.Name, "CustodianService/Lead") &&
			from != nil && from.Kind == tracepb.Span_SPAN_KIND_CLIENT && bytes.Equal(from.TraceId, s.TraceId)
	}
	if !submitted || !joined {
		t.Errorf("of %d spans none is the submission (%v) or a custodian's part within labd's trace (%v)", len(got.spans), submitted, joined)
	}
	if bytes.Contains(got.raw.Bytes(), []byte(secret)) || bytes.Contains(got.raw.Bytes(), []byte("SELECT")) {
		t.Error("the traces hold a query")
	}
}
