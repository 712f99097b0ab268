package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"yingzhou.dev/lab/cmd/internal/daemon"
	"yingzhou.dev/lab/cmd/internal/deploy/clustertest"
	"yingzhou.dev/lab/cmd/internal/home/hometest"
	"yingzhou.dev/lab/cmd/internal/plane"
	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/enclave/keys"
	"yingzhou.dev/lab/enclave/vault/vaulttest"
	"yingzhou.dev/lab/internal/canon"
	"yingzhou.dev/lab/internal/pki"
	"yingzhou.dev/lab/internal/pki/pkitest"
	"yingzhou.dev/lab/internal/rpc"
	"yingzhou.dev/lab/operators"
	"yingzhou.dev/lab/sandbox"
	labv1 "yingzhou.dev/lab/sandbox/api/v1"
	"yingzhou.dev/lab/sandbox/client"
	"yingzhou.dev/lab/sandbox/lab"
	"yingzhou.dev/lab/sandbox/plan"
	"yingzhou.dev/lab/sandbox/runner/process"
)

func TestMain(m *testing.M) {
	process.Init() // this program is what a sandbox of its own is made from
	code := m.Run()
	if err := vaulttest.Clean(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

const query = "SELECT COUNT(*) AS n FROM health"

// request is a query of the analyst's, with the key that signs its plan.
func request(t *testing.T, c *clustertest.Cluster, query string) (lab.Request, func(*lab.Prepared) (enclave.Signed, error)) {
	t.Helper()
	r := c.Person(hometest.Analyst)
	id, err := r.Identity(hometest.Analyst)
	if err != nil {
		t.Fatal(err)
	}
	scenario, _, err := r.Scenario(t.Context(), hometest.Scenario)
	if err != nil {
		t.Fatal(err)
	}
	return lab.Request{Analyst: hometest.Analyst, Scenario: scenario, Query: query}, func(p *lab.Prepared) (enclave.Signed, error) {
		return keys.SealWith(id, enclave.KindPlan, p.Plan)
	}
}

// One lab of services serves every test that leaves it as it was.
func TestService(t *testing.T) {
	c := clustertest.Start(t, hometest.Options{}, func(yaml string) string {
		return yaml + "limits: {per_second: 1000, burst: 2000, at_once: 8, max_blob: 100000}\n"
	})
	t.Run("whole way", func(t *testing.T) { wholeWay(t, c) })
	t.Run("certificates", func(t *testing.T) { certificates(t, c) })
	t.Run("json", func(t *testing.T) { inJSON(t, c) })
	t.Run("uploads", func(t *testing.T) { uploads(t, c) })
	t.Run("statements", func(t *testing.T) { statements(t, c) })
	t.Run("limits", func(t *testing.T) { limits(t, c) })
	t.Run("resubmission", func(t *testing.T) { resubmission(t, c) })
	t.Run("drain", func(t *testing.T) { drain(t, c) })
}

func wholeWay(t *testing.T, c *clustertest.Cluster) {
	r := c.Person(hometest.Analyst)
	req, sign := request(t, c, query)
	job, err := r.Submit(t.Context(), req, sign)
	if err != nil {
		t.Fatal(err)
	}
	var stages []string
	job, err = r.Run(t.Context(), job.ID, func(j sandbox.Job) { stages = append(stages, string(j.State)+" "+j.Stage) })
	if err != nil || job.State != sandbox.Released {
		t.Fatalf("job is %s: %v, after %q", job.State, err, stages)
	}
	if _, err := r.SignedRelease(t.Context(), job); err != nil {
		t.Error(err)
	}
	// A refusal comes back with every reason, typed, and is on record.
	req.Query = "SELECT MAX(mdvis), nobody FROM health"
	refused, err := r.Submit(t.Context(), req, sign)
	var why *plan.RefusedError
	if !errors.As(err, &why) || len(why.Reasons) < 2 || why.Reasons[0].Pos.IsZero() {
		t.Fatalf("refused with %v", err)
	}
	if on, err := r.Job(t.Context(), refused.ID); err != nil || on.State != sandbox.Refused {
		t.Errorf("on record as %s: %v", on.State, err)
	}
	// The auditor reads the log and holds it against its checkpoint.
	a := c.Person("zhao.min")
	_, cp, err := a.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	n := int64(0)
	for _, err := range a.Entries(t.Context(), 0, cp.Size) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n != cp.Size || n == 0 {
		t.Errorf("%d of %d entries", n, cp.Size)
	}
}

// code is the gRPC code of a call's error.
func code(err error) codes.Code {
	var e *client.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return status.Code(err)
}

// authority is the cluster's, for certificates of this test's making.
func authority(t *testing.T, c *clustertest.Cluster) *pki.Authority {
	t.Helper()
	a, err := pki.LoadAuthority(c.Lab, filepath.Join(c.Dir, "ca"))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// source issues a certificate of the cluster's own authority.
func source(t *testing.T, c *clustertest.Cluster, role, party string) *pki.Source {
	t.Helper()
	dir := t.TempDir()
	if err := authority(t, c).IssueTo(dir, pki.Name{Lab: c.Lab, Role: role, Party: party}, pki.IssueOptions{Now: time.Now()}); err != nil {
		t.Fatal(err)
	}
	s, err := pki.Open(c.Lab, pki.FilesIn(dir), nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func open(t *testing.T, c *clustertest.Cluster, tlsConfig *tls.Config) *client.Client {
	t.Helper()
	cl, err := client.Open(client.Config{Address: c.Server, TLS: tlsConfig, RootKey: c.Person("zhao.min").RootKey()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cl.Close() })
	return cl
}

func certificates(t *testing.T, c *clustertest.Cluster) {
	ca := pkitest.New(t, c.Lab, nil) // of the same name, and nobody believes it
	own, err := os.ReadFile(filepath.Join(c.Dir, "ca", pki.CAFile))
	if err != nil {
		t.Fatal(err)
	}
	foreignDir := ca.Dir(t, "auditor", "zhao.min")
	if err := os.WriteFile(pki.FilesIn(foreignDir).CA, append(ca.PEM(), own...), 0o600); err != nil {
		t.Fatal(err)
	}
	foreign, err := pki.Open(c.Lab, pki.FilesIn(foreignDir), nil)
	if err != nil {
		t.Fatal(err)
	}
	want := pki.Name{Role: "lab"}
	naked := source(t, c, "auditor", "zhao.min").Client(want)
	naked.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &tls.Certificate{}, nil }
	for _, x := range []struct {
		what string
		tls  *tls.Config
		code codes.Code
	}{
		{"a good one", source(t, c, "auditor", "zhao.min").Client(want), codes.OK},
		{"one of a foreign authority", foreign.Client(want), codes.Unavailable},
		{"none", naked, codes.Unavailable},
		{"one for a name that the roster lacks", source(t, c, "auditor", "nobody").Client(want), codes.PermissionDenied},
		{"one for another role than the roster's", source(t, c, "official", "zhao.min").Client(want), codes.PermissionDenied},
		{"one that wants another server", source(t, c, "auditor", "zhao.min").Client(pki.Name{Role: "custodian"}), codes.Unavailable},
	} {
		_, err := open(t, c, x.tls).Info(t.Context())
		if got := code(err); got != x.code {
			t.Errorf("%s: %v (%v), want %v", x.what, got, err, x.code)
		}
	}
	// Roles: an auditor may read and may not do.
	a := open(t, c, source(t, c, "auditor", "zhao.min").Client(want))
	if _, err := a.Submit(t.Context(), lab.Request{Query: query}, nil); code(err) != codes.PermissionDenied {
		t.Errorf("an auditor submits: %v", err)
	}
}

// post makes a call as a script would.
func post(t *testing.T, c *clustertest.Cluster, role, party, method, contentType, body string) (int, http.Header, string) {
	t.Helper()
	s := source(t, c, role, party)
	config := s.Client(pki.Name{Role: "lab"})
	config.NextProtos = []string{"http/1.1"}
	h := &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+c.Server+method, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	resp, err := h.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(data)
}

func inJSON(t *testing.T, c *clustertest.Cluster) {
	const jsonType = "application/json"
	for _, x := range []struct {
		what, role, party, method, media, body string
		status                                 int
		want                                   []string
	}{
		{"who am I", "analyst", hometest.Analyst, "/lab.v1.LabService/GetLab", jsonType, "", 200, []string{`"caller":"chen.yu"`, `"custodian-bureau"`}},
		{"the catalogue", "auditor", "zhao.min", "/lab.v1.CatalogService/ListDatasets", jsonType, "{}", 200, []string{`"name":"health"`, `"version":"1"`}},
		{"a scenario", "analyst", hometest.Analyst, "/lab.v1.OperatorService/GetScenario", jsonType, `{"name":"care"}`, 200, []string{`"state":"approved"`}},
		{"a refusal with all reasons", "analyst", hometest.Analyst, "/lab.v1.JobService/ExplainJob", jsonType, `{"scenario":"care","query":"SELECT MAX(mdvis), nobody FROM health"}`, 400,
			[]string{`"code":"invalid_argument"`, `"type":"lab.v1.Problem"`, `"kind":"REFUSED"`, `"hint"`}},
		{"an explanation", "analyst", hometest.Analyst, "/lab.v1.JobService/ExplainJob", jsonType, `{"scenario":"care","query":"SELECT COUNT(*) FROM health"}`, 200, []string{`"textZh"`, `"plan"`}},
		{"another role", "auditor", "zhao.min", "/lab.v1.JobService/ExplainJob", jsonType, `{}`, 403, []string{`"code":"permission_denied"`}},
		{"no such job", "analyst", hometest.Analyst, "/lab.v1.JobService/GetJob", jsonType, `{"id":"job-0000000000000000"}`, 404, []string{`"code":"not_found"`}},
		{"no such method", "auditor", "zhao.min", "/lab.v1.JobService/StealJob", jsonType, `{}`, 404, []string{`"code":"unimplemented"`}},
		{"an unknown field", "analyst", hometest.Analyst, "/lab.v1.JobService/GetJob", jsonType, `{"job":"x"}`, 400, []string{"unknown field"}},
		{"not JSON", "analyst", hometest.Analyst, "/lab.v1.JobService/GetJob", jsonType, `id=1`, 400, []string{`"code":"invalid_argument"`}},
		{"another type", "analyst", hometest.Analyst, "/lab.v1.JobService/GetJob", "text/plain", `{}`, 415, nil},
		{"too long", "analyst", hometest.Analyst, "/lab.v1.JobService/GetJob", jsonType, `{"id":"` + strings.Repeat("x", 1<<20) + `"}`, 413, []string{`"code":"resource_exhausted"`}},
		{"a stream of requests", "steward", hometest.Steward, "/lab.v1.CatalogService/UploadBlob", jsonType, `{}`, 501, []string{"over gRPC"}},
		{"the log as lines", "auditor", "zhao.min", "/lab.v1.AuditService/ListEntries", jsonType, `{}`, 200, []string{`"entries":[`}},
		{"health", "auditor", "zhao.min", "/grpc.health.v1.Health/Check", jsonType, `{}`, 200, []string{`"SERVING"`}},
	} {
		got, header, body := post(t, c, x.role, x.party, x.method, x.media, x.body)
		if got != x.status {
			t.Errorf("%s: status %d, want %d: %.300s", x.what, got, x.status, body)
		}
		for _, want := range x.want {
			if !strings.Contains(strings.ReplaceAll(strings.ReplaceAll(body, `": `, `":`), `, "`, `,"`), want) {
				t.Errorf("%s: %.600s lacks %s", x.what, body, want)
			}
		}
		if x.status == 200 && header.Get(rpc.HeaderID) == "" {
			t.Errorf("%s: the answer has no request id", x.what)
		}
		if !json.Valid([]byte(strings.SplitN(body, "\n", 2)[0])) {
			t.Errorf("%s: not JSON: %.100s", x.what, body)
		}
	}
	// The same call over gRPC gives the same.
	job, err := c.Person(hometest.Analyst).Jobs(t.Context(), sandbox.JobFilter{States: []sandbox.State{sandbox.Released}})
	if err != nil || len(job) == 0 {
		t.Fatal(err)
	}
	_, _, lines := post(t, c, "analyst", hometest.Analyst, "/lab.v1.JobService/WatchJob", jsonType, fmt.Sprintf(`{"id":%q}`, job[0].ID))
	var m struct {
		Job struct{ ID, State, Release string }
	}
	if err := json.Unmarshal([]byte(lines), &m); err != nil || m.Job.State != "JOB_STATE_RELEASED" || m.Job.Release != job[0].Release.String() {
		t.Errorf("%v: %s", err, lines)
	}
}

// An upload is whole or nothing.
func uploads(t *testing.T, c *clustertest.Cluster) {
	conn := c.Person(hometest.Steward).Conn()
	up := labv1.NewCatalogServiceClient(conn)
	data := bytes.Repeat([]byte("sealed "), 1000)
	d := canon.Sum(data)
	send := func(parts ...any) error {
		stream, err := up.UploadBlob(t.Context())
		if err != nil {
			return err
		}
		for _, p := range parts {
			var m labv1.UploadBlobRequest
			switch p := p.(type) {
			case *labv1.BlobHeader:
				m.Part = &labv1.UploadBlobRequest_Header{Header: p}
			case []byte:
				m.Part = &labv1.UploadBlobRequest_Data{Data: p}
			}
			if err := stream.Send(&m); err != nil {
				break // the answer says why
			}
		}
		_, err = stream.CloseAndRecv()
		return err
	}
	header := func(d enclave.Digest, size int64) *labv1.BlobHeader {
		return &labv1.BlobHeader{Digest: d.String(), Size: size}
	}
	size := int64(len(data))
	for what, parts := range map[string][]any{
		"no header":       {data},
		"two headers":     {header(d, size), header(d, size)},
		"too short":       {header(d, size), data[:100]},
		"too long":        {header(d, 100), data},
		"other bytes":     {header(d, size), append([]byte("X"), data[1:]...)},
		"no size":         {header(d, 0), data},
		"beyond limit":    {header(d, 200_000), data},
		"no digest":       {&labv1.BlobHeader{Digest: "x", Size: size}, data},
		"no parts at all": {},
	} {
		if err := send(parts...); code(err) != codes.InvalidArgument && code(err) != codes.Canceled {
			t.Errorf("%s: %v", what, err)
		}
	}
	// One that breaks off in the middle.
	ctx, cancel := context.WithCancel(t.Context())
	stream, err := up.UploadBlob(ctx)
	if err != nil {
		t.Fatal(err)
	}
	stream.Send(&labv1.UploadBlobRequest{Part: &labv1.UploadBlobRequest_Header{Header: header(d, size)}})
	stream.Send(&labv1.UploadBlobRequest{Part: &labv1.UploadBlobRequest_Data{Data: data[:500]}})
	cancel()
	stream.CloseAndRecv()
	missing, err := up.MissingBlobs(t.Context(), &labv1.MissingBlobsRequest{Digests: []string{d.String()}})
	if err != nil || len(missing.GetDigests()) != 1 {
		t.Fatalf("after uploads that failed: %v, %v", missing, err)
	}
	if err := send(header(d, size), data[:4000], data[4000:]); err != nil {
		t.Fatal(err)
	}
	if missing, err = up.MissingBlobs(t.Context(), &labv1.MissingBlobsRequest{Digests: []string{d.String()}}); err != nil || len(missing.GetDigests()) != 0 {
		t.Errorf("after one that did not: %v, %v", missing, err)
	}
}

// Nobody hands in what another has signed, and an unsigned plan is no job.
func statements(t *testing.T, c *clustertest.Cluster) {
	official := c.Person("wang.fang")
	id, err := official.Identity("wang.fang")
	if err != nil {
		t.Fatal(err)
	}
	decision, err := keys.SealWith(id, operators.KindDecision, operators.Decision{Verdict: operators.Approve, Reason: "x", By: "wang.fang", Made: canon.At(time.Now())})
	if err != nil {
		t.Fatal(err)
	}
	record := func(who string) error {
		_, err := labv1.NewOperatorServiceClient(c.Person(who).Conn()).RecordStatement(t.Context(), &labv1.RecordStatementRequest{Statement: canon.MustMarshal(decision)})
		return err
	}
	if err := record("li.jun"); code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "li.jun") {
		t.Errorf("another's statement: %v", err)
	}
	if err := record("wang.fang"); code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "on record") {
		t.Errorf("a decision about nothing: %v", err)
	}
	req, _ := request(t, c, query)
	jobs := labv1.NewJobServiceClient(c.Person(hometest.Analyst).Conn())
	before, err := jobs.ListJobs(t.Context(), &labv1.ListJobsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := jobs.SubmitJob(t.Context(), &labv1.SubmitJobRequest{Scenario: req.Scenario.String(), Query: query}); code(err) != codes.InvalidArgument {
		t.Errorf("a query without a signed plan: %v", err)
	}
	after, err := jobs.ListJobs(t.Context(), &labv1.ListJobsRequest{})
	if err != nil || len(after.GetJobs()) != len(before.GetJobs()) {
		t.Errorf("%d jobs, before %d: %v", len(after.GetJobs()), len(before.GetJobs()), err)
	}
}

func limits(t *testing.T, c *clustertest.Cluster) {
	conn := c.Person("li.jun").Conn()
	// Nine watchers of one caller are one too many.
	jobs, err := c.Person("li.jun").Jobs(t.Context(), sandbox.JobFilter{Limit: 1})
	if err != nil || len(jobs) == 0 {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	refused := 0
	for range 9 {
		w, err := healthpb.NewHealthClient(conn).Watch(ctx, &healthpb.HealthCheckRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Recv(); code(err) == codes.ResourceExhausted {
			refused++
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if refused != 1 {
		t.Errorf("%d of 9 calls at once are refused, want 1", refused)
	}
	cancel()
	// A message beyond its method's size, and one beyond any.
	for _, size := range []int{100 << 10, rpc.MaxMessage + 1} {
		_, err := labv1.NewJobServiceClient(c.Person(hometest.Analyst).Conn()).GetJob(t.Context(), &labv1.GetJobRequest{Id: strings.Repeat("x", size)})
		if code(err) != codes.ResourceExhausted {
			t.Errorf("a message of %d bytes: %v", size, err)
		}
	}
}

// A job that is submitted again under its ID is one job.
func resubmission(t *testing.T, c *clustertest.Cluster) {
	r := c.Person(hometest.Analyst)
	req, sign := request(t, c, query)
	req.ID = sandbox.NewJobID(time.Now())
	first, err := r.Submit(t.Context(), req, sign)
	if err != nil {
		t.Fatal(err)
	}
	again, err := r.Submit(t.Context(), req, sign)
	if err != nil || again.ID != first.ID || again.Plan != first.Plan {
		t.Errorf("submitted again: %+v, %v", again, err)
	}
	req.Query = "SELECT health, COUNT(*) FROM health GROUP BY health"
	if _, err := r.Submit(t.Context(), req, sign); !errors.Is(err, sandbox.ErrConflict) {
		t.Errorf("another query under the same ID: %v", err)
	}
	req.ID = sandbox.NewJobID(time.Now().Add(-time.Hour))
	if _, err := r.Submit(t.Context(), req, sign); !errors.Is(err, sandbox.ErrInvalid) {
		t.Errorf("an ID of an hour ago: %v", err)
	}
	if _, err := r.Run(t.Context(), first.ID, nil); err != nil {
		t.Error(err)
	}
}

// labd ends in order while a job is watched, and another takes the job up; the watcher comes back by itself.
func drain(t *testing.T, c *clustertest.Cluster) {
	// Without custodians the job has to wait, and says so.
	for name := range c.Custodians {
		c.Stop(name)
	}
	r := c.Person(hometest.Analyst)
	req, sign := request(t, c, "SELECT health, COUNT(*) AS n FROM health GROUP BY health")
	job, err := r.Submit(t.Context(), req, sign)
	if err != nil {
		t.Fatal(err)
	}
	waiting, ended := make(chan sandbox.Job, 1), make(chan error, 1)
	go func() {
		last, err := r.Run(t.Context(), job.ID, func(j sandbox.Job) {
			if strings.HasPrefix(j.Stage, "waiting") {
				select {
				case waiting <- j:
				default:
				}
			}
		})
		if err == nil && last.State != sandbox.Released {
			err = fmt.Errorf("job is %s", last.State)
		}
		ended <- err
	}()
	select {
	case j := <-waiting:
		t.Log(j.Stage)
	case err := <-ended:
		t.Fatalf("the job ended: %v", err)
	case <-time.After(2 * time.Minute):
		t.Fatal("the job does not wait")
	}
	c.Stop(clustertest.Labd) // in order: a failure to end is a failure of the test
	c.Begin(clustertest.Labd)
	for name := range c.Custodians {
		c.Begin(name)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("the job that was watched across labd's end: %v", err)
		}
	case <-time.After(3 * time.Minute):
		t.Fatal("the job does not end")
	}
}

// A caller who asks too much waits; others do not.
func TestRateLimit(t *testing.T) {
	c := clustertest.Start(t, hometest.Options{Stage: hometest.Founded}, func(yaml string) string {
		return yaml + "limits: {per_second: 0.1, burst: 3}\n"
	})
	r := c.Person("wang.fang")
	var got []codes.Code
	for range 4 {
		_, err := r.Info(t.Context())
		got = append(got, code(err))
	}
	if fmt.Sprint(got) != fmt.Sprint([]codes.Code{codes.OK, codes.OK, codes.OK, codes.ResourceExhausted}) {
		t.Errorf("four calls at once: %v", got)
	}
	if _, err := c.Person("li.jun").Info(t.Context()); err != nil {
		t.Errorf("another caller: %v", err)
	}
}

// Every mistake in a configuration is told by its key, all at once, and an unknown key is one.
func TestConfiguration(t *testing.T) {
	dir := t.TempDir()
	load := func(yaml string) error {
		path := filepath.Join(dir, "labd.yaml")
		if err := os.WriteFile(path, []byte(yaml), 0o600); err != nil {
			t.Fatal(err)
		}
		return daemon.Load(path, &plane.Config{})
	}
	err := load("lab: x\nlisten: nowhere\nroot: 12\nproduction: true\nworker: {isolation: process, at_once: -1}\ncustodians: [{name: a, address: 'h:1'}, {name: a, address: h}]\n")
	for _, want := range []string{"listen:", "tls.cert:", "root:", "roster:", "keys.log:", "worker.program:", "worker.isolation:", "worker.at_once:", "database:", "log_dir:", "witness.name:", `custodians[1]: "a" is there twice`, "custodians[1].address:"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v lacks %q", err, want)
		}
	}
	err = load("lab: x\nvault: {address: 'http://vault.example:8200', role_id_file: a, secret_id_file: b}\nblob_vault: {address: 'https://v:1'}\nkeys: {lab: 'vault:kv/labd#lab', node: 'vault:transit/node', log: log.key}\ndatabase: {postgres: 'vault:kv/labd'}\n")
	for _, want := range []string{"vault: ", "blob_vault: ", "keys.lab:", "keys.node:", "keys.log:", "database.postgres:"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v lacks %q", err, want)
		}
	}
	for _, yaml := range []string{"keys: {log: PRIVATE+KEY+lab+00000000+hunter2}\n", "database: {postgres: 'postgres://lab:hunter2@h/lab'}\n", "database: {postgres: 'host=h password=hunter2'}\n",
		"vault: {address: 'https://v:1', secret_id: hunter2}\n"} {
		if err := load("lab: x\n" + yaml); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("a secret in the file gives %v", err)
		}
	}
	err = load("lab: x\nproduction: true\nnodes: {program: nowhere/node, isolation: process}\n")
	for _, want := range []string{"nodes.program:", "nodes.isolation: process is for development only"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v lacks %q", err, want)
		}
	}
	if err := load("lab: x\nnodes: {isolation: gvisor}\n"); err == nil || !strings.Contains(err.Error(), "nodes.isolation:") {
		t.Errorf("gVisor: %v", err)
	}
	if err := load("lab: x\nlistn: a:1\n"); err == nil || !strings.Contains(err.Error(), "listn") {
		t.Errorf("a key that there is not: %v", err)
	}
	if err := load("lab: x\n---\nlab: y\n"); err == nil || !strings.Contains(err.Error(), "more than one document") {
		t.Errorf("two documents: %v", err)
	}
}
