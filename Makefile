# Airlock's tasks. `make` alone lists them.

SHELL         := bash
.SHELLFLAGS   := -euo pipefail -c
.DEFAULT_GOAL := help

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
export CGO_ENABLED := 0

PROGRAMS := airlock airlock-agent airlock-driver airlock-executor

# What the service needs (crun to e2fsprogs), what the tests need beside it, and protoc for `make generate`.
PACKAGES := crun nftables iproute2 ca-certificates e2fsprogs \
            busybox-static debootstrap git git-lfs runc protobuf-compiler

# Go tools are compiled once for each version, and for each Go: a linter must be as new as the code's Go.
GOLANGCI_LINT_VERSION      := v2.15.0
PROTOC_GEN_GO_VERSION      := v1.36.12
PROTOC_GEN_GO_GRPC_VERSION := v1.6.2
PROTOC_GEN_TTRPC_VERSION   := v1.2.10
TOOLS         := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/airlock/bin/$(shell go env GOVERSION)
GOLANGCI_LINT := $(TOOLS)/golangci-lint-$(GOLANGCI_LINT_VERSION)/golangci-lint
PROTOC_PLUGINS := $(TOOLS)/protoc-$(PROTOC_GEN_GO_VERSION)-$(PROTOC_GEN_GO_GRPC_VERSION)-$(PROTOC_GEN_TTRPC_VERSION)

# Packages under test at once. The tests of several packages use this host's network and cgroups, and most wait
# rather than compute.
TEST_PARALLEL ?= 2
TEST_TIMEOUT  ?= 15m
FUZZ_TIME     ?= 20s
PKG           ?= ./...

.PHONY: help
help: ## list these tasks
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: deps
deps: ## install what building, testing and linting need (apt and Go tools); as root or through sudo
	@scripts/apt-install $(PACKAGES)
	@go mod download
	@$(MAKE) --no-print-directory $(GOLANGCI_LINT)

.PHONY: build
build: ## build all four programs into bin/
	go build -trimpath -buildvcs=false -ldflags '-s -w -X main.version=$(VERSION)' -o bin/ $(PROGRAMS:%=./cmd/%)

.PHONY: test
test: build windows ## run all tests (needs root); PKG=./cache/... limits them
	@[ "$$(id -u)" = 0 ] || { echo 'make test: the tests make real sandboxes: run it as root' >&2; exit 1; }
	go test -count=1 -p $(TEST_PARALLEL) -timeout $(TEST_TIMEOUT) $(PKG)

.PHONY: windows
windows: ## check that everything compiles for Windows, tests too
	GOOS=windows go vet ./...
	@mkdir -p .cache/windows
	GOOS=windows go build -trimpath -buildvcs=false -o .cache/windows/ ./cmd/airlock ./cmd/airlock-driver

.PHONY: lint
lint: $(GOLANGCI_LINT) ## check style and the import rules
	$(GOLANGCI_LINT) run $(PKG)
	@scripts/check-dependencies

.PHONY: fuzz
fuzz: ## fuzz every fuzz target for FUZZ_TIME
	@scripts/fuzz $(FUZZ_TIME) $(PKG)

.PHONY: generate
generate: $(PROTOC_PLUGINS) ## generate the Go code of executor/api from its proto files
	PATH="$(PROTOC_PLUGINS):$$PATH" protoc --proto_path=. --go_out=. --go_opt=paths=source_relative \
		executor/api/airlock.proto
	PATH="$(PROTOC_PLUGINS):$$PATH" protoc --proto_path=. --go_out=. --go_opt=paths=source_relative \
		--go-grpc_out=. --go-grpc_opt=paths=source_relative executor/api/executorpb/executor.proto
	PATH="$(PROTOC_PLUGINS):$$PATH" protoc --proto_path=. --go_out=. --go_opt=paths=source_relative \
		--go-ttrpc_out=. --go-ttrpc_opt=paths=source_relative executor/api/hostpb/host.proto

.PHONY: demo
demo: build ## run a job through a real GitLab Runner, in a temporary prefix (needs root)
	go run ./testing/demo

.PHONY: bench
bench: build ## measure Airlock beside its alternatives (needs root)
	go run ./testing/bench

.PHONY: clean
clean: ## remove what was built here
	rm -rf bin .cache/windows

$(GOLANGCI_LINT):
	@echo "compiling golangci-lint $(GOLANGCI_LINT_VERSION), once: this takes some minutes"
	GOBIN=$(@D) go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT_VERSION)

$(PROTOC_PLUGINS):
	@rm -rf $@.part
	GOBIN=$@.part go install google.golang.org/protobuf/cmd/protoc-gen-go@$(PROTOC_GEN_GO_VERSION)
	GOBIN=$@.part go install google.golang.org/grpc/cmd/protoc-gen-go-grpc@$(PROTOC_GEN_GO_GRPC_VERSION)
	GOBIN=$@.part go install github.com/containerd/ttrpc/cmd/protoc-gen-go-ttrpc@$(PROTOC_GEN_TTRPC_VERSION)
	mv $@.part $@
