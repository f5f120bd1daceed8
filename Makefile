# make help lists the targets. Steps of more than a line are scripts in ci/.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

# What the targets below take from the command line, as in make sim SIM_BUDGET=1h.
NODES ?= 3
SWARM_BUDGET ?= 20s
SIM_BUDGET ?= 10m
FUZZ_TIME ?= 30s
CHAOS_RUNS ?= 10
BENCH ?= .

# Packages whose tests start real processes, and mostly wait for what these do: two at a
# time. No other tests run beside them:
# their time bounds mean nothing while other tests hold both cores.
PROCESS_TESTS := ./tests/...
# Packages whose tests start real store servers and mostly wait for them.
STORES := ./adapters/etcdlog ./adapters/pglog ./adapters/redislog ./adapters/logtest ./adapters/storeserver $(wildcard ./adapters/fence/*fence)
PURE := ./core/... ./sim/... ./wire/... ./adapters/config/...
RACE := ./core/... $(filter-out $(STORES),$(wildcard ./adapters/*))

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build leaderd, omnirelay and simrun into bin/
	go build -o bin/ ./cmd/...

.PHONY: run
run: build ## Run a cluster of three nodes on this machine, from nothing; Ctrl-C stops it
	exec bin/leaderd dev --nodes $(NODES)

.PHONY: demo
demo: build ## Show in a minute that killed and paused leaders harm nothing: 12 members, 16 shards, a guarded resource
	go build -o bin/ ./adapters/client/examples/shards
	exec bin/shards demo

.PHONY: setup
setup: ## Install what the tests need, as root; otherwise print the command and fail
	ci/setup

.PHONY: tools
tools: ## Build the pinned tools into .tools/
	ci/tools proto
	ci/tools lint
	ci/tools etcd

.PHONY: generate
generate: ## Generate Go code from the .proto files
	ci/generate

.PHONY: proto-baseline
proto-baseline: ## Take today's schemas as the baseline no later change may break; after a release
	ci/breaking --move

.PHONY: lint
lint: ## Format, vet, linters, schema lint, known vulnerabilities
	ci/lint

.PHONY: test-short
test-short: ## The tests of the pure rooms, under a minute, no servers
	go test -short -timeout 1m $(PURE) ./ci/...

.PHONY: test
test: ## Everything that fits in 15 minutes on two cores, real processes included
	@ci/step setup ci/setup
	@ci/step proto-tools ci/tools proto
	@ci/step lint-tools ci/tools lint
	@ci/step etcd ci/tools etcd
	@ci/step generate ci/generate --check
	@ci/step breaking ci/breaking
	@ci/step build $(MAKE) --no-print-directory build
	@ci/together test-stores test-packages
	@ci/step selftest bin/simrun selftest
	@ci/step determinism bin/simrun determinism --seeds 1..15
	@ci/step determinism-cas bin/simrun determinism --log cas --seeds 1..15
	@ci/step swarm-raft bin/simrun swarm --budget $(SWARM_BUDGET)
	@ci/step swarm-cas bin/simrun swarm --log cas --budget $(SWARM_BUDGET)
	@ci/step processes go test -count=1 -p 2 -timeout 10m $(PROCESS_TESTS)
	@ci/step examples ci/examples

# The stores' tests mostly wait, so the others run beside them.
.PHONY: test-stores test-packages
test-stores:
	@ci/step stores go test -race -short -p 4 -timeout 8m $(STORES)
test-packages:
	@ci/step lint ci/lint
	@ci/step unit ci/unit $(STORES)
	@ci/step race go test -race -short -timeout 5m $(RACE)
	@ci/step fuzz ci/fuzz --fresh 1s

.PHONY: sim
sim: build ## Simulate new seeds for SIM_BUDGET (10m)
	bin/simrun swarm --budget $(SIM_BUDGET)
	bin/simrun swarm --log cas --budget $(SIM_BUDGET)

.PHONY: fuzz
fuzz: ## Run every fuzz target for FUZZ_TIME (30s), two at once, going on from earlier runs
	ci/fuzz $(FUZZ_TIME)

.PHONY: chaos
chaos: ## Run the long tests with real processes, on every store, CHAOS_RUNS (10) times over
	LEADERSHIP_CHAOS=1 go test -count=$(CHAOS_RUNS) -p 1 -timeout 0 $(STORES) $(PROCESS_TESTS)

.PHONY: bench
bench: ## Run the benchmarks; BENCH is a pattern
	go test -run '^$$' -bench '$(BENCH)' -benchmem ./...

.PHONY: clean
clean: ## Remove what was built; .dev/ (the cluster of make run) stays
	rm -rf bin .tools
