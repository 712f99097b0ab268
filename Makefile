# `make` lists the targets. Needs Go 1.26; `make race` needs a C compiler too, and Docker is used where a daemon answers.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c

# The version is pinned; honnef.co/go/tools v0.7.0 is staticcheck 2026.1.
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.7.0
# Runs per fuzz target. A count and no duration: before Go 1.27 the end of a duration may be reported as a failure
# (go.dev/issue/75804).
FUZZTIME ?= 50000x

SHIPPED := CGO_ENABLED=0 go build -trimpath -buildvcs=false
FOLDERS := cmd deploy enclave examples internal operators sandbox

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## bin/lab, bin/seal, the daemons, bin/worker, and bin/hostile for `lab node check`
	@mkdir -p bin
	@$(SHIPPED) -o bin/ ./cmd/lab ./cmd/seal ./cmd/labd ./cmd/custodian ./cmd/witness ./cmd/nodehost
	@# Approvals name the worker by the digest of its bytes: the same source gives the same file, wherever it is built.
	@$(SHIPPED) -ldflags '-s -w -buildid=' -o bin/ ./cmd/worker ./cmd/node
	@# It attacks a node on behalf of `lab node check` and is in no image that is approved.
	@$(SHIPPED) -o bin/hostile ./sandbox/runner/battery/hostile

.PHONY: demo
demo: build ## the whole way once; JSON=1 prints a summary as JSON, ROWS=n sets the size of the generated table
	@bin/lab demo $(if $(JSON),--json) $(if $(ROWS),--rows $(ROWS))

.PHONY: lab-up
lab-up: build ## a lab of services on this machine, in ./lab-services; LAB_UP_POSTGRES=1 keeps records in PostgreSQL, LAB_UP_VAULT=1 keys in Vaults
	@deploy/local/lab-up

.PHONY: lab-down
lab-down: ## stop what lab-up started
	@deploy/local/lab-down

.PHONY: test
test: ## vet and every test, then what was skipped and why; LAB_REQUIRE_ALL=1 makes a skip a failure
	go vet ./...
	@go run ./internal/gotest -timeout 9m ./...

.PHONY: race
race: ## every test with the race detector, the longest shortened
	@go run ./internal/gotest -race -short -timeout 15m ./...

.PHONY: fuzz
fuzz: ## every fuzz target FUZZTIME (50000x) times
	@dirs=$$(go list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.Dir}}{{end}}' ./...); \
	for dir in $$dirs; do \
	  for target in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' $$dir/*_test.go); do \
	    echo "$${dir#$$PWD/} $$target"; \
	    go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$dir; \
	  done; \
	done

.PHONY: bench
bench: ## the table of measured figures beside plain Lattigo and plaintext DuckDB; SHORT=1 leaves out what takes minutes and disk
	@go run ./internal/bench $(if $(SHORT),-short)

.PHONY: faults
faults: ## kill the lab after each durable step, and worse; ends with "faults: N passed, 0 failed"; QUICK=1 kills once at each
	@go run ./cmd/internal/faults $(if $(QUICK),-quick)

.PHONY: load
load: ## 200 clients, 2,000 small jobs, a table of how long they took; JOBS=n, CLIENTS=n; LAB_DATABASE=postgres://… instead of SQLite; SERVICES=1, LABDS=n for daemons
	@go run ./cmd/internal/load -jobs $(or $(JOBS),2000) -clients $(or $(CLIENTS),200) $(if $(SERVICES),-services -labds $(or $(LABDS),1))

.PHONY: soak
soak: ## 10,000 small jobs, with the heap and the goroutines after every thousand
	@go run ./cmd/internal/load -jobs $(or $(JOBS),10000) -clients $(or $(CLIENTS),200) -soak

.PHONY: battery
battery: ## attack every kind of isolation that is here, line by line; WRITE=1 brings docs/ISOLATION.md up to date
	@go run ./sandbox/runner/battery/report $(if $(WRITE),-write)

.PHONY: lint
lint: ## gofmt, go vet, staticcheck
	@unformatted=$$(gofmt -l $(FOLDERS)); if [ -n "$$unformatted" ]; then \
	  echo "not formatted, run gofmt -w on:"; echo "$$unformatted"; exit 1; fi
	go vet ./...
	go run $(STATICCHECK) ./...

.PHONY: care
care: build ## three agencies' tables matched by three nodes: a join, a range and quantiles in one job; PEOPLE=n sets the size
	@bin/lab demo care $(if $(JSON),--json) $(if $(PEOPLE),--people $(PEOPLE))

.PHONY: collect
collect: ## 100,000 reports of untrusted senders, one in a hundred bad: exactly the good ones count (some minutes)
	@go test ./enclave/mpc/prio3 -run 'TestOnlyGoodReportsCount' -v -count=1 -timeout 30m -args -reports 100000

.PHONY: clean
clean: ## remove what was built
	rm -rf bin
