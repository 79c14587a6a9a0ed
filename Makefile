# What a new user needs: make demo, make test. Everything that they use is
# installed by them (Debian 12, as root).
GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo development)
TOOLS   := $(CURDIR)/.cache/tools
TESTENV := REGFS_TOOLS=$(TOOLS) REGFS_REQUIRE_TOOLS=1

# Program and tests are compiled alike, and so once. Tests are vetted by check.
export GOFLAGS := -trimpath

.PHONY: all build install deps tools demo test torture soak check bench clean

all: build

build: ## bin/regfs
	$(GO) build -ldflags "-X main.version=$(VERSION)" -o bin/regfs ./cmd/regfs

install: build ## into $(DESTDIR)/usr/local/bin, with the man page
	install -D -m 0755 bin/regfs $(DESTDIR)/usr/local/bin/regfs
	install -D -m 0644 docs/regfs.1 $(DESTDIR)/usr/local/share/man/man1/regfs.1

deps: ## Debian packages that demo and tests use
	scripts/install-deps

tools: ## stock registry 3.1 and crane
	scripts/build-tools $(TOOLS)

demo: deps tools build ## the main job, from nothing to a customer's registry
	REGFS=$(CURDIR)/bin/regfs REGFS_TOOLS=$(TOOLS) scripts/demo

check: ## formatting and vet
	@test -z "$$(gofmt -l .)" || { gofmt -l . ; echo "not gofmt-ed"; exit 1; }
	$(GO) vet ./...

test: deps tools check build ## everything that CI runs
	$(TESTENV) REGFS=$(CURDIR)/bin/regfs scripts/test

torture: deps tools build ## kill -9 and power loss, 200 rounds of each, and the controls: docs/reliability.md
	$(TESTENV) REGFS=$(CURDIR)/bin/regfs scripts/test torture

soak: deps tools build ## 10 minutes of pushes, pulls and deletes under garbage collection, and the controls of that
	$(TESTENV) REGFS=$(CURDIR)/bin/regfs scripts/test soak

bench: deps tools build ## what docs/bench shows, measured here: some 15 minutes
	REGFS_TOOLS=$(TOOLS) bin/regfs bench --output docs/bench $(BENCH)

clean:
	rm -rf bin .cache
