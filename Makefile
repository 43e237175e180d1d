# Airlock's tasks. `make` alone lists them.

SHELL         := bash
.SHELLFLAGS   := -euo pipefail -c
.DEFAULT_GOAL := help

PREFIX  ?= /usr/local
DESTDIR ?=
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
export CGO_ENABLED := 0

PROGRAMS := airlock airlock-agent airlock-driver airlock-executor

# What a job at the process level needs, with the contents of the demonstration's images; what one at the hypervisor level
# needs beside it; what the tests need beside both; what `make generate` needs.
PROCESS_PACKAGES    := crun e2fsprogs ca-certificates busybox-static git git-lfs
HYPERVISOR_PACKAGES := qemu-system-x86
TEST_PACKAGES       := nftables iproute2 debootstrap procps runc runsc systemd wine64 gcc-mingw-w64-x86-64
GENERATE_PACKAGES   := protobuf-compiler
KERNEL  := $(or $(AIRLOCK_KERNEL_DIR),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/airlock/kernel)

# Go tools are compiled once for each version, and for each Go: a linter must be as new as the code's Go.
GOLANGCI_LINT_VERSION      := v2.15.0
PROTOC_GEN_GO_VERSION      := v1.36.12
PROTOC_GEN_GO_GRPC_VERSION := v1.6.2
TOOLS         := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/airlock/bin/$(shell go env GOVERSION 2>/dev/null)
GOLANGCI_LINT := $(TOOLS)/golangci-lint-$(GOLANGCI_LINT_VERSION)/golangci-lint
PROTOC_PLUGINS := $(TOOLS)/protoc-$(PROTOC_GEN_GO_VERSION)-$(PROTOC_GEN_GO_GRPC_VERSION)

# Packages under test at once. The tests of several packages use this host's network and cgroups, and most wait
# rather than compute.
TEST_PARALLEL ?= 2
# For one package; three times what the longest, testing/e2e, needs on a machine four times slower than a good one.
TEST_TIMEOUT  ?= 70m
LEDGER        := /testing/(e2e|leakcheck)$$
# Begun first, because it takes as long as all others together.
LONGEST       := /isolation/microvm$$
# What `make test-windows` runs: the simulator's own tests, and those of the packages that run on it.
WINDOWS_TESTS := ./testing/hcssim
SIMULATED     := ./isolation/hcs ./cache ./cache/layer ./testing/windows
FUZZ_TIME     ?= 20s
ROUNDS        ?= 30
PKG           ?= ./...

.PHONY: help
help: ## list these tasks
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: deps
deps: packages $(GOLANGCI_LINT) ## install what building, testing and linting need (apt and Go tools); as root or through sudo

# All of that but golangci-lint, which takes minutes to compile.
.PHONY: packages
packages:
	@scripts/apt-install $(PROCESS_PACKAGES) $(HYPERVISOR_PACKAGES) $(TEST_PACKAGES)
	@scripts/guest-kernel $(KERNEL)
	@go mod download

# What the demonstration lets be installed while its first job is shown.
.PHONY: machine-packages
machine-packages:
	@scripts/apt-install $(HYPERVISOR_PACKAGES)
	@scripts/guest-kernel $(KERNEL)

.PHONY: build
build: ## build all four programs into bin/
	go build -trimpath -buildvcs=false -ldflags '-s -w -X main.version=$(VERSION)' -o bin/ $(PROGRAMS:%=./cmd/%)

# All four into one directory: the programs look for each other beside themselves. Each is replaced in one step,
# because a runner may be calling the driver. It does not build: root often lacks Go.
.PHONY: install
install: ## install what `make build` built into PREFIX/bin (default /usr/local), below DESTDIR if given
	@ls $(PROGRAMS:%=bin/%) >/dev/null || { echo 'make install: run make build first' >&2; exit 1; }
	install -d $(DESTDIR)$(PREFIX)/bin
	@for program in $(PROGRAMS); do \
		install -m 0755 bin/$$program $(DESTDIR)$(PREFIX)/bin/.$$program.new; \
		mv $(DESTDIR)$(PREFIX)/bin/.$$program.new $(DESTDIR)$(PREFIX)/bin/$$program; \
		echo "$(DESTDIR)$(PREFIX)/bin/$$program"; \
	done

.PHONY: uninstall
uninstall: ## remove the installed programs; configuration, images and caches stay
	@[ -n '$(DESTDIR)' ] || [ ! -e /etc/systemd/system/airlock.service ] || \
		{ echo 'make uninstall: the service is installed: run airlock service uninstall first' >&2; exit 1; }
	rm -f $(PROGRAMS:%=$(DESTDIR)$(PREFIX)/bin/%)

