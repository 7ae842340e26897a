# The project's tasks. `make` lists them.

GO         ?= go
PREFIX     ?= /usr/local
FUZZTIME   ?= 3s
VERSION    ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2
BENCHSTAT   = golang.org/x/perf/cmd/benchstat@v0.0.0-20260908200009-22c9c6c9d4da
ERRCHECK    = github.com/kisielk/errcheck@v1.30.0

SCRIPTS = integration/scripts
LARGE   = ./store/archive ./store/blob/...
UNIT    = ./cmd/... ./fusefs/... ./store/... ./overlay/...
BENCHED = ./overlay ./store/layer ./fusefs

.PHONY: help build install demo test fmt fmt-check vet lint unit fuzz integration interop bench bench-go clean setup-demo setup-test setup-bench

help: ## list the tasks
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Static: it starts in less time, and runs on any Linux.
build: ## build bin/imagefs
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-X main.version=$(VERSION)' -o bin/imagefs ./cmd/imagefs

install: build ## install imagefs, and what lets mount(8) and fstab use it, below $(DESTDIR)$(PREFIX)
	install -D -m 755 bin/imagefs $(DESTDIR)$(PREFIX)/bin/imagefs
	bin/imagefs man $(DESTDIR)$(PREFIX)/share/man
	install -d $(DESTDIR)$(PREFIX)/share/bash-completion/completions $(DESTDIR)$(PREFIX)/share/zsh/site-functions $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d
	bin/imagefs completion bash > $(DESTDIR)$(PREFIX)/share/bash-completion/completions/imagefs
	bin/imagefs completion zsh > $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_imagefs
	bin/imagefs completion fish > $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/imagefs.fish

demo: setup-demo ## load a real image, mount it, look around, retag it, unmount
	@$(SCRIPTS)/demo.sh

test: setup-test fmt-check vet lint unit fuzz integration interop ## set up what is missing and run all tests
	@[ "$$(id -u)" = 0 ] || echo "passed, but for the tests of mounts, engines and owners: they need root (sudo make test)"

fmt: ## format the code
	gofmt -w cmd fusefs store overlay integration

fmt-check: ## fail if a file is not formatted
	@files=$$(gofmt -l cmd fusefs store overlay integration) && \
		if [ -n "$$files" ]; then echo "not formatted (make fmt):" $$files; exit 1; fi

vet: ## go vet, and that go.mod is tidy
	$(GO) vet ./cmd/... ./fusefs/... ./store/... ./overlay/... ./integration/...
	$(GO) mod tidy -diff

lint: setup-test ## the linters, at the versions pinned above
	$(GO) run $(STATICCHECK) $(UNIT) ./integration/...
	$(GO) run $(ERRCHECK) -ignoretests -exclude .errcheck $(UNIT)
	shellcheck .ci/run $(SCRIPTS)/*.sh

unit: ## unit tests with the race detector, and all cases of those that are slow with it
	GORACE=atexit_sleep_ms=0 $(GO) test -race $(UNIT)
	$(GO) test $(LARGE)
	$(GO) test -run TestScripts/import ./cmd/imagefs

fuzz: ## each fuzz target for $(FUZZTIME)
	@GO='$(GO)' $(SCRIPTS)/fuzz.sh $(FUZZTIME) $(UNIT)

integration: setup-test ## real mounts, compared with the kernel's own
	$(GO) test -timeout 30m ./integration ./integration/bench

interop: setup-test ## real engines: their images here, our stores there
	$(GO) test -timeout 45m ./integration/engines

bench: setup-bench ## measure against overlayfs, fuse-overlayfs, docker, podman and tar; BENCH='-rows REGEXP -rounds N -check'
	$(GO) test -count=1 -timeout 60m -v -run TestBench ./integration/bench -args -full $(BENCH)

bench-go: ## Go benchmarks of the pure parts, compared with the last ones and kept
	@GO='$(GO)' BENCHSTAT='$(BENCHSTAT)' $(SCRIPTS)/bench-go.sh integration/bench/go.txt $(BENCHED)

clean: ## remove what was built
	rm -rf bin/imagefs
	$(GO) clean -testcache

setup-demo setup-test setup-bench:
	@$(SCRIPTS)/setup.sh $(@:setup-%=%)
