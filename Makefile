# Everything is built into build/, which git ignores.

GO          ?= go
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
VERSION     := $(shell git describe --tags --always --dirty 2>/dev/null)

# The bundled plugins of a fresh install: manifests beside their sources, built
# into build/plugins/<name>. Those of vendors run in the sandbox, where they never
# see the key; the native.yaml of each is the same plugin as a process.
MANIFESTS := plugins/echo/native.yaml plugins/echo/sandbox.yaml \
	plugins/openai/sandbox.yaml plugins/anthropic/sandbox.yaml plugins/gemini/sandbox.yaml

# Packages whose tests compile WebAssembly, or start the built binary, are run
# without the race detector: it makes the compiler of guests much slower and
# can't see into them.
HEAVY := github.com/sluicehq/sluice$$|/host/sandbox|/plugins/|/sdk/sdktest|/examples/|/bench/

.PHONY: help
help: ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | column -t -s '	'

.PHONY: build
build: ## the binary
	$(GO) build -ldflags '-X main.version=$(VERSION)' -o build/sluice .

.PHONY: plugins
plugins: build ## the bundled plugins, native and sandboxed
	@set -e; for manifest in $(MANIFESTS); do \
		build/sluice plugin build $$manifest build/plugins/$$(sed -n 's/^name: *//p' $$manifest); \
	done

.PHONY: run
run: plugins ## build everything and run it: host, gateway and page on an embedded Redis
	@build/sluice

.PHONY: test
test: setup lint race heavy client ## set up what is needed, then lint and run every test
	@echo "All checks passed."

.PHONY: setup
setup: ## programs and npm packages that the tests use
	@.ci/tools
	@set -e; for lock in $$(find . -name package-lock.json -not -path '*/node_modules/*' -not -path './bench/*'); do \
		dir=$$(dirname $$lock); \
		if [ ! $$dir/node_modules -nt $$lock ]; then \
			echo "npm ci in $$dir"; (cd $$dir && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error); \
			touch $$dir/node_modules; \
		fi; \
	done

.PHONY: race
race: ## tests with the race detector
	$(GO) test -race -timeout 10m $$($(GO) list ./... | grep -vE '$(HEAVY)')

.PHONY: heavy
heavy: ## tests that compile guests or run the whole of Sluice
	$(GO) test -timeout 14m $$($(GO) list ./... | grep -E '$(HEAVY)')

.PHONY: lint
lint: ## formatting, vet, staticcheck, tidy modules, fresh generated code
	@unformatted=$$(gofmt -l $$(git ls-files -co --exclude-standard '*.go')); \
		if [ -n "$$unformatted" ]; then echo "not formatted; run gofmt -w:" $$unformatted; exit 1; fi
	$(GO) vet ./...
	GOOS=wasip1 GOARCH=wasm $(GO) build ./sdk ./plugins/... ./examples/...
	$(GO) run $(STATICCHECK) ./...
	$(GO) mod tidy -diff
	@$(MAKE) --no-print-directory generate-check

.PHONY: generate
generate: ## write the generated code anew
	$(GO) generate ./...

.PHONY: generate-check
generate-check: ## the generated code is what generate would write
	@before=$$(cat proto/provider/*.pb.go | sha256sum); $(GO) generate ./...; \
		after=$$(cat proto/provider/*.pb.go | sha256sum); \
		if [ "$$before" != "$$after" ]; then echo "generated code was not fresh; it is now: commit it"; exit 1; fi

.PHONY: examples
examples: plugins ## the example plugins in other languages
	@$(MAKE) --no-print-directory -C examples/guests

.PHONY: client
client: plugins ## tests of the client package
	SLUICE_BINARY=$(CURDIR)/build/sluice SLUICE_PLUGINS=$(CURDIR)/build/plugins npm test --prefix gateway/client

.PHONY: chaos
chaos: ## ten minutes of random faults, counting what was lost, doubled or reordered
	$(GO) run ./bench/chaos -for 10m

.PHONY: redteam
redteam: ## hostile plugins, and what their neighbours notice of them
	$(GO) run ./bench/redteam

.PHONY: hotswap
hotswap: ## hot swaps under 200 streams for two minutes: what was dropped, and memory
	$(GO) run ./bench/hotswap -for 2m

.PHONY: bench-native
bench-native: ## start of a native plugin with and without its box, and its neighbours
	$(GO) test ./host/native -run '^$$' -bench 'Start|Neighbours'

.PHONY: bench
bench: bench-firstchunk bench-queue bench-plugins bench-gateway ## every benchmark

.PHONY: bench-firstchunk
bench-firstchunk: plugins ## START_SEARCH to first chunk, and the cost of a chunk, per runtime
	$(GO) run ./bench/firstchunk

.PHONY: bench-queue
bench-queue: ## pickup, throughput and appends, beside BullMQ
	$(GO) run ./bench/queue

.PHONY: bench-plugins
bench-plugins: ## the cost of a chunk and of a stream in each runtime
	$(GO) run ./bench/plugins

.PHONY: bench-gateway
bench-gateway: ## the gateway, beside Node's
	$(GO) run ./bench/gateway

.PHONY: fuzz
fuzz: ## every fuzz target for 20 seconds
	@set -e; for package in $$($(GO) list ./...); do \
		for target in $$($(GO) test -list '^Fuzz' $$package | grep '^Fuzz'); do \
			echo "$$package $$target"; $(GO) test -run '^$$' -fuzz "^$$target$$" -fuzztime 20s $$package; \
		done; \
	done

.PHONY: hostile
hostile: ## a million mutated packets and the reconnect storm on the gateway's transport, with the race detector
	$(GO) test -race -v -run 'Mutated|ReconnectStorm|Hostile' -timeout 30m ./gateway/engine -packets 1000000

.PHONY: clean
clean: ## remove what was built
	rm -rf build