# First the packages that share the host, then, beside each other, those that keep a leak check of it and those of simulated
# Windows, whose mounts nobody else sees: both wait more than they compute.
.PHONY: test
test: packages build windows ## run all tests (needs root); PKG=./cache/... limits them
	@[ "$$(id -u)" = 0 ] || { echo 'make test: the tests make real sandboxes: run it as root' >&2; exit 1; }
	@windows=$$(go list $(WINDOWS_TESTS)); others=$$(go list $(PKG) | grep -vxF "$$windows" | grep -vE '$(LEDGER)' || true); \
	others=$$(grep -E '$(LONGEST)' <<<"$$others" || true; grep -vE '$(LONGEST)' <<<"$$others" || true); \
	set -x; $${others:+go test -count=1 -p $(TEST_PARALLEL) -timeout $(TEST_TIMEOUT) $$others}
	@scripts/check-coverage
	@$(MAKE) --no-print-directory -j 2 --output-sync=line test-host $(if $(filter ./...,$(PKG)),test-simulated)

.PHONY: test-host
test-host:
	@alone=$$(go list $(PKG) | grep -E '$(LEDGER)' || true); \
	set -x; $${alone:+go test -count=1 -p 1 -timeout $(TEST_TIMEOUT) $$alone}

# In a mount namespace of its own, and in no other: the leak check beside it takes a process in a foreign namespace
# of processes for a sandbox's.
.PHONY: test-simulated
test-simulated:
	@[ "$$(id -u)" = 0 ] || { echo 'make test-windows: the tests mount file systems: run it as root' >&2; exit 1; }
	go vet -tags wine $(SIMULATED)
	unshare --mount go test -count=1 -timeout $(TEST_TIMEOUT) $(WINDOWS_TESTS)
	unshare --mount go test -tags wine -count=1 -p $(TEST_PARALLEL) -timeout $(TEST_TIMEOUT) -run OnSimulatedWindows $(SIMULATED)

# Not part of `make test`, which has the same jobs in containers: by emulation they take minutes.
.PHONY: test-runner
test-runner: packages build ## run GitLab Runner's most telling kinds of jobs in virtual machines (needs root)
	go vet -tags long ./testing/e2e
	go test -tags long -count=1 -timeout $(TEST_TIMEOUT) -run 'TestARealRunnersJobsInVirtualMachines' ./testing/e2e

# Not part of `make test`: it takes minutes, and a mirror of Debian.
.PHONY: test-systemd
test-systemd: build ## install the service on a Debian with systemd and cgroup v2, in a virtual machine (needs root)
	@scripts/apt-install busybox-static debootstrap e2fsprogs qemu-system-x86
	testing/systemd/run bin

.PHONY: windows
windows: ## check that everything compiles for Windows, tests too
	GOOS=windows go vet ./...
	@mkdir -p .cache/windows
	GOOS=windows go build -trimpath -buildvcs=false -o .cache/windows/ ./cmd/airlock ./cmd/airlock-driver ./cmd/airlock-executor

# What it shows is simulated: docs/windows.md and docs/windows-simulator.md say what that proves.
.PHONY: test-windows
test-windows: packages windows test-simulated ## of all tests, only those of Windows containers, on a simulator under Wine (needs root)

.PHONY: lint
lint: $(GOLANGCI_LINT) ## check style and the import rules
	$(GOLANGCI_LINT) run $(PKG)
	@scripts/check-arrows >/dev/null
	@scripts/check-dependencies
	@scripts/check-runner

.PHONY: fuzz
fuzz: ## fuzz every fuzz target for FUZZ_TIME
	@scripts/fuzz $(FUZZ_TIME) $(PKG)

.PHONY: generate
generate: $(PROTOC_PLUGINS) ## generate the Go code of api/control from its proto file
	@scripts/apt-install $(GENERATE_PACKAGES)
	PATH="$(PROTOC_PLUGINS):$$PATH" protoc --proto_path=. --go_out=. --go_opt=paths=source_relative \
		--go-grpc_out=. --go-grpc_opt=paths=source_relative api/control/control.proto

# It installs what a container needs while it compiles, and the demonstration does the rest while its first job is shown. Both
# are built with the same flags, or all they have in common would be compiled twice. The shell becomes the demonstration, so that a
# signal to make reaches it: it cleans up.
.PHONY: demo
demo: ## run jobs through a real GitLab Runner, in a temporary prefix (needs root)
	@[ "$$(id -u)" = 0 ] || { echo 'make demo: it makes real sandboxes, which needs root: run it as root or through sudo' >&2; exit 1; }
	@mkdir -p .cache
	@echo 'Waiting for $(PROCESS_PACKAGES) from apt, where they are missing, and'
	@echo "for Airlock's programs and the demonstration to be compiled: usually two minutes, once per machine, then seconds..."
	@scripts/apt-install $(PROCESS_PACKAGES) >.cache/demo-apt.log 2>&1 & apt=$$!; built=0; \
	{ $(MAKE) --no-print-directory build && \
		go build -trimpath -buildvcs=false -ldflags '-s -w' -o .cache/demo ./testing/demo; } || built=$$?; \
	wait $$apt || { cat .cache/demo-apt.log >&2; exit 1; }; \
	exit $$built
	@exec .cache/demo -bin bin

.PHONY: bench
bench: packages ## measure Airlock beside its alternatives (needs root); ROUNDS=5 for a quick look
	go run ./testing/bench --rounds $(ROUNDS)

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
	mv $@.part $@
