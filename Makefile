# Every target sets up what it needs; `make help` lists them. Only make, git and Python 3.11 or newer must be there,
# and Go for what tests against Kubernetes.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
LOGS ?= build/cluster-logs
RAY_TESTS := tests/local tests/serving
KUBERNETES_TESTS := tests/cluster tests/envtest
OWN_TARGETS := tests/disruption tests/browser tests/e2e
CLUSTER = cd tests && "$(abspath $(BIN))/python" -m cluster

.DEFAULT_GOAL := help
.PHONY: help demo test test-processes test-ray test-kubernetes test-parts test-disruption test-browser e2e cluster-binaries cluster-up cluster-down lint format crds bench constraints venv clean
.DELETE_ON_ERROR:

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/demo.installed ## Train, register, serve and replace a model of handwritten digits; about two minutes
	cd examples && "$(abspath $(BIN))/python" -m digits

# Tests of real processes have deadlines in real time. Ray's keep dozens of processes busy, and an operator that gave way
# to them got no CPU for eight seconds: so these two run in turn, and all others take what they leave.
test: $(VENV)/dev.installed ## Run every test but those that need a browser or a cluster, or run rollouts and failures under load
	$(CLUSTER).binaries tests
	@$(MAKE) --no-print-directory --keep-going -j2 test-processes test-parts

test-processes: $(VENV)/dev.installed ## Run those of them that start a Ray or an API server, in turn
	@result=0; for each in test-ray test-kubernetes; do $(MAKE) --no-print-directory $$each || result=$$?; done; exit $$result

test-ray: $(VENV)/dev.installed ## Run those that serve models on a Ray
	$(BIN)/python -m pytest $(RAY_TESTS)

test-kubernetes: $(VENV)/dev.installed ## Run those that speak to an API server
	$(BIN)/python -m pytest $(KUBERNETES_TESTS)

test-parts: $(VENV)/dev.installed ## Run all others, and show what they said when they have ended
	@log=$$(mktemp); trap 'rm -f "$$log"' EXIT; result=0; \
	    nice -n 19 $(BIN)/python -m pytest $(addprefix --ignore=,$(RAY_TESTS) $(KUBERNETES_TESTS) $(OWN_TARGETS)) \
	    >"$$log" 2>&1 || result=$$?; cat "$$log"; exit $$result

test-disruption: $(VENV)/dev.installed ## Kill processes and bring bad versions under load, on a Ray; a quarter of an hour
	$(BIN)/python -m pytest tests/disruption

test-browser: $(VENV)/dev.installed ## Try the docs page in a real Chromium; as root on Debian it is installed
	.ci/chromium
	$(BIN)/python -m pytest -m browser

e2e: $(VENV)/dev.installed ## Run the tests that need a cluster, in one that is made here, and show what they counted; it stays up unless CI is set
	@result=0; { ($(CLUSTER) up) && $(BIN)/python -m pytest -m e2e tests/e2e -rP --durations=25; } || result=$$?; \
	    if [ -n "$(CI)" ]; then \
	        logs=$$(cd tests && "$(abspath $(BIN))/python" -c 'from cluster.layout import Layout; print(Layout.from_environment().logs)'); \
	        if [ $$result -ne 0 ] && [ -d "$$logs" ]; then \
	            rm -rf "$(LOGS)" && mkdir -p "$(LOGS)" && cp -R "$$logs/." "$(LOGS)" && echo "The cluster's logs are in $(abspath $(LOGS))."; \
	        fi; \
	        ($(CLUSTER) down) || [ $$result -ne 0 ] || result=1; \
	    fi; exit $$result

cluster-binaries: $(VENV)/dev.installed ## Build etcd, Kubernetes, KubeRay, Helm and Prometheus from their Go modules
	$(CLUSTER).binaries

cluster-up: $(VENV)/dev.installed ## Start the test cluster with our images and KubeRay, and print its kubeconfig's path
	$(CLUSTER) up

cluster-down: $(VENV)/dev.installed ## End the test cluster; images and binaries stay
	$(CLUSTER) down

lint: $(VENV)/dev.installed ## Check style, types, import contracts and generated files
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m rayfleet_operator.api.crd --check
	$(BIN)/python -m rayfleet_operator.api.reference --check
	$(BIN)/python -m deploy.manifests --check

format: $(VENV)/dev.installed ## Rewrite the code in the house format
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

crds: $(VENV)/dev.installed ## Rewrite crds/ and docs/api.md from the API types
	$(BIN)/python -m rayfleet_operator.api.crd
	$(BIN)/python -m rayfleet_operator.api.reference
	$(BIN)/python -m deploy.manifests

bench: $(VENV)/dev.installed ## Measure the batcher and the data path against Ray's own
	$(BIN)/python -m bench.batcher
	$(BIN)/python -m bench.datapath

venv: $(VENV)/dev.installed ## Install everything for development into .venv

constraints: $(BIN)/python ## Rewrite constraints.txt from what a new environment resolves to
	rm -rf $(VENV)/new && $(BIN)/python -m venv $(VENV)/new
	$(VENV)/new/bin/pip install -e ".[dev]"
	.ci/constraints $(VENV)/new/bin/python > constraints.txt
	rm -rf $(VENV)/new

clean: ## Remove caches and build output, not .venv
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find operator serving tests bench examples -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "rayfleet needs Python 3.11 or newer with venv; '$(PYTHON)' is $$($(PYTHON) --version 2>&1)."; \
	    echo "On Debian or Ubuntu: apt install python3-venv. For another Python: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

# One stamp for each extra; -e links the tree, so only a changed pin installs again.
$(VENV)/%.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing rayfleet[$*] into $(VENV): a few minutes the first time."
	$(BIN)/python -m pip install --disable-pip-version-check --no-warn-conflicts -c constraints.txt -e ".[$*]"
	@touch $@
